//! Signals while a task works for us.

use nix::errno::Errno;

use crate::{Error, HostPid, Result, sys};

/// Every signal but one is blocked; that one marks the end of the stub.
///
/// The obvious mark is a breakpoint, but a breakpoint in a task that ignores or blocks SIGTRAP
/// makes the kernel reset what the program had set for it. So the stub sends itself a signal
/// instead: a traced task reports every unblocked signal to its tracer first, ignored or not, and
/// we take it away there. It must be one that is not pending already, so that ours cannot be
/// mistaken for the program's.
///
/// Signals the program gets meanwhile stay pending, with who sent them. Two exceptions are handled
/// where they show up ([`crate::run`]): the mark itself sent by somebody else goes back into the
/// queue, and SIGSTOP, which cannot be blocked, is remembered here and sent again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shield {
    /// What the program had blocked.
    pub(crate) mask: u64,
    /// The signal that marks the end of the stub.
    pub(crate) mark: i32,
    /// SIGSTOP came and was put off.
    pub(crate) put_off_stop: bool,
}

/// The bit of `signal` in a mask.
pub(crate) const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The signals pending for `tid`, alone or with its whole process, as a mask.
pub(crate) fn pending(tid: HostPid) -> Result<u64> {
    let mut mask = 0;
    for shared in [false, true] {
        let infos = sys::ptrace::pending(tid.0, shared)
            .map_err(Error::os("read pending signals of", tid))?;
        for info in infos {
            let signal = i32::from_le_bytes(info[..4].try_into().expect("four bytes"));
            if (1..=64).contains(&signal) {
                mask |= bit(signal);
            }
        }
    }
    Ok(mask)
}

/// SIGTRAP, or else a real-time signal from the top, that is neither pending nor `not`.
pub(crate) fn free_mark(tid: HostPid, not: i32) -> Result<i32> {
    let pending = pending(tid)?;
    std::iter::once(libc::SIGTRAP)
        .chain((34..=64).rev())
        .find(|signal| *signal != not && pending & bit(*signal) == 0)
        .ok_or(Error::NoFreeSignal { pid: tid })
}

impl Shield {
    /// Blocks everything but the mark, and keeps the task's own seccomp filters out of the way
    /// (needs CAP_SYS_ADMIN; without it the filters apply to us too, and nothing worse).
    pub(crate) fn raise(tid: HostPid, options: i32) -> Result<Self> {
        let mask =
            sys::ptrace::signal_mask(tid.0).map_err(Error::os("read the signal mask of", tid))?;
        let mark = free_mark(tid, 0)?;
        let shield = Self { mask, mark, put_off_stop: false };
        shield.block(tid)?;
        match sys::ptrace::set_options(tid.0, options | sys::ptrace::O_SUSPEND_SECCOMP) {
            Ok(()) | Err(Errno::EPERM | Errno::EINVAL) => Ok(shield),
            Err(errno) => Err(Error::os("set ptrace options of", tid)(errno)),
        }
    }

    /// Blocks everything but the mark.
    pub(crate) fn block(&self, tid: HostPid) -> Result<()> {
        sys::ptrace::set_signal_mask(tid.0, !bit(self.mark))
            .map_err(Error::os("set the signal mask of", tid))
    }

    /// Gives the program its mask back, and the SIGSTOP that was put off: unless a SIGCONT came
    /// after it, which would have cancelled it (a SIGSTOP discards any SIGCONT sent before).
    pub(crate) fn lower(self, tid: HostPid, options: i32) -> Result<()> {
        if self.put_off_stop && pending(tid)? & bit(libc::SIGCONT) == 0 {
            sys::process::tkill(tid.0, libc::SIGSTOP).map_err(Error::os("send SIGSTOP to", tid))?;
        }
        sys::ptrace::set_signal_mask(tid.0, self.mask)
            .map_err(Error::os("set the signal mask of", tid))?;
        sys::ptrace::set_options(tid.0, options).map_err(Error::os("set ptrace options of", tid))
    }
}
