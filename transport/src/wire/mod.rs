//! Bytes to messages and back. No async, no clock, no socket: input in, output out.
//!
//! All numbers are big-endian. Texts and lists start with their length, which is compared with
//! [`limits`] before anything is allocated. A message must use up its frame exactly.

mod blob;
mod codec;
mod control;
mod fault;
mod hello;
pub mod limits;
mod manifest;
mod missing;
mod page;
mod phase;
mod probe;
mod refusal;

pub use blob::{BadBlobName, BlobName};
pub use codec::{DecodeError, Got};
pub use control::{Abort, AbortCode, Control, Kind, Progress, RoundEnd, Staged, take_frame};
pub use fault::Wanted;
pub use hello::{Features, Hello, HelloReply, SessionId, Version, VersionNumber};
pub use manifest::{BlobTotal, Manifest, OverLimit, SpaceTotal};
pub use missing::{FaultTotals, Missing};
pub use page::{BadRun, Encoding, PageRun};
pub use phase::{PeerPhase, Running};
pub use probe::{Probe, Probed};
pub use refusal::Refusal;
