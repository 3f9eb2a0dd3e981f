//! `criu restore`, stopped at the question whether the tree may run.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::binary::Criu;
use crate::container::{Container, Task};
use crate::dump::Connections;
use crate::error::{Error, Result};
use crate::lazy_socket::{Handed, LazyProcess, LazySocket};
use crate::log;
use crate::rpc::messages::{Options, RequestType, Response};
use crate::rpc::{Hook, Said, Worker};
use crate::scratch::Scratch;
use crate::stream::{Asked, Conversation};
use crate::work::Work;

/// How a tree is restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// It was dumped as a shell job: it gets our terminal.
    pub shell_job: bool,
    /// What became of its TCP connections when it was dumped.
    pub tcp: Connections,
    /// Locks on files are taken again.
    pub file_locks: bool,
    /// So many processes live, and pages that their maps call lazy are put there by us.
    pub lazy: Option<usize>,
}

/// CRIU builds a tree. Dropped, it is told to stop, and nothing of the tree is left.
#[derive(Debug)]
pub struct Restoring {
    tree: Tree,
    lazy: Option<(LazySocket, usize)>,
}

/// The tree is built and has not run. Dropped, CRIU kills it, and has when the drop returns.
#[derive(Debug)]
pub struct Restored {
    by: By,
    root: i32,
    lazy: Option<Handed>,
}

/// Whose question is open.
#[derive(Debug)]
enum By {
    /// Of a CRIU that we, or a runtime, have started.
    Worker(Tree),
    /// Of one that somebody else has.
    Hook(Hooked),
}

/// See [`By::Hook`]. Dropped, CRIU has killed the tree when the drop returns.
#[derive(Debug)]
struct Hooked {
    asked: Option<Asked>,
    conversation: Conversation,
}

impl Drop for Hooked {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            asked.answer(false);
            let _ = self.conversation.until_ended();
        }
    }
}

/// What CRIU has made so far.
#[derive(Debug)]
struct Tree {
    worker: Worker,
    /// CRIU reads them until the tree runs.
    _images: Scratch,
    work: Work,
    /// Our child, from when CRIU has told of it until it runs.
    root: Option<Pid>,
}

impl Drop for Tree {
    /// CRIU ends what it has made; our child is ours to reap.
    fn drop(&mut self) {
        let _ = self.worker.end();
        if let Some(root) = self.root.filter(|_| !self.worker.is_of_runtime()) {
            let _ = kill(root, Signal::SIGKILL);
            while waitpid(root, None) == Err(Errno::EINTR) {}
        }
    }
}

impl Criu {
    /// Begins to restore the tree of `images`, pages included. Its root becomes our child, or if it
    /// is to be this container of that bundle, its runtime's.
    ///
    /// Pages are taken out of their image as they are read, so that memory is not held twice.
    pub fn restore(
        &self,
        container: Option<(&Container, &Path)>,
        options: RestoreOptions,
        images: Scratch,
    ) -> Result<Restoring> {
        let work = match container {
            Some(_) => Work::mounted()?,
            None => Work::beside(&images),
        };
        let lazy = options.lazy.map(|count| Ok((LazySocket::listen(&work)?, count)));
        let lazy = lazy.transpose()?;
        let mut worker = match container {
            Some((container, bundle)) => {
                Worker::start_by(container, Task::Restore(bundle), self, &images, None)?
            }
            None => Worker::start(self, None)?,
        };
        worker.ask_for_restore(options, lazy.is_some(), &images, &work)?;
        Ok(Restoring::begun(worker, images, work, lazy))
    }
}

impl Worker {
    /// Asks it for a restore from `images`.
    pub(crate) fn ask_for_restore(
        &mut self,
        options: RestoreOptions,
        lazily: bool,
        images: &Scratch,
        work: &Work,
    ) -> Result<()> {
        let asked = Options {
            shell_job: Some(options.shell_job),
            tcp_close: Some(options.tcp == Connections::Closed),
            tcp_established: Some(options.tcp == Connections::Kept),
            file_locks: Some(options.file_locks),
            auto_dedup: Some(true),
            lazy_pages: Some(lazily),
            rst_sibling: Some(true),
            ..Options::default()
        };
        self.ask(RequestType::Restore, asked, images, work)
    }
}

impl Restoring {
    /// By a worker that was asked to.
    pub(crate) fn begun(
        worker: Worker,
        images: Scratch,
        work: Work,
        lazy: Option<(LazySocket, usize)>,
    ) -> Self {
        Self { tree: Tree { worker, _images: images, work, root: None }, lazy }
    }

