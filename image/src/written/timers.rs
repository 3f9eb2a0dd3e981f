//! Clocks and timers.

use std::time::Duration;

use pages::TaskId;

use crate::error::BadField;
use crate::messages::{
    ItimerEntry, PosixTimerEntry, TaskTimersEntry, TimensEntry, TimerfdEntry, Timespec,
};
use crate::state::check::signal;
use crate::state::{Clocks, IntervalTimer, PosixTimer, TimerFd};

/// The kernel's own bound, KTIME_SEC_MAX.
const LONGEST_SECONDS: u64 = 9_223_372_036;

pub(super) fn from_nanos(
    field: &'static str,
    seconds: u64,
    nanos: u64,
) -> Result<Duration, BadField> {
    if seconds > LONGEST_SECONDS {
        return Err(BadField::value(field, seconds, "seconds that fit a clock"));
    }
    match u32::try_from(nanos) {
        Ok(nanos) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(BadField::value(field, nanos, "less than a second of nanoseconds")),
    }
}

fn from_micros(field: &'static str, seconds: u64, micros: u64) -> Result<Duration, BadField> {
    if micros >= 1_000_000 {
        return Err(BadField::value(field, micros, "less than a second of microseconds"));
    }
    from_nanos(field, seconds, micros * 1000)
}

impl From<&Clocks> for TimensEntry {
    fn from(clocks: &Clocks) -> Self {
        let spec = |time: Duration| Timespec {
            tv_sec: time.as_secs(),
            tv_nsec: u64::from(time.subsec_nanos()),
        };
        Self { monotonic: spec(clocks.monotonic), boottime: spec(clocks.boottime) }
    }
}

impl TryFrom<&TimensEntry> for Clocks {
    type Error = BadField;

    fn try_from(entry: &TimensEntry) -> Result<Self, BadField> {
        let TimensEntry { monotonic, boottime } = entry;
        Ok(Self {
            monotonic: from_nanos("monotonic", monotonic.tv_sec, monotonic.tv_nsec)?,
            boottime: from_nanos("boottime", boottime.tv_sec, boottime.tv_nsec)?,
        })
    }
}

impl From<&IntervalTimer> for ItimerEntry {
    fn from(timer: &IntervalTimer) -> Self {
        Self {
            isec: timer.interval.as_secs(),
            iusec: u64::from(timer.interval.subsec_micros()),
            vsec: timer.left.as_secs(),
            vusec: u64::from(timer.left.subsec_micros()),
        }
    }
}

impl TryFrom<&ItimerEntry> for IntervalTimer {
    type Error = BadField;

    fn try_from(entry: &ItimerEntry) -> Result<Self, BadField> {
        Ok(Self {
            interval: from_micros("tc.timers", entry.isec, entry.iusec)?,
            left: from_micros("tc.timers", entry.vsec, entry.vusec)?,
        })
    }
}

pub(super) fn to_entry(itimers: &[IntervalTimer; 3], posix: &[PosixTimer]) -> TaskTimersEntry {
    let [real, virt, prof] = itimers.each_ref().map(ItimerEntry::from);
    TaskTimersEntry { real, virt, prof, posix: posix.iter().map(PosixTimerEntry::from).collect() }
}

pub(super) fn from_entry(
    entry: &TaskTimersEntry,
) -> Result<([IntervalTimer; 3], Vec<PosixTimer>), BadField> {
    let itimers = [(&entry.real).try_into()?, (&entry.virt).try_into()?, (&entry.prof).try_into()?];
    let posix = entry.posix.iter().map(PosixTimer::try_from).collect::<Result<_, _>>()?;
    Ok((itimers, posix))
}

impl From<&PosixTimer> for PosixTimerEntry {
    fn from(timer: &PosixTimer) -> Self {
        let IntervalTimer { interval, left } = timer.timer;
        Self {
            it_id: timer.id,
            clock_id: timer.clock,
            si_signo: timer.signal,
            it_sigev_notify: timer.notify,
            sival_ptr: timer.value,
            overrun: timer.overrun,
            isec: interval.as_secs(),
            insec: u64::from(interval.subsec_nanos()),
            vsec: left.as_secs(),
            vnsec: u64::from(left.subsec_nanos()),
            notify_thread_id: timer.notify_thread.map(u32::cast_signed),
        }
    }
}

impl TryFrom<&PosixTimerEntry> for PosixTimer {
    type Error = BadField;

    fn try_from(entry: &PosixTimerEntry) -> Result<Self, BadField> {
        if !matches!(entry.it_sigev_notify, 0 | 1 | 2 | 4) {
            let notify = entry.it_sigev_notify;
            return Err(BadField::value("tc.timers.posix.it_sigev_notify", notify, "0, 1, 2 or 4"));
        }
        let thread = |id: i32| {
            u32::try_from(id).map_err(|_| {
                BadField::value("tc.timers.posix.notify_thread_id", id.cast_unsigned(), "a thread")
            })
        };
        Ok(Self {
            id: entry.it_id,
            clock: entry.clock_id,
            signal: signal("tc.timers.posix.si_signo", entry.si_signo)?,
            notify: entry.it_sigev_notify,
            value: entry.sival_ptr,
            overrun: entry.overrun,
            timer: IntervalTimer {
                interval: from_nanos("tc.timers.posix", entry.isec, entry.insec)?,
                left: from_nanos("tc.timers.posix", entry.vsec, entry.vnsec)?,
            },
            notify_thread: entry.notify_thread_id.map(thread).transpose()?,
        })
    }
}

impl PosixTimer {
    /// The thread it must be sent to, if it is.
    pub(super) fn target(&self) -> Option<TaskId> {
        self.notify_thread.map(TaskId)
    }
}

impl TryFrom<&TimerfdEntry> for TimerFd {
    type Error = BadField;

    fn try_from(entry: &TimerfdEntry) -> Result<Self, BadField> {
        Ok(Self {
            clock: entry.clockid,
            ticks: entry.ticks,
            settime_flags: entry.settime_flags,
            timer: IntervalTimer {
                interval: from_nanos("tfd.isec", entry.isec, entry.insec)?,
                left: from_nanos("tfd.vsec", entry.vsec, entry.vnsec)?,
            },
        })
    }
}
