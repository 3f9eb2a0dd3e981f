//! What descriptors are open on: `files.img`.

use std::collections::HashMap;

use pages::{SharedId, TaskId};

use super::nodes::FreeIds;
use super::{
    Reader, Writer, descriptors, fanotify, inotify, netlink, packet, sockets, streams, tty,
};
use crate::error::{BadField, BadImage};
use crate::frame::FrameWriter;
use crate::kind::ImageKind;
use crate::messages::{
    EventfdFileEntry, EventpollFileEntry, EventpollTfdEntry, FdType, FifoEntry, FileEntry,
    FownEntry, InotifyFileEntry, InotifyWdEntry, MemfdFileEntry, PidfdEntry, PipeEntry,
    RegFileEntry, SignalfdEntry, TimerfdEntry, TtyFileEntry,
};
use crate::state::check::{absolute_path, task_id};
use crate::state::{
    Checkpoint, EpollTarget, FdTable, FdTableId, Fifo, File, FileId, FileKind, GhostId,
    IntervalTimer, Owner, PipeId, Regular, TimerFd, Tty,
};

/// O_CLOEXEC, which is the descriptor's and not the file's.
const O_CLOEXEC: u32 = 0o2_000_000;
const O_RDWR: u32 = 2;
/// Entries of pipes with names say of nobody that signals go there.
const NOBODY: FownEntry = FownEntry { uid: 0, euid: 0, signum: 0, pid_type: 0, pid: 0 };
/// A file position that says: do not seek.
const NO_SEEK: u64 = u64::MAX;

pub(super) fn write(writer: &mut Writer<'_>) {
    let checkpoint = writer.checkpoint;
    let mut image = FrameWriter::new(ImageKind::Files);
    let mut ids = FreeIds::new(checkpoint.files.iter().map(|file| file.id.0));
    for file in in_criu_s_order(checkpoint) {
        let node = ids.node_of(file);
        let node_id = node.as_ref().map(|node| node.id.0);
        image.entry(&to_entry(file, node_id, writer.namespaces.net));
        if let Some(node) = node {
            image.entry(&to_entry(&node, None, 0));
        }
    }
    writer.images.push((ImageKind::Files.name(0), image.finish()));
    sockets::write_queues(writer);
    streams::write(writer);
    tty::write(writer);
}

/// The files as they stand, but for unix sockets, which take turns among themselves: those whose first
/// holder has the highest pid come before the others.
///
/// CRIU makes a connected pair in the process that is the first holder of whichever of the two it
/// meets first, reading backwards; and it fails if that process has the other one too, but not as
/// its first holder.
fn in_criu_s_order(checkpoint: &Checkpoint) -> Vec<&File> {
    let tables: HashMap<FdTableId, &FdTable> =
        checkpoint.fd_tables.iter().map(|table| (table.id, table)).collect();
    let mut first_holder: HashMap<FileId, TaskId> = HashMap::new();
    for task in &checkpoint.tasks {
        let table = task.living().and_then(|living| tables.get(&living.fds));
        for fd in table.into_iter().flat_map(|table| &table.fds) {
            let holder = first_holder.entry(fd.file).or_insert(task.id);
            *holder = task.id.min(*holder);
        }
    }
    let is_unix = |file: &&File| matches!(file.kind, FileKind::Unix(_));
    let mut unix: Vec<_> = checkpoint.files.iter().filter(is_unix).collect();
    unix.sort_by_key(|file| std::cmp::Reverse(first_holder.get(&file.id).copied()));
    let mut unix = unix.into_iter();
    let turn = |file| if is_unix(&file) { unix.next().unwrap_or(file) } else { file };
    checkpoint.files.iter().map(turn).collect()
}

pub(super) fn type_of(kind: &FileKind) -> FdType {
    match kind {
        FileKind::Regular(_) => FdType::Reg,
        FileKind::Pipe { .. } => FdType::Pipe,
        FileKind::Fifo(_) => FdType::Fifo,
        FileKind::Inotify { .. } => FdType::Inotify,
        FileKind::Fanotify(_) => FdType::Fanotify,
        FileKind::PidFd { .. } => FdType::Pidfd,
        FileKind::EventFd { .. } => FdType::Eventfd,
        FileKind::Epoll { .. } => FdType::Eventpoll,
        FileKind::SignalFd { .. } => FdType::Signalfd,
        FileKind::TimerFd(_) => FdType::Timerfd,
        FileKind::Memfd { .. } => FdType::Memfd,
        FileKind::Unix(_) => FdType::Unixsk,
        FileKind::Inet(_) => FdType::Inetsk,
        FileKind::Netlink(_) => FdType::Netlinksk,
        FileKind::Packet(_) => FdType::Packetsk,
        FileKind::Tty(_) => FdType::Tty,
    }
}

