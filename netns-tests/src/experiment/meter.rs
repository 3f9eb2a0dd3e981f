//! Looks at a process until it ends, for what it used.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::record::Process;
use crate::host::Host;

/// How often; both numbers only grow, so this is how much may be missed.
const GLANCE: Duration = Duration::from_millis(4);
/// A clock tick of /proc/PID/stat, the same on every Linux that we know (USER_HZ).
const TICK_US: u64 = 10_000;

/// Watches one process of a host.
#[derive(Debug)]
pub(crate) struct Meter {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<Process>,
}

impl Meter {
    pub(crate) fn on(host: &Host, pid: i32) -> Self {
        let folder = host.path(format!("/proc/{pid}"));
        let enough = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&enough);
        let thread = std::thread::spawn(move || {
            let mut last = Process::default();
            while let Some(now) = look(&folder) {
                last = Process {
                    cpu_us: last.cpu_us.max(now.cpu_us),
                    peak_kib: last.peak_kib.max(now.peak_kib),
                };
                if flag.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(GLANCE);
            }
            last
        });
        Self { enough, thread }
    }

    /// What it has used until now, or until it ended.
    pub(crate) fn read(self) -> Process {
        self.enough.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// `None` when it is gone; a dead one that was not buried has no memory but all of its time.
fn look(folder: &Path) -> Option<Process> {
    let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
    let (_, after) = stat.rsplit_once(") ")?;
    let field = |number: usize| after.split(' ').nth(number)?.parse::<u64>().ok();
    let status = std::fs::read_to_string(folder.join("status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    // utime and stime are the 14th and 15th of all fields, the name being the second.
    let cpu_us = (field(11)? + field(12)?) * TICK_US;
    Some(Process { cpu_us, peak_kib: peak.unwrap_or(0) })
}
