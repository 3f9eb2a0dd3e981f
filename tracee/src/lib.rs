//! Hands on another process: ptrace(2), remote system calls, /proc; all of qmig's unsafe.
//!
//! What holding each value proves:
//!
//! - [`Stopped`]: one thread is in ptrace-stop and *this* thread of ours is its tracer. It is not
//!   `Send`, because ptrace obeys only the tracing thread. Dropping it lets the thread run on.
//! - [`Held`]: every thread of a whole tree is stopped, and nothing in the tree can make another.
//! - [`Borrowed`]: the registers of a stopped thread are saved and will be put back; until then the
//!   thread may be made to call the kernel, by [`gate_call`] or in batches by a [`Runner`].
//! - [`Skeleton`]: a new process of ours with next to nothing in it, stopped, that dies with us.
//! - [`lock::Lock`]: what fdinfo shows of a lock on a file, and has a task take or let go.
//! - [`Tracked`], [`Tracker`]: writes to the memory of a process, or of a tree, are noted while it runs.
//! - [`Uffd`]: faults and changes of somebody's mappings are told to us, and wait for us.
//! - [`Keeper`]: should this process die, nobody ever reads zeros for pages it owed.
//! - [`net`]: what moves with connections: a lock on packets, addresses, sockets in repair mode.
//! - [`Memory`], [`Pagemap`]: access to an address space, from any thread.
//!
//! Everything is synchronous. If the tracing thread ends, the kernel lets its tasks run on (or,
//! after [`Stopped::exit_with_tracer`], kills them): so give one migration one thread, and let
//! it end when something cannot be undone otherwise.
//!
//! Numbers of tasks are [`HostPid`]s, as qmig's own PID namespace counts them; what a program
//! inside a PID namespace knows itself by is a [`pages::TaskId`].

pub mod chaos;
pub mod dirty;
mod error;
pub mod group;
pub mod host;
pub mod ipc;
pub mod keeper;
pub mod lock;
pub mod memory;
pub mod net;
pub mod pagemap;
pub mod proc;
pub mod regs;
pub mod remote;
mod run;
mod runner;
mod shield;
pub mod spawn;
mod sys;
pub mod task;
pub mod uffd;
mod window;

use std::fmt;

pub use dirty::{Tracked, Tracker};
pub use error::{Error, Result};
pub use group::{Held, HeldProcess};
pub use keeper::Keeper;
pub use memory::Memory;
pub use pagemap::{Pagemap, Wanted, Written};
pub use regs::{Interrupted, Regs, WoundBack, XState, XsaveLayout, wound_back};
pub use remote::{Borrowed, Call, find_gate, gate_call};
pub use runner::Runner;
pub use spawn::{
    NewTask, Seed, Skeleton, SpecialMapping, enter_time_namespace, fork_in, threads_in, wait_reap,
};
pub use task::{RseqConfig, StopKind, Stopped};
pub use uffd::{Copied, Features, Uffd, UffdEvent};
pub use window::Window;

/// A process or thread, by the number it has in qmig's own PID namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPid(pub i32);

impl fmt::Display for HostPid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for HostPid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host pid {}", self.0)
    }
}
