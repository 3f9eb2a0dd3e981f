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
mod page;

pub use blob::{BadBlobName, BlobName};
pub use codec::{DecodeError, Got};
pub use control::{
    Abort, AbortCode, BlobTotal, Control, FaultTotals, Kind, Manifest, Missing, OverLimit,
    PeerPhase, Progress, Refusal, RoundEnd, Running, SpaceTotal, Staged, take_frame,
};
pub use fault::Wanted;
pub use hello::{Features, Hello, HelloReply, SessionId, Version, VersionNumber};
pub use page::{BadRun, Encoding, PageRun};
