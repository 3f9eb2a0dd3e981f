//! Letting a task run for us, up to where we want it, whatever else it stops for.

use nix::errno::Errno;
use pages::VirtAddr;

use crate::regs::Regs;
use crate::runner::{DONE, MARKED, STUB};
use crate::shield::{bit, free_mark};
use crate::sys::ptrace::{self, SYSCALL_STOP};
use crate::sys::wait::{Change, wait};
use crate::{Error, Result, Stopped};

/// eflags: single-step, and string instructions running downwards.
pub(crate) const TRAP_FLAG: u64 = 1 << 8;
pub(crate) const DIRECTION_FLAG: u64 = 1 << 10;

/// What to run up to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// The stub has done its calls.
    Marked { stub: u64 },
    /// A system call begins or ends.
    Syscall,
    /// PTRACE_INTERRUPT has taken effect.
    Interrupted,
}

/// Lets the task run until then; whatever else it stops for is seen to, and it goes on.
pub(crate) fn run_until(task: &mut Stopped, until: Until) -> Result<()> {
    let tid = task.tid();
    loop {
        let go = if until == Until::Syscall { ptrace::syscall } else { ptrace::cont };
        match go(tid.0, 0) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Err(task.mark_dead()),
            Err(errno) => return Err(Error::os("run", tid)(errno)),
        }
        match wait(tid.0, true) {
            Ok(Some(Change::Stopped { signal: SYSCALL_STOP, event: 0 })) => {
                if until == Until::Syscall {
                    return Ok(());
                }
            }
            Ok(Some(Change::Stopped { event: ptrace::EVENT_STOP, .. })) => {
                // Otherwise an interruption left over, or job control: the task may run for us.
                if until == Until::Interrupted {
                    return Ok(());
                }
            }
            Ok(Some(Change::Stopped { signal, event: 0 })) => {
                if got_signal(task, signal, until)? {
                    return Ok(());
                }
                if until == Until::Interrupted {
                    // Any stop uses an interruption up.
                    ptrace::interrupt(tid.0).map_err(Error::os("interrupt", tid))?;
                }
            }
            Ok(Some(Change::Stopped { .. }) | None) => {}
            Ok(Some(Change::Ended(_))) | Err(Errno::ECHILD) => return Err(task.mark_dead()),
            Err(errno) => return Err(Error::os("wait for", tid)(errno)),
        }
    }
}

/// A signal got through the shield; true if it is the stub's own mark.
fn got_signal(task: &mut Stopped, signal: i32, until: Until) -> Result<bool> {
    /// `si_code` of tgkill(2).
    const SI_TKILL: i32 = -6;
    const FAULTS: [i32; 5] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
    let tid = task.tid();
    if signal == libc::SIGSTOP {
        task.raise_shield()?.put_off_stop = true;
        return Ok(false);
    }
    let info = ptrace::siginfo(tid.0).map_err(Error::os("ask for the signal of", tid))?;
    let code = i32::from_le_bytes(info[8..12].try_into().expect("four bytes"));
    let regs = task.regs()?;
    let mark = task.raise_shield()?.mark;
    if let Until::Marked { stub } = until
        && signal == mark
        && code == SI_TKILL
        && (regs.r12, regs.rip) == (0, stub + MARKED)
    {
        return Ok(true);
    }
    if code > 0 && FAULTS.contains(&signal) {
        return Err(Error::Stub { pid: tid, signal, at: VirtAddr(regs.rip) });
    }
    // Somebody else's signal of the same number. Choose another mark and block this one; the
    // kernel then puts it back into the queue it came from, sender and all, when told to deliver it.
    let mark = free_mark(tid, signal)?;
    let shield = task.raise_shield()?;
    shield.mark = mark;
    shield.block(tid)?;
    if let Until::Marked { stub } = until {
        let at_end = (stub + DONE..stub + STUB.len() as u64).contains(&regs.rip);
        let rip = if at_end { stub + DONE } else { regs.rip };
        let orig_rax = if at_end { Regs::NO_CALL } else { regs.orig_rax };
        task.set_regs(&Regs { rip, orig_rax, r13: u64::from(mark.cast_unsigned()), ..regs })?;
    }
    requeue(task, signal)?;
    Ok(false)
}

/// Has the kernel put a blocked signal back into its queue, by interrupting the task at once again.
fn requeue(task: &mut Stopped, signal: i32) -> Result<()> {
    let tid = task.tid();
    ptrace::interrupt(tid.0)
        .and_then(|()| ptrace::cont(tid.0, signal))
        .map_err(Error::os("give a signal back to", tid))?;
    loop {
        match wait(tid.0, true) {
            Ok(Some(Change::Stopped { event: ptrace::EVENT_STOP, .. })) => return Ok(()),
            Ok(Some(Change::Stopped { signal, event })) => {
                if signal == libc::SIGSTOP && event == 0 {
                    task.raise_shield()?.put_off_stop = true;
                }
                ptrace::interrupt(tid.0)
                    .and_then(|()| ptrace::cont(tid.0, 0))
                    .map_err(Error::os("run", tid))?;
            }
            Ok(Some(Change::Ended(_))) | Err(Errno::ECHILD) => return Err(task.mark_dead()),
            Ok(None) => {}
            Err(errno) => return Err(Error::os("wait for", tid)(errno)),
        }
    }
}

const _: () = assert!(bit(libc::SIGTRAP) == 1 << 4);
