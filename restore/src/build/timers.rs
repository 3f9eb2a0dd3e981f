//! setitimer(2) and timer_create(2) timers.
//!
//! They are armed with what was left at the dump, when the tree is all but running. Seen on the
//! tree's own clocks that is never early: those have gone on since the tree was begun.

use std::time::Duration;

use image::state::{IntervalTimer, Living, PosixTimer};
use nix::errno::Errno;
use nix::libc;

use super::channel::words;
use super::process::{Batch, Process};
use crate::error::{Error, Result};

/// prctl(2): timer_create takes the id it is given (Linux 6.15).
const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// Older kernels count ids up; so many are tried.
const MOST_TRIES: u32 = 20_000;

/// Makes and arms the timers of `process`.
pub(crate) fn arm(process: &mut Process, living: &Living) -> Result<()> {
    create(process, &living.posix_timers)?;
    let mut batch = Batch::default();
    for timer in &living.posix_timers {
        if let Some(spec) = spec(&timer.timer, Duration::subsec_nanos) {
            let at = process.put(&spec)?;
            let args = [u64::from(timer.id), 0, at, 0];
            batch.must("arm a timer", libc::SYS_timer_settime, &args);
        }
    }
    for (which, timer) in (0_u64..).zip(&living.itimers) {
        if let Some(spec) = spec(timer, Duration::subsec_micros) {
            let at = process.put(&spec)?;
            batch.must("arm an interval timer", libc::SYS_setitimer, &[which, at, 0]);
        }
    }
    process.run(0, batch)?;
    Ok(())
}

/// Interval and rest in seconds and `parts` of them; `None` if disarmed. A rest of nothing with an
/// interval has just gone off.
fn spec(timer: &IntervalTimer, parts: fn(&Duration) -> u32) -> Option<Vec<u8>> {
    let left = if timer.left.is_zero() { timer.interval } else { timer.left };
    if left.is_zero() {
        return None;
    }
    // What the unit cannot show rounds up: late, never early, never disarmed.
    let shown = Duration::from_secs(left.as_secs());
    let rest = u64::from(parts(&left)).max(u64::from(left != shown));
    let interval = (timer.interval.as_secs(), u64::from(parts(&timer.interval)));
    Some(words(&[interval.0, interval.1, left.as_secs(), rest]))
}

fn create(process: &mut Process, timers: &[PosixTimer]) -> Result<()> {
    if timers.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.may("choose timer ids", libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0]);
    let by_id = process.run(0, batch)?.first() == Some(&0);
    if !by_id {
        return timers.iter().try_for_each(|timer| count_up_to(process, timer));
    }
    for part in timers.chunks(1024) {
        let mut batch = Batch::default();
        for timer in part {
            let event = process.put(&event(timer))?;
            let id = process.put(&timer.id.to_le_bytes())?;
            let args = [i64::from(timer.clock.cast_signed()).cast_unsigned(), event, id];
            batch.must("make a timer with its id", libc::SYS_timer_create, &args);
        }
        process.run(0, batch)?;
    }
    process.call(
        "let timer ids be",
        libc::SYS_prctl,
        &[PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0],
    )?;
    Ok(())
}

/// Before Linux 6.15: makes timers and deletes them until one has the right id.
fn count_up_to(process: &mut Process, timer: &PosixTimer) -> Result<()> {
    for _ in 0..MOST_TRIES {
        let event = process.put(&event(timer))?;
        let id = process.room(8)?;
        let clock = i64::from(timer.clock.cast_signed()).cast_unsigned();
        process.call("make a timer", libc::SYS_timer_create, &[clock, event, id])?;
        let mut made = [0; 4];
        process.get(id, &mut made)?;
        let made = u32::from_le_bytes(made);
        if made == timer.id {
            return Ok(());
        }
        process.call("delete a timer", libc::SYS_timer_delete, &[u64::from(made)])?;
        if made > timer.id {
            break;
        }
    }
    let act = "make a timer with its id";
    Err(Error::Call { task: process.id, act, errno: Errno::EBUSY })
}

/// `struct sigevent`: value, signal, how, thread; 64 bytes.
fn event(timer: &PosixTimer) -> Vec<u8> {
    let how = u64::from(timer.signal) | u64::from(timer.notify) << 32;
    let thread = u64::from(timer.notify_thread.unwrap_or_default());
    words(&[timer.value, how, thread, 0, 0, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(interval: Duration, left: Duration) -> Option<Vec<u64>> {
        let bytes = spec(&IntervalTimer { interval, left }, Duration::subsec_micros)?;
        let word = |part: &[u8]| u64::from_le_bytes(part.try_into().expect("eight bytes"));
        Some(bytes.chunks(8).map(word).collect())
    }

    #[test]
    fn a_rest_is_never_rounded_to_nothing() {
        let [zero, second] = [Duration::ZERO, Duration::from_secs(1)];
        assert_eq!(timer(zero, zero), None);
        assert_eq!(timer(zero, Duration::new(3, 5_000)), Some(vec![0, 0, 3, 5]));
        assert_eq!(timer(zero, Duration::from_nanos(10)), Some(vec![0, 0, 0, 1]));
        assert_eq!(timer(second, zero), Some(vec![1, 0, 1, 0]));
    }
}
