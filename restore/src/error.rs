//! What went wrong on the destination, where, and whose fault it is.

use std::path::PathBuf;

use image::state::{FdTableId, FileId, GhostId};
use nix::errno::Errno;
use pages::{PageRange, SharedId, SpaceId, TaskId};

/// `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The tree could not be built here. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Holding or steering one of the new tasks failed.
    #[error("failed to steer a task under construction: {0}")]
    Tracee(#[from] tracee::Error),

    /// The kernel refused a system call that a new task made for itself.
    #[error("failed to {act} in {task:?}: the kernel says {errno}")]
    Call {
        /// In which process or thread.
        task: TaskId,
        /// What the call was for.
        act: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },

    /// The kernel refused a system call of qmig's own.
    #[error("failed to {act}: the kernel says {errno}")]
    Own {
        /// What the call was for.
        act: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },

    /// A pid of the tree is in use on this host.
    #[error("failed to create {task:?}: its number is taken on this host (try --pidns)")]
    PidTaken {
        /// Whose number.
        task: TaskId,
    },

    /// A file of the tree could not be opened or made here.
    #[error("failed to {act} {}: the kernel says {errno}", path.display())]
    Path {
        /// What was tried.
        act: &'static str,
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },

    /// A file of the tree is not the same file here.
    #[error("{} has {what} {found:#x} on this host, the program needs {wanted:#x}", path.display())]
    Differs {
        /// Which file.
        path: PathBuf,
        /// What differs: `size`, `mode` or `device number`.
        what: &'static str,
        /// What the program needs.
        wanted: u64,
        /// What is here.
        found: u64,
    },

    /// A socket, pipe or other nameless file could not be made.
    #[error("failed to {act} for {file:?}: the kernel says {errno}")]
    Object {
        /// Which file.
        file: FileId,
        /// What was tried.
        act: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },

    /// The tree has a shape that can be grown by history but not made again.
    #[error(transparent)]
    Shape(#[from] ShapeError),

    /// The checkpoint contradicts itself: the source's fault.
    #[error(transparent)]
    BadCheckpoint(#[from] BadCheckpoint),

    /// This kernel's vdso does not fit the program's layout.
    #[error("failed to place the vdso of {task:?}: {why}")]
    Vdso {
        /// In which process.
        task: TaskId,
        /// What does not fit.
        why: &'static str,
    },

    /// No room for qmig's own few pages between the program's mappings.
    #[error("failed to find {pages} free pages that no process of the tree uses")]
    NoHole {
        /// How many were wanted.
        pages: u64,
    },

    /// What was built while the program ran does not fit what it has become.
    #[error("the program {what}: move it with --mode stop")]
    Outgrown {
        /// What it did.
        what: &'static str,
    },

    /// Pages arrived for a place where the program has no memory of its own: the source's fault.
    #[error("pages {range:?} of {space} are not memory whose content travels")]
    OutsideSpace {
        /// Which space.
        space: SpaceId,
        /// Which pages.
        range: PageRange,
    },

    /// Writing pages failed.
    #[error("failed to write pages {range:?} of {space}: the kernel says {errno}")]
    WritePages {
        /// Which space.
        space: SpaceId,
        /// Which pages.
        range: PageRange,
        /// The kernel's answer.
        errno: Errno,
    },

    /// The descriptor limit of this host is too low.
    #[error("failed to place descriptor {number}: this host allows {limit} per process")]
    TooManyFds {
        /// The number wanted.
        number: u64,
        /// RLIMIT_NOFILE, hard.
        limit: u64,
    },

    /// A listening or bound address could not be taken.
    #[error("failed to bind {address}: the kernel says {errno}")]
    Bind {
        /// The address.
        address: String,
        /// The kernel's answer.
        errno: Errno,
    },

    /// A connection could not be made again.
    #[error("failed to {act} the connection {local} to {remote}: the kernel says {errno}")]
    Connection {
        /// This end.
        local: std::net::SocketAddr,
        /// The other end.
        remote: std::net::SocketAddr,
        /// What was tried.
        act: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },

    /// A socket cannot be in the multicast group it was in.
    #[error("failed to join the group {group} on the interface {device}: the kernel says {errno}")]
    Group {
        /// The group.
        group: std::net::IpAddr,
        /// The interface.
        device: String,
        /// The kernel's answer.
        errno: Errno,
    },

    /// Packets of connections cannot be held back here.
    #[error("failed to {0} ({hint})", hint = .0.hint())]
    Lock(#[from] tracee::net::LockError),

    /// An address could not be taken over.
    #[error("failed to take the address {address}: the kernel says {errno}")]
    Takeover {
        /// Which.
        address: tracee::net::HostAddress,
        /// The kernel's answer.
        errno: Errno,
    },

    /// A pseudo-terminal of the tree cannot be made again; its number may be taken.
    #[error("failed to {act} the terminal /dev/pts/{index}: {errno}")]
    Terminal {
        /// Its number.
        index: u32,
        /// What was tried.
        act: &'static str,
        /// What the kernel said.
        errno: Errno,
    },

    /// The number or key of a segment of System V shared memory is taken.
    #[error(
        "failed to make System V shared memory {id} (key {key:#x}): {errno}; see `ipcs -m` here"
    )]
    Segment {
        /// Its id.
        id: i32,
        /// Its key.
        key: u32,
        /// What the kernel said.
        errno: Errno,
    },

    /// The number or key of semaphores or a message queue of System V is taken.
    #[error("failed to make {what} {id} (key {key:#x}) of System V: {errno}; see `ipcs` here")]
    Ipc {
        /// What it is.
        what: &'static str,
        /// Its id.
        id: i32,
        /// Its key.
        key: u32,
        /// What the kernel said.
        errno: Errno,
    },

    /// `--shell-job` needs a terminal and qmig has none.
    #[error("the program needs a terminal, but qmig restore was not started on one")]
    NoTerminal,

    /// A task did not end in time when it had to.
    #[error("{task:?} did not become a zombie in time")]
    NotDead {
        /// Which.
        task: TaskId,
    },
}

impl Error {
    /// A task with the number of `task` could not be made.
    pub(crate) fn making(error: tracee::Error, task: TaskId) -> Self {
        match error {
            tracee::Error::PidTaken { pid } => {
                Self::PidTaken { task: u32::try_from(pid).map_or(task, TaskId) }
            }
            other => other.into(),
        }
    }
}

/// Shapes of trees that no sequence of fork(2), setsid(2) and setpgid(2) makes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The root belongs to a session from outside, and no terminal is given.
    #[error("the root belongs to session {session}, which is not in the tree (try --shell-job)")]
    RootSession {
        /// Which.
        session: u32,
    },
    /// No ancestor or sibling ever was in the session.
    #[error("task {task} is in session {session}, which none of its ancestors or siblings is in")]
    Session {
        /// Which task.
        task: u32,
        /// Which session.
        session: u32,
    },
    /// A process group spans sessions.
    #[error("task {task} is in group {group}, which is in another session")]
    Group {
        /// Which task.
        task: u32,
        /// Which group.
        group: u32,
    },
    /// A session leader must lead its own group.
    #[error("task {task} leads a session but is in group {group}")]
    LeaderGroup {
        /// Which task.
        task: u32,
        /// Which group.
        group: u32,
    },
    /// A parent that does not exist, or is a zombie.
    #[error("task {task} has no living parent {parent} before it in the tree")]
    Parent {
        /// Which task.
        task: u32,
        /// Its alleged parent.
        parent: u32,
    },
    /// One number, two tasks.
    #[error("number {id} is used twice")]
    Twice {
        /// Which.
        id: u32,
    },
    /// More generations than anybody needs.
    #[error("the tree is more than {limit} generations deep")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A descriptor table shared by tasks that are not parent and child.
    #[error("task {task} shares its descriptors with a task that is not its parent")]
    SharedTable {
        /// Which task.
        task: u32,
    },
}

