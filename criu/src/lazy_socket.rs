//! qmig in the place of `criu lazy-pages`: the socket over which a lazy `criu restore` hands out a
//! userfaultfd for each process it makes.
//!
//! By the time CRIU asks its question `post-restore` every one has come, and every mapping that may be
//! lazy is registered with it. From then on the pages are the business of whoever has the
//! descriptors: should the last one be closed, missing pages silently read as zeros.

use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::error::{Error, Result};
use crate::work::Work;

/// Its name in CRIU's working directory.
const NAME: &str = "lazy-pages.socket";
/// Says that every process is restored.
const FINISHED: u32 = 0x5253_5446;
/// What CRIU sends is on its way already when it is waited for.
const SOON: Duration = Duration::from_secs(30);

/// Where a lazy restore will knock.
#[derive(Debug)]
pub(crate) struct LazySocket(UnixListener);

/// The userfaultfd of one process.
#[derive(Debug)]
pub struct LazyProcess {
    /// By the number it knows itself by.
    pub pid: u32,
    /// Its faults.
    pub uffd: OwnedFd,
}

/// What a lazy restore has handed out. It is told when the restore is over, too.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) processes: Vec<LazyProcess>,
    restore: UnixStream,
}

impl LazySocket {
    /// Listens in a restore's working directory.
    pub(crate) fn listen(work: &Work) -> Result<Self> {
        Self::listen_in(work.path())
    }

    /// The same in a directory that others use too.
    pub(crate) fn listen_in(work: &Path) -> Result<Self> {
        let path = work.join(NAME);
        let _ = std::fs::remove_file(&path);
        let bound = UnixListener::bind(path);
        bound.map(Self).map_err(Error::os("listen for a lazy restore"))
    }

    /// Takes what a restore has handed out for its `count` living processes and any number of dead
    /// ones. Asked when it is known to have done so.
    pub(crate) fn take(self, count: usize) -> Result<Handed> {
        let act = "take the userfaultfds of a lazy restore";
        self.0.set_nonblocking(true).map_err(Error::os(act))?;
        let (restore, _) = self.0.accept().map_err(Error::os(act))?;
        restore.set_nonblocking(false).map_err(Error::os(act))?;
        restore.set_read_timeout(Some(SOON)).map_err(Error::os(act))?;
        let mut processes = Vec::new();
        while processes.len() < count {
            let process = next(&restore).map_err(Error::os(act))?;
            processes.extend(process);
        }
        Ok(Handed { processes, restore })
    }
}

impl Handed {
    /// Nobody is watched any more.
    pub(crate) fn without_processes(self) -> Self {
        Self { processes: Vec::new(), ..self }
    }

    /// Waits until CRIU says that all tasks are restored; zombies may still be told of before that.
    pub(crate) fn finished(&mut self) -> Result<()> {
        loop {
            let word = word(&self.restore).map_err(Error::os("hear the end of a lazy restore"))?;
            if word == FINISHED {
                return Ok(());
            }
            if word.cast_signed() >= 0 {
                let said = format!("{word:#x} on its lazy-pages socket");
                return Err(Error::OutOfTurn { said, due: "the end" });
            }
        }
    }
}

/// One process with its userfaultfd; `None` for a dead one.
fn next(restore: &UnixStream) -> io::Result<Option<LazyProcess>> {
    let number = word(restore)?.cast_signed();
    let Ok(pid) = u32::try_from(number) else { return Ok(None) };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(restore, &mut [IoSliceMut::new(&mut byte)], &mut rights, flags)?;
    let mut descriptors = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    match (got.bytes, descriptors.next().and_then(|mut all| all.next())) {
        (1, Some(uffd)) => Ok(Some(LazyProcess { pid, uffd })),
        (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::other("no descriptor came with a process")),
    }
}

fn word(mut restore: &UnixStream) -> io::Result<u32> {
    let mut bytes = [0; 4];
    restore.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}
