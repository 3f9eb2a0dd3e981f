//! Open file descriptions: each opened or made once by qmig, later given to every task that has it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use image::state::{Checkpoint, File, FileId, FileKind, GhostId, Regular};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Whence, lseek};
use pages::TaskId;
use tracee::HostPid;
use tracee::net::HostAddress;

use super::events::{Clockwork, event_fd, pid_fd, signal_fd};
use super::ghosts;
use super::inotify::Watchers;
use super::memfds::Memfds;
use super::pipes::Pipes;
use super::process::Process;
use super::ptys::Ptys;
use super::sockets::Sockets;
use super::terminal::Terminal;
use crate::error::{BadCheckpoint, During, Error, Result};

/// Where paths lead to: qmig's own view, or that of a tree with its own mounts.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// `/proc/PID/root` of a task of the tree, if it has a mount namespace of its own.
    pub(crate) root: Option<PathBuf>,
}

impl View {
    /// That of a tree, with or without mounts of its own.
    pub(crate) fn of(task: &Process, own: bool) -> Self {
        Self { root: own.then(|| PathBuf::from(format!("/proc/{}/root", task.host))) }
    }

    /// The path by which qmig reaches what the tree calls `path`.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => PathBuf::from(path),
        }
    }
}

/// Every open file description of the tree, in qmig's hands.
pub(crate) struct Files<'a> {
    from: &'a Checkpoint,
    by_id: HashMap<FileId, &'a File>,
    view: View,
    open: HashMap<FileId, OwnedFd>,
    /// Ghosts by the descriptor (O_PATH) that keeps them.
    ghosts: HashMap<GhostId, OwnedFd>,
    pub(crate) memfds: Memfds,
    pub(crate) clockwork: Clockwork,
    pub(crate) watchers: Watchers,
    pub(crate) sockets: Sockets,
    pub(crate) terminal: Option<Terminal>,
    /// Files opened only to be mapped, run or stood in.
    extra: BTreeMap<(FileId, u32), OwnedFd>,
}

impl<'a> Files<'a> {
    /// Opens and makes all that any descriptor of the tree refers to.
    ///
    /// `maker` is a task of the tree that makes what only a task itself can make.
    pub(crate) fn open_all(
        from: &'a Checkpoint,
        view: View,
        terminal: Option<Terminal>,
        hosts: &HashMap<TaskId, HostPid>,
        ptys: &Ptys,
        takeover: &'static [HostAddress],
        (early, maker): (Memfds, &mut Process),
    ) -> Result<Self> {
        let mut files = Self {
            from,
            by_id: from.files.iter().map(|file| (file.id, file)).collect(),
            watchers: Watchers::new(view.clone()),
            memfds: Memfds::create(from, &view, early, maker)?,
            view,
            open: HashMap::new(),
            ghosts: HashMap::new(),
            clockwork: Clockwork::default(),
            sockets: Sockets::default(),
            terminal,
            extra: BTreeMap::new(),
        };
        let held = files.held();
        let pipes = Pipes::new(&from.pipes);
        pipes.make_all(&held, &mut files.open)?;
        pipes.open_fifos(&held, &files.view, &mut files.open)?;
        ptys.open_all(&held, &mut files.open)?;
        files.sockets = Sockets::make_all(&held, &files.view, takeover, &mut files.open)?;
        for file in &held {
            if !files.open.contains_key(&file.id) {
                let opened = files.make(file, hosts, maker)?;
                files.open.insert(file.id, opened);
            }
        }
        files.sockets.fill(&held, &files.view, &mut files.open)?;
        Ok(files)
    }

