//! A CRIU that somebody else has started, with `--stream` and `--action-script`.
//!
//! In a directory of theirs are two things of ours: the socket over which CRIU hands its images out or
//! takes them in, and a program to which it tells what it does, and which asks us whether
//! it may. So commit and abort are the same questions as of a CRIU that we have started,
//! and no image is in the directory.

mod capture;
mod hooks;
mod pages;
mod serve;
mod wire;

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::RecvFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub use capture::Capture;
pub use hooks::{called_for, run};
pub use serve::Serve;

use crate::error::{Error, Result};
use crate::rpc::Hook;
pub(crate) use hooks::Asked;
use hooks::Hooks;
use pages::PageDoors;

/// Where CRIU connects to when it dumps, and when it restores.
const CAPTURE: &str = "streamer-capture.sock";
const SERVE: &str = "streamer-serve.sock";

/// A conversation with one CRIU. The directory is as it was when this is dropped.
#[derive(Debug)]
pub(crate) struct Conversation {
    hooks: Hooks,
    door: Door,
    pages: Option<PageDoors>,
    /// A connection over which it will serve the pages that it keeps.
    kept: Option<UnixStream>,
    images: Images,
    /// CRIU's process, since it first asked.
    criu: Option<OwnedFd>,
    /// What is written to the second arrives at the first.
    cancel: (UnixStream, UnixStream),
}

/// CRIU's connection for images.
#[derive(Debug)]
enum Images {
    Awaited,
    Here(UnixStream),
    Over,
}

/// Ends the wait for a CRIU, from another thread.
#[derive(Debug)]
pub struct Cancel(UnixStream);

impl Cancel {
    /// Whoever waits hears that nobody wants it.
    pub fn cancel(&self) {
        let _ = (&self.0).write_all(&[0]);
    }
}

/// A socket in the directory.
#[derive(Debug)]
struct Door {
    listener: UnixListener,
    path: PathBuf,
}

/// What happens next.
#[derive(Debug)]
enum Next {
    /// It asks whether to go on.
    Asks(Asked),
    /// It wants something about an image.
    Image,
    /// It, or somebody else, has connected to send pages.
    Pages(UnixStream),
    /// It has ended.
    Ended,
}

impl Conversation {
    fn listen(folder: &Path, socket: &str) -> Result<Self> {
        let act = "listen for a CRIU";
        std::fs::create_dir_all(folder).map_err(Error::os(act))?;
        let folder = std::fs::canonicalize(folder).map_err(Error::os(act))?;
        let hooks = Hooks::listen(&folder).map_err(Error::os(act))?;
        let door = Door::open(folder.join(socket)).map_err(Error::os(act))?;
        let cancel = UnixStream::pair().map_err(Error::os(act))?;
        let (pages, kept, criu) = (None, None, None);
        Ok(Self { hooks, door, pages, kept, images: Images::Awaited, criu, cancel })
    }

    /// Its connection for images, if it is there.
    fn images(&self) -> Result<&UnixStream> {
        match &self.images {
            Images::Here(stream) => Ok(stream),
            _ => Err(unasked(&Hook::Other("an image".to_owned()))),
        }
    }

    fn cancel(&self) -> Result<Cancel> {
        self.cancel.1.try_clone().map(Cancel).map_err(Error::os("listen for a CRIU"))
    }

    /// The program for `--action-script`.
    fn hook(&self) -> PathBuf {
        self.hooks.program()
    }

