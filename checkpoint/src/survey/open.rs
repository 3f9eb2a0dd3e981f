//! Looks at the open files of a running process.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use image::plan::{Listener, Protocol};
use image::state::{InetSocket, SocketState, UnixSocket};
use nix::libc;
use tracee::HostPid;
use tracee::host::{pidfd_getfd, pidfd_open};
use tracee::proc::children::shown_as;
use tracee::proc::fdinfo::{Extra, FdInfo};

use super::descriptor::{Allowed, OpenOn, open_at};
use super::named::Named;
use super::needed::Use;
use super::process::Look;
use super::refusals::{Trouble, Whose};
use super::{fanotify, inotify, locks, terminal, tree, watches};
use crate::collect::queues::carries_files;
use crate::collect::sockets::{Socket, Tcp, interfaces, socket};
use crate::collect::streams::ends_of;

/// A file through which devices write straight into the memory of the tree (O_DIRECT): no kernel
/// tells of such writes as it does of others. `None` if there is none now.
pub(crate) fn direct(root: HostPid) -> Option<String> {
    tree::processes(root).into_iter().map(shown_as).find_map(|pid| {
        tree::descriptors(pid).ok()?.into_iter().find_map(|number| {
            let info = FdInfo::read(pid, number.cast_signed()).ok()?;
            let link = fs::read_link(format!("/proc/{}/fd/{number}", pid.0)).ok()?;
            let file = link.is_absolute() && is_direct(info.flags);
            file.then(|| format!("fd {number} of {pid}, {}, is open with O_DIRECT", link.display()))
        })
    })
}

/// True for flags of a file that is read past the page cache.
pub(crate) fn is_direct(flags: u32) -> bool {
    flags & libc::O_DIRECT.cast_unsigned() != 0
}

