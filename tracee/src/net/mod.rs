//! Hands on the network of this host: a lock that holds back packets of connections that move, the
//! addresses that move with them, and TCP sockets in repair mode.
//!
//! - [`NetworkLock`]: while it exists no packet of the connections it was given enters or leaves
//!   this host, and nobody makes a new connection to the listeners it was given. The kernel takes it
//!   away when its owner ends, also by SIGKILL.
//! - [`HostAddress`]: an address of an interface, which a host takes or gives up.
//! - [`interfaces()`]: what a container's network has.
//! - [`repair`]: what TCP_REPAIR (tcp(7), Linux 3.5) reads and writes.
//!
//! All the rest is about the network namespace qmig runs in.

pub mod address;
mod interfaces;
pub mod lock;
pub mod netlink;
pub mod repair;

pub use address::HostAddress;
pub use interfaces::interfaces;
pub use lock::{FourTuple, LockError, NetworkLock};