/// The entry of a file; `node` is where a terminal's path is, `net` the network namespace's id.
fn to_entry(file: &File, node: Option<u32>, net: u32) -> FileEntry {
    let (id, flags) = (file.id.0, file.flags);
    let fown = FownEntry::from(&file.owner);
    let mut entry = FileEntry { r#type: type_of(&file.kind) as i32, id, ..FileEntry::default() };
    match &file.kind {
        FileKind::Regular(regular) => {
            entry.reg = Some(Box::new(RegFileEntry {
                id,
                flags,
                pos: regular.position.unwrap_or(NO_SEEK),
                fown,
                name: regular.path.clone(),
                size: regular.size,
                mode: regular.mode,
                rdev: regular.rdev,
                ..RegFileEntry::default()
            }));
        }
        FileKind::Pipe { pipe } => {
            entry.pipe = Some(Box::new(PipeEntry { id, pipe_id: pipe.0, flags, fown }));
        }
        FileKind::Fifo(fifo) => {
            entry.fifo = Some(Box::new(FifoEntry { id, pipe_id: fifo.pipe.0, regf_id: node }));
        }
        FileKind::Inotify { watches } => {
            let wd = watches.iter().map(InotifyWdEntry::from).collect();
            entry.ify = Some(Box::new(InotifyFileEntry { id, flags, fown, wd }));
        }
        FileKind::Fanotify(group) => {
            entry.ffy = Some(Box::new(fanotify::entry(group, id, flags, fown)));
        }
        FileKind::PidFd { task } => {
            let (flags, nspid) = (flags & !O_RDWR, task.0.cast_signed());
            entry.pidfd = Some(Box::new(PidfdEntry { id, ino: task.0, flags, nspid, fown }));
        }
        FileKind::EventFd { counter, semaphore } => {
            let semaphore = semaphore.then_some(true);
            let efd = EventfdFileEntry { id, flags, fown, counter: *counter, semaphore };
            entry.efd = Some(Box::new(efd));
        }
        FileKind::Epoll { targets } => {
            let tfd = targets.iter().map(EventpollTfdEntry::from).collect();
            entry.epfd = Some(Box::new(EventpollFileEntry { id, flags, fown, tfd }));
        }
        FileKind::SignalFd { mask } => {
            entry.sgfd = Some(Box::new(SignalfdEntry { id, flags, fown, sigmask: *mask }));
        }
        FileKind::TimerFd(timer) => {
            entry.tfd = Some(Box::new(timerfd(id, flags, fown, timer)));
        }
        FileKind::Memfd { shared, position } => {
            let inode_id = shared.0;
            let memfd = MemfdFileEntry { id, flags, pos: *position, fown, inode_id };
            entry.memfd = Some(Box::new(memfd));
        }
        FileKind::Unix(socket) => {
            entry.usk = Some(Box::new(sockets::unix_entry(socket, id, flags, fown, net)));
        }
        FileKind::Inet(socket) => {
            entry.isk = Some(Box::new(sockets::inet_entry(socket, id, flags, fown, net)));
        }
        FileKind::Netlink(socket) => {
            entry.nlsk = Some(Box::new(netlink::entry(socket, id, flags, fown, net)));
        }
        FileKind::Packet(socket) => {
            entry.psk = Some(Box::new(packet::entry(socket, id, flags, fown, net)));
        }
        FileKind::Tty(tty) => {
            let tty_info_id = tty.info_id();
            let tty = TtyFileEntry { id, tty_info_id, flags, fown, regf_id: node };
            entry.tty = Some(Box::new(tty));
        }
    }
    entry
}

fn timerfd(id: u32, flags: u32, fown: FownEntry, timer: &TimerFd) -> TimerfdEntry {
    let IntervalTimer { interval, left } = timer.timer;
    TimerfdEntry {
        id,
        flags,
        fown,
        clockid: timer.clock,
        ticks: timer.ticks,
        settime_flags: timer.settime_flags,
        vsec: left.as_secs(),
        vnsec: u64::from(left.subsec_nanos()),
        isec: interval.as_secs(),
        insec: u64::from(interval.subsec_nanos()),
    }
}

impl From<&Owner> for FownEntry {
    fn from(owner: &Owner) -> Self {
        Self {
            uid: owner.uid,
            euid: owner.euid,
            signum: owner.signal,
            pid_type: owner.pid_type,
            pid: owner.pid,
        }
    }
}

impl From<&FownEntry> for Owner {
    fn from(entry: &FownEntry) -> Self {
        Self {
            uid: entry.uid,
            euid: entry.euid,
            signal: entry.signum,
            pid_type: entry.pid_type,
            pid: entry.pid,
        }
    }
}

impl From<&EpollTarget> for EventpollTfdEntry {
    fn from(target: &EpollTarget) -> Self {
        Self {
            id: 0,
            tfd: target.fd,
            events: target.events,
            data: target.data,
            dev: Some(target.dev),
            inode: Some(target.inode),
            pos: Some(target.position),
        }
    }
}

impl From<&EventpollTfdEntry> for EpollTarget {
    fn from(entry: &EventpollTfdEntry) -> Self {
        Self {
            fd: entry.tfd,
            events: entry.events,
            data: entry.data,
            dev: entry.dev.unwrap_or(0),
            inode: entry.inode.unwrap_or(0),
            position: entry.pos.unwrap_or(0),
        }
    }
}

/// Every file; which terminal each is on is known, but not yet by which path.
pub(super) fn read(
    reader: &Reader<'_>,
    memfds: &HashMap<u32, SharedId>,
    mut ghosts: HashMap<FileId, GhostId>,
    tables: &[FdTable],
) -> Result<Vec<File>, BadImage> {
    let terminals = tty::read(reader)?;
    let mut queues = sockets::read_queues(reader)?;
    let mut files: Vec<File> = Vec::new();
    let mut types: HashMap<FileId, i32> = HashMap::new();
    reader.each(ImageKind::Files, 0, |entry: FileEntry| {
        let mut file = from_entry(&entry, reader, memfds, &terminals)?;
        match &mut file.kind {
            FileKind::Regular(regular) => regular.ghost = ghosts.remove(&file.id),
            FileKind::Unix(socket) => socket.queue = queues.remove(&file.id).unwrap_or_default(),
            FileKind::Inet(socket) if socket.protocol == sockets::UDP => {
                socket.queue = queues.remove(&file.id).unwrap_or_default();
            }
            _ => {}
        }
        types.insert(file.id, entry.r#type);
        files.push(file);
        Ok(())
    })?;
    streams::read(reader, &mut files)?;
    if let Some(id) = queues.keys().next() {
        let lie = BadField::kind("id_for", id.0, "a unix or UDP socket");
        return Err(lie.at(ImageKind::SocketQueues.name(0), 0));
    }
    if let Some(id) = ghosts.keys().next() {
        let lie = BadField::kind("orig_id", id.0, "a file with a path");
        return Err(lie.at(ImageKind::RemapPaths.name(0), 0));
    }
    descriptors::check_types(reader, tables, &types)?;
    Ok(files)
}

/// The file that CRIU makes for a mapping of anonymous shared memory.
pub(super) fn of_shared(id: FileId, shared: SharedId) -> File {
    let kind = FileKind::Memfd { shared, position: 0 };
    File { id, flags: 0, owner: Owner::default(), kind }
}

fn from_entry(
    entry: &FileEntry,
    reader: &Reader<'_>,
    memfds: &HashMap<u32, SharedId>,
    terminals: &HashMap<u32, Tty>,
) -> Result<File, BadField> {
    let kind = FdType::try_from(entry.r#type)
        .map_err(|_| BadField::value("type", entry.r#type.cast_unsigned(), "a type of file"))?;
    let (inner, flags, fown, kind) = match kind {
        FdType::Reg => {
            let reg = entry.reg.as_deref().ok_or_else(|| BadField::missing("reg"))?;
            (reg.id, reg.flags, &reg.fown, FileKind::Regular(reg.try_into()?))
        }
        FdType::Pipe => {
            let pipe = entry.pipe.as_deref().ok_or_else(|| BadField::missing("pipe"))?;
            let kind = FileKind::Pipe { pipe: PipeId(pipe.pipe_id) };
            (pipe.id, pipe.flags, &pipe.fown, kind)
        }
        FdType::Fifo => {
            let fifo = entry.fifo.as_deref().ok_or_else(|| BadField::missing("fifo"))?;
            if fifo.regf_id.is_none() {
                return Err(BadField::missing("fifo.regf_id"));
            }
            // Its node tells the rest.
            let pipe = Fifo { pipe: PipeId(fifo.pipe_id), path: String::new(), mode: None };
            (fifo.id, 0, &NOBODY, FileKind::Fifo(pipe))
        }
        FdType::Inotify => {
            let ify = entry.ify.as_deref().ok_or_else(|| BadField::missing("ify"))?;
            let watches = inotify::watches(&ify.wd)?;
            (ify.id, ify.flags, &ify.fown, FileKind::Inotify { watches })
        }
        FdType::Fanotify => {
            let ffy = entry.ffy.as_deref().ok_or_else(|| BadField::missing("ffy"))?;
            (ffy.id, ffy.flags, &ffy.fown, FileKind::Fanotify(fanotify::from(ffy)?))
        }
        FdType::Pidfd => {
            let pidfd = entry.pidfd.as_deref().ok_or_else(|| BadField::missing("pidfd"))?;
            if pidfd.nspid == -1 {
                let what = "a pidfd of a process that is gone";
                return Err(BadField::unsupported("pidfd.nspid", what));
            }
            let task = task_id("pidfd.nspid", pidfd.nspid.cast_unsigned())?;
            (pidfd.id, pidfd.flags | O_RDWR, &pidfd.fown, FileKind::PidFd { task })
        }
        FdType::Eventfd => {
            let efd = entry.efd.as_deref().ok_or_else(|| BadField::missing("efd"))?;
            let semaphore = efd.semaphore.unwrap_or(false);
            let kind = FileKind::EventFd { counter: efd.counter, semaphore };
            (efd.id, efd.flags, &efd.fown, kind)
        }
        FdType::Eventpoll => {
            let epfd = entry.epfd.as_deref().ok_or_else(|| BadField::missing("epfd"))?;
            let targets = epfd.tfd.iter().map(EpollTarget::from).collect();
            (epfd.id, epfd.flags, &epfd.fown, FileKind::Epoll { targets })
        }
        FdType::Signalfd => {
            let sgfd = entry.sgfd.as_deref().ok_or_else(|| BadField::missing("sgfd"))?;
            (sgfd.id, sgfd.flags, &sgfd.fown, FileKind::SignalFd { mask: sgfd.sigmask })
        }
        FdType::Timerfd => {
            let tfd = entry.tfd.as_deref().ok_or_else(|| BadField::missing("tfd"))?;
            (tfd.id, tfd.flags, &tfd.fown, FileKind::TimerFd(tfd.try_into()?))
        }
        FdType::Memfd => {
            let memfd = entry.memfd.as_deref().ok_or_else(|| BadField::missing("memfd"))?;
            let shared = *memfds
                .get(&memfd.inode_id)
                .ok_or_else(|| BadField::unresolved("memfd.inode_id", "memfd", memfd.inode_id))?;
            let kind = FileKind::Memfd { shared, position: memfd.pos };
            (memfd.id, memfd.flags, &memfd.fown, kind)
        }
        FdType::Unixsk => {
            let usk = entry.usk.as_deref().ok_or_else(|| BadField::missing("usk"))?;
            let socket = sockets::unix_from(usk, reader.root_ids.net_ns_id)?;
            (usk.id, usk.flags, &usk.fown, FileKind::Unix(socket))
        }
        FdType::Inetsk => {
            let isk = entry.isk.as_deref().ok_or_else(|| BadField::missing("isk"))?;
            let socket = sockets::inet_from(isk, reader.root_ids.net_ns_id)?;
            (isk.id, isk.flags, &isk.fown, FileKind::Inet(socket))
        }
        FdType::Netlinksk => {
            let nlsk = entry.nlsk.as_deref().ok_or_else(|| BadField::missing("nlsk"))?;
            let socket = netlink::from(nlsk, reader.root_ids.net_ns_id)?;
            (nlsk.id, nlsk.flags, &nlsk.fown, FileKind::Netlink(socket))
        }
        FdType::Packetsk => {
            let psk = entry.psk.as_deref().ok_or_else(|| BadField::missing("psk"))?;
            let socket = packet::from(psk, reader.root_ids.net_ns_id)?;
            (psk.id, psk.flags, &psk.fown, FileKind::Packet(socket))
        }
        FdType::Tty => {
            let tty = entry.tty.as_deref().ok_or_else(|| BadField::missing("tty"))?;
            let info = terminals.get(&tty.tty_info_id).cloned().ok_or_else(|| {
                BadField::unresolved("tty.tty_info_id", "terminal", tty.tty_info_id)
            })?;
            (tty.id, tty.flags, &tty.fown, FileKind::Tty(info))
        }
        other => return Err(BadField::unsupported("type", unsupported(other))),
    };
    if inner != entry.id || inner == 0 {
        return Err(BadField::value("id", inner, "one number, not zero, in both places"));
    }
    Ok(File { id: FileId(inner), flags: flags & !O_CLOEXEC, owner: fown.into(), kind })
}

fn unsupported(kind: FdType) -> &'static str {
    match kind {
        FdType::Ns => "a namespace held open",
        FdType::Tunf => "a tun device",
        FdType::Ext => "a file of a plugin of CRIU",
        FdType::Bpfmap => "a BPF map",
        _ => "a file of a type of CRIU's own",
    }
}

impl TryFrom<&RegFileEntry> for Regular {
    type Error = BadField;

    fn try_from(entry: &RegFileEntry) -> Result<Self, BadField> {
        if entry.ext == Some(true) {
            return Err(BadField::unsupported("reg.ext", "a file that is given from outside"));
        }
        absolute_path("reg.name", &entry.name)?;
        Ok(Self {
            path: entry.name.clone(),
            position: (entry.pos != NO_SEEK).then_some(entry.pos),
            size: entry.size,
            mode: entry.mode,
            rdev: entry.rdev,
            ghost: None,
        })
    }
}
