//! /proc/timer_list: every high-resolution timer of the host (root only).

use super::Source;
use crate::Result;

const TIMER_LIST: Source = Source("/proc/timer_list");

/// One armed timer. Tasks are not named; a sleeping thread shows as `hrtimer_wakeup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HrTimer {
    /// The CPU it is queued on.
    pub cpu: u32,
    /// The kernel's clock base: 0 and 4 count CLOCK_MONOTONIC, 1 and 5 REALTIME, 2 and 6 BOOTTIME,
    /// 3 and 7 TAI (the upper four expire in soft interrupts).
    pub base: u32,
    /// It may expire from here on, in nanoseconds of that clock.
    pub expires_soft_ns: u64,
    /// It expires here at the latest: later than that by the timer slack of the thread.
    pub expires_hard_ns: u64,
    /// What the kernel calls then.
    pub function: String,
}

/// Reads /proc/timer_list.
pub fn hrtimers() -> Result<Vec<HrTimer>> {
    parse(&super::read_text("/proc/timer_list".to_owned())?)
}

/// Parses its text.
pub fn parse(text: &str) -> Result<Vec<HrTimer>> {
    let mut timers = Vec::new();
    let (mut cpu, mut base, mut function) = (0, 0, None);
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("cpu: ") {
            cpu = TIMER_LIST.number("cpu", number)?;
        } else if let Some(number) =
            line.strip_prefix(" clock ").and_then(|rest| rest.strip_suffix(':'))
        {
            base = TIMER_LIST.number("clock", number)?;
        } else if let Some(rest) = line.strip_prefix(" # expires at ") {
            // " # expires at 5-9 nsecs [in 1 to 5 nsecs]"
            let bad = || TIMER_LIST.error("expires", line);
            let (range, _) = rest.split_once(" nsecs").ok_or_else(bad)?;
            let (soft, hard) = range.split_once('-').ok_or_else(bad)?;
            let Some(function) = function.take() else { return Err(bad()) };
            timers.push(HrTimer {
                cpu,
                base,
                expires_soft_ns: TIMER_LIST.number("expires", soft)?,
                expires_hard_ns: TIMER_LIST.number("expires", hard)?,
                function,
            });
        } else if line.starts_with(" #") {
            // " #0: <0000000006b460dc>, hrtimer_wakeup, S:01"
            function = line.split(", ").nth(1).map(str::to_owned);
        }
    }
    Ok(timers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Timer List Version: v0.10
HRTIMER_MAX_CLOCK_BASES: 8
now at 1614252669091 nsecs

cpu: 0
 clock 0:
  .base:       000000009b973aea
active timers:
 #0: <000000006b460dc5>, tick_nohz_handler, S:01
 # expires at 1614256000000-1614256000000 nsecs [in 3330909 to 3330909 nsecs]
 #1: <00000000944b15a4>, hrtimer_wakeup, S:01
 # expires at 1614268250525-1614268300525 nsecs [in 15581434 to 15631434 nsecs]
 clock 1:
active timers:
  .expires_next   : 1614256000000 nsecs

cpu: 1
 clock 2:
active timers:
 #0: <0000000066f4dff1>, timerfd_tmrproc, S:01
 # expires at 7-9 nsecs [in -1 to 1 nsecs]

Tick Device: mode:     1
";

    #[test]
    fn every_timer_knows_its_cpu_and_clock() {
        let timers = parse(TEXT).expect("a sound text");
        assert_eq!(timers.len(), 3);
        assert_eq!((timers[1].cpu, timers[1].base), (0, 0));
        assert_eq!(timers[1].function, "hrtimer_wakeup");
        assert_eq!(timers[1].expires_hard_ns - timers[1].expires_soft_ns, 50_000);
        assert_eq!((timers[2].cpu, timers[2].base, timers[2].expires_soft_ns), (1, 2, 7));
    }

    #[test]
    fn nonsense_is_named() {
        assert!(parse(" # expires at 5 nsecs").is_err());
        assert!(parse(" #0: <0>, f, S:01\n # expires at a-b nsecs").is_err());
    }
}
