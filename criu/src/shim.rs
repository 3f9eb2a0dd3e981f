//! The `criu` that a container runtime finds.
//!
//! A runtime runs whatever `criu` is first in its `$PATH` as `criu swrk N`, N being its end of a
//! conversation. Started by qmig it finds qmig there, under that name: it hands end N to the qmig that
//! started the runtime, gets ends of other conversations in its place, and becomes the real CRIU. So
//! CRIU is the runtime's child, with every descriptor that the runtime gave it, and speaks to qmig,
//! which passes on what the two say to each other and says its own part.
//!
//! Name and socket are in a folder of memory that is found by way of qmig's `/proc/PID/fd` alone, and
//! by the runtime's children in `$PATH`: Podman lets nothing else of the environment through.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::error::{Error, Result};
use crate::scratch::Scratch;

/// Where in the folder the shim finds qmig.
const SOCKET: &str = "qmig-shim.sock";
/// What it becomes: a link.
const PROGRAM: &str = "qmig-shim-criu";
/// The name a runtime looks for.
const NAME: &str = "criu";
/// Room for a name and a socket.
const ROOM: u64 = 1 << 20;

/// True if this process was started as the `criu` of a runtime that a qmig started.
pub fn called_for() -> bool {
    let called = std::env::args_os().next().map(PathBuf::from);
    called.is_some_and(|name| name.file_name().is_some_and(|name| name == NAME))
        && folder().is_some()
}

/// Where the qmig that started the runtime waits.
fn folder() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(|folder| folder.join(SOCKET).exists())
}

/// Becomes the real CRIU. Returns only if it cannot, having said why to whoever reads the runtime's
/// errors.
pub fn run() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let said = turn(&args).map_or_else(|error| error, |never| match never {});
    eprintln!("qmig in the place of criu: {said}");
    ExitCode::FAILURE
}

fn turn(args: &[OsString]) -> io::Result<std::convert::Infallible> {
    let folder = folder().ok_or(io::ErrorKind::NotFound)?;
    let program = std::fs::read_link(folder.join(PROGRAM))?;
    let number = match args {
        [_, verb, number] if verb == "swrk" => number.to_str().and_then(|text| text.parse().ok()),
        _ => None,
    };
    let number: i32 = number.ok_or_else(|| io::Error::other(format!("called with {args:?}")))?;
    let me = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let asker = pidfd_getfd(me, number, PidfdGetfdFlags::empty())?;
    let mut way = UnixStream::connect(folder.join(SOCKET))?;
    send(&way, &[0], &[asker.as_fd()])?;
    drop(asker);
    // Not close-on-exec: they are CRIU's.
    let (_, ends) = receive(&way, RecvFlags::empty())?;
    let mut ends = ends.into_iter();
    let socket = ends.next().ok_or_else(|| io::Error::other("qmig gave it no socket"))?;
    let pages = ends.next().map_or(-1, IntoRawFd::into_raw_fd);
    way.write_all(&pages.to_le_bytes())?;
    let mut command = Command::new(program);
    command.arg("swrk").arg(socket.as_raw_fd().to_string());
    Err(command.exec())
}

/// Where shims of one run of a runtime knock.
#[derive(Debug)]
pub(crate) struct Door {
    folder: Scratch,
    listener: UnixListener,
}

/// A shim that has handed its end in, and waits to become CRIU.
#[derive(Debug)]
pub(crate) struct Guest {
    way: UnixStream,
    /// The end at which the runtime hears.
    pub(crate) asker: OwnedFd,
}

impl Door {
    /// With this program (us) behind the name.
    pub(crate) fn open(criu: &Path) -> Result<Self> {
        let act = "stand in for a runtime's criu";
        let folder = Scratch::new(ROOM)?;
        let program = format!("/proc/{}/exe", std::process::id());
        for (to, name) in [(Path::new(&program), NAME), (criu, PROGRAM)] {
            std::os::unix::fs::symlink(to, folder.path().join(name)).map_err(Error::os(act))?;
        }
        let bound = UnixListener::bind(folder.path().join(SOCKET));
        Ok(Self { listener: bound.map_err(Error::os(act))?, folder })
    }

    /// `command` will find us in the place of `criu`.
    pub(crate) fn lead(&self, command: &mut Command) {
        let mut path = self.folder.path_for_others().into_os_string();
        if let Some(more) = std::env::var_os("PATH") {
            path.push(":");
            path.push(more);
        }
        command.env("PATH", path);
    }

    /// The next shim; `None` if the runtime ends without starting one.
    pub(crate) fn next(&self, runtime: &Child) -> Result<Option<Guest>> {
        let act = "wait for a runtime to start criu";
        let pid = Pid::from_raw(runtime.id().cast_signed()).expect("a child has a number");
        let end = pidfd_open(pid, PidfdFlags::empty()).map_err(Error::rustix(act))?;
        let mut fds = [
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(end.as_fd(), PollFlags::POLLIN),
        ];
        while let Err(errno) = poll(&mut fds, PollTimeout::NONE) {
            if errno != Errno::EINTR {
                return Err(Error::errno(act)(errno));
            }
        }
        if fds[0].revents().is_none_or(|events| events.is_empty()) {
            return Ok(None);
        }
        let (way, _) = self.listener.accept().map_err(Error::os(act))?;
        let (_, ends) = receive(&way, RecvFlags::CMSG_CLOEXEC).map_err(Error::os(act))?;
        let asker = ends.into_iter().next();
        let asker = asker.ok_or_else(|| Error::os(act)(io::ErrorKind::InvalidData.into()))?;
        Ok(Some(Guest { way, asker }))
    }
}

impl Guest {
    /// It becomes CRIU, with its socket and the one for pages; by what number it knows the latter.
    pub(crate) fn becomes_criu(
        mut self,
        socket: &OwnedFd,
        pages: Option<&OwnedFd>,
    ) -> Result<(OwnedFd, Option<i32>)> {
        let act = "let a runtime's criu start";
        let ends: Vec<_> = std::iter::once(socket).chain(pages).map(AsFd::as_fd).collect();
        send(&self.way, &[0], &ends).map_err(Error::os(act))?;
        let mut number = [0; 4];
        self.way.read_exact(&mut number).map_err(Error::os(act))?;
        let number = i32::from_le_bytes(number);
        Ok((self.asker, (number >= 0).then_some(number)))
    }
}

fn send(way: &UnixStream, bytes: &[u8], ends: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(ends)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(way, &[IoSlice::new(bytes)], &mut rights, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(way: &UnixStream, flags: RecvFlags) -> io::Result<(u8, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let got = recvmsg(way, &mut [IoSliceMut::new(&mut byte)], &mut rights, flags)?;
    let ends = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(ends) => Some(ends),
        _ => None,
    });
    let ends: Vec<_> = ends.flatten().collect();
    match got.bytes {
        1 => Ok((byte[0], ends)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
