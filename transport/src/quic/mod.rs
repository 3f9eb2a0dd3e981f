//! The session over QUIC: TLS 1.3, both keys proven, one connection, streams with roles.
//!
//! A source [dials](fn@dial) and gets a [`SourceLink`]; a destination binds a [`Listener`] and accepts
//! [`DestinationLink`]s. Everything works on tokio's current-thread runtime, which is also the
//! fastest for one link.

mod batch;
mod blobs;
mod ca;
mod close;
mod congestion;
pub mod credit;
mod destination;
mod dial;
mod identity;
mod lanes;
mod link;
mod listen;
mod pace;
mod pages;
mod peers;
mod second;
mod socket;
mod ticket;
mod trust;
pub mod tuning;
mod verify;
mod warm;
mod wires;

pub use blobs::{BlobReceiver, BlobSender};
pub use ca::{CaError, CaFiles};
pub use close::CloseCode;
pub use destination::{DestinationLink, Incoming};
pub(crate) use dial::dial_for;
pub use dial::{DialError, SourceLink, dial};
pub use identity::{BadFingerprint, Identity, IdentityError, KeyFingerprint};
pub use lanes::Lane;
pub use link::{Known, LinkError, Lost, Peer};
pub use listen::{AcceptError, AnswersProbes, ListenError, Listener, RejectReason, Rejected};
pub use pace::ByteRate;
pub use pages::{FaultReceiver, FaultSender, PageReceiver, PageSender};
pub use peers::{AuthorizedPeers, PeersError, Pins};
pub use ticket::{Ticket, TicketError};
pub(crate) use trust::Purpose;
pub use trust::{DestinationTrust, FirstUse, SourceTrust, TrustError};
pub use tuning::{Congestion, LinkOptions, MtuBound};
pub use warm::Warmed;
pub use wires::Remedies;
