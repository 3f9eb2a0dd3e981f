//! What each kind of kernel state *is*, valid by construction.
//!
//! Three files share each name below: the one here says what the state is,
//! `checkpoint::collect::<name>` reads it from a kernel, `restore::build::<name>` makes it again.
//! The messages of CRIU's image files ([`crate::messages`]) are only the written form; turning
//! messages into state checks everything that would otherwise have to be checked by every reader,
//! and names the field that lied.

pub(crate) mod check;
pub mod creds;
pub mod fanotify;
pub mod files;
pub mod huge;
pub mod ipc;
pub mod mm;
pub mod netlink;
pub mod options;
pub mod packet;
pub mod seccomp;
pub mod settings;
pub mod signals;
pub mod sockets;
pub mod streams;
pub mod threads;
pub mod timers;
pub mod tree;

pub use creds::{Creds, Rlimit};
pub use fanotify::Fanotify;
pub use files::{
    EpollTarget, Fd, FdTable, FdTableId, Fifo, File, FileId, FileKind, FileLock, Ghost, GhostBody,
    GhostId, LockKind, Owner, PipeBuffer, PipeId, Regular, Tty, Watch,
};
pub use huge::HugeSize;
pub use ipc::{IpcObject, Message, MessageQueue, SemaphoreSet};
pub use mm::{Advice, Mm, SharedMemory, SysV, Vma, VmaFlags, VmaKind};
pub use netlink::NetlinkSocket;
pub use options::SocketOption;
pub use packet::PacketSocket;
pub use seccomp::{Filter, Seccomp};
pub use settings::{Setting, SettingKind};
pub use signals::{AltStack, SigAction, SigInfo, SigSet};
pub use sockets::{Group, InetSocket, Packet, SocketOptions, SocketState, UnixSocket};
pub use streams::{TcpStream, TcpWindow};
pub use threads::{FpState, Placement, Regs, RobustList, Rseq, Sched, Thread, XComponent};
pub use timers::{Clocks, IntervalTimer, PosixTimer, TimerFd};
pub use tree::{Body, Fs, Living, Task};

/// Everything about a stopped process tree except the content of its pages.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The clocks as the tree saw them when it was stopped.
    pub clocks: Clocks,
    /// Parents before children; the first is the root.
    pub tasks: Vec<Task>,
    /// Descriptor tables; several tasks may share one.
    pub fd_tables: Vec<FdTable>,
    /// Open file descriptions, and the files that are mapped, run, or stood in.
    pub files: Vec<File>,
    /// Content (and size) of pipes whose read end is in the tree.
    pub pipes: Vec<PipeBuffer>,
    /// Files without a name any more.
    pub ghosts: Vec<Ghost>,
    /// Objects of shared memory: anonymous shared mappings and memfds.
    pub shared: Vec<SharedMemory>,
    /// Semaphores of System V.
    pub semaphores: Vec<SemaphoreSet>,
    /// Message queues of System V.
    pub queues: Vec<MessageQueue>,
    /// Locks on files, each once.
    pub locks: Vec<FileLock>,
}

impl Checkpoint {
    /// The file with this id.
    pub fn file(&self, id: FileId) -> Option<&File> {
        self.files.iter().find(|file| file.id == id)
    }

    /// True if both are the same processes in the same places of the same tree: what was built for
    /// one can be finished as the other. Both ends of a migration ask it, and must get one answer.
    pub fn same_tree(&self, other: &Self) -> bool {
        let place = |task: &Task| {
            let living = task.living().is_some();
            (task.id, task.parent, task.group, task.session, living)
        };
        // Which tasks share a descriptor table, whatever the tables are called.
        let sharing = |checkpoint: &Self| {
            let tables: Vec<_> =
                checkpoint.tasks.iter().map(|task| task.living().map(|it| it.fds)).collect();
            let first = |table: &Option<FdTableId>| tables.iter().position(|it| it == table);
            tables.iter().map(first).collect::<Vec<_>>()
        };
        // A session's terminal is inherited by birth.
        let terminals = |checkpoint: &Self| {
            let masters = checkpoint.files.iter().filter_map(|file| match &file.kind {
                FileKind::Tty(tty) if tty.is_master() => Some((tty.index, tty.session)),
                _ => None,
            });
            masters.collect::<std::collections::BTreeSet<_>>()
        };
        self.tasks.iter().map(place).eq(other.tasks.iter().map(place))
            && sharing(self) == sharing(other)
            && terminals(self) == terminals(other)
    }

    /// The root of the tree.
    pub fn root(&self) -> &Task {
        &self.tasks[0]
    }
}
