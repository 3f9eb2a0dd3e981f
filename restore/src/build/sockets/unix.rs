//! unix(7): listeners, pairs, connections to a listener of the tree, and what waited in them.
//!
//! A connection made by accept(2) carries its listener's name, so it is made by connecting to the
//! new listener again. Peer credentials (SO_PEERCRED) of all of these are qmig's.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use image::state::{FileId, Packet, SocketState, UnixSocket};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    listen, sendmsg, socket, socketpair,
};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, lstat};
use nix::unistd::{Gid, Uid, chown};

use super::{Named, Sockets, options, shut};
use crate::build::files::View;
use crate::error::{BadCheckpoint, Error, Result, errno_of};

type One<'a> = Named<'a, UnixSocket>;

/// Makes the sockets: first those that stand alone, then connections.
pub(super) fn make_all(
    sockets: &[One<'_>],
    view: &View,
    made: &mut Sockets,
    open: &mut HashMap<FileId, OwnedFd>,
) -> Result<()> {
    let mut maker = Maker::of(sockets, view, made, open);
    let (alone, connected): (Vec<One<'_>>, Vec<One<'_>>) =
        sockets.iter().copied().partition(|one| maker.stands_alone(one.1));
    for one in alone {
        maker.make_alone(one)?;
    }
    for one in connected {
        maker.connect(one)?;
    }
    Ok(())
}

/// Fills in what waits in the sockets, now that all files that may be among it are open, and sets
/// their options.
pub(super) fn fill_all(
    sockets: &[One<'_>],
    view: &View,
    made: &mut Sockets,
    open: &mut HashMap<FileId, OwnedFd>,
) -> Result<()> {
    let mut maker = Maker::of(sockets, view, made, open);
    for one in sockets {
        maker.fill(*one)?;
    }
    for one in sockets {
        maker.finish(*one)?;
    }
    Ok(())
}

struct Maker<'m, 'a> {
    by_inode: HashMap<u32, One<'a>>,
    sockets: &'m [One<'a>],
    view: &'m View,
    made: &'m mut Sockets,
    open: &'m mut HashMap<FileId, OwnedFd>,
}

impl<'m, 'a> Maker<'m, 'a> {
    fn of(
        sockets: &'m [One<'a>],
        view: &'m View,
        made: &'m mut Sockets,
        open: &'m mut HashMap<FileId, OwnedFd>,
    ) -> Self {
        let by_inode = sockets.iter().map(|one| (one.1.inode, *one)).collect();
        Self { by_inode, sockets, view, made, open }
    }
}

impl Maker<'_, '_> {
    /// A listener, or a datagram socket that is no half of a pair, or one never connected.
    fn stands_alone(&self, socket: &UnixSocket) -> bool {
        match socket.state {
            SocketState::Listening => true,
            _ => {
                let mutual = self.mutual(socket).is_some();
                let fed = !socket.queue.is_empty() && socket.name.is_empty();
                !mutual && !fed && (socket.kind == 2 || socket.state == SocketState::Closed)
            }
        }
    }

