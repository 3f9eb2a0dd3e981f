//! What descriptors are open on: each kind of file, read once for each description.

use std::fs::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use image::state::{EpollTarget, Fifo, FileId, FileKind, PipeId};
use nix::libc;
use pages::{SharedId, TaskId};
use tracee::HostPid;
use tracee::host::rewind_timer;
use tracee::proc::fdinfo::{Extra, FdInfo};

use super::files::{Files, Found, number};
use super::sockets::{self, Socket, SocketTables, Tcp};
use super::timers::timer_fd;
use super::{Refusals, groups, pipes, shared, streams, terminal};
use crate::error::CollectError;
use crate::survey::descriptor::{Allowed, OpenOn, open_at};
use crate::survey::outside::stranger;
use crate::survey::refusals::Trouble;
use crate::survey::terminal::end;
use crate::survey::{fanotify, inotify, watches};

impl Files<'_> {
    /// What a description is open on.
    pub(super) fn kind(
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
            OpenOn::Fanotify => match &info.extra {
                Extra::Fanotify(group) => {
                    match fanotify::unread(copy, group)
                        .map_or_else(|| fanotify::group(pid, group), Err)
                    {
                        Ok(group) => FileKind::Fanotify(group),
                        Err(trouble) => return Ok(Err(trouble)),
                    }
                }
                _ => return Err(nonsense("a fanotify group")),
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

/// Where the numbers of memfds begin: those of System V segments are below, until one place in their
/// table has been used 65024 times (two of one number are refused). Not above, because CRIU takes the
/// inode number of a memfd, which is made of this, for a signed one.
const NAMELESS: u32 = 0x7f00_0000;

pub(super) fn position(info: &FdInfo) -> u64 {
    u64::try_from(info.pos).unwrap_or(0)
}

/// Terminals, /dev/kmsg and directories are not seeked in.
fn has_position(flags: u32, stat: &Metadata) -> bool {
    let write_only = flags & libc::O_ACCMODE.cast_unsigned() == libc::O_WRONLY.cast_unsigned();
    !(stat.file_type().is_char_device() && write_only)
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
