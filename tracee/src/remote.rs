//! Making a stopped thread call the kernel for us, and putting everything back.
//!
//! Two ways only. [`gate_call`] runs one call at a `syscall` instruction that is there anyway (the
//! vdso has some) and needs no memory in the task. [`Runner`](crate::Runner) maps scratch memory with a stub that
//! makes any number of calls from an array: one round trip for all of them.
//!
//! Neither executes with the program's own code, stack or signals involved: the signal mask is
//! closed for the time (see the `shield` module), and a [`Borrowed`] guard keeps the registers.

use nix::errno::Errno;
use pages::VirtAddr;

use crate::host::{SavedAffinity, pin_to_my_cpu};
use crate::regs::Regs;
use crate::run::{TRAP_FLAG, Until, run_until};
use crate::sys::ptrace;
use crate::{Error, HostPid, Result, Stopped};

/// What the kernel answered a call made inside a task.
pub type Answer = std::result::Result<u64, Errno>;

/// One system call to be made inside a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub nr: i64,
    /// Its arguments; those not needed are zero.
    pub args: [u64; 6],
    /// What the kernel answered: a value, or minus an errno.
    pub ret: i64,
}

impl Call {
    /// A call with up to six arguments; more are ignored.
    pub fn new(nr: libc::c_long, args: &[u64]) -> Self {
        let mut all = [0; 6];
        for (place, arg) in all.iter_mut().zip(args) {
            *place = *arg;
        }
        Self { nr, args: all, ret: 0 }
    }

    /// The answer.
    pub fn value(&self) -> Answer {
        answer(self.ret)
    }

    /// The answer, or an error that says what was refused inside which task.
    pub fn expect(&self, act: &'static str, pid: HostPid) -> Result<u64> {
        self.value().map_err(|errno| Error::Injected { act, pid, errno })
    }
}

/// The kernel's answer from `rax`: -4095 to -1 are errors.
fn answer(rax: i64) -> Answer {
    match i32::try_from(rax) {
        Ok(code @ -4095..=-1) => Err(Errno::from_raw(-code)),
        _ => Ok(rax.cast_unsigned()),
    }
}

/// The first `syscall` instruction (0f 05) in the code of a vdso that is mapped at `vdso_start`.
pub fn find_gate(vdso_bytes: &[u8], vdso_start: VirtAddr) -> Option<VirtAddr> {
    let offset = vdso_bytes.windows(2).position(|pair| pair == [0x0f, 0x05])?;
    vdso_start.checked_add(offset as u64)
}

fn aim(task: &Stopped, gate: VirtAddr, nr: libc::c_long, args: &[u64]) -> Result<Regs> {
    let before = task.regs()?;
    if before.cs != Regs::USER_CS {
        return Err(Error::NotX64 { pid: task.tid() });
    }
    let Call { args: [rdi, rsi, rdx, r10, r8, r9], .. } = Call::new(nr, args);
    Ok(Regs {
        rip: gate.0,
        rax: nr.cast_unsigned(),
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        orig_rax: Regs::NO_CALL,
        eflags: before.eflags & !TRAP_FLAG,
        ..before
    })
}

/// One system call at a `syscall` instruction that exists in the task: no scratch memory, no signal.
/// Leaves the thread's registers clobbered.
pub fn gate_call(
    task: &mut Stopped,
    gate: VirtAddr,
    nr: libc::c_long,
    args: &[u64],
) -> Result<Answer> {
    /// The kernel's wishes to make a call again (ERESTARTSYS to ERESTARTNOHAND), which it would
    /// see to itself on the way out, had we not taken the registers away.
    const AGAIN: std::ops::RangeInclusive<i64> = -514..=-512;
    task.raise_shield()?;
    loop {
        let regs = aim(task, gate, nr, args)?;
        task.set_regs(&regs)?;
        run_until(task, Until::Syscall)?;
        run_until(task, Until::Syscall)?;
        let rax = task.regs()?.rax.cast_signed();
        if !AGAIN.contains(&rax) {
            return Ok(answer(rax));
        }
    }
}

