//! A whole tree, held.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::proc::children;
use crate::proc::stat::Stat;
use crate::sys::wait::{Change, wait};
use crate::task::Seizing;
use crate::{Error, HostPid, Result, Stopped, sys};

/// One process of a held tree.
#[derive(Debug)]
pub struct HeldProcess {
    /// The number under which /proc shows its memory and its files: its own, or, if the main thread
    /// has ended, that of the first thread that lives.
    pub pid: HostPid,
    /// Its own number, which is its main thread's.
    pub number: HostPid,
    /// Every thread that lives; the leader first, then ascending.
    pub threads: Vec<Stopped>,
}

impl HeldProcess {
    /// The main thread; if it has ended, the first that lives.
    pub fn leader(&mut self) -> &mut Stopped {
        &mut self.threads[0]
    }
}

/// A process tree of which every thread is in ptrace-stop, so nothing in it can make another.
///
/// Dropping it lets everyone run on.
#[derive(Debug, Default)]
pub struct Held {
    /// Parents before children.
    processes: Vec<HeldProcess>,
    zombies: Vec<HostPid>,
}

impl Held {
    /// Seizes `root`, all its threads, all its descendants, until nothing new appears.
    ///
    /// From the top down: once all threads of a process stand, it makes no more children, and those
    /// it has are found; a child that appears elsewhere meanwhile (because its parent died and an
    /// ancestor inherits it) is found by looking once more. Zombies are listed. Fails with
    /// [`Error::Deadline`] if some thread does not stop in time.
    pub fn freeze(root: HostPid, deadline: Duration) -> Result<Self> {
        let until = Instant::now() + deadline;
        let mut held = Self::default();
        let mut known = BTreeSet::from([root]);
        if !held.take(root, until)? {
            return Err(Error::Died { pid: root });
        }
        loop {
            let mut all_known = true;
            let mut next = 0;
            while let Some(process) = held.processes.get(next) {
                let born = process
                    .threads
                    .iter()
                    .map(|thread| children::of_thread(process.pid, thread.tid()));
                let born: Vec<_> = born.collect::<Result<Vec<_>>>()?.concat();
                for child in born {
                    if known.insert(child) {
                        all_known = false;
                        if !held.take(child, until)? {
                            known.remove(&child);
                        }
                    }
                }
                next += 1;
            }
            // One that was dead or dying when it was found may have left children to somebody
            // whose list had been read by then; so only a round without any news is the last.
            if all_known {
                return Ok(held);
            }
        }
    }

