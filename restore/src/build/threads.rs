//! Threads: made all at once, then given what the kernel keeps for each, and at last their registers.

use std::time::Duration;

use image::state::{FpState, Placement, Regs, Thread};
use nix::libc;
use tracee::host::CpuSet;
use tracee::remote::{BegunWait, begin_wait};
use tracee::{Stopped, XState, threads_in};

use super::channel::words;
use super::process::{Batch, Process};
use crate::error::{Error, Result};

/// SS_DISABLE and SS_ONSTACK, sigaltstack(2).
const DISABLED: u32 = 2;
const ON_STACK: u32 = 1;
/// Length of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;
/// Mask of the operation in futex(2)'s second argument, and FUTEX_WAIT.
const FUTEX_COMMAND: u64 = 0x7f;
const FUTEX_WAIT: u64 = 0;
/// ioprio_set(2).
const IOPRIO_WHO_PROCESS: u64 = 1;

/// Makes all threads but the leader.
pub(crate) fn make(process: &mut Process, threads: &[Thread]) -> Result<()> {
    let Some((_, others)) = threads.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Ok(());
    };
    let ids: Vec<(u32, u64)> =
        others.iter().map(|thread| (thread.id.0, thread.clear_child_tid.0)).collect();
    let task = process.id;
    let (leader, runner) = process.leader_and_runner()?;
    let made = threads_in(leader, runner, &ids);
    runner.reset();
    process.threads.extend(made.map_err(|error| Error::making(error, task))?);
    process.ids.extend(others.iter().map(|thread| thread.id));
    Ok(())
}

/// What the kernel keeps for thread `at`, except who it is.
pub(crate) fn dress(process: &mut Process, at: usize, thread: &Thread) -> Result<()> {
    let mut batch = Batch::default();
    let mut name = [0; 16];
    let len = thread.comm.len().min(15);
    name[..len].copy_from_slice(&thread.comm.as_bytes()[..len]);
    let name = process.put(&name)?;
    batch.must("set its name", libc::SYS_prctl, &[prctl(libc::PR_SET_NAME), name, 0, 0, 0]);
    if at == 0 {
        let args = [thread.clear_child_tid.0];
        batch.must("set the address it clears", libc::SYS_set_tid_address, &args);
    }
    if let Some(list) = &thread.robust_list {
        let args = [list.head.0, u64::from(list.len)];
        batch.must("set its robust list", libc::SYS_set_robust_list, &args);
    }
    if let Some(rseq) = &thread.rseq {
        let args = [rseq.area.0, u64::from(rseq.size), 0, u64::from(rseq.signature)];
        batch.must("register its restartable sequences", libc::SYS_rseq, &args);
    }
    let stack = &thread.altstack;
    if stack.flags & DISABLED == 0 {
        let flags = u64::from(stack.flags & !ON_STACK);
        let stack = process.put(&words(&[stack.base.0, flags, stack.size]))?;
        batch.must("set its alternate signal stack", libc::SYS_sigaltstack, &[stack, 0]);
    }
    let placement = &thread.placement;
    if placement.timer_slack != Placement::USUAL_SLACK {
        let args = [prctl(libc::PR_SET_TIMERSLACK), placement.timer_slack, 0, 0, 0];
        batch.must("set its timer slack", libc::SYS_prctl, &args);
    }
    if placement.io_priority != 0 {
        let args = [IOPRIO_WHO_PROCESS, 0, u64::from(placement.io_priority)];
        batch.must("set its I/O priority", libc::SYS_ioprio_set, &args);
    }
    process.run(at, batch)?;
    Ok(())
}

/// The CPUs of this host that `thread` was bound to on its own; all of ours if it was bound to none,
/// or only to such as this host does not have.
pub(crate) fn cpus(thread: &Thread, ours: &CpuSet) -> CpuSet {
    let bound = thread.placement.cpus.iter().copied();
    let both = CpuSet::of(bound.filter(|cpu| ours.contains(*cpu as usize)));
    if both.count() == 0 { ours.clone() } else { both }
}

/// What changing identity takes away, so it comes after.
pub(crate) fn dress_after(process: &mut Process, at: usize, thread: &Thread) -> Result<()> {
    let mut batch = Batch::default();
    if thread.pdeath_signal != 0 {
        let args = [prctl(libc::PR_SET_PDEATHSIG), u64::from(thread.pdeath_signal), 0, 0, 0];
        batch.must("set its parent-death signal", libc::SYS_prctl, &args);
    }
    process.run(at, batch)?;
    Ok(())
}

