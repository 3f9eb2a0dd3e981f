//! `criu dump`, with qmig in the place of its page server and its last question open.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::socket::{setsockopt, sockopt};

use crate::binary::Criu;
use crate::container::{Container, Task};
use crate::error::{Error, Result};
use crate::log;
use crate::page_server::{self, PageServerError, Store};
use crate::rpc::messages::{Options, RequestType, Response};
use crate::rpc::{Hook, Said, Worker};
use crate::scratch::Scratch;
use crate::stream::{Asked, Conversation};
use crate::work::Work;

/// Bytes of pages that may be on their way from CRIU to us.
const ON_THEIR_WAY: usize = 4 << 20;

/// What is dumped, and what may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DumpOptions {
    /// Root of the tree, as this host knows it.
    pub root: i32,
    /// The tree stands on a terminal from outside.
    pub shell_job: bool,
    /// What becomes of TCP connections.
    pub tcp: Connections,
    /// Locks on files are carried.
    pub file_locks: bool,
    /// Most bytes of one deleted file.
    pub ghost_limit: u32,
}

/// What becomes of established TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// There may be none.
    #[default]
    Refused,
    /// They become closed sockets.
    Closed,
    /// They go on.
    Kept,
}

/// CRIU waits for a word to begin ([`Dumping::until_images`]), or reads a tree. Dropped, it is told to
/// stop, and the tree runs on.
#[derive(Debug)]
pub struct Dumping<S> {
    worker: Worker,
    images: Scratch,
    server: JoinHandle<(S, std::result::Result<(), PageServerError>)>,
}

/// The tree stands still and its images are complete. Dropped, it runs on.
#[derive(Debug)]
pub struct Dumped {
    by: By,
    images: Scratch,
    since: Instant,
}

/// Whose question is open.
#[derive(Debug)]
enum By {
    /// Of a CRIU that we, or a runtime, have started.
    Worker(Worker),
    /// Of one that somebody else has.
    Hook(Asked, Conversation),
}

impl Criu {
    /// Begins to dump a tree: every image but those of pages into `images`, pages into `store`. The
    /// tree of a container is dumped by way of its runtime.
    pub fn dump<S: Store + Send + 'static>(
        &self,
        container: Option<&Container>,
        options: DumpOptions,
        images: Scratch,
        store: S,
    ) -> Result<Dumping<S>> {
        let (ours, theirs) = UnixStream::pair().map_err(Error::os("make a socket for pages"))?;
        // CRIU would wait for us each few pages. That it may not be larger is no reason to fail.
        let _ = setsockopt(&theirs, sockopt::SndBufForce, &ON_THEIR_WAY);
        let pages = Some(OwnedFd::from(theirs));
        let mut worker = match container {
            Some(container) => Worker::start_by(container, Task::Checkpoint, self, &images, pages)?,
            None => Worker::start(self, pages)?,
        };
        let server = std::thread::spawn(move || {
            let mut store = store;
            let served = page_server::serve(ours, &mut store).map(|size| {
                tracing::debug!(?size, "CRIU has sent every page");
            });
            (store, served)
        });
        let asked = Options {
            pid: Some(options.root),
            shell_job: Some(options.shell_job),
            tcp_close: Some(options.tcp == Connections::Closed),
            tcp_established: Some(options.tcp == Connections::Kept),
            file_locks: Some(options.file_locks),
            ghost_limit: Some(options.ghost_limit),
            page_server: worker.page_server(),
            lazy_pages: Some(false),
            ..Options::default()
        };
        worker.ask(RequestType::Dump, asked, &images, &Work::beside(&images))?;
        Ok(Dumping { worker, images, server })
    }
}

impl<S: Store> Dumping<S> {
    /// Waits until the tree stands still and everything about it is written down.
    pub fn until_images(self) -> Result<(Dumped, S)> {
        let Self { mut worker, images, server } = self;
        let mut since = Instant::now();
        loop {
            match worker.hear()? {
                Some(Said::Asks(Hook::PostDump, _)) => break,
                Some(Said::Asks(Hook::PreDump, _)) => {
                    since = Instant::now();
                    worker.answer(true)?;
                }
                Some(Said::Asks(
                    Hook::NetworkLock | Hook::QueryExtFiles | Hook::NetworkUnlock,
                    _,
                )) => worker.answer(true)?,
                Some(Said::Asks(hook, _)) => return Err(Error::UnexpectedHook { hook }),
                Some(Said::Done(response)) => return Err(refused(&response, &images)),
                None => return Err(Error::Ended { log: log::errors(&Work::beside(&images)) }),
            }
        }
        let (store, served) =
            server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match served {
            Ok(()) => Ok((Dumped { by: By::Worker(worker), images, since }, store)),
            Err(error) => Err(Error::Pages(error)),
        }
    }
}

impl Dumped {
    /// By a CRIU that has asked us.
    pub(crate) fn asked(
        conversation: Conversation,
        asked: Asked,
        images: Scratch,
        since: Instant,
    ) -> Self {
        Self { by: By::Hook(asked, conversation), images, since }
    }

    /// Where the images are.
    pub fn images(&self) -> &Scratch {
        &self.images
    }

    /// When CRIU began: the tree has stood still since a little later.
    pub fn stands_since(&self) -> Instant {
        self.since
    }

    /// CRIU ends the tree. An error means that it did not, or did not say so.
    pub fn let_die(self) -> Result<()> {
        match self.by {
            By::Worker(mut worker) => {
                worker.insist()?;
                heard_out(worker, &self.images, true)
            }
            By::Hook(asked, mut conversation) => {
                asked.answer(true);
                conversation.until_ended()
            }
        }
    }

    /// CRIU lets the tree run on.
    pub fn let_run(self) -> Result<()> {
        match self.by {
            By::Worker(mut worker) => {
                worker.answer(false)?;
                heard_out(worker, &self.images, false)
            }
            By::Hook(asked, mut conversation) => {
                asked.answer(false);
                conversation.until_let_go()
            }
        }
    }
}

/// Waits for CRIU's last word.
fn heard_out(mut worker: Worker, images: &Scratch, success: bool) -> Result<()> {
    loop {
        match worker.hear()? {
            Some(Said::Asks(Hook::NetworkUnlock, _)) => worker.answer(true)?,
            Some(Said::Asks(hook, _)) => return Err(Error::UnexpectedHook { hook }),
            Some(Said::Done(response)) if response.success == success => break,
            Some(Said::Done(response)) if success => return Err(refused(&response, images)),
            Some(Said::Done(_)) => {
                let said = "that it was done".to_owned();
                return Err(Error::OutOfTurn { said, due: "that it was not" });
            }
            None => return Err(Error::Ended { log: log::errors(&Work::beside(images)) }),
        }
    }
    match worker.end() {
        // It did what it was told, and its runtime could not be content with that.
        Err(error) if !success => {
            tracing::debug!(%error, "the container goes on");
            Ok(())
        }
        ended => ended,
    }
}

fn refused(response: &Response, images: &Scratch) -> Error {
    Error::Refused {
        what: "dump the tree",
        errno: response.errno,
        log: log::errors(&Work::beside(images)),
    }
}
