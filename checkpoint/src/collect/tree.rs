//! The tree: each process with everything that is its own.

use std::fs;

use image::state::{Body, FdTableId, Fs, Task};
use pages::{PageRange, TaskId, VirtAddr};
use tracee::proc::stat::Stat;
use tracee::{HeldProcess, HostPid, Memory, StopKind, find_gate};

use super::contents::Contents;
use super::files::Files;
use super::threads::Resting;
use super::{CollectOptions, Member, Refusals, asked, creds, ended, mm, settings, signals};
use crate::error::CollectError;
use crate::survey::refusals::{Trouble, Whose};
use crate::survey::task as judge;

/// A process that is to be read.
pub(super) struct Living<'a> {
    pub(super) member: &'a Member,
    pub(super) whose: &'a Whose,
    pub(super) table: FdTableId,
    /// qmig is under seccomp itself.
    pub(super) rules: bool,
}

impl Living<'_> {
    /// Reads the process and which of its pages must travel; `None` if it cannot be carried, which
    /// `refusals` then tells.
    pub(super) fn read(
        &self,
        held: &mut HeldProcess,
        files: &mut Files,
        refusals: &mut Refusals,
        options: &CollectOptions,
    ) -> Result<Option<(Task, Contents)>, CollectError> {
        let Self { member: Member { pid, number: own, stat, parent, .. }, whose, table, .. } =
            *self;
        let (pid, own) = (*pid, *own);
        let before = refusals.len();
        let memory = Memory::open(pid)?;
        let resting = self.rest(held, &memory, refusals, options)?;
        let layout = mm::Layout::read(whose, &options.clockwork.advised, files, refusals)?;
        let exe = files.standing(whose, "exe", refusals)?;
        let cwd = files.standing(whose, "cwd", refusals)?;
        let root = files.standing(whose, "root", refusals)?;
        let gate = layout.vdso.and_then(|vdso| gate(&memory, vdso));
        if gate.is_none() {
            refusals.add(Trouble::new("[vdso]", "the program has unmapped it"), whose.process());
        }
        // Nothing is asked of a process that will not be carried.
        let (Some(gate), Some(exe), Some(cwd), Some(root)) = (gate, exe, cwd, root) else {
            return Ok(None);
        };
        if refusals.len() > before {
            return Ok(None);
        }
        let timers = tracee::proc::timers::read(pid)?;
        let locked = resting.first().map_or(0, |leader| leader.status.vm_locked);
        let mut asked = asked::ask(held, gate, &timers, options.frozen, locked)?;
        for trouble in asked.troubles.drain(..) {
            refusals.add(trouble, whose.process());
        }
        let mut posix_timers = Vec::with_capacity(asked.posix_timers.len());
        for timer in asked.posix_timers {
            match timer {
                Ok(timer) => posix_timers.push(timer),
                Err(trouble) => refusals.add(trouble, whose.process()),
            }
        }
        let umask = resting.first().and_then(|leader| leader.status.umask).unwrap_or(0o022);
        // After the timers: one that went off while we looked has its signal here.
        let mut threads = Vec::with_capacity(resting.len());
        for ((thread, told), stopped) in resting.into_iter().zip(asked.threads).zip(&held.threads) {
            threads.push(thread.awake(told, signals::pending(stopped, false)?));
        }
        if let Some(first) = threads.first().filter(|_| own != pid) {
            threads.insert(0, ended::main_thread(own, first, gate)?);
        }
        let leader = held.leader();
        let stopped_by = match leader.stop_kind() {
            StopKind::GroupStop(signal) => Some(signal.unsigned_abs()),
            StopKind::Interrupted => None,
        };
        let told = (asked.brk, asked.dumpable, asked.thp_disabled);
        let (mm, contents) = layout.finish(pid, stat, exe, told, options.memory)?;
        let outside = settings::from_outside(pid, stat.session == own.0);
        let living = image::state::Living {
            threads,
            stopped_by,
            mm,
            fs: Fs { cwd, root, umask },
            fds: table,
            sigactions: asked.sigactions,
            pending: signals::pending(leader, true)?,
            itimers: asked.itimers,
            posix_timers,
            rlimits: creds::rlimits(pid)?,
            oom_score_adj: number(pid, "oom_score_adj", 10)?,
            child_subreaper: asked.child_subreaper,
            personality: number(pid, "personality", 16)?.cast_unsigned(),
            membarrier: asked.membarrier,
            settings: asked.settings.into_iter().chain(outside).collect(),
            flags: stat.flags,
        };
        let body = Body::Living(Box::new(living));
        Ok(Some((task(own, parent.map(id), stat, body), contents)))
    }

    /// Reads every thread before anything runs in one.
    fn rest(
        &self,
        held: &HeldProcess,
        memory: &Memory,
        refusals: &mut Refusals,
        options: &CollectOptions,
    ) -> Result<Vec<Resting>, CollectError> {
        let mut resting: Vec<Resting> = Vec::with_capacity(held.threads.len());
        for thread in &held.threads {
            let object = || self.whose.thread(thread.tid());
            let (clockwork, frozen) = (options.clockwork, options.frozen.monotonic);
            let before = resting.last().map(|thread| &thread.seccomp);
            match Resting::read(thread, memory, clockwork, frozen, before)? {
                Ok(thread) => {
                    let troubles = judge::thread(&thread.status, self.rules).into_iter();
                    let troubles = troubles.chain(judge::scheduling(thread.sched.policy));
                    for trouble in troubles.chain(judge::apart(self.whose.pid, thread.tid)) {
                        refusals.add(trouble, object());
                    }
                    resting.push(thread);
                }
                Err(trouble) => refusals.add(trouble, object()),
            }
        }
        Ok(resting)
    }
}

