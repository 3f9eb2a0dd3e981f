//! Waits until nobody else uses the machine, and counts when that was in vain.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::Outcome;

/// How long the machine is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// How long a quiet moment is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of all processor time, in percent.
const BUSY: u64 = 10;

static HASTE: AtomicBool = AtomicBool::new(false);
static RUNS: AtomicU32 = AtomicU32::new(0);
static DISTURBED: AtomicU32 = AtomicU32::new(0);

/// From now on nobody waits; what is measured is not to be believed.
pub(crate) fn hurry() {
    HASTE.store(true, Ordering::Relaxed);
}

/// Call before each measurement.
pub(crate) fn wait() -> Outcome<()> {
    RUNS.fetch_add(1, Ordering::Relaxed);
    let end = Instant::now() + PATIENCE;
    while busy_percent()? > BUSY {
        if HASTE.load(Ordering::Relaxed) || Instant::now() >= end {
            DISTURBED.fetch_add(1, Ordering::Relaxed);
            break;
        }
    }
    Ok(())
}

/// How many of how many measurements had to begin while others used the machine.
pub(crate) fn disturbed() -> (u32, u32) {
    (DISTURBED.load(Ordering::Relaxed), RUNS.load(Ordering::Relaxed))
}

fn busy_percent() -> Outcome<u64> {
    let before = times()?;
    std::thread::sleep(LOOK);
    let after = times()?;
    let (idle, all) = (after.0 - before.0, after.1 - before.1);
    Ok(100 - 100 * idle / all.max(1))
}

/// Ticks idle, and all ticks, of all processors: the first line of /proc/stat (proc_stat(5)).
fn times() -> Outcome<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let numbers: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8) // guest time is counted in user time already
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let idle = numbers.get(3).ok_or("read /proc/stat")? + numbers.get(4).unwrap_or(&0);
    Ok((idle, numbers.iter().sum()))
}
