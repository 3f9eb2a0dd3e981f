//! Signals: actions and alternate stacks, which only the task itself can ask for, and what is
//! pending.

use image::state::{AltStack, SigAction, SigInfo, SigSet};
use nix::libc;
use pages::VirtAddr;
use tracee::{Call, Runner, Stopped};

use crate::error::CollectError;

/// The questions for all signal actions, and where the answers will be.
pub(super) struct Actions {
    table: VirtAddr,
}

/// `struct kernel_sigaction`: handler, flags, restorer, mask.
const ACTION: usize = 32;
/// Signals 1 to 64 without SIGKILL and SIGSTOP.
const ACTIONS: usize = 62;
/// `sizeof(sigset_t)` as the kernel counts it.
const SIGSET: u64 = 8;

fn catchable() -> impl Iterator<Item = i32> {
    (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal))
}

impl Actions {
    /// Adds rt_sigaction(2) for each.
    pub(super) fn ask(runner: &mut Runner, calls: &mut Vec<Call>) -> Result<Self, CollectError> {
        let table = runner.room(ACTIONS * ACTION)?;
        calls.extend(catchable().zip(0_u64..).map(|(signal, nth)| {
            let into = table.0 + nth * ACTION as u64;
            let signal = u64::from(signal.unsigned_abs());
            Call::new(libc::SYS_rt_sigaction, &[signal, 0, into, SIGSET])
        }));
        Ok(Self { table })
    }

    /// The actions, as [`image::state::Living::sigactions`] wants them.
    pub(super) fn answers(&self, runner: &Runner) -> Result<Vec<SigAction>, CollectError> {
        let mut bytes = [0; ACTIONS * ACTION];
        runner.get(self.table, &mut bytes)?;
        Ok(bytes
            .chunks_exact(ACTION)
            .map(|action| SigAction {
                handler: super::long(action, 0),
                flags: super::long(action, 8),
                restorer: super::long(action, 16),
                mask: SigSet(super::long(action, 24)),
            })
            .collect())
    }
}

/// `stack_t`: base, flags, size.
pub(super) const ALTSTACK: usize = 24;

/// From what sigaltstack(2) wrote. That the thread runs on it just now is not a setting.
pub(super) fn altstack(stack: &[u8; ALTSTACK]) -> AltStack {
    AltStack {
        base: VirtAddr(super::long(stack, 0)),
        size: super::long(stack, 16),
        flags: super::int(stack, 8) & !libc::SS_ONSTACK.cast_unsigned(),
    }
}

/// What is pending for a thread alone, or with `shared` for its process.
pub(super) fn pending(task: &Stopped, shared: bool) -> Result<Vec<SigInfo>, CollectError> {
    let infos = task.pending(shared)?;
    Ok(infos.into_iter().map(|info| SigInfo(Box::new(info))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_signals_nobody_can_catch_are_left_out() {
        let all: Vec<_> = catchable().collect();
        assert_eq!(all.len(), ACTIONS);
        assert!(!all.contains(&9) && !all.contains(&19));
    }

    #[test]
    fn running_on_the_alternate_stack_is_not_a_setting() {
        let mut stack = [0; ALTSTACK];
        stack[0] = 0x10;
        stack[8] = 1;
        stack[16] = 0x20;
        assert_eq!(altstack(&stack), AltStack { base: VirtAddr(0x10), size: 0x20, flags: 0 });
    }
}
