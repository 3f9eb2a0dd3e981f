//! A built tree that is one instruction from running, and its last step.

use image::state::FileLock;
use nix::libc;
use pages::TaskId;
use tracee::HostPid;

use super::ipc::IpcObjects;
use super::locks;
use super::process::Process;
use super::sockets::Sockets;
use super::sysv::Segments;
use super::terminal::Terminal;
use crate::error::{BadCheckpoint, Error, Result};
use crate::skeleton::Tree;

/// A tree that stands one instruction before running.
pub struct Ready {
    pub(super) tree: Tree,
    pub(super) order: Vec<u32>,
    /// Stopped by job control, as they were.
    pub(super) stopped: Vec<u32>,
    pub(super) sockets: Sockets,
    pub(super) terminal: Option<Terminal>,
    pub(super) segments: Segments,
    pub(super) objects: IpcObjects,
    /// Locks on files that somebody else has.
    pub(super) owed: Vec<FileLock>,
}

/// A tree that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its root.
    pub root: HostPid,
    /// Our child, whose end is the end of the tree: the root itself, or with a PID namespace of its
    /// own that namespace's pid 1, which exits as the root does (128 + n if signal n killed it).
    pub child: HostPid,
}

impl Ready {
    /// The root's number on this host.
    pub fn root(&self) -> Option<HostPid> {
        self.tree.tasks.get(self.order.first()?).map(|process| process.host)
    }

    /// Lets every task go, children before parents, leaders last. From here on the tree is on its own:
    /// an error tells that some task had died, and nothing is undone.
    pub fn run(mut self) -> Result<Running> {
        let root = self.root().ok_or(BadCheckpoint::NoLeader(TaskId(0)))?;
        self.sockets.open()?;
        // Before anybody may outlive us: a task that makes a call for us must not run on from there.
        if !self.owed.is_empty() {
            locks::settle(&mut self.tree.tasks, std::mem::take(&mut self.owed));
        }
        // The right to run is here. A qmig that dies between two of the steps below must not take
        // half of the tree with it: the kernel lets the other half run on instead.
        let processes = self.tree.tasks.values_mut().chain(&mut self.tree.init);
        processes
            .flat_map(|process| &mut process.threads)
            .try_for_each(tracee::Stopped::outlive_tracer)?;
        let init = self.tree.init.take();
        let child = init.as_ref().map_or(root, |init| init.host);
        // The reaper first: it is there before anybody can end.
        let mut outcome = init.map_or(Ok(()), |init| let_go(init, 0));
        for id in self.order.iter().rev() {
            if let Some(process) = self.tree.tasks.remove(id) {
                let signal = if self.stopped.contains(id) { libc::SIGSTOP } else { 0 };
                let gone = let_go(process, signal);
                outcome = outcome.and(gone);
            }
        }
        self.tree.zombies.clear();
        self.sockets.keep();
        self.segments.keep();
        self.objects.keep();
        if let Some(terminal) = &mut self.terminal {
            terminal.keep();
        }
        outcome?;
        Ok(Running { root, child })
    }
}

fn let_go(process: Process, signal: i32) -> Result<()> {
    let mut threads = process.threads;
    let leader = if threads.is_empty() { None } else { Some(threads.remove(0)) };
    let mut outcome = Ok(());
    for thread in threads {
        let gone = thread.detach();
        outcome = outcome.and(gone);
    }
    if let Some(leader) = leader {
        let gone = leader.detach_with(signal);
        outcome = outcome.and(gone);
    }
    outcome.map_err(Error::from)
}