/// What became of a wait begun by [`begin_wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BegunWait {
    /// The kernel remembers when it is to end. Give the thread the program's registers, with
    /// `orig_rax` the number of the call and `rax` [`BegunWait::RESTART`], let it go, and it waits
    /// until exactly then.
    Waiting,
    /// It ended at once with this answer (the time was over, or the futex has another value).
    Ended(Answer),
}

impl BegunWait {
    /// ERESTART_RESTARTBLOCK as the register has it.
    pub const RESTART: u64 = (-516_i64).cast_unsigned();
}

/// Begins a relative timed wait (nanosleep, clock_nanosleep, poll, futex) inside the task with the
/// time that is *left* of it, and interrupts it at once: the kernel then keeps the moment it is to
/// end for the thread (its restart block), which no registers could tell it. `args` may point to
/// scratch memory for the length, but to nothing else that will not stay: the kernel keeps the
/// address of a futex or of the polled set too.
pub fn begin_wait(
    task: &mut Stopped,
    gate: VirtAddr,
    nr: libc::c_long,
    args: &[u64],
) -> Result<BegunWait> {
    task.raise_shield()?;
    let regs = aim(task, gate, nr, args)?;
    task.set_regs(&regs)?;
    run_until(task, Until::Syscall)?;
    // Asked for while the thread stands before the call, the interruption cannot come too early.
    ptrace::interrupt(task.tid().0).map_err(Error::os("interrupt", task.tid()))?;
    run_until(task, Until::Interrupted)?;
    let rax = task.regs()?.rax;
    Ok(match rax {
        BegunWait::RESTART => BegunWait::Waiting,
        other => BegunWait::Ended(answer(other.cast_signed())),
    })
}

/// A thread of the *source*, on loan: until [`leave`](Self::leave) or drop it may be made to call
/// the kernel, and then everything is as it was.
///
/// Saved and put back: general registers, with `orig_rax` and `rax` raw, so that the kernel itself
/// restarts the call the thread was in (only it knows how much of a timed wait is left); the signal
/// mask; CPU affinity (the thread is pinned to our CPU meanwhile: a round trip between two CPUs costs
/// ten times as much). Untouched: extended state, signal actions, pending signals.
#[derive(Debug)]
pub struct Borrowed<'t> {
    task: &'t mut Stopped,
    original: Regs,
    affinity: Option<SavedAffinity>,
    returned: bool,
}

impl<'t> Borrowed<'t> {
    /// Saves what will be put back.
    pub fn enter(task: &'t mut Stopped) -> Result<Self> {
        let original = task.regs()?;
        if original.cs != Regs::USER_CS {
            return Err(Error::NotX64 { pid: task.tid() });
        }
        task.raise_shield()?;
        // Speed only: a thread that may not be moved works for us where it is.
        let affinity = pin_to_my_cpu(task.tid()).ok();
        Ok(Self { task, original, affinity, returned: false })
    }

    /// The thread.
    pub fn task(&mut self) -> &mut Stopped {
        self.task
    }

    /// Its registers as they were.
    pub fn original(&self) -> &Regs {
        &self.original
    }

    /// Puts everything back. The thread stays stopped.
    pub fn leave(mut self) -> Result<()> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.returned, true) {
            return Ok(());
        }
        let original = self.original;
        let regs = self.task.set_regs(&original);
        let shield = self.task.lower_shield();
        let affinity = self.affinity.take().map_or(Ok(()), SavedAffinity::restore);
        regs.and(shield).and(affinity)
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        // Nobody is left to be told; `leave` is for those who want to know.
        let _ = self.put_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_values_or_errnos() {
        assert_eq!(answer(-1), Err(Errno::EPERM));
        assert_eq!(answer(-4095), Err(Errno::from_raw(4095)));
        assert_eq!(answer(-4096), Ok((-4096_i64).cast_unsigned()));
        assert_eq!(answer(0x7fff_ffff_f000), Ok(0x7fff_ffff_f000));
    }

    #[test]
    fn the_gate_is_the_first_syscall_instruction() {
        let code = [0x90, 0x0f, 0x0f, 0x05, 0xc3, 0x0f, 0x05];
        assert_eq!(find_gate(&code, VirtAddr(0x1000)), Some(VirtAddr(0x1002)));
        assert_eq!(find_gate(&code[..3], VirtAddr(0x1000)), None);
    }
}
