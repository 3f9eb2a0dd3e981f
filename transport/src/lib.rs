//! How bytes cross: one migration over one QUIC connection.
//!
//! Three rooms. [`wire`] turns bytes into messages and back. [`session`] knows who may say what,
//! when, and which host may run the program. [`quic`] moves bytes. The first two have no async, no
//! clock and no socket. [`encode`] decides how pages are written and undoes it. Beside them, what both
//! drivers share: [`event`] is what they tell a watcher, [`stop`] how they are asked to end, [`latency`]
//! how they count how long faults took.
//!
//! Transport does not know what a process is. `PROTOCOL.md`, beside this crate's folder, tells the
//! same story for people.

#![forbid(unsafe_code)]

mod arrival;
pub mod encode;
mod error;
pub mod event;
pub mod latency;
pub mod probe;
pub mod quic;
pub mod session;
mod stats;
pub mod stop;
pub mod wire;

pub use arrival::Arrival;
pub use error::{Kinds, PeerMisbehaved};
pub use stats::{LaneStats, LinkStats};
