//! Waits that an earlier stop of ours has interrupted.

use std::collections::HashMap;
use std::time::Duration;

use image::state::Checkpoint;
use nix::libc;
use pages::TaskId;
use tracee::host::sys_clock;
use tracee::proc::status::Status;
use tracee::{Held, HostPid};

use super::waits::{CLOCK_NANOSLEEP, FUTEX, NANOSLEEP, POLL};

/// The waits a tree was in when it was stopped, to be known again when it is stopped once more: a
/// thread that goes on with one is in restart_syscall(2), which tells neither which nor since when.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    by_thread: HashMap<i32, Interrupted>,
}

#[derive(Clone, Copy, Debug)]
struct Interrupted {
    call: u64,
    args: [u64; 4],
    /// `None`: it has no end, or an absolute one.
    left: Option<Duration>,
    /// When that was left, on CLOCK_MONOTONIC.
    at: Duration,
    /// Voluntary context switches so far.
    switches: u64,
}

impl Waits {
    /// Of a tree that stands still, and of which `checkpoint` was just read.
    pub fn of(
        held: &mut Held,
        checkpoint: &Checkpoint,
        host: impl Fn(TaskId) -> Option<HostPid>,
    ) -> Self {
        let at = sys_clock(libc::CLOCK_MONOTONIC).unwrap_or_default();
        let mut by_thread = HashMap::new();
        for task in &checkpoint.tasks {
            let Some((living, pid)) = task.living().zip(host(task.id)) else { continue };
            let process = held.processes().iter().find(|process| process.pid == pid);
            let threads = process.map_or(&[][..], |process| &process.threads);
            // A main thread that has ended is no longer held.
            let ended = living.threads.len().saturating_sub(threads.len());
            for (stopped, thread) in threads.iter().zip(&living.threads[ended..]) {
                let regs = &thread.regs;
                // Wound back, the number is where the call takes it from.
                if ![NANOSLEEP, CLOCK_NANOSLEEP, POLL, FUTEX].contains(&regs.ax) {
                    continue;
                }
                let Ok(status) = Status::read(stopped.tid()) else { continue };
                let wait = Interrupted {
                    call: regs.ax,
                    args: [regs.di, regs.si, regs.dx, regs.r10],
                    left: thread.wait_left,
                    at,
                    switches: status.voluntary_switches,
                };
                by_thread.insert(stopped.tid().0, wait);
            }
        }
        Self { by_thread }
    }

    /// Which wait a thread goes on with, and what is left of it at `frozen`.
    pub(super) fn going_on(
        &self,
        tid: HostPid,
        args: &[u64; 6],
        switches: u64,
        frozen: Duration,
    ) -> Option<(u64, Option<Duration>)> {
        let wait = self.by_thread.get(&tid.0)?;
        // To sleep again, and to the next stop: more of them are another wait.
        let same = wait.args == args[..4] && switches <= wait.switches + 2;
        let passed = frozen.saturating_sub(wait.at);
        match wait.left {
            Some(left) if same && left > passed => Some((wait.call, Some(left - passed))),
            None if same => Some((wait.call, None)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_known_again_as_long_as_it_can_be_the_same() {
        let ms = Duration::from_millis;
        let args = [7, 0, 400, 0, 0, 0];
        let wait = Interrupted {
            call: POLL,
            args: [7, 0, 400, 0],
            left: Some(ms(300)),
            at: ms(10_000),
            switches: 5,
        };
        let endless = Interrupted { left: None, ..wait };
        let waits = Waits { by_thread: HashMap::from([(7, wait), (8, endless)]) };
        let left = |tid, args, switches, at| waits.going_on(HostPid(tid), &args, switches, ms(at));
        assert_eq!(left(7, args, 7, 10_100), Some((POLL, Some(ms(200)))));
        assert_eq!(left(7, args, 8, 10_100), None, "it slept again in between");
        assert_eq!(left(7, args, 7, 10_300), None, "that one is over");
        assert_eq!(left(7, [1; 6], 7, 10_100), None, "another call");
        assert_eq!(left(9, args, 7, 10_100), None, "never seen");
        assert_eq!(left(8, args, 7, 99_000), Some((POLL, None)));
    }
}
