//! Open files: descriptor tables, open file descriptions, and what each is open on.

use pages::{SharedId, TaskId};

use super::{Fanotify, HugeSize, InetSocket, NetlinkSocket, PacketSocket, TimerFd, UnixSocket};

/// One open file description; dup'ed and inherited descriptors share it. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// One descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdTableId(pub u32);

/// One pipe (both ends name it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipeId(pub u32);

/// A file whose name is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GhostId(pub u32);

/// The descriptors of one or more tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdTable {
    /// Which table.
    pub id: FdTableId,
    /// Ascending by number.
    pub fds: Vec<Fd>,
}

/// One descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fd {
    /// Its number.
    pub number: u32,
    /// What it is open on.
    pub file: FileId,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
}

/// One open file description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its id.
    pub id: FileId,
    /// O_* status flags and access mode, without O_CLOEXEC.
    pub flags: u32,
    /// fcntl(F_SETOWN), F_SETSIG.
    pub owner: Owner,
    /// What it is open on.
    pub kind: FileKind,
}

/// Who gets signals about a descriptor; all zero if nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Real user id of who set it.
    pub uid: u32,
    /// Effective user id of who set it.
    pub euid: u32,
    /// F_SETSIG.
    pub signal: u32,
    /// F_OWNER_*.
    pub pid_type: u32,
    /// Task or group.
    pub pid: u32,
}

/// What a file is open on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Anything with a path: regular file, directory, device node, /proc file.
    Regular(Regular),
    /// One end of a pipe; `flags` tells which.
    Pipe {
        /// Which pipe.
        pipe: PipeId,
    },
    /// One end of a pipe with a name, or both ends at once; `flags` tells which.
    Fifo(Fifo),
    /// eventfd(2).
    EventFd {
        /// Its counter.
        counter: u64,
        /// EFD_SEMAPHORE; CRIU's format has no place for it, a field of qmig's own carries it.
        semaphore: bool,
    },
    /// epoll(7).
    Epoll {
        /// What it watches.
        targets: Vec<EpollTarget>,
    },
    /// inotify(7). What it had not told yet is lost, as CRIU loses it.
    Inotify {
        /// What it watches, ascending by number.
        watches: Vec<Watch>,
    },
    /// fanotify(7).
    Fanotify(Fanotify),
    /// pidfd_open(2): a process of the tree, a zombie perhaps.
    PidFd {
        /// Which process.
        task: TaskId,
    },
    /// signalfd(2).
    SignalFd {
        /// bit n-1 is signal n.
        mask: u64,
    },
    /// timerfd_create(2).
    TimerFd(TimerFd),
    /// memfd_create(2), and the file behind anonymous shared mappings.
    Memfd {
        /// Which object.
        shared: SharedId,
        /// File position.
        position: u64,
    },
    /// unix(7).
    Unix(UnixSocket),
    /// tcp(7), udp(7).
    Inet(InetSocket),
    /// netlink(7).
    Netlink(NetlinkSocket),
    /// packet(7).
    Packet(PacketSocket),
    /// A terminal: one end of a pair whose master is in the tree, or else one that qmig is given again
    /// on the destination (`--shell-job`).
    Tty(Tty),
}

/// Something with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regular {
    /// Absolute path as the task's mount namespace shows it, without " (deleted)".
    pub path: String,
    /// File position; `None`: do not seek.
    pub position: Option<u64>,
    /// Must be the same on the destination, where known. Not given for directories and devices.
    pub size: Option<u64>,
    /// st_mode; must be the same on the destination, where known.
    pub mode: Option<u32>,
    /// For devices: st_rdev, so that the destination's node can be compared. Not in CRIU's format.
    pub rdev: Option<u64>,
    /// The name is gone: this is the content.
    pub ghost: Option<GhostId>,
}

/// A pipe with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fifo {
    /// Which pipe.
    pub pipe: PipeId,
    /// Absolute path.
    pub path: String,
    /// st_mode; must be the same on the destination, where known.
    pub mode: Option<u32>,
}

/// One watch of an inotify instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The number the program knows it by; never zero.
    pub number: u32,
    /// IN_*.
    pub mask: u32,
    /// Absolute path of what is watched.
    pub path: String,
    /// Inode and device at the source; informative.
    pub inode: u64,
    /// The kernel's own number of the device.
    pub dev: u32,
}

/// One watch of an epoll instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollTarget {
    /// Descriptor number in the owning task's table.
    pub fd: u32,
    /// EPOLL*.
    pub events: u32,
    /// The program's word.
    pub data: u64,
    /// Device, inode and position tell duplicates apart; informative.
    pub dev: u32,
    /// Inode.
    pub inode: u64,
    /// Position.
    pub position: u64,
}

/// A terminal, or the master of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tty {
    /// Path on the source, e.g. `/dev/pts/3`.
    pub path: String,
    /// Index of the pseudo-terminal.
    pub index: u32,
    /// st_rdev.
    pub rdev: u32,
    /// Controlling session.
    pub session: u32,
    /// Foreground group.
    pub foreground: u32,
    /// struct termios: iflag, oflag, cflag, lflag.
    pub modes: [u32; 4],
    /// Control characters.
    pub control: Vec<u8>,
    /// rows, columns, x pixels, y pixels.
    pub window: [u16; 4],
}

impl Tty {
    /// The master of a pseudo-terminal, /dev/ptmx (5:2): its settings are its slave's.
    pub fn is_master(&self) -> bool {
        self.rdev == MASTER
    }
}

/// 5:2 as the kernel writes it.
const MASTER: u32 = 5 << 8 | 2;

/// What was in a pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeBuffer {
    /// Which pipe.
    pub pipe: PipeId,
    /// F_GETPIPE_SZ.
    pub capacity: u32,
    /// The bytes, oldest first.
    pub bytes: Vec<u8>,
}

/// A file without a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ghost {
    /// Its id.
    pub id: GhostId,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// st_mode.
    pub mode: u32,
    /// Bytes; holes read as zeros.
    pub size: u64,
    /// Access time, (s, µs).
    pub accessed: (u64, u64),
    /// Modification time, (s, µs).
    pub modified: (u64, u64),
    /// Its content.
    pub body: GhostBody,
    /// It has its name still, and brings it along: a file of /dev/shm, or of a hugetlbfs.
    pub named: bool,
    /// Its content is not in `body`, but comes as the pages of this space.
    pub paged: Option<SharedId>,
    /// It is in a hugetlbfs, made of huge pages of this size.
    pub huge: Option<HugeSize>,
}

/// Content of a ghost: data between the holes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GhostBody {
    /// (offset, bytes), ascending.
    pub chunks: Vec<(u64, Vec<u8>)>,
}

/// Whose a lock is, and which call makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// fcntl(2) F_SETLK: a process's.
    Posix,
    /// flock(2): an open file description's.
    Flock,
    /// fcntl(2) F_OFD_SETLK: an open file description's.
    Ofd,
}

/// An advisory lock on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLock {
    /// Whose it is.
    pub kind: LockKind,
    /// For writing; nobody else has a lock there.
    pub exclusive: bool,
    /// A task that has it, or (flock, OFD) that has a descriptor of the description that has it.
    pub task: TaskId,
    /// A descriptor of that task through which it is held.
    pub fd: u32,
    /// First byte.
    pub start: u64,
    /// How many bytes; zero: to the end of the file.
    pub len: u64,
}
