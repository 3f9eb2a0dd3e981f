//! Open files: descriptor tables, and each open file description once, however many descriptors
//! (dup, fork) show it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, Metadata};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use image::state::{
    EpollTarget, Fd, FdTable, FdTableId, Fifo, File, FileId, FileKind, Ghost, GhostId, Owner,
    PipeBuffer, PipeId, SharedMemory,
};
use nix::libc;
use pages::{PageSet, SharedId, TaskId};
use tracee::HostPid;
use tracee::host::{
    file_owner, file_owner_uids, file_signal, pidfd_getfd, pidfd_open, rewind_timer, same_file,
};
use tracee::proc::fdinfo::{Extra, FdInfo};

use super::carried::Carried;
use super::locks::{Finder, Locks};
use super::sockets::{self, Socket, SocketTables, Tcp};
use super::streams;
use super::timers::timer_fd;
use super::{CollectOptions, Refusals, groups, pipes, shared, terminal};
use crate::error::CollectError;
use crate::survey::descriptor::{Allowed, OpenOn, open_at, plain_memory};
use crate::survey::outside::stranger;
use crate::survey::refusals::{Trouble, Whose};
use crate::survey::sysv::{self, Segment};
use crate::survey::terminal::{End, end};
use crate::survey::{inotify, locks, watches};

/// All files of a tree, as they are found.
pub(super) struct Files<'o> {
    options: &'o CollectOptions<'o>,
    pub(super) shell_job: bool,
    /// Terminals, which end each is, and who has it: the first descriptor seen.
    pub(super) terminals: Vec<(FileId, End, String)>,
    /// Every process of the tree, zombies too.
    pub(super) members: HashSet<u32>,
    sockets: Option<SocketTables>,
    pub(super) files: Vec<File>,
    tables: Vec<FdTable>,
    /// Descriptions that look alike from outside: told apart by kcmp(2), in whose order they are.
    alike: HashMap<Look, Vec<Known>>,
    /// Files that are mapped, run or stood in.
    pub(super) standing: HashMap<(u64, u64, String), FileId>,
    /// By device and inode.
    pipes: HashMap<(u64, u64), PipeId>,
    buffers: Vec<PipeBuffer>,
    pub(super) ghosts: HashMap<(u64, u64), GhostId>,
    pub(super) bodies: Vec<Ghost>,
    pub(super) carried: Carried,
    shared: HashMap<(u64, u64), SharedId>,
    pub(super) objects: Vec<SharedMemory>,
    /// Every segment of System V shared memory, and how many mappings of the tree show which.
    pub(super) segments: Vec<Segment>,
    pub(super) attached: BTreeMap<i32, u64>,
    locks: Finder,
    streams: Vec<streams::Found>,
    /// Unix sockets whose queues are still to be read.
    pub(super) queues: Vec<(FileId, OwnedFd, String)>,
    /// Files that were found in queues; kept, because they are compared with others.
    pub(super) flying: Vec<OwnedFd>,
    /// Content of shared memory.
    pub(super) contents: Vec<(SharedId, PageSet, OwnedFd)>,
}

/// What two descriptors of one description have in common. The position may not change: nothing
/// runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Look {
    dev: u64,
    inode: u64,
    position: u64,
    flags: u32,
    link: PathBuf,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    holder: (HostPid, i32),
    id: FileId,
}

/// A descriptor being looked at.
struct Found<'a> {
    whose: &'a Whose,
    number: u32,
    way: &'a Path,
    link: &'a Path,
    stat: &'a Metadata,
    info: &'a FdInfo,
    flags: u32,
}

/// Everything found.
pub(super) struct Collected {
    pub(super) files: Vec<File>,
    pub(super) tables: Vec<FdTable>,
    pub(super) pipes: Vec<PipeBuffer>,
    pub(super) ghosts: Vec<Ghost>,
    pub(super) carried: Carried,
    pub(super) shared: Vec<SharedMemory>,
    pub(super) contents: Vec<(SharedId, PageSet, OwnedFd)>,
    pub(super) locks: Locks,
    /// Connections that are still to be read.
    pub(super) streams: Vec<streams::Found>,
}