    /// The other end, if each names the other.
    fn mutual(&self, socket: &UnixSocket) -> Option<One<'_>> {
        let peer = self.by_inode.get(&socket.peer).filter(|_| socket.peer != 0)?;
        (peer.1.peer == socket.inode && peer.1.inode != socket.inode).then_some(*peer)
    }

    fn make_alone(&mut self, (file, state): One<'_>) -> Result<()> {
        let failed = |act| move |errno| Error::Object { file: file.id, act, errno };
        let kind = kind(state.kind).map_err(failed("choose a socket type"))?;
        let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)
            .map_err(failed("make a unix socket"))?;
        self.bind(&fd, state)?;
        if state.state == SocketState::Listening {
            let backlog = i32::try_from(state.backlog).unwrap_or(i32::MAX);
            listen(&fd, Backlog::new(backlog).unwrap_or(Backlog::MAXCONN))
                .map_err(failed("listen"))?;
        }
        self.open.insert(file.id, fd);
        Ok(())
    }

    /// Binds `fd` to its name, with its node's owner and mode.
    fn bind(&mut self, fd: &OwnedFd, state: &UnixSocket) -> Result<()> {
        if state.name.is_empty() {
            return Ok(());
        }
        let raw = fd.as_raw_fd();
        let failed = |errno| Error::Bind { address: show(&state.name), errno };
        let Some(path) = path_of(&state.name) else {
            let name = UnixAddr::new_abstract(&state.name[1..]).map_err(failed)?;
            return bind(raw, &name).map_err(failed);
        };
        let dress = |at: &Path| {
            remove_stale(at, state.kind)?;
            bind(raw, &UnixAddr::new(at)?)?;
            if let Some((mode, uid, gid)) = state.node {
                chown(at, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
                let mode = Mode::from_bits_truncate(mode & 0o7777);
                fchmodat(AT_FDCWD, at, mode, FchmodatFlags::FollowSymlink)?;
            }
            Ok(())
        };
        self.where_named(state, path, dress).map_err(failed)?;
        let node = self.node_path(state, path);
        if state.deleted {
            nix::unistd::unlink(&node).map_err(failed)?;
        } else {
            self.made.note_node(node);
        }
        Ok(())
    }

    /// Does `act` with the name as the program gave it: a relative one in its directory.
    fn where_named(
        &self,
        state: &UnixSocket,
        path: &Path,
        act: impl Fn(&Path) -> nix::Result<()> + Send + Sync,
    ) -> nix::Result<()> {
        match &state.name_dir {
            Some(directory) if path.is_relative() => {
                let directory = self.view.path(directory);
                in_directory(&directory, || act(path))
            }
            _ if path.is_relative() => Err(Errno::ENOENT),
            _ => act(path),
        }
    }

    fn node_path(&self, state: &UnixSocket, path: &Path) -> PathBuf {
        match &state.name_dir {
            Some(directory) if path.is_relative() => self.view.path(directory).join(path),
            _ => path.to_owned(),
        }
    }

    /// Makes both ends of a connection; the second end finds it made.
    fn connect(&mut self, one: One<'_>) -> Result<()> {
        let (file, state) = one;
        if self.open.contains_key(&file.id) {
            return Ok(());
        }
        let failed = |act| move |errno| Error::Object { file: file.id, act, errno };
        let Some(peer) = self.mutual(state).map(|(file, state)| (file.id, state.clone())) else {
            return self.connect_outside(one);
        };
        if state.kind != peer.1.kind {
            let (inode, peer) = (state.inode, state.peer);
            return Err(BadCheckpoint::UnixPeer { inode, peer }.into());
        }
        // The accepted end has the name of a listener.
        let accepted = |state: &UnixSocket| {
            let mut listeners = self.sockets.iter().filter(|(_, other)| {
                other.state == SocketState::Listening && other.name == state.name
            });
            listeners.find(|_| !state.name.is_empty()).copied()
        };
        if let Some(listener) = accepted(state) {
            let ends = self.through(listener, &peer.1)?;
            self.open.insert(file.id, ends.1);
            self.open.insert(peer.0, ends.0);
        } else if let Some(listener) = accepted(&peer.1) {
            let ends = self.through(listener, state)?;
            self.open.insert(file.id, ends.0);
            self.open.insert(peer.0, ends.1);
        } else {
            let (near, far) = pair(state.kind).map_err(failed("make a socket pair"))?;
            self.bind(&near, state)?;
            self.bind(&far, &peer.1)?;
            self.open.insert(file.id, near);
            self.open.insert(peer.0, far);
        }
        Ok(())
    }

    /// Connects to `listener`; answers the connecting end, bound as `state` says, and the accepted.
    fn through(&mut self, listener: One<'_>, state: &UnixSocket) -> Result<(OwnedFd, OwnedFd)> {
        let (file, listening) = listener;
        let failed = |act| move |errno| Error::Object { file: file.id, act, errno };
        let kind = kind(state.kind).map_err(failed("choose a socket type"))?;
        let near = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)
            .map_err(failed("make a unix socket"))?;
        self.bind(&near, state)?;
        self.connect_to(&near, listening).map_err(failed("connect to a listener of the tree"))?;
        let listener = self.open.get(&file.id).ok_or(BadCheckpoint::File(file.id))?;
        let copy = listener.try_clone().map_err(|error| errno_of(&error));
        let copy = UnixListener::from(copy.map_err(failed("duplicate a listener"))?);
        let accepted = copy.accept().map_err(|error| errno_of(&error));
        let (far, _) = accepted.map_err(failed("accept a connection of the tree"))?;
        Ok((near, far.into()))
    }

    fn connect_to(&self, near: &OwnedFd, named: &UnixSocket) -> nix::Result<()> {
        let raw = near.as_raw_fd();
        match path_of(&named.name) {
            Some(path) => self.where_named(named, path, |at| connect(raw, &UnixAddr::new(at)?)),
            None => connect(raw, &UnixAddr::new_abstract(named.name.get(1..).unwrap_or(&[]))?),
        }
    }

    /// The other end is gone: what it sent is still to be read, then the end.
    fn connect_outside(&mut self, (file, state): One<'_>) -> Result<()> {
        if state.peer != 0 {
            let (inode, peer) = (state.inode, state.peer);
            return Err(BadCheckpoint::UnixPeer { inode, peer }.into());
        }
        let failed = |errno| Error::Object { file: file.id, act: "make a socket pair", errno };
        let (near, far) = pair(state.kind).map_err(failed)?;
        self.bind(&near, state)?;
        self.open.insert(file.id, near);
        self.made.feeders.insert(file.id, far);
        Ok(())
    }

    /// Sends again what waited to be read.
    fn fill(&mut self, (file, state): One<'_>) -> Result<()> {
        let failed = |act| move |errno| Error::Object { file: file.id, act, errno };
        // A datagram socket that sends to a named one of the tree.
        if state.kind == 2
            && self.mutual(state).is_none()
            && let Some((_, peer)) = self.by_inode.get(&state.peer).copied()
            && let Some(fd) = self.open.get(&file.id)
        {
            self.connect_to(fd, peer).map_err(failed("connect to its peer"))?;
        }
        if state.queue.is_empty() {
            return Ok(());
        }
        let sender = self.mutual(state).map(|(peer, _)| peer.id);
        let fresh;
        let from = match sender {
            Some(peer) => self.open.get(&peer).ok_or(BadCheckpoint::File(peer))?,
            None if self.made.feeders.contains_key(&file.id) => &self.made.feeders[&file.id],
            None => {
                let kind = kind(state.kind).map_err(failed("choose a socket type"))?;
                fresh = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)
                    .map_err(failed("make a unix socket"))?;
                self.connect_to(&fresh, state).map_err(failed("connect to fill it"))?;
                &fresh
            }
        };
        refill(from, &state.queue, self.open).map_err(failed("send again what waited to be read"))
    }

    fn finish(&mut self, (file, state): One<'_>) -> Result<()> {
        self.made.feeders.remove(&file.id);
        let failed = |act| move |errno| Error::Object { file: file.id, act, errno };
        let fd = self.open.get(&file.id).ok_or(BadCheckpoint::File(file.id))?;
        match shut(fd, state.shutdown) {
            Err(Errno::ENOTCONN) => {}
            other => other.map_err(failed("shut down one direction"))?,
        }
        options::apply(fd, &state.options)
            .map_err(|error| errno_of(&error))
            .map_err(failed("set socket options"))
    }
}