/// The registers thread `at` is to run with; before that, a timed wait it was in is begun again.
///
/// Needs the scratch memory for the length of the wait, at the moment the wait begins only.
pub(crate) fn ready_regs(
    process: &mut Process,
    at: usize,
    thread: &Thread,
) -> Result<tracee::Regs> {
    let regs = to_tracee(&thread.regs);
    let Some((args, left_at)) = thread.wait_left.and_then(|left| timed_wait(&thread.regs, left))
    else {
        return Ok(regs);
    };
    let mut args = args;
    if let Some((place, left)) = left_at {
        let spec = words(&[left.as_secs(), u64::from(left.subsec_nanos())]);
        args[place] = process.put(&spec)?;
        process.runner()?.flush()?;
    }
    let nr = thread.regs.ax.cast_signed();
    let gate = process.gate;
    let begun = begin_wait(&mut process.threads[at], gate, nr, &args);
    process.runner()?.reset();
    let after = tracee::Regs { rip: regs.rip.wrapping_add(SYSCALL_LEN), ..regs };
    Ok(match begun? {
        BegunWait::Waiting => {
            tracee::Regs { orig_rax: thread.regs.ax, rax: BegunWait::RESTART, ..after }
        }
        // The rest was over at once, or what it waited for is there.
        BegunWait::Ended(Ok(value)) => tracee::Regs { rax: value, ..after },
        BegunWait::Ended(Err(errno)) if errno != nix::errno::Errno::EINTR => {
            tracee::Regs { rax: (-i64::from(errno as i32)).cast_unsigned(), ..after }
        }
        BegunWait::Ended(Err(_)) => regs,
    })
}

/// Arguments of a wait, and which of them must point to a length.
type Wait = ([u64; 6], Option<(usize, Duration)>);

/// The arguments for the call a thread was in, with only `left` to wait, and where the length
/// goes in if it is not an argument itself.
///
/// A call that keeps its own time (ppoll, absolute timeouts) is not among them: it is simply made
/// again.
fn timed_wait(regs: &Regs, left: Duration) -> Option<Wait> {
    let mut args = [regs.di, regs.si, regs.dx, regs.r10, regs.r8, regs.r9];
    let nr = i64::try_from(regs.ax).ok()?;
    match nr {
        libc::SYS_nanosleep => Some((args, Some((0, left)))),
        libc::SYS_clock_nanosleep if regs.si == 0 => Some((args, Some((2, left)))),
        libc::SYS_futex if regs.si & FUTEX_COMMAND == FUTEX_WAIT && regs.r10 != 0 => {
            Some((args, Some((3, left))))
        }
        libc::SYS_poll => {
            // Up to the next millisecond: late, never early.
            let millis = left.as_nanos().div_ceil(1_000_000);
            args[2] = u64::try_from(millis).ok().filter(|millis| *millis <= i32::MAX as u64)?;
            Some((args, None))
        }
        _ => None,
    }
}

/// Sets everything a thread runs with; it must make no call for us any more.
pub(crate) fn load(task: &mut Stopped, regs: &tracee::Regs, thread: &Thread) -> Result<()> {
    task.set_xstate(&xstate(&thread.fp))?;
    task.set_blocked(thread.blocked.0)?;
    task.set_regs(regs)?;
    Ok(())
}

fn xstate(fp: &FpState) -> XState {
    XState {
        legacy: *fp.legacy,
        in_use: fp.in_use,
        components: fp.components.iter().map(|part| (part.number, part.bytes.clone())).collect(),
    }
}

/// No call is to be made again by the kernel: the checkpoint's registers are wound back already.
fn to_tracee(regs: &Regs) -> tracee::Regs {
    tracee::Regs {
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        rbp: regs.bp,
        rbx: regs.bx,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        rax: regs.ax,
        rcx: regs.cx,
        rdx: regs.dx,
        rsi: regs.si,
        rdi: regs.di,
        orig_rax: tracee::Regs::NO_CALL,
        rip: regs.ip,
        cs: regs.cs,
        eflags: regs.flags,
        rsp: regs.sp,
        ss: regs.ss,
        fs_base: regs.fs_base,
        gs_base: regs.gs_base,
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
    }
}

fn prctl(option: libc::c_int) -> u64 {
    u64::from(option.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nr: i64, si: u64, r10: u64) -> Regs {
        Regs { ax: nr.cast_unsigned(), di: 1, si, dx: 3, r10, ..Regs::default() }
    }

    #[test]
    fn only_relative_waits_are_shortened() {
        let left = Duration::from_micros(1_500);
        let wait = |regs: Regs| timed_wait(&regs, left);
        assert_eq!(
            wait(at(libc::SYS_nanosleep, 2, 0)),
            Some(([1, 2, 3, 0, 0, 0], Some((0, left))))
        );
        assert_eq!(wait(at(libc::SYS_poll, 2, 0)), Some(([1, 2, 2, 0, 0, 0], None)));
        let absolute = 1;
        assert_eq!(wait(at(libc::SYS_clock_nanosleep, absolute, 0)), None);
        let private_wait = 128;
        assert!(wait(at(libc::SYS_futex, private_wait, 9)).is_some());
        assert_eq!(wait(at(libc::SYS_futex, private_wait, 0)), None, "waits for ever");
        let wait_bitset = 9;
        assert_eq!(wait(at(libc::SYS_futex, wait_bitset, 9)), None, "absolute");
        assert_eq!(wait(at(libc::SYS_read, 2, 0)), None);
    }
}
