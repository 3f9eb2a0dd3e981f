//! The messages of CRIU's image files, as qmig writes and reads them.
//!
//! Names, numbers and types of fields are CRIU's (proto2: what it calls required is always written,
//! repeated numbers are never packed); [`crate::kind`] tells which file holds which message. Fields
//! unknown here are skipped when read. A required message whose absence must be noticed is an
//! `Option` here: the bytes are the same.
//!
//! # Fields of qmig's own
//!
//! State that CRIU's format has no place for goes into fields from [`OWN_FIELDS`] on, which CRIU
//! skips:
//!
//! | message | field | meaning |
//! |---|---|---|
//! | [`ThreadCoreEntry`] | 10000 `wait_left_ns` | what was left of the timed wait in the registers |
//! | | 10001 `cpus` | CPUs it may run on, if not all |
//! | | 10002 `io_priority` | ioprio_set(2), if set |
//! | | 10003 `timer_slack` | PR_SET_TIMERSLACK in nanoseconds, if not the usual 50 µs |
//! | | 10004 `settings` | numbers it has set for itself, [`crate::state::SettingKind`] |
//! | [`TaskCoreEntry`] | 10000 `settings` | the same of the process |
//! | [`VmaEntry`] | 10000 `lock_on_fault` | MLOCK_ONFAULT beside MAP_LOCKED |
//! | | 10001 `name` | PR_SET_VMA_ANON_NAME |
//! | [`EventfdFileEntry`] | 10000 `semaphore` | EFD_SEMAPHORE |
//! | [`RegFileEntry`] | 10000 `rdev` | st_rdev of a device node |
//! | [`UserX86FpregsEntry`] | 10000 `reserved` | the last 96 bytes of the FXSAVE area, if not zero |
//! | [`UserX86XsaveEntry`] | 10000 `components` | components CRIU has no array for, or of another size |
//! | | 10001 `in_use` | XSTATE_BV, if it has bits of components CRIU does not know |
//! | [`GhostFileEntry`] | 10000 `named` | it has its name still (a file of /dev/shm) |
//! | [`InetSkEntry`] | 10000 `src_scope`, 10001 `dst_scope` | scope ids of IPv6 addresses, if not zero |
//! | | 10002 `groups` | multicast groups it has joined |
//! | [`SkPacketEntry`] | 10000 `from_address`, 10001 `from_port` | who sent it, in a UDP socket |

#![allow(missing_docs)] // fields: the proto files of CRIU, and the manual pages they follow

mod json;

pub(crate) use json::Hex;

/// The first field number that belongs to qmig.
pub const OWN_FIELDS: u32 = 10_000;

mod cgroups;
mod core;
mod creds;
mod events;
mod files;
mod ghosts;
mod inventory;
mod ipc;
mod mm;
mod mounts;
mod net;
mod ns;
mod pipes;
mod regs;
mod signals;
mod sockets;
mod stats;
mod timers;
mod tree;
mod tty;
mod watches;

pub use cgroups::*;
pub use core::*;
pub use creds::*;
pub use events::*;
pub use files::*;
pub use ghosts::*;
pub use inventory::*;
pub use ipc::*;
pub use mm::*;
pub use mounts::*;
pub use net::*;
pub use ns::*;
pub use pipes::*;
pub use regs::*;
pub use signals::*;
pub use sockets::*;
pub use stats::*;
pub use timers::*;
pub use tree::*;
pub use tty::*;
pub use watches::*;
