//! Locks on files: which a held tree has, and how it parts with them for whoever takes its place.

use std::collections::HashSet;

use image::state::{FileId, FileLock, LockKind};
use pages::TaskId;
use tracee::lock::{Change, Lock, change_in};
use tracee::proc::fdinfo::FdInfo;
use tracee::proc::maps;
use tracee::{Held, HeldProcess, HostPid, Memory};

use super::tree::gate;
use crate::error::CollectError;

/// The locks of a tree, each with the process it is held through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locks(Vec<(HostPid, Lock)>);

/// Tells locks that several descriptors show from new ones.
#[derive(Default)]
pub(super) struct Finder {
    found: Locks,
    /// Descriptions whose own locks are known.
    descriptions: HashSet<FileId>,
}

impl Finder {
    /// Takes what descriptor `number` of `pid` shows. `again`: another descriptor of the same table
    /// shows the same description, so the process's locks through it are known too.
    pub(super) fn add(
        &mut self,
        pid: HostPid,
        number: u32,
        file: FileId,
        info: &FdInfo,
        again: bool,
    ) {
        let new = self.descriptions.insert(file);
        let locks = info.locks.iter().filter_map(|line| Lock::parse(line, number));
        let fresh = locks.filter(|lock| match lock.kind {
            tracee::lock::LockKind::Posix => !again,
            _ => new,
        });
        self.found.0.extend(fresh.map(|lock| (pid, lock)));
    }

    pub(super) fn finish(self) -> Locks {
        self.found
    }
}

impl Locks {
    /// As they travel; `id` tells how a process calls itself.
    pub(super) fn state(&self, id: impl Fn(HostPid) -> Option<TaskId>) -> Vec<FileLock> {
        let locks = self.0.iter().filter_map(|(pid, lock)| {
            let Lock { kind, exclusive, fd, start, len } = *lock;
            let kind = match kind {
                tracee::lock::LockKind::Posix => LockKind::Posix,
                tracee::lock::LockKind::Flock => LockKind::Flock,
                tracee::lock::LockKind::Ofd => LockKind::Ofd,
            };
            Some(FileLock { kind, exclusive, task: id(*pid)?, fd, start, len })
        });
        locks.collect()
    }

    /// True if the tree has none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Has the tree take them or let them go. What a process cannot do is told and left: it is the
    /// stale copy that lets go, and a tree that is given back must run on whatever happens.
    pub(crate) fn change(&self, held: &mut Held, change: Change) {
        for process in held.processes() {
            let own = self.0.iter().filter(|(pid, _)| *pid == process.pid);
            let own: Vec<Lock> = own.map(|(_, lock)| *lock).collect();
            if own.is_empty() {
                continue;
            }
            let pid = process.pid.0;
            match change_of(process, &own, change) {
                Ok(answers) => {
                    for (lock, answer) in own.iter().zip(answers) {
                        if let Err(errno) = answer {
                            tracing::warn!(pid, ?lock, ?change, %errno, "a lock is not changed");
                        }
                    }
                }
                Err(error) => tracing::warn!(pid, ?change, %error, "locks are not changed"),
            }
        }
    }
}

fn change_of(
    process: &mut HeldProcess,
    locks: &[Lock],
    change: Change,
) -> Result<Vec<Result<u64, nix::errno::Errno>>, CollectError> {
    let pid = process.pid;
    let vdso = maps::read(pid)?
        .iter()
        .find(|map| map.special() == Some("[vdso]"))
        .and_then(|map| map.range());
    let memory = Memory::open(pid)?;
    let gate = vdso
        .and_then(|vdso| gate(&memory, vdso))
        .ok_or(CollectError::Nonsense { what: "the vdso", pid })?;
    Ok(change_in(process.leader(), gate, locks, change)?)
}