fn kind(number: u32) -> nix::Result<SockType> {
    match number {
        1 => Ok(SockType::Stream),
        2 => Ok(SockType::Datagram),
        5 => Ok(SockType::SeqPacket),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

fn pair(number: u32) -> nix::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, kind(number)?, None, SockFlag::SOCK_CLOEXEC)
}

/// The path in a `sun_path`; `None` for an abstract name.
fn path_of(name: &[u8]) -> Option<&Path> {
    let path = name.split(|byte| *byte == 0).next()?;
    (!path.is_empty()).then(|| Path::new(OsStr::from_bytes(path)))
}

fn show(name: &[u8]) -> String {
    format!("unix socket {}", name.escape_ascii())
}

/// Takes away a node that the program's own socket left behind on this host in an earlier life: a
/// socket, of the very name the program is bound to, on which nobody listens. Anything else stays.
fn remove_stale(path: &Path, number: u32) -> nix::Result<()> {
    let Ok(stat) = lstat(path) else { return Ok(()) };
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        return Err(Errno::EADDRINUSE);
    }
    let kind = kind(number)?;
    let probe = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => nix::unistd::unlink(path),
        _ => Err(Errno::EADDRINUSE),
    }
}

/// Runs `act` with `directory` as working directory, without moving the rest of qmig: on a thread
/// of its own that shares no file system state (unshare(2), CLONE_FS).
fn in_directory(
    directory: &Path,
    act: impl Fn() -> nix::Result<()> + Send + Sync,
) -> nix::Result<()> {
    let there = || {
        unshare(CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(directory)?;
        act()
    };
    std::thread::scope(|scope| scope.spawn(there).join().unwrap_or(Err(Errno::EIO)))
}

/// Sends packets, with as much room as they need; the sender's own size is set later.
fn refill(from: &OwnedFd, queue: &[Packet], open: &HashMap<FileId, OwnedFd>) -> nix::Result<()> {
    let bytes: usize = queue.iter().map(|packet| packet.bytes.len()).sum();
    // Every packet costs some hundred bytes of book-keeping besides.
    let room = u32::try_from(bytes.saturating_mul(2) + queue.len() * 2048).unwrap_or(u32::MAX);
    let room = room.clamp(212_992, 1 << 30);
    options::set(from.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, room)
        .map_err(|error| errno_of(&error))?;
    for packet in queue {
        let mut rest = packet.bytes.as_slice();
        let files = packet.files.iter().map(|file| open.get(file).map(AsRawFd::as_raw_fd));
        let files = files.collect::<Option<Vec<_>>>().ok_or(Errno::EBADF)?;
        let mut rights = Vec::new();
        if !files.is_empty() {
            rights.push(ControlMessage::ScmRights(&files));
        }
        loop {
            let quiet = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let vector = [IoSlice::new(rest)];
            let sent = sendmsg::<()>(from.as_raw_fd(), &vector, &rights, quiet, None)?;
            rights.clear(); // they go with the first byte
            rest = rest.get(sent..).unwrap_or(&[]);
            if rest.is_empty() {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "unix_tests.rs"]
mod tests;