    /// Adds one process; false if it is gone by now.
    fn take(&mut self, pid: HostPid, until: Instant) -> Result<bool> {
        match Stat::read(pid) {
            Ok(stat) if matches!(stat.state, 'Z' | 'X') && stat.num_threads <= 1 => {
                self.zombies.push(pid);
                return Ok(true);
            }
            Ok(_) => {}
            Err(error) if error.is_gone() => return Ok(false),
            Err(error) => return Err(error),
        }
        let mut threads: Vec<Stopped> = Vec::new();
        let mut seized = BTreeSet::new();
        loop {
            let tids = match children::threads(pid) {
                Err(error) if error.is_gone() => return Ok(false),
                tids => tids?,
            };
            let fresh: Vec<_> = tids.into_iter().filter(|tid| !seized.contains(tid)).collect();
            if fresh.is_empty() {
                break;
            }
            if !threads.is_empty() && fresh == [pid] && state_of(pid)? == 'Z' {
                // Everyone else stands, so it is not just on its way out: others live on without it.
                break;
            }
            let before = threads.len();
            // All are told to stop before any is waited for.
            let begun: Vec<_> = fresh.iter().map(|tid| (*tid, Seizing::begin(*tid))).collect();
            for (tid, begun) in begun {
                match begun.and_then(|seizing| seizing.finish(until)) {
                    Ok(stopped) => {
                        seized.insert(tid);
                        threads.push(stopped);
                    }
                    // Gone, or about to be; or it has called execve(2) and gone on under the number
                    // of its leader: then that Stopped, if any, is stale.
                    Err(error) if error.is_gone() => {
                        Self::forget_stale(&mut threads, &mut seized, tid);
                    }
                    Err(error) => return Err(error),
                }
            }
            if Instant::now() > until {
                return Err(Error::Deadline { pid });
            }
            if threads.is_empty() && leader_has_ended(pid)? {
                // Ended between being listed and being seized.
                self.zombies.push(pid);
                return Ok(true);
            }
            if threads.len() == before {
                // Only threads on their way out: let them.
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        if threads.is_empty() {
            return Ok(false);
        }
        threads.sort_by_key(|thread| (thread.tid() != pid, thread.tid()));
        self.processes.push(HeldProcess { pid: threads[0].tid(), number: pid, threads });
        Ok(true)
    }

    fn forget_stale(threads: &mut Vec<Stopped>, seized: &mut BTreeSet<HostPid>, tid: HostPid) {
        seized.remove(&tid);
        if let Some(at) = threads.iter().position(|thread| thread.tid() == tid) {
            threads.swap_remove(at).forget();
        }
    }

    /// The processes, parents before children, the root first.
    pub fn processes(&mut self) -> &mut [HeldProcess] {
        &mut self.processes
    }

    /// Descendants that have ended and were not reaped yet.
    pub fn zombies(&self) -> &[HostPid] {
        &self.zombies
    }

    /// From now on every thread dies with its tracer. To be called in the same step in which the
    /// right to run is given away: a tracer that dies after that must not leave a second copy
    /// running.
    pub fn exit_with_tracer(&mut self) -> Result<()> {
        self.threads().try_for_each(Stopped::exit_with_tracer)
    }

    fn threads(&mut self) -> impl Iterator<Item = &mut Stopped> {
        self.processes.iter_mut().flat_map(|process| &mut process.threads)
    }

    /// Lets everyone run on; the first thing that went wrong is told after all had their turn.
    pub fn resume(self) -> Result<()> {
        let threads = self.processes.into_iter().flat_map(|process| process.threads);
        threads.map(Stopped::detach).fold(Ok(()), Result::and)
    }

    /// Lets everyone go, but stopped by job control: SIGCONT lets them run on.
    pub fn leave_stopped(self) -> Result<()> {
        let leave = |process: HeldProcess| {
            let mut threads = process.threads.into_iter();
            let leader = threads.next().map_or(Ok(()), |leader| leader.detach_with(libc::SIGSTOP));
            threads.map(Stopped::detach).fold(leader, Result::and)
        };
        self.processes.into_iter().map(leave).fold(Ok(()), Result::and)
    }

    /// Kills everyone with SIGKILL, the root last, and waits until each is dead. What is our own
    /// child is reaped; the root otherwise stays for its parent.
    pub fn kill(mut self) -> Result<()> {
        for HeldProcess { number: pid, threads, .. } in self.processes.drain(..).rev() {
            match sys::process::kill(pid.0, libc::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(Error::os("kill", pid)(errno)),
            }
            // The leader is reported only when all others have been waited for.
            let tids: Vec<_> = threads.iter().map(Stopped::tid).collect();
            threads.into_iter().for_each(Stopped::forget);
            tids.into_iter().rev().try_for_each(wait_for_end)?;
        }
        Ok(())
    }
}

/// Kills tasks with SIGKILL (each with its whole process) and waits, in whatever order they end,
/// until each is dead; our own children are reaped. For half-built trees: every thread of it that
/// is held must be among them, or its process never ends quite.
pub fn kill_and_reap(tasks: Vec<Stopped>, deadline: Duration) -> Result<()> {
    let until = Instant::now() + deadline;
    let mut left: Vec<HostPid> = tasks.iter().map(Stopped::tid).collect();
    for task in tasks {
        match sys::process::tkill(task.tid().0, libc::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => task.forget(),
            Err(errno) => return Err(Error::os("kill", task.tid())(errno)),
        }
    }
    loop {
        left.retain(|tid| !matches!(wait(tid.0, false), Ok(Some(Change::Ended(_))) | Err(_)));
        match left.first() {
            None => return Ok(()),
            Some(pid) if Instant::now() > until => return Err(Error::Deadline { pid: *pid }),
            Some(_) => std::thread::sleep(Duration::from_micros(100)),
        }
    }
}

/// The state letter; 'X' if it is gone.
fn state_of(pid: HostPid) -> Result<char> {
    match Stat::read(pid) {
        Ok(stat) => Ok(stat.state),
        Err(error) if error.is_gone() => Ok('X'),
        Err(error) => Err(error),
    }
}

fn leader_has_ended(pid: HostPid) -> Result<bool> {
    match Stat::read(pid) {
        Ok(stat) => Ok(matches!(stat.state, 'Z' | 'X') && stat.num_threads <= 1),
        Err(error) if error.is_gone() => Ok(false),
        Err(error) => Err(error),
    }
}

fn wait_for_end(tid: HostPid) -> Result<()> {
    loop {
        match wait(tid.0, true) {
            Ok(Some(Change::Ended(_))) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) => {}
            Err(errno) => return Err(Error::os("wait for", tid)(errno)),
        }
    }
}
