//! Every conversation with a stock CRIU lives here, and nothing else does.
//!
//! ```text
//! Criu ── dump ──▶ Dumping ── until_images ──▶ Dumped ── let_die ──▶ (gone)
//!                                                 └──── let_run ──▶ (runs on)
//! Criu ── stand_by ──▶ Standby ── restore ──▶ Restoring
//! Criu ── restore ──▶ Restoring ── until_restored ──▶ Restored ── run ──▶ its root
//! ```
//!
//! CRIU is asked by RPC (`criu swrk`) and asks back before each step of consequence
//! ([`rpc::Hook`]); its two questions that matter are values here. A [`Dumped`] is a tree that
//! stands still while its images are complete: dropped, it runs on. A [`Restored`] is a tree that
//! is built and has not run: dropped, it is gone. CRIU itself keeps both promises if we die, because
//! a question that nobody answers is answered with no.
//!
//! Pages come over the page-server wire ([`page_server`]); all other images go into memory that only
//! this process and CRIU can see ([`Scratch`]).
//!
//! The crate knows neither QUIC nor the native engine: `checkpoint` and `restore` import it, one for
//! each half of a conversation.

#![forbid(unsafe_code)]

mod binary;
mod bundle;
mod container;
mod dump;
mod error;
mod lazy_socket;
mod log;
mod network;
pub mod page_server;
mod restore;
pub mod rpc;
mod scratch;
pub mod shim;
mod standby;
pub mod stream;
mod work;

pub use binary::{Criu, Features, Version, find};
pub use bundle::{rerooted, root_of};
pub use container::{
    CHECKPOINT, CONFIG, ChangedFiles, Container, ContainerState, DESCRIPTORS, Mount, Mounted,
};
pub use dump::{Connections, DumpOptions, Dumped, Dumping};
pub use error::{Error, Result};
pub use lazy_socket::LazyProcess;
pub use network::{Connected, NETWORK_STATUS, status as network_status};
pub use restore::{RestoreOptions, Restored, Restoring};
pub use scratch::Scratch;
pub use standby::{INVENTORY, Standby};
