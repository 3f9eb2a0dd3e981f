//! Who takes the terminal of a container: the other end of a `--console-socket`.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::{Lab, LabError, Result};

/// A socket to which a runtime sends the master of a terminal.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// Whoever types, and reads what is shown.
#[derive(Debug)]
pub struct Console {
    master: File,
    shown: String,
}

impl ConsoleSocket {
    /// One that both hosts see.
    pub fn listen(lab: &Lab) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = lab.shared().join(format!("console-{number}"));
        let listener = UnixListener::bind(&path).map_err(LabError::file("listen at", &path))?;
        Ok(Self { listener, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal that was sent, or will be within `deadline`.
    pub fn take(&self, deadline: Duration) -> Result<Console> {
        let failed = LabError::file("take a terminal at", &self.path);
        let take = || {
            wait(self.listener.as_fd(), Instant::now() + deadline)?;
            let (way, _) = self.listener.accept()?;
            wait(way.as_fd(), Instant::now() + deadline)?;
            let (mut bytes, mut space) =
                ([0; 4096], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
            let mut rights = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            recvmsg(&way, &mut parts, &mut rights, RecvFlags::CMSG_CLOEXEC)?;
            let mut sent = rights.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut sent) => sent.next(),
                _ => None,
            });
            sent.next().ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
        };
        let master: OwnedFd = take().map_err(failed)?;
        Ok(Console { master: master.into(), shown: String::new() })
    }
}

impl Console {
    /// Types a line.
    pub fn type_line(&mut self, line: &str) -> std::io::Result<()> {
        self.master.write_all(format!("{line}\n").as_bytes())
    }

    /// Waits until it shows this; answers all that it has shown.
    pub fn wait_shown(&mut self, what: &str, deadline: Duration) -> std::io::Result<&str> {
        let end = Instant::now() + deadline;
        while !self.shown.contains(what) {
            wait(self.master.as_fd(), end)
                .map_err(|error| std::io::Error::other(format!("{error}: {:?}", self.shown)))?;
            let mut bytes = [0; 4096];
            let length = self.master.read(&mut bytes)?;
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
        Ok(&self.shown)
    }
}

fn wait(on: std::os::fd::BorrowedFd<'_>, end: Instant) -> std::io::Result<()> {
    let left = end.saturating_duration_since(Instant::now());
    let mut fds = [PollFd::new(on, PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))? {
        0 => Err(std::io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
