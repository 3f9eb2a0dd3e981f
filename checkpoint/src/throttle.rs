//! Slows a tree down, so that it writes no faster than rounds can send.
//!
//! In each period those threads that have used a CPU stand still for a share of it. Threads that sleep
//! are left alone: their waits are not touched, and they write nothing. They are held by ptrace(2),
//! by a thread of its own; so if this qmig dies, however it does, the kernel lets everybody run on at
//! full speed.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use tracee::proc::stat::Stat;
use tracee::{HostPid, Stopped};

use crate::converge::Percent;
use crate::survey::tree;

/// Short enough for people not to see it, long enough for stopping to cost little.
const PERIOD: Duration = Duration::from_millis(50);
/// A thread that has used a CPU for so long in a period is at work.
const AT_WORK: Duration = Duration::from_micros(500);

/// A tree that runs for a part of the time. Dropped, it runs all the time again.
pub(crate) struct Throttle {
    share: Arc<AtomicU64>,
    /// Closed, it ends.
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    /// Holds the tree of `root` back for this share of the time.
    pub(crate) fn begin(root: HostPid, share: Percent) -> Self {
        let shared = Arc::new(AtomicU64::new(share.0.into()));
        let (end, ended) = mpsc::channel();
        let thread = std::thread::spawn({
            let share = Arc::clone(&shared);
            move || hold_back(root, &share, &ended)
        });
        Self { share: shared, end: Some(end), thread: Some(thread) }
    }

    /// Another share from now on.
    pub(crate) fn set(&self, share: Percent) {
        self.share.store(share.0.into(), Ordering::Relaxed);
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has nothing to tell
        }
    }
}

fn hold_back(root: HostPid, share: &AtomicU64, ended: &mpsc::Receiver<()>) {
    let goes_on = |time| matches!(ended.recv_timeout(time), Err(RecvTimeoutError::Timeout));
    let mut used = HashMap::new();
    loop {
        let held = PERIOD.mul_f64(share.load(Ordering::Relaxed).min(99) as f64 / 100.0);
        let stopped = stop_all(at_work(root, &mut used));
        let on = goes_on(held);
        drop(stopped); // they run on
        if !on || !goes_on(PERIOD - held) {
            return;
        }
    }
}

/// The threads that have worked since this was asked last, or do so now.
fn at_work(root: HostPid, used: &mut HashMap<HostPid, Duration>) -> Vec<HostPid> {
    let mut now = HashMap::new();
    let mut working = Vec::new();
    for tid in tree::threads(&tree::processes(root)) {
        let runs = Stat::read(tid).is_ok_and(|stat| stat.state == 'R');
        let on_cpu = time_on_cpu(tid).unwrap_or_default();
        let before = used.get(&tid).copied().unwrap_or(on_cpu);
        if runs || on_cpu.saturating_sub(before) >= AT_WORK {
            working.push(tid);
        }
        now.insert(tid, on_cpu);
    }
    *used = now;
    working
}

/// The first number of /proc/PID/schedstat, in nanoseconds; some kernels have no such file.
fn time_on_cpu(tid: HostPid) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{tid}/schedstat")).ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// Stops as many of them as can be stopped.
fn stop_all(threads: Vec<HostPid>) -> Vec<Stopped> {
    let stopped = threads.into_iter().map(|tid| (tid, Stopped::seize(tid)));
    let stopped = stopped.filter_map(|(tid, stopped)| {
        stopped.inspect_err(|error| tracing::debug!(%tid, %error, "not held back")).ok()
    });
    stopped.collect()
}