impl Look<'_> {
    /// Looks at every descriptor of a process.
    pub(super) fn descriptors(&mut self, whose: &Whose) {
        let Ok(numbers) = tree::descriptors(whose.pid) else { return };
        self.highest_fd = self.highest_fd.max(numbers.last().copied().unwrap_or(0));
        for number in numbers {
            for trouble in self.descriptor(whose, number).unwrap_or_default() {
                self.refuse(trouble, whose.fd(number));
            }
        }
    }

    /// `None` if it was closed meanwhile.
    fn descriptor(&mut self, whose: &Whose, number: u32) -> Option<Vec<Trouble>> {
        let way = PathBuf::from(format!("/proc/{}/fd/{number}", whose.pid.0));
        let link = fs::read_link(&way).ok()?;
        let stat = fs::metadata(&way).ok()?;
        let info = FdInfo::read(whose.pid, number.cast_signed()).ok()?;
        let allowed = Allowed { ghost_limit: self.options.ghost_limit.0 };
        let open = match open_at(&way, &link, &stat, info.flags, allowed) {
            Ok(open) => open,
            Err(trouble) => return Some(vec![trouble]),
        };
        let mut troubles = locks::troubles(&info, &link);
        match open {
            OpenOn::Named(named) => {
                let appends = (libc::O_WRONLY | libc::O_APPEND).cast_unsigned();
                let how = if info.flags & libc::O_PATH.cast_unsigned() != 0 {
                    Use::Place
                } else if info.flags & appends == appends {
                    Use::Log
                } else {
                    Use::Data
                };
                if let Named::Carried(path) = &named {
                    self.ends.memory(path, whose.fd(number));
                }
                self.huge.file(&way, &stat, &named);
                let used_as = || whose.fd(number);
                self.needed.add(&named, &stat, how, used_as);
            }
            OpenOn::Pipe(_) => self.ends.pipe(&link, whose.fd(number)),
            OpenOn::Fifo(path) => {
                self.ends.pipe(&link, whose.fd(number));
                self.needed.add(&Named::Path(path), &stat, Use::Data, || whose.fd(number));
            }
            OpenOn::Socket(inode) => {
                if let Err(trouble) = self.socket(whose, number, inode)? {
                    troubles.push(trouble);
                }
            }
            OpenOn::Epoll => {
                if let Extra::Epoll(targets) = &info.extra {
                    troubles.extend(watches::troubles(whose.pid, number, targets));
                }
            }
            OpenOn::Inotify => {
                let process = pidfd_open(whose.pid).ok()?;
                let copy = pidfd_getfd(&process, number.cast_signed()).ok()?;
                troubles.extend(inotify::unread(&copy));
                if let Extra::Inotify(found) = &info.extra {
                    match inotify::watches(whose.pid, found) {
                        Ok(watches) => {
                            let paths = watches.iter().map(|watch| watch.path.as_str());
                            self.watched(paths, whose, number);
                        }
                        Err(trouble) => troubles.push(trouble),
                    }
                }
            }
            OpenOn::Fanotify => {
                let process = pidfd_open(whose.pid).ok()?;
                let copy = pidfd_getfd(&process, number.cast_signed()).ok()?;
                if let Extra::Fanotify(found) = &info.extra {
                    troubles.extend(fanotify::unread(&copy, found));
                    match fanotify::group(whose.pid, found) {
                        Ok(group) => {
                            let paths = group.marks.iter().map(|mark| mark.path.as_str());
                            self.watched(paths, whose, number);
                        }
                        Err(trouble) => troubles.push(trouble),
                    }
                }
            }
            OpenOn::PidFd => {
                if let Extra::PidFd(target) = info.extra {
                    self.ends.process(target, whose.fd(number));
                }
            }
            OpenOn::Memfd(_) => self.huge.shared(&way, &stat),
            OpenOn::Tty => {
                let end = terminal::end(whose.pid, stat.rdev(), &info.extra);
                self.ends.terminal(end, &link, whose.fd(number));
            }
            OpenOn::EventFd | OpenOn::SignalFd | OpenOn::TimerFd => {}
        }
        Some(troubles)
    }

    /// What is watched must be on the destination too.
    fn watched<'p>(&mut self, paths: impl Iterator<Item = &'p str>, whose: &Whose, number: u32) {
        for path in paths {
            let used_as = || format!("watched by {}", whose.fd(number));
            if let Ok(stat) = fs::symlink_metadata(path) {
                self.needed.add(&Named::Path(path.to_owned()), &stat, Use::Place, used_as);
            }
        }
    }

    fn socket(&mut self, whose: &Whose, number: u32, inode: u64) -> Option<Result<(), Trouble>> {
        let process = pidfd_open(whose.pid).ok()?;
        let copy = pidfd_getfd(&process, number.cast_signed()).ok()?;
        let asked = Tcp { policy: self.options.tcp, frozen: false };
        let read = socket(copy.as_fd(), inode, whose.pid, &self.sockets, asked);
        if let Ok(socket) = &read {
            self.interfaces.extend(interfaces(socket));
        }
        Some(match read {
            Ok(Socket::Inet(socket)) => {
                self.inet(whose, number, &socket);
                Ok(())
            }
            Ok(Socket::Unix(socket)) => {
                self.unix(whose, number, &socket);
                if socket.state != SocketState::Listening && carries_files(copy.as_fd()) {
                    self.ends.files_fly();
                }
                Ok(())
            }
            Ok(Socket::Netlink(_) | Socket::Packet(_)) => Ok(()),
            Err(trouble) => Err(trouble),
        })
    }

    fn inet(&mut self, whose: &Whose, number: u32, socket: &InetSocket) {
        let tcp = socket.protocol == libc::IPPROTO_TCP.cast_unsigned();
        if let Some(ends) = ends_of(socket).filter(|_| tcp && socket.state.is_connected()) {
            self.connections += 1;
            self.ends.tcp(ends, whose.fd(number));
        }
        if socket.source.port() == 0 {
            return;
        }
        let protocol = match socket.protocol.cast_signed() {
            libc::IPPROTO_UDP => Protocol::Udp,
            _ => Protocol::Tcp,
        };
        let listener = Listener { protocol, address: socket.source, v6_only: socket.v6_only };
        if !self.listeners.contains(&listener) {
            self.listeners.push(listener);
        }
    }

    fn unix(&mut self, whose: &Whose, number: u32, socket: &UnixSocket) {
        self.ends.unix(socket.inode, socket.peer, whose.fd(number));
        if !socket.name.is_empty() && !socket.deleted {
            // The kernel counts the NUL behind a path.
            let path = !socket.name.starts_with(b"\0");
            let name = socket.name.strip_suffix(b"\0").filter(|_| path);
            self.unix_names.insert(name.unwrap_or(&socket.name).to_vec());
        }
        debug_assert!(socket.state != SocketState::Listening || socket.peer == 0);
    }
}
