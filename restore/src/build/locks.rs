//! Locks on files.
//!
//! A lock that somebody else has stays *owed*: on storage that both hosts see, that somebody is the
//! stopped tree on the source, which lets go as soon as it has handed over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use image::state::{FileLock, LockKind};
use nix::errno::Errno;
use pages::TaskId;
use tracee::lock::{Change, Lock, change_by, change_in};

use super::process::Process;
use crate::error::{Error, Result};

/// How long to wait for a source that has handed over and has not let go. A tree runs without a lock
/// rather than not at all.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(1);

/// Takes the locks of a process whose descriptors are all in place; those that somebody else has are
/// added to `owed`.
pub(super) fn take(
    process: &mut Process,
    locks: &[FileLock],
    owed: &mut Vec<FileLock>,
) -> Result<()> {
    let own: Vec<&FileLock> = locks.iter().filter(|lock| lock.task == process.id).collect();
    if own.is_empty() {
        return Ok(());
    }
    let wanted: Vec<Lock> = own.iter().map(|lock| request(lock)).collect();
    let (leader, runner) = process.leader_and_runner()?;
    let answers = change_by(leader, runner, &wanted, Change::Take)?;
    for (lock, answer) in own.into_iter().zip(answers) {
        match answer {
            Ok(_) => {}
            Err(errno) if is_taken(errno) => owed.push(*lock),
            Err(errno) => {
                return Err(Error::Call { task: process.id, act: "lock a file", errno });
            }
        }
    }
    Ok(())
}

/// Takes what is owed, of a tree that is complete and has the right to run. What cannot be had is
/// told, and the tree runs without.
pub(super) fn settle(tasks: &mut HashMap<u32, Process>, mut owed: Vec<FileLock>) {
    let until = Instant::now() + PATIENCE;
    loop {
        owed = attempt(tasks, &owed);
        if owed.is_empty() || Instant::now() >= until {
            break;
        }
        std::thread::sleep(AGAIN);
    }
    for lock in owed {
        let file = tasks.get(&lock.task.0).and_then(|process| {
            std::fs::read_link(format!("/proc/{}/fd/{}", process.host, lock.fd)).ok()
        });
        let file = file.unwrap_or_default();
        let (task, file) = (lock.task.0, file.display());
        tracing::warn!(task, %file, ?lock, "somebody else holds a lock of the tree: it runs without");
    }
}

/// Tries each once; answers those that somebody else still has.
fn attempt(tasks: &mut HashMap<u32, Process>, owed: &[FileLock]) -> Vec<FileLock> {
    let mut left = Vec::new();
    let mut owners: Vec<TaskId> = owed.iter().map(|lock| lock.task).collect();
    owners.dedup();
    for owner in owners {
        let own: Vec<FileLock> = owed.iter().filter(|lock| lock.task == owner).copied().collect();
        let Some(process) = tasks.get_mut(&owner.0) else { continue };
        let wanted: Vec<Lock> = own.iter().map(request).collect();
        let gate = process.gate;
        let answers = process
            .threads
            .first_mut()
            .map_or(Ok(Vec::new()), |leader| change_in(leader, gate, &wanted, Change::Take));
        match answers {
            Ok(answers) => {
                let missed = own.into_iter().zip(answers).filter(|(_, answer)| answer.is_err());
                left.extend(missed.map(|(lock, _)| lock));
            }
            Err(error) => {
                tracing::warn!(task = owner.0, %error, "cannot lock files");
                left.extend(own);
            }
        }
    }
    left
}

/// fcntl(2) allows both for F_SETLK; EWOULDBLOCK of flock(2) is EAGAIN.
fn is_taken(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::EACCES)
}

fn request(lock: &FileLock) -> Lock {
    let FileLock { kind, exclusive, fd, start, len, .. } = *lock;
    let kind = match kind {
        LockKind::Posix => tracee::lock::LockKind::Posix,
        LockKind::Flock => tracee::lock::LockKind::Flock,
        LockKind::Ofd => tracee::lock::LockKind::Ofd,
    };
    Lock { kind, exclusive, fd, start, len }
}