    /// Waits until every task is there and none has run.
    pub fn until_restored(self) -> Result<Restored> {
        let Self { mut tree, lazy } = self;
        loop {
            let (hook, root) = tree.asked()?.ok_or_else(Tree::out_of_turn)?;
            tree.root = root.map(Pid::from_raw).or(tree.root);
            match (hook, root) {
                (Hook::PostRestore, Some(root)) => {
                    let lazy = lazy.map(|(socket, count)| socket.take(count)).transpose()?;
                    return Ok(Restored { by: By::Worker(tree), root, lazy });
                }
                (
                    Hook::PreRestore
                    | Hook::SetupNamespaces
                    | Hook::PostSetupNamespaces
                    | Hook::OrphanPtsMaster,
                    _,
                ) => tree.worker.answer(true)?,
                (hook, _) => return Err(Error::UnexpectedHook { hook }),
            }
        }
    }
}

impl Restored {
    /// By a CRIU that has asked us.
    pub(crate) fn asked(
        conversation: Conversation,
        asked: Asked,
        root: i32,
        lazy: Option<Handed>,
    ) -> Self {
        let hooked = Hooked { asked: Some(asked), conversation };
        Self { by: By::Hook(hooked), root, lazy }
    }

    /// The root of the tree, as this host knows it: our child.
    pub fn root(&self) -> i32 {
        self.root
    }

    /// Of a lazy restore: who misses pages. They must be served from when it runs.
    pub fn take_lazy(&mut self) -> Vec<LazyProcess> {
        self.lazy.as_mut().map(|handed| std::mem::take(&mut handed.processes)).unwrap_or_default()
    }

    /// The tree runs. On an error it does not, and is gone.
    pub fn run(self) -> Result<i32> {
        let Self { by, root, mut lazy } = self;
        let run = match by {
            By::Worker(tree) => tree.run(),
            By::Hook(hooked) => hooked.run(),
        };
        let run = run.and_then(|()| lazy.as_mut().map_or(Ok(()), Handed::finished));
        // Our yes may have been heard all the same.
        run.inspect_err(|_| end_all(root)).map(|()| root)
    }
}

impl Hooked {
    fn run(mut self) -> Result<()> {
        if let Some(asked) = self.asked.take() {
            asked.answer(true);
        }
        match self.conversation.until_done(&Hook::PostResume)? {
            true => Ok(()),
            false => Err(Error::Ended { log: Vec::new() }),
        }
    }
}

impl Tree {
    fn run(self) -> Result<()> {
        let mut tree = self;
        tree.worker.answer(true)?;
        while let Some((hook, _)) = tree.asked()? {
            match hook {
                Hook::NetworkUnlock | Hook::PreResume | Hook::PostResume => {
                    tree.worker.insist()?;
                }
                hook => return Err(Error::UnexpectedHook { hook }),
            }
        }
        tree.root = None; // nobody's to end any more
        if tree.worker.is_of_runtime()
            && let Err(error) = tree.worker.end()
        {
            tracing::warn!(%error, "the container runs");
        }
        Ok(())
    }

    /// CRIU's next question, or `None` once it says that it is done.
    fn asked(&mut self) -> Result<Option<(Hook, Option<i32>)>> {
        match self.worker.hear()? {
            Some(Said::Asks(hook, pid)) => Ok(Some((hook, pid))),
            Some(Said::Done(response)) if response.success => Ok(None),
            Some(Said::Done(Response { errno, .. })) => {
                let log = log::errors(&self.work);
                Err(Error::Refused { what: "restore the tree", errno, log })
            }
            None => Err(Error::Ended { log: log::errors(&self.work) }),
        }
    }

    fn out_of_turn() -> Error {
        Error::OutOfTurn { said: "that it is done".to_owned(), due: "post-restore" }
    }
}

/// How long killed processes may take to end.
const BURIAL: Duration = Duration::from_secs(10);

/// Ends a tree, whoever else does so too.
fn end_all(root: i32) {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let texts = tasks.map(|task| std::fs::read_to_string(task.path().join("children")));
        let texts: String = texts.filter_map(|text| Some(text.ok()? + " ")).collect();
        all.extend(texts.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
        next += 1;
    }
    for pid in &all {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    let runs = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    let end = Instant::now() + BURIAL;
    while all.iter().any(runs) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}
