//! The files of a container on their way to another host.
//!
//! ```text
//! Tree ── look ──▶ Index ── send ──▶ a stream of entries ── Unpacker ──▶ files, in a Claim
//!          └─ look again, once nobody writes ──▶ since ──▶ what changed, sent likewise
//! ```
//!
//! The first look is at files that are in use: a file that changes while it is read, or comes, or
//! goes, differs at the second look, when whoever uses them stands still, and is sent again. So what
//! arrives is what was there when they stopped.
//!
//! Names that come from the other end are measured ([`RelPath`]), and every step along one is taken
//! by openat2(2) beneath the folder and through no symbolic link: nothing leaves it.
//!
//! The crate knows neither QUIC nor processes: `checkpoint` and `restore` import it, one for each end.

#![forbid(unsafe_code)]

mod beneath;
mod claim;
mod entry;
mod error;
mod index;
mod pack;
mod path;
mod stream;
mod unpack;

pub use claim::Claim;
pub use entry::{About, Entry, Kind, Moment};
pub use error::{Error, Result};
pub use index::{Changes, Index};
pub use pack::{Sent, Tree, Users};
pub use path::{BadPath, RelPath};
pub use stream::{BadStream, Piece, StreamReader, StreamWriter};
pub use unpack::Unpacker;