    /// Waits for whatever CRIU does. Images go before questions: what it has written before it asks
    /// is then known.
    fn next(&mut self) -> Result<Next> {
        loop {
            let images = match &self.images {
                Images::Awaited => Some(self.door.listener.as_fd()),
                Images::Here(stream) => Some(stream.as_fd()),
                Images::Over => None,
            };
            let criu = self.criu.as_ref().map(AsFd::as_fd);
            let [plain, network] = self.pages.as_ref().map_or([None; 2], PageDoors::as_fds);
            let stop = Some(self.cancel.0.as_fd());
            let wants = [stop, images, plain, network, Some(self.hooks.as_fd()), criu];
            let wanted = wants.iter().flatten();
            let mut fds: Vec<_> = wanted.map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.map_err(Error::errno("wait for CRIU"))?,
            };
            let mut ready = fds.iter().map(|fd| fd.revents().is_some_and(|bits| !bits.is_empty()));
            let [cancelled, images, plain, network, hooks, ended] =
                wants.map(|fd| fd.is_some() && ready.next() == Some(true));
            if cancelled {
                return Err(Error::Cancelled);
            }
            if let (Some(doors), true) = (&self.pages, plain || network) {
                let accepted = doors.accept(network).map_err(Error::os("hear CRIU"))?;
                return Ok(Next::Pages(accepted));
            }
            match &self.images {
                Images::Awaited if images => {
                    let accepted = self.door.listener.accept();
                    self.images = Images::Here(accepted.map_err(Error::os("hear CRIU"))?.0);
                }
                Images::Here(stream) if images => {
                    let next = rustix::net::recv(stream, &mut [0; 1], RecvFlags::PEEK);
                    if next.is_ok_and(|(bytes, _)| bytes > 0) {
                        return Ok(Next::Image);
                    }
                    self.images = Images::Over;
                }
                _ if hooks => {
                    let asked = self.hooks.next().map_err(Error::os("hear CRIU"))?;
                    if self.criu.is_none() {
                        self.criu = asked.criu.map(pidfd).transpose()?;
                    }
                    return Ok(Next::Asks(asked));
                }
                _ if ended => return Ok(Next::Ended),
                _ => {}
            }
        }
    }

    /// That CRIU has ended; another may come.
    fn forget(&mut self) {
        (self.images, self.criu) = (Images::Awaited, None);
    }

    /// Waits until CRIU has ended; it asks nothing any more whose answer counts. Of pages that it keeps
    /// none is wanted (any more).
    pub(crate) fn until_ended(&mut self) -> Result<()> {
        self.until(None, Kept::Unwanted).map(drop)
    }

    /// The same of a dump that was told to let its tree run: it is not to wait for whoever wants pages.
    pub(crate) fn until_let_go(&mut self) -> Result<()> {
        self.until(None, Kept::Unserved).map(drop)
    }

    /// Waits until CRIU has done what it tells of then, or has ended without: whether it has.
    pub(crate) fn until_done(&mut self, last: &Hook) -> Result<bool> {
        self.until(Some(last), Kept::Unserved)
    }

    fn until(&mut self, last: Option<&Hook>, kept: Kept) -> Result<bool> {
        loop {
            match self.next()? {
                Next::Asks(asked) if asked.hook == Hook::StatusReady => {
                    drop(self.kept.take());
                    if kept == Kept::Unwanted {
                        pages::want_none(asked.criu).map_err(Error::os("end CRIU's service"))?;
                    }
                    asked.answer(kept == Kept::Unwanted);
                }
                Next::Asks(asked) => {
                    let done = Some(&asked.hook) == last;
                    asked.answer(true);
                    if done {
                        return Ok(true);
                    }
                }
                Next::Ended => return Ok(false),
                // None is due any more.
                Next::Pages(_) => {}
                Next::Image => return Err(unasked(&Hook::Other("an image".to_owned()))),
            }
        }
    }
}

/// What becomes of pages that CRIU keeps when it is about to serve them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// It may, and hears that nobody wants any: so it is done.
    Unwanted,
    /// It may not, and fails.
    Unserved,
}

impl Door {
    fn open(path: PathBuf) -> io::Result<Self> {
        let _ = std::fs::remove_file(&path);
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// CRIU went on without having asked what it should.
fn unasked(hook: &Hook) -> Error {
    let said = format!("{hook} out of turn");
    Error::OutOfTurn { said, due: "its questions, by --action-script" }
}

fn pidfd(pid: i32) -> Result<OwnedFd> {
    let act = "watch CRIU";
    let pid = Pid::from_raw(pid).ok_or_else(|| Error::os(act)(io::ErrorKind::NotFound.into()))?;
    pidfd_open(pid, PidfdFlags::empty()).map_err(Error::rustix(act))
}
