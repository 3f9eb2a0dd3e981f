//! wait4(2) on one task.

use nix::errno::Errno;

/// What a tracee did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It ended; the raw wait status.
    Ended(i32),
    /// It is in ptrace-stop.
    Stopped {
        /// The stop signal (`WSTOPSIG`; bit 0x80 marks a system call with `PTRACE_O_TRACESYSGOOD`).
        signal: i32,
        /// `PTRACE_EVENT_*`, zero for a signal or system call stop.
        event: i32,
    },
}

/// Waits for a change of task `tid`; `None` only if `block` is false and nothing happened yet.
///
/// `__WALL` makes threads and processes alike waitable. A task that is not ours (or is gone) is
/// `ECHILD`.
pub(crate) fn wait(tid: i32, block: bool) -> nix::Result<Option<Change>> {
    let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live i32, the only memory the call writes.
        match Errno::result(unsafe { libc::waitpid(tid, &raw mut status, flags) }) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(Some(if libc::WIFSTOPPED(status) {
        Change::Stopped { signal: libc::WSTOPSIG(status), event: status >> 16 }
    } else {
        Change::Ended(status)
    }))
}
