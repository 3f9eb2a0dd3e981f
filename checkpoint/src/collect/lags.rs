//! The scheduler's clocks, on which it notes when a thread went to sleep, beside CLOCK_MONOTONIC.

use std::collections::HashMap;
use std::fs;

use nix::libc;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tracee::HostPid;
use tracee::host::sys_clock;

use super::waits::nanos;

/// Of a thread: when it ran last, on the clock of its CPU, in nanoseconds; its voluntary context switches.
pub(super) fn of_thread(tid: HostPid) -> Option<(u64, u64)> {
    parse(&fs::read_to_string(format!("/proc/{}/sched", tid.0)).ok()?)
}

/// By how much the scheduler's clock of each CPU lags behind CLOCK_MONOTONIC, in nanoseconds.
///
/// Measured on this very thread: it moves to the CPU, and its own `se.exec_start` is then the
/// clock's reading of just now.
#[derive(Default)]
pub(super) struct Lags {
    known: HashMap<usize, Option<u64>>,
}

impl Lags {
    /// That of `cpu`, as it was when it was asked for first.
    pub(super) fn of(&mut self, cpu: usize) -> Option<u64> {
        *self.known.entry(cpu).or_insert_with(|| measure(cpu))
    }
}

fn measure(cpu: usize) -> Option<u64> {
    let own = Pid::from_raw(0);
    let before = sched_getaffinity(own).ok()?;
    let mut only = CpuSet::new();
    only.set(cpu).ok()?;
    sched_setaffinity(own, &only).ok()?;
    let lag = exec_start_of_this_thread();
    // Cannot fail: it was this thread's set a moment ago.
    let _ = sched_setaffinity(own, &before);
    lag
}

fn exec_start_of_this_thread() -> Option<u64> {
    // To yield brings the reading up to date: it is taken when a thread gets its CPU.
    std::thread::yield_now();
    let sched = fs::read_to_string("/proc/thread-self/sched").ok()?;
    let now = nanos(sys_clock(libc::CLOCK_MONOTONIC).ok()?);
    let (start, _) = parse(&sched)?;
    Some(now.saturating_sub(start))
}

/// /proc/TID/sched: (se.exec_start in nanoseconds, nr_voluntary_switches).
fn parse(text: &str) -> Option<(u64, u64)> {
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    let (whole, part) = value("se.exec_start")?.split_once('.')?;
    let (whole, part): (u64, u64) = (whole.parse().ok()?, part.parse().ok()?);
    let start = whole.checked_mul(1_000_000)?.checked_add(part)?;
    Some((start, value("nr_voluntary_switches")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheduler_s_text_is_read() {
        let sched = "cat (1, #threads: 1)\n---\nse.exec_start      :      1340086.575764\n\
                     nr_switches : 9\nnr_voluntary_switches      :      4\n";
        assert_eq!(parse(sched), Some((1_340_086_575_764, 4)));
        assert_eq!(parse("se.exec_start : 12\n"), None);
    }
}