impl<'o> Files<'o> {
    pub(super) fn new(
        options: &'o CollectOptions<'o>,
        shell_job: bool,
        members: impl Iterator<Item = HostPid>,
    ) -> Self {
        Self {
            options,
            shell_job,
            terminals: Vec::new(),
            members: members.map(|pid| pid.0.unsigned_abs()).collect(),
            sockets: None,
            files: Vec::new(),
            tables: Vec::new(),
            alike: HashMap::new(),
            standing: HashMap::new(),
            pipes: HashMap::new(),
            buffers: Vec::new(),
            ghosts: HashMap::new(),
            bodies: Vec::new(),
            carried: Carried::default(),
            shared: HashMap::new(),
            objects: Vec::new(),
            segments: sysv::segments(),
            attached: BTreeMap::new(),
            locks: Finder::default(),
            streams: Vec::new(),
            queues: Vec::new(),
            flying: Vec::new(),
            contents: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> Collected {
        Collected {
            files: self.files,
            tables: self.tables,
            pipes: self.buffers,
            ghosts: self.bodies,
            carried: self.carried,
            shared: self.objects,
            contents: self.contents,
            locks: self.locks.finish(),
            streams: self.streams,
        }
    }

    pub(super) fn ghost_limit(&self) -> u64 {
        self.options.ghost_limit.0
    }

    /// Reads the descriptor table of a process.
    pub(super) fn table(
        &mut self,
        whose: &Whose,
        refusals: &mut Refusals,
    ) -> Result<FdTableId, CollectError> {
        let pid = whose.pid;
        let id = FdTableId(number(self.tables.len()));
        let process = pidfd_open(pid)?;
        let mut fds: Vec<Fd> = Vec::new();
        let numbers = crate::survey::tree::descriptors(pid)
            .map_err(CollectError::io("list the descriptors", pid))?;
        for number in numbers {
            let (file, info) = self.descriptor(whose, number, &process, refusals)?;
            let close_on_exec = info.flags & libc::O_CLOEXEC.cast_unsigned() != 0;
            if let Some(file) = file {
                if !info.locks.is_empty() {
                    let again = fds.iter().any(|fd| fd.file == file);
                    self.locks.add(pid, number, file, &info, again);
                }
                fds.push(Fd { number, file, close_on_exec });
            }
        }
        self.tables.push(FdTable { id, fds });
        Ok(id)
    }

    /// The file behind a descriptor, none if it is refused, and what fdinfo says of it.
    pub(super) fn descriptor(
        &mut self,
        whose: &Whose,
        number: u32,
        process: &OwnedFd,
        refusals: &mut Refusals,
    ) -> Result<(Option<FileId>, FdInfo), CollectError> {
        let pid = whose.pid;
        let way = PathBuf::from(format!("/proc/{}/fd/{number}", pid.0));
        let failed = CollectError::io("look at a descriptor", pid);
        let link = fs::read_link(&way).map_err(&failed)?;
        let stat = fs::metadata(&way).map_err(&failed)?;
        let info = FdInfo::read(pid, number.cast_signed())?;
        let flags = info.flags & !libc::O_CLOEXEC.cast_unsigned();
        let found =
            Found { whose, number, way: &way, link: &link, stat: &stat, info: &info, flags };
        Ok((self.description(&found, process, refusals)?, info))
    }

    /// The description a descriptor shows: one that is known, or a new one.
    fn description(
        &mut self,
        found: &Found,
        process: &OwnedFd,
        refusals: &mut Refusals,
    ) -> Result<Option<FileId>, CollectError> {
        let holder = (found.whose.pid, found.number.cast_signed());
        let look = Look {
            dev: found.stat.dev(),
            inode: found.stat.ino(),
            position: position(found.info),
            flags: found.flags,
            link: found.link.to_owned(),
        };
        let at = match self.alike.get(&look) {
            Some(known) => match search(known, holder)? {
                Ok(at) => return Ok(Some(known[at].id)),
                Err(at) => at,
            },
            None => 0,
        };
        let copy = pidfd_getfd(process, holder.1)?;
        let id = FileId(number(self.files.len()) + 1);
        let kind = match self.kind(found, &copy, refusals)? {
            Ok(kind) => kind,
            Err(trouble) => {
                refusals.add(trouble, found.whose.fd(found.number));
                return Ok(None);
            }
        };
        for trouble in locks::troubles(found.info, found.link) {
            refusals.add(trouble, found.whose.fd(found.number));
        }
        // A place has no owner (open(2), O_PATH).
        let owner = match found.flags & libc::O_PATH.cast_unsigned() {
            0 => owner(&copy).map_err(CollectError::io("read the owner of a file", holder.0))?,
            _ => Owner::default(),
        };
        self.files.push(File { id, flags: found.flags, owner, kind });
        self.alike.entry(look).or_default().insert(at, Known { holder, id });
        Ok(Some(id))
    }

    fn kind(
        &mut self,
        found: &Found,
        copy: &OwnedFd,
        refusals: &mut Refusals,
    ) -> Result<Result<FileKind, Trouble>, CollectError> {
        let Found { whose, stat, info, .. } = *found;
        let pid = whose.pid;
        let allowed = Allowed { ghost_limit: self.options.ghost_limit.0 };
        let open = match open_at(found.way, found.link, stat, found.flags, allowed) {
            Ok(open) => open,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let nonsense = |what| CollectError::Nonsense { what, pid };
        Ok(Ok(match open {
            OpenOn::Named(named) => {
                let position = has_position(found.flags, stat).then_some(position(info));
                FileKind::Regular(self.regular(
                    pid,
                    named,
                    stat,
                    position,
                    found.flags,
                    found.way,
                )?)
            }
            OpenOn::Pipe(_) => FileKind::Pipe { pipe: self.pipe(pid, found, copy)? },
            OpenOn::Fifo(path) => {
                let pipe = self.pipe(pid, found, copy)?;
                FileKind::Fifo(Fifo { pipe, path, mode: Some(stat.mode()) })
            }
            OpenOn::Socket(inode) => return self.socket(found, inode, copy),
            OpenOn::EventFd => match info.extra {
                Extra::EventFd { count, semaphore } => {
                    FileKind::EventFd { counter: count, semaphore: semaphore.unwrap_or(false) }
                }
                _ => return Err(nonsense("an eventfd")),
            },
            OpenOn::Epoll => match &info.extra {
                // An instance that watches nothing tells nothing.
                Extra::Plain => FileKind::Epoll { targets: Vec::new() },
                Extra::Epoll(targets) => {
                    for trouble in watches::troubles(pid, found.number, targets) {
                        refusals.add(trouble, whose.fd(found.number));
                    }
                    FileKind::Epoll { targets: targets.iter().map(target).collect() }
                }
                _ => return Err(nonsense("an epoll instance")),
            },
            OpenOn::Inotify => match &info.extra {
                // An instance that watches nothing tells nothing.
                Extra::Plain => FileKind::Inotify { watches: Vec::new() },
                Extra::Inotify(found) => {
                    match inotify::unread(copy).map_or_else(|| inotify::watches(pid, found), Err) {
                        Ok(watches) => FileKind::Inotify { watches },
                        Err(trouble) => return Ok(Err(trouble)),
                    }
                }
                _ => return Err(nonsense("an inotify instance")),
            },
            OpenOn::PidFd => match info.extra {
                Extra::PidFd(target) => match stranger(target, |pid| self.members.contains(&pid)) {
                    None => FileKind::PidFd { task: TaskId(target.cast_unsigned()) },
                    Some(trouble) => return Ok(Err(trouble)),
                },
                _ => return Err(nonsense("a pidfd")),
            },
            OpenOn::SignalFd => match info.extra {
                Extra::SignalFd(mask) => FileKind::SignalFd { mask },
                _ => return Err(nonsense("a signalfd")),
            },
            OpenOn::TimerFd => {
                rewind_timer(copy.as_fd()).map_err(CollectError::io("ask a timerfd", pid))?;
                match &FdInfo::read(pid, found.number.cast_signed())?.extra {
                    Extra::TimerFd(timer) => {
                        FileKind::TimerFd(timer_fd(timer, self.options.frozen.elapsed()))
                    }
                    _ => return Err(nonsense("a timerfd")),
                }
            }
            OpenOn::Memfd(name) => {
                if let Err(trouble) = plain_memory(copy, &name) {
                    return Ok(Err(trouble));
                }
                let shared = self.shared(pid, name, stat, found.way)?;
                FileKind::Memfd { shared, position: position(info) }
            }
            OpenOn::Tty => {
                let end = end(pid, stat.rdev(), &info.extra);
                let tty = match terminal::read(copy, found.link, stat, pid, end)? {
                    Ok(tty) => tty,
                    Err(trouble) => return Ok(Err(trouble)),
                };
                let id = FileId(number(self.files.len()) + 1);
                self.terminals.push((id, end, whose.fd(found.number)));
                FileKind::Tty(tty)
            }
        }))
    }

    fn pipe(
        &mut self,
        pid: HostPid,
        found: &Found,
        copy: &OwnedFd,
    ) -> Result<PipeId, CollectError> {
        let fresh = PipeId(number(self.pipes.len()) + 1);
        let id = *self.pipes.entry((found.stat.dev(), found.stat.ino())).or_insert(fresh);
        let reads = found.flags & libc::O_ACCMODE.cast_unsigned() != libc::O_WRONLY.cast_unsigned();
        if reads && !self.buffers.iter().any(|buffer| buffer.pipe == id) {
            let buffer = pipes::read(id, copy);
            self.buffers.push(buffer.map_err(CollectError::io("read a pipe", pid))?);
        }
        Ok(id)
    }

    fn socket(
        &mut self,
        found: &Found,
        inode: u64,
        copy: &OwnedFd,
    ) -> Result<Result<FileKind, Trouble>, CollectError> {
        let pid = found.whose.pid;
        let tables = match self.sockets.take() {
            Some(tables) => tables,
            None => SocketTables::read()
                .map_err(|source| CollectError::Host { act: "ask for all sockets", source })?,
        };
        let fd = copy.as_fd();
        let asked = Tcp { policy: self.options.tcp, frozen: true };
        let socket = sockets::socket(fd, inode, pid, &tables, asked);
        self.sockets = Some(tables);
        Ok(match socket {
            Ok(Socket::Inet(mut socket)) => {
                if socket.protocol == libc::IPPROTO_UDP.cast_unsigned() {
                    socket.queue = groups::waiting(fd, &socket)
                        .map_err(CollectError::io("look into a UDP socket", pid))?;
                }
                let tcp = socket.protocol == libc::IPPROTO_TCP.cast_unsigned();
                if tcp && socket.state.is_connected() {
                    let copy = copy.try_clone().map_err(CollectError::io("keep a socket", pid))?;
                    let file = FileId(number(self.files.len()) + 1);
                    let object = found.whose.fd(found.number);
                    self.streams.push(streams::Found { file, copy, object });
                }
                Ok(FileKind::Inet(socket))
            }
            Ok(Socket::Unix(socket)) => {
                let copy = copy.try_clone().map_err(CollectError::io("keep a socket", pid))?;
                let file = FileId(number(self.files.len()) + 1);
                self.queues.push((file, copy, found.whose.fd(found.number)));
                Ok(FileKind::Unix(socket))
            }
            Ok(Socket::Netlink(socket)) => Ok(FileKind::Netlink(socket)),
            Ok(Socket::Packet(socket)) => Ok(FileKind::Packet(socket)),
            Err(trouble) => Err(trouble),
        })
    }

    pub(super) fn shared(
        &mut self,
        pid: HostPid,
        name: String,
        stat: &Metadata,
        way: &Path,
    ) -> Result<SharedId, CollectError> {
        if let Some(id) = self.shared.get(&(stat.dev(), stat.ino())) {
            return Ok(*id);
        }
        let id = SharedId(NAMELESS | number(self.objects.len()));
        let (object, pages, file) =
            shared::read(id, name, way).map_err(CollectError::io("read shared memory", pid))?;
        self.objects.push(object);
        self.contents.push((id, pages, file));
        self.shared.insert((stat.dev(), stat.ino()), id);
        Ok(id)
    }
}

/// Where `holder` is among descriptions that look alike, or where it belongs.
fn search(known: &[Known], holder: (HostPid, i32)) -> Result<Result<usize, usize>, CollectError> {
    let (mut from, mut to) = (0, known.len());
    while from < to {
        let middle = from.midpoint(to);
        match same_file(known[middle].holder, holder)? {
            Ordering::Equal => return Ok(Ok(middle)),
            Ordering::Less => from = middle + 1,
            Ordering::Greater => to = middle,
        }
    }
    Ok(Err(from))
}

/// Where the numbers of memfds begin: those of System V segments are below, until one place in their
/// table has been used 65024 times (two of one number are refused). Not above, because CRIU takes the
/// inode number of a memfd, which is made of this, for a signed one.
const NAMELESS: u32 = 0x7f00_0000;

fn position(info: &FdInfo) -> u64 {
    u64::try_from(info.pos).unwrap_or(0)
}

/// Terminals, /dev/kmsg and directories are not seeked in.
fn has_position(flags: u32, stat: &Metadata) -> bool {
    let write_only = flags & libc::O_ACCMODE.cast_unsigned() == libc::O_WRONLY.cast_unsigned();
    !(stat.file_type().is_char_device() && write_only)
}

fn owner(copy: &OwnedFd) -> std::io::Result<Owner> {
    let owner = file_owner(copy.as_fd())?;
    let [uid, euid] = file_owner_uids(copy.as_fd())?;
    Ok(Owner {
        uid,
        euid,
        signal: file_signal(copy.as_fd())?.unsigned_abs(),
        pid_type: owner.kind.unsigned_abs(),
        pid: owner.pid.unsigned_abs(),
    })
}

fn target(watch: &tracee::proc::fdinfo::EpollWatch) -> EpollTarget {
    EpollTarget {
        fd: watch.target.cast_unsigned(),
        events: watch.events,
        data: watch.data,
        // The kernel's own 32-bit device number.
        dev: super::low(watch.sdev),
        inode: watch.ino,
        position: watch.pos.cast_unsigned(),
    }
}

/// Ids count from the lengths of our own lists; nobody has 2^32 open files.
pub(super) fn number(length: usize) -> u32 {
    u32::try_from(length).expect("fewer than 2^32 objects")
}
