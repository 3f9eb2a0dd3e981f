//! A main thread that has ended while others go on: pthread_exit(3) in main().
//!
//! The kernel keeps its number, its name and its exit status, and nothing else. It travels as a thread
//! that is about to end in the same way, so that no format needs a place for it: the first and only
//! thing it does over there is exit(2), which ends no process.

use image::state::{AltStack, Regs, Seccomp, SigSet, Task, Thread};
use nix::libc;
use pages::{TaskId, VirtAddr};
use tracee::HostPid;
use tracee::proc::stat::Stat;
use tracee::proc::status::Status;

use super::{creds, tree};
use crate::error::CollectError;
use crate::survey::refusals::Trouble;

/// Refuses children that want a signal when the thread that made them ends (PR_SET_PDEATHSIG): over
/// there a main thread that ends will have made them.
pub(super) fn troubles(tasks: &[Task], ended: &[TaskId]) -> Vec<(Trouble, TaskId)> {
    let waits = |task: &&Task| {
        let made = task.parent.is_some_and(|parent| ended.contains(&parent));
        let living = task.living().filter(|_| made);
        living.is_some_and(|living| living.threads.iter().any(|one| one.pdeath_signal != 0))
    };
    let reason = "it wants a signal when its parent ends, whose main thread has ended already";
    tasks.iter().filter(waits).map(|task| (Trouble::new("", reason), task.id)).collect()
}

/// SS_DISABLE, sigaltstack(2).
const NO_STACK: u32 = 2;
/// SIGKILL and SIGSTOP, which nobody blocks.
const NEVER_BLOCKED: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

/// The main thread of process `pid`; what an ended thread has no more is as in `other`, one of its
/// process. `gate` is a `syscall` instruction of the vdso.
pub(super) fn main_thread(
    pid: HostPid,
    other: &Thread,
    gate: VirtAddr,
) -> Result<Thread, CollectError> {
    let status = Status::read(pid)?;
    let code = Stat::read(pid)?.exit_code >> 8 & 0xff;
    Ok(Thread {
        id: TaskId(pid.0.unsigned_abs()),
        comm: tree::comm(pid)?,
        regs: Regs {
            ip: gate.0,
            ax: libc::SYS_exit.unsigned_abs(),
            di: code.unsigned_abs().into(),
            orig_ax: tracee::Regs::NO_CALL,
            ..other.regs
        },
        // Nothing is left to be told when it ends, and nothing to be done in its place.
        clear_child_tid: VirtAddr(0),
        robust_list: None,
        rseq: None,
        blocked: SigSet(!NEVER_BLOCKED),
        pending: Vec::new(),
        altstack: AltStack { base: VirtAddr(0), size: 0, flags: NO_STACK },
        creds: creds::creds(&status, other.creds.securebits),
        pdeath_signal: 0,
        settings: Vec::new(),
        seccomp: Seccomp::Off,
        wait_left: None,
        ..other.clone()
    })
}
