//! Signals: actions, what is pending.

use image::state::{Living, SigAction, SigInfo};
use nix::libc;

use super::channel::words;
use super::process::{Batch, Process};
use crate::error::{BadCheckpoint, Result};

/// Bytes of the kernel's `sigset_t`.
const SET_SIZE: u64 = 8;
/// Signals whose action can be set: all but SIGKILL and SIGSTOP.
const SETTABLE: usize = 62;

/// Makes every signal do what it does by default: whatever qmig ignores, its children ignore too,
/// and a parent that ignores SIGCHLD could not keep its zombies.
pub(crate) fn defaults(process: &mut Process) -> Result<()> {
    actions(process, &[SigAction::default(); SETTABLE])
}

/// Sets the actions of the program.
pub(crate) fn set_actions(process: &mut Process, living: &Living) -> Result<()> {
    if living.sigactions.len() != SETTABLE {
        return Err(BadCheckpoint::SigActions(process.id).into());
    }
    actions(process, &living.sigactions)
}

fn actions(process: &mut Process, all: &[SigAction]) -> Result<()> {
    let numbers = (1..=64_u64).filter(|number| ![9, 19].contains(number));
    let mut batch = Batch::default();
    for (number, action) in numbers.zip(all) {
        let SigAction { handler, flags, restorer, mask } = *action;
        let at = process.put(&words(&[handler, flags, restorer, mask.0]))?;
        batch.must("set a signal action", libc::SYS_rt_sigaction, &[number, at, 0, SET_SIZE]);
    }
    process.run(0, batch)?;
    Ok(())
}

/// Takes away what became pending while the tree was made (its helpers and zombies died).
pub(crate) fn drain(process: &mut Process) -> Result<()> {
    let mut count = 0;
    for shared in [true, false] {
        count += process.threads[0].pending(shared)?.len();
    }
    let mut batch = Batch::default();
    if count > 0 {
        let all = process.put(&words(&[u64::MAX, 0, 0]))?;
        let no_time = all + 8;
        for _ in 0..count {
            batch.may("drain a signal", libc::SYS_rt_sigtimedwait, &[all, 0, no_time, SET_SIZE]);
        }
    }
    process.run(0, batch)?;
    Ok(())
}

/// Queues again what was pending, for the process and for each thread. Every thread does its own:
/// the kernel lets nobody else claim who sent a signal (rt_sigqueueinfo(2)).
pub(crate) fn queue(process: &mut Process, living: &Living) -> Result<()> {
    let group = u64::from(process.id.0);
    let mut batch = Batch::default();
    for info in sendable(&living.pending) {
        let at = process.put(&*info.0)?;
        let args = [group, u64::from(info.number()), at];
        batch.must("queue a pending signal", libc::SYS_rt_sigqueueinfo, &args);
    }
    process.run(0, batch)?;
    for (at, thread) in living.threads.iter().enumerate() {
        let mut batch = Batch::default();
        for info in sendable(&thread.pending) {
            let to = process.put(&*info.0)?;
            let args = [group, u64::from(thread.id.0), u64::from(info.number()), to];
            batch.must("queue a pending signal", libc::SYS_rt_tgsigqueueinfo, &args);
        }
        process.run(at, batch)?;
    }
    Ok(())
}

/// SIGKILL is never pending in what can be dumped; a checkpoint that says so would only kill.
fn sendable(pending: &[SigInfo]) -> impl Iterator<Item = &SigInfo> {
    pending.iter().filter(|info| info.number() != 9)
}