    /// Every file that somebody has open, or that is on its way to somebody through a socket.
    fn held(&self) -> Vec<&'a File> {
        let tables = &self.from.fd_tables;
        let mut new: Vec<FileId> =
            tables.iter().flat_map(|table| &table.fds).map(|fd| fd.file).collect();
        let mut held = HashSet::new();
        while let Some(id) = new.pop() {
            if held.insert(id)
                && let Some(FileKind::Unix(socket)) = self.by_id.get(&id).map(|file| &file.kind)
            {
                new.extend(socket.queue.iter().flat_map(|packet| &packet.files));
            }
        }
        let mut held: Vec<&File> =
            self.from.files.iter().filter(|file| held.contains(&file.id)).collect();
        held.sort_unstable_by_key(|file| file.id);
        held
    }

    /// The open description `id`.
    pub(crate) fn get(&self, id: FileId) -> Result<BorrowedFd<'_>> {
        Ok(self.open.get(&id).ok_or(BadCheckpoint::File(id))?.as_fd())
    }

    /// A file opened with `access` (O_RDONLY, O_WRONLY, O_RDWR) for mmap(2) or as the program.
    pub(crate) fn for_mapping(&mut self, id: FileId, access: u32) -> Result<OwnedFd> {
        let mut access = access & libc::O_ACCMODE.cast_unsigned();
        if let FileKind::Memfd { shared, .. } = self.file(id)?.kind
            && self.memfds.is_write_sealed(shared)
        {
            // No mapping of it can write; one that might would keep the seal from being applied.
            access = libc::O_RDONLY.cast_unsigned();
        }
        self.extra(id, access, OFlag::from_bits_retain(access.cast_signed()))
    }

    /// A directory to stand in.
    pub(crate) fn directory(&mut self, id: FileId) -> Result<OwnedFd> {
        self.extra(id, libc::O_PATH.cast_unsigned(), OFlag::O_PATH | OFlag::O_DIRECTORY)
    }

    fn extra(&mut self, id: FileId, key: u32, flags: OFlag) -> Result<OwnedFd> {
        if !self.extra.contains_key(&(id, key)) {
            let opened = match &self.file(id)?.kind {
                FileKind::Memfd { shared, .. } => self.memfds.reopen(*shared, flags)?,
                FileKind::Regular(regular) => self.regular(id, regular, flags)?,
                _ => return Err(BadCheckpoint::FileKind { file: id, used_as: "a file" }.into()),
            };
            self.extra.insert((id, key), opened);
        }
        let kept = self.extra.get(&(id, key)).ok_or(BadCheckpoint::File(id))?;
        kept.try_clone().during("duplicate a descriptor")
    }

    /// True if `id` is `/` as every new task has it.
    pub(crate) fn is_plain_root(&self, id: FileId) -> Result<bool> {
        match &self.file(id)?.kind {
            FileKind::Regular(regular) => Ok(regular.path == "/" && regular.ghost.is_none()),
            _ => Err(BadCheckpoint::FileKind { file: id, used_as: "a root directory" }.into()),
        }
    }

    /// Nothing is to be mapped or stood in any more.
    pub(crate) fn close_extra(&mut self) {
        self.extra.clear();
    }

    /// Every task has its descriptors: qmig lets go of its own.
    pub(crate) fn close_all(&mut self) {
        self.close_extra();
        self.open.clear();
        self.ghosts.clear();
    }

    /// What is still needed when every task has its descriptors.
    pub(crate) fn into_parts(self) -> (Memfds, Clockwork, Watchers, Sockets, Option<Terminal>) {
        (self.memfds, self.clockwork, self.watchers, self.sockets, self.terminal)
    }

    fn file(&self, id: FileId) -> Result<&'a File> {
        Ok(self.by_id.get(&id).copied().ok_or(BadCheckpoint::File(id))?)
    }

    fn make(
        &mut self,
        file: &File,
        hosts: &HashMap<TaskId, HostPid>,
        maker: &mut Process,
    ) -> Result<OwnedFd> {
        let flags = status_flags(file.flags);
        let made = |act| move |errno| Error::Object { file: file.id, act, errno };
        match &file.kind {
            FileKind::Regular(regular) => self.regular(file.id, regular, flags),
            FileKind::Memfd { shared, position } => {
                let fd = self.memfds.reopen(*shared, flags)?;
                seek(&fd, *position).map_err(made("seek"))?;
                Ok(fd)
            }
            FileKind::EventFd { counter, semaphore } => {
                event_fd(*counter, *semaphore, flags).map_err(made("make an event counter"))
            }
            FileKind::SignalFd { mask } => signal_fd(maker, *mask, flags),
            FileKind::TimerFd(timer) => {
                self.clockwork.timer_fd(timer, flags).map_err(made("make a timer"))
            }
            FileKind::Epoll { .. } => {
                let empty = nix::sys::epoll::EpollCreateFlags::EPOLL_CLOEXEC;
                let epoll = nix::sys::epoll::Epoll::new(empty);
                Ok(epoll.map_err(made("make an epoll instance"))?.0)
            }
            FileKind::Tty(tty) => {
                self.terminal.as_mut().ok_or(Error::NoTerminal)?.reopen(tty, flags)
            }
            FileKind::Inotify { watches } => {
                let watchers = &mut self.watchers;
                watchers.make(file.id, watches, flags).map_err(made("make an inotify instance"))
            }
            FileKind::Fanotify(group) => {
                let watchers = &mut self.watchers;
                watchers.group(file.id, group, flags).map_err(made("make a fanotify group"))
            }
            FileKind::PidFd { task } => {
                let host = hosts.get(task).ok_or(BadCheckpoint::File(file.id))?;
                pid_fd(*host, flags)
            }
            FileKind::Pipe { .. }
            | FileKind::Fifo(_)
            | FileKind::Unix(_)
            | FileKind::Inet(_)
            | FileKind::Netlink(_)
            | FileKind::Packet(_) => Err(BadCheckpoint::File(file.id).into()),
        }
    }

    fn regular(&mut self, id: FileId, regular: &Regular, flags: OFlag) -> Result<OwnedFd> {
        if !regular.path.starts_with('/') || regular.path.contains('\0') {
            return Err(BadCheckpoint::FilePath(id).into());
        }
        let path = self.view.path(&regular.path);
        let failed = |act| {
            let path = path.clone();
            move |errno| Error::Path { act, path, errno }
        };
        let opened = match regular.ghost {
            Some(ghost) => self.ghost(ghost, &path, flags)?,
            None => {
                let opened = open_quietly(&path, flags).map_err(failed("open"))?;
                compare(&opened, &path, regular)?;
                opened
            }
        };
        if let Some(position) = regular.position.filter(|_| !flags.contains(OFlag::O_PATH)) {
            seek(&opened, position).map_err(failed("seek in"))?;
        }
        Ok(opened)
    }

    fn ghost(&mut self, id: GhostId, path: &Path, flags: OFlag) -> Result<OwnedFd> {
        if !self.ghosts.contains_key(&id) {
            let ghost = self.from.ghosts.iter().find(|ghost| ghost.id == id);
            let ghost = ghost.ok_or(BadCheckpoint::Ghost(id))?;
            let kept = match ghost.paged {
                Some(space) => self.memfds.paged.place(space, ghost, path)?,
                None => ghosts::recreate(ghost, path)?,
            };
            self.ghosts.insert(id, kept);
            if ghost.named {
                self.sockets.note_node(path.to_owned());
            }
        }
        let kept = self.ghosts.get(&id).ok_or(BadCheckpoint::Ghost(id))?;
        reopen(kept, flags).map_err(|errno| Error::Path {
            act: "open the nameless copy of",
            path: path.to_owned(),
            errno,
        })
    }
}