/// Ways in which a checkpoint contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCheckpoint {
    /// A file that does not exist is named.
    #[error("no file {0:?} in the checkpoint")]
    File(FileId),
    /// A file is used as something it is not.
    #[error("{file:?} is used as {used_as} but is something else")]
    FileKind {
        /// Which.
        file: FileId,
        /// As what.
        used_as: &'static str,
    },
    /// A path that is relative or holds a NUL.
    #[error("the path of {0:?} is not an absolute path")]
    FilePath(FileId),
    /// A ghost that does not exist is named.
    #[error("no ghost {0:?} in the checkpoint")]
    Ghost(GhostId),
    /// A shared object that does not exist is named.
    #[error("no {0:?} in the checkpoint")]
    Shared(SharedId),
    /// A table that does not exist is named.
    #[error("no descriptor table {0:?} in the checkpoint")]
    FdTable(FdTableId),
    /// A descriptor number that is out of range or not ascending.
    #[error("descriptor {number} of {table:?} is out of order")]
    FdNumber {
        /// Which table.
        table: FdTableId,
        /// Which number.
        number: u32,
    },
    /// An epoll instance watches a descriptor that is not there.
    #[error("{file:?} watches descriptor {fd}, which no holder of it has")]
    EpollTarget {
        /// The epoll instance.
        file: FileId,
        /// The descriptor.
        fd: u32,
    },
    /// A living process without threads, or whose first thread is not its leader.
    #[error("{0:?} has no leader among its threads")]
    NoLeader(TaskId),
    /// Something is larger than the kernel could ever have held.
    #[error("{what} is {size}, more than a kernel holds")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large.
        size: u64,
    },
    /// Not 62 signal actions.
    #[error("{0:?} does not have 62 signal actions")]
    SigActions(TaskId),
    /// Both ends of a connection contradict each other.
    #[error("unix socket {inode} and its peer {peer} do not fit together")]
    UnixPeer {
        /// One end.
        inode: u32,
        /// The other.
        peer: u32,
    },
}

/// Names what one of qmig's own calls was for.
pub(crate) trait During<T> {
    fn during(self, act: &'static str) -> Result<T>;
}

impl<T> During<T> for nix::Result<T> {
    fn during(self, act: &'static str) -> Result<T> {
        self.map_err(|errno| Error::Own { act, errno })
    }
}

impl<T> During<T> for std::io::Result<T> {
    fn during(self, act: &'static str) -> Result<T> {
        self.map_err(|error| Error::Own { act, errno: errno_of(&error) })
    }
}

/// The kernel's number behind an [`std::io::Error`].
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
