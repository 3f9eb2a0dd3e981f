//! /proc/PID/timers: timers of timer_create(2) (Linux 3.10, CONFIG_CHECKPOINT_RESTORE).

use super::Source;
use crate::{HostPid, Result};

const TIMERS: Source = Source("/proc/PID/timers");

/// One timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerSetup {
    /// Its id.
    pub id: u32,
    /// Signal number.
    pub signal: u32,
    /// sigev_value.
    pub value: u64,
    /// SIGEV_*: 0 signal, 1 none, 2 thread; with 4 (SIGEV_THREAD_ID) if a thread is named.
    pub notify: u32,
    /// The process, or with SIGEV_THREAD_ID the thread, as we number it.
    pub target: i32,
    /// CLOCK_*.
    pub clock: i32,
}

/// Reads /proc/PID/timers.
pub fn read(pid: HostPid) -> Result<Vec<TimerSetup>> {
    parse(&super::read_text(format!("/proc/{pid}/timers"))?)
}

/// Parses its text.
pub fn parse(text: &str) -> Result<Vec<TimerSetup>> {
    let mut timers: Vec<TimerSetup> = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once(':').ok_or_else(|| TIMERS.error("line", line))?;
        let value = value.trim();
        if key == "ID" {
            timers.push(TimerSetup { id: TIMERS.number("ID", value)?, ..TimerSetup::default() });
            continue;
        }
        let timer = timers.last_mut().ok_or_else(|| TIMERS.error("ID", line))?;
        match key {
            "signal" => {
                let (signal, word) =
                    value.split_once('/').ok_or_else(|| TIMERS.error("signal", value))?;
                timer.signal = TIMERS.number("signal", signal)?;
                // The kernel prints a null pointer as "(null)".
                timer.value = if word == "(null)" { 0 } else { TIMERS.hex("signal", word)? };
            }
            "notify" => notify(timer, value)?,
            "ClockID" => timer.clock = TIMERS.number("ClockID", value)?,
            _ => {}
        }
    }
    Ok(timers)
}

/// `signal/pid.77`, `none/tid.78`.
fn notify(timer: &mut TimerSetup, value: &str) -> Result<()> {
    let bad = || TIMERS.error("notify", value);
    let (how, whom) = value.split_once('/').ok_or_else(bad)?;
    let (kind, number) = whom.split_once('.').ok_or_else(bad)?;
    let how = match how {
        "signal" => 0,
        "none" => 1,
        "thread" => 2,
        _ => return Err(bad()),
    };
    timer.notify = how | if kind == "tid" { 4 } else { 0 };
    timer.target = TIMERS.number("notify", number)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_read_one_after_the_other() {
        let text = "ID: 0\nsignal: 14/00007ffc00000010\nnotify: signal/pid.77\nClockID: 0\n\
                    ID: 5\nsignal: 34/(null)\nnotify: signal/tid.78\nClockID: 1\n";
        let timers = parse(text).expect("a sound text");
        let first = TimerSetup {
            id: 0,
            signal: 14,
            value: 0x7ffc_0000_0010,
            notify: 0,
            target: 77,
            clock: 0,
        };
        assert_eq!(timers[0], first);
        assert_eq!((timers[1].id, timers[1].notify, timers[1].target), (5, 4, 78));
        assert_eq!(parse("").expect("no timers"), []);
        assert!(parse("signal: 1/0\n").is_err());
    }
}