/// The flags of an open description that open(2) may be given again.
///
/// Those that make or destroy files are taken out wherever they come from; O_TMPFILE with the
/// O_DIRECTORY that is part of it, which is not true of the file it made; O_ASYNC, which is
/// [`super::table::own`]'s to set.
pub(crate) fn status_flags(flags: u32) -> OFlag {
    let flags = OFlag::from_bits_retain(flags.cast_signed());
    let made = if flags.contains(OFlag::O_TMPFILE) { OFlag::O_TMPFILE } else { OFlag::empty() };
    let once = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
    flags - once - made - OFlag::O_ASYNC
}

/// Opens a path without waiting, and without a terminal becoming anybody's.
pub(crate) fn open_quietly(path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let quiet = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    if flags.contains(OFlag::O_PATH) {
        return open(path, quiet, Mode::empty());
    }
    let opened = open(path, quiet | OFlag::O_NONBLOCK, Mode::empty())?;
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(&opened, FcntlArg::F_SETFL(flags))?;
    }
    Ok(opened)
}

/// A new description of the file behind `kept`, whatever happened to its name (proc_pid_fd(5)).
pub(crate) fn reopen(kept: &OwnedFd, flags: OFlag) -> nix::Result<OwnedFd> {
    // The name to follow is /proc's own.
    let flags = flags - OFlag::O_NOFOLLOW;
    open_quietly(Path::new(&format!("/proc/self/fd/{}", kept.as_raw_fd())), flags)
}

