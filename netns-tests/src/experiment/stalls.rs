//! How long the machine itself stood still, which no program on it can help.
//!
//! In a virtual machine the host may take the processors away for tens of milliseconds, and does not
//! always account for it as stolen. A thread that goes before everybody else and only sleeps sees that.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};

/// How often they wake.
const BEAT: Duration = Duration::from_millis(1);
/// Among those of SCHED_FIFO; above the emulated link and whatever else here is of it.
const PRIORITY: &str = "20";

/// Watches every CPU that this process may use.
#[derive(Debug)]
pub(super) struct Stalls {
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Option<Duration>>>,
}

impl Stalls {
    /// Begins.
    pub(super) fn watch() -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let mine = sched_getaffinity(Pid::this()).unwrap_or_default();
        let cpus = (0..CpuSet::count()).filter(|cpu| mine.is_set(*cpu).unwrap_or(false));
        let threads = cpus.map(|cpu| {
            let enough = Arc::clone(&enough);
            std::thread::spawn(move || beat(cpu, &enough))
        });
        Self { threads: threads.collect(), enough }
    }

    /// The longest time that one was kept waiting until now; `None` if they could not be made to go
    /// before everybody else, for then it would tell of others.
    pub(super) fn longest(self) -> Option<Duration> {
        self.enough.store(true, Ordering::Relaxed);
        let each = self.threads.into_iter().map(|thread| thread.join().ok().flatten());
        each.reduce(|one, other| one.zip(other).map(|(one, other)| one.max(other))).flatten()
    }
}

fn beat(cpu: usize, enough: &AtomicBool) -> Option<Duration> {
    let mut only = CpuSet::new();
    only.set(cpu).ok()?;
    sched_setaffinity(gettid(), &only).ok()?;
    let mut before_all = Command::new("chrt");
    before_all.args(["--fifo", "--pid", PRIORITY, &gettid().to_string()]).stderr(Stdio::null());
    before_all.status().is_ok_and(|status| status.success()).then_some(())?;
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    while !enough.load(Ordering::Relaxed) {
        std::thread::sleep(BEAT);
        let now = Instant::now();
        longest = longest.max((now - last).saturating_sub(BEAT));
        last = now;
    }
    Some(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_every_cpu_while_others_keep_them_busy() {
        let stalls = Stalls::watch();
        let busy = Duration::from_millis(50);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| while begun.elapsed() < busy {});
            }
        });
        let Some(longest) = stalls.longest() else {
            eprintln!("SKIPPED: may not use SCHED_FIFO");
            assert!(std::env::var_os("CI").is_none(), "CI may");
            return;
        };
        // A beat is late by something always; an hour would be a clock that is misread.
        assert!(longest > Duration::ZERO && longest < Duration::from_secs(60), "{longest:?}");
    }
}