/// A `syscall` instruction in the vdso.
pub(super) fn gate(memory: &Memory, vdso: PageRange) -> Option<VirtAddr> {
    let mut code = vec![0; usize::try_from(vdso.bytes().0).ok()?];
    memory.read(vdso.start_addr(), &mut code).ok()?;
    find_gate(&code, vdso.start_addr())
}

/// A process that has ended.
pub(super) fn zombie(member: &Member) -> Result<Task, CollectError> {
    let body = Body::Zombie { comm: comm(member.pid)?, status: member.stat.exit_code };
    Ok(task(member.number, member.parent.map(id), &member.stat, body))
}

fn task(pid: HostPid, parent: Option<TaskId>, stat: &Stat, body: Body) -> Task {
    Task {
        id: id(pid),
        parent,
        group: TaskId(stat.pgrp.unsigned_abs()),
        session: TaskId(stat.session.unsigned_abs()),
        body,
    }
}

/// The number by which a task knows itself: the survey has seen to it that it is ours too.
pub(super) fn id(pid: HostPid) -> TaskId {
    TaskId(pid.0.unsigned_abs())
}

/// The name of a process or thread, at most 15 bytes of text.
pub(crate) fn comm(tid: HostPid) -> Result<String, CollectError> {
    let bytes = fs::read(format!("/proc/{}/comm", tid.0))
        .map_err(CollectError::io("read the name", tid))?;
    Ok(name(&bytes))
}

/// The name as text of at most 15 bytes.
pub(super) fn name(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(bytes)).into_owned();
    // A replaced byte takes three.
    let end = (0..=LONGEST_NAME.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

/// TASK_COMM_LEN without its NUL.
const LONGEST_NAME: usize = 15;

/// A file of /proc/PID that holds one number.
fn number(pid: HostPid, file: &'static str, radix: u32) -> Result<i32, CollectError> {
    let text = fs::read_to_string(format!("/proc/{}/{file}", pid.0))
        .map_err(CollectError::io("read a setting", pid))?;
    i32::from_str_radix(text.trim(), radix).map_err(|_| CollectError::Nonsense { what: file, pid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_short_whatever_is_in_them() {
        assert_eq!(name(b"redis-server\n"), "redis-server");
        assert_eq!(name(b"a\nb\n"), "a\nb");
        let odd = name(&[0xff; 15]);
        assert_eq!(odd.len(), 15);
        assert_eq!(name(&[b"fourteen bytes".as_slice(), &[0xff]].concat()), "fourteen bytes");
    }
}
