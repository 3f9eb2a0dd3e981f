//! The same test again and again, each time on hosts of its own, each time leaving nothing.

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::running::GLANCE;

/// The variable that says how often; 1 without it.
pub const REPEAT_VARIABLE: &str = "QMIG_TEST_REPEAT";

/// How long what a test leaves behind may take to go.
const SETTLE: Duration = Duration::from_secs(20);

/// Run `test` as often as `QMIG_TEST_REPEAT` says. After each round no process may be left on
/// either host, no namespace of theirs, no file of theirs, and no more open descriptors in this
/// process than before it.
///
/// Only one test of a process is in here at a time: descriptors are counted for the process.
pub fn rounds(test: impl Fn(&Lab) -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    rounds_on(|| Ok(Lab::two_hosts()?), test)
}

/// The same on hosts that `build` makes.
pub fn rounds_on(
    build: impl Fn() -> Result<Lab, Box<dyn Error>>,
    test: impl Fn(&Lab) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let count = match std::env::var(REPEAT_VARIABLE) {
        Ok(text) => text.parse().map_err(|_| format!("{REPEAT_VARIABLE}={text}: not a number"))?,
        Err(_) => 1,
    };
    for round in 1..=count {
        one(&build, &test).map_err(|error| format!("round {round} of {count}: {error}"))?;
    }
    Ok(())
}

fn one(
    build: &impl Fn() -> Result<Lab, Box<dyn Error>>,
    test: &impl Fn(&Lab) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let descriptors = open_descriptors();
    let lab = build()?;
    test(&lab)?;
    let left = lab.wait_empty(SETTLE);
    if !left.is_empty() {
        return Err(format!("processes are left: {left:?}").into());
    }
    let footprint = lab.footprint();
    drop(lab);
    let end = Instant::now() + SETTLE;
    loop {
        let now = open_descriptors().saturating_sub(footprint.descriptors());
        let remains = footprint.remains();
        if remains.is_empty() && now <= descriptors {
            return Ok(());
        }
        if Instant::now() >= end {
            let open = format!("{descriptors} descriptors before, {now} after");
            return Err(format!("something is left: {remains:?}, {open}").into());
        }
        std::thread::sleep(GLANCE);
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