pub(crate) fn seek(fd: &OwnedFd, position: u64) -> nix::Result<()> {
    let position = i64::try_from(position).map_err(|_| Errno::EINVAL)?;
    lseek(fd, position, Whence::SeekSet).map(drop)
}

/// What was opened must be what the program had.
fn compare(opened: &OwnedFd, path: &Path, wanted: &Regular) -> Result<()> {
    let path = path.to_owned();
    let stat =
        fstat(opened).map_err(|errno| Error::Path { act: "look at", path: path.clone(), errno })?;
    let found = |what, wanted: u64, found: u64| Error::Differs { path, what, wanted, found };
    if let Some(mode) = wanted.mode
        && mode != stat.st_mode
    {
        return Err(found("mode", mode.into(), stat.st_mode.into()));
    }
    if let Some(rdev) = wanted.rdev
        && rdev != stat.st_rdev
    {
        return Err(found("device number", rdev, stat.st_rdev));
    }
    let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    match wanted.size {
        Some(size) if regular && i64::try_from(size) != Ok(stat.st_size) => {
            Err(found("size", size, stat.st_size.cast_unsigned()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_destroy_are_never_repeated() {
        let wild = libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | libc::O_TMPFILE;
        let kept = |flags: i32| status_flags(flags.cast_unsigned()).bits();
        assert_eq!(kept(wild), libc::O_RDWR | libc::O_APPEND);
        assert_eq!(kept(libc::O_DIRECTORY | libc::O_CLOEXEC), libc::O_DIRECTORY);
    }

    #[test]
    fn a_file_that_differs_is_named() {
        let opened = open("/dev/null", OFlag::O_RDONLY, Mode::empty()).expect("a null device");
        let mut wanted = Regular {
            path: "/dev/null".into(),
            position: None,
            size: Some(7),
            mode: None,
            rdev: Some(nix::sys::stat::makedev(1, 3)),
            ghost: None,
        };
        compare(&opened, Path::new("/dev/null"), &wanted).expect("sizes of devices mean nothing");
        wanted.rdev = Some(1);
        let error = compare(&opened, Path::new("/dev/null"), &wanted).expect_err("another device");
        assert!(error.to_string().contains("/dev/null has device number"), "{error}");
    }

    #[test]
    fn a_tree_with_its_own_mounts_is_reached_through_its_root() {
        let view = View { root: Some("/proc/7/root".into()) };
        assert_eq!(view.path("/proc/self/maps"), Path::new("/proc/7/root/proc/self/maps"));
        assert_eq!(View::default().path("/x"), Path::new("/x"));
    }
}
