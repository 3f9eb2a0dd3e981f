//! Clocks and timers. All remaining times are relative to the moment of the dump.

use std::time::Duration;

/// What the tree's clocks showed when it was stopped.
///
/// The destination gives the tree a time namespace in which these go on, so the time of the move
/// itself does not exist for CLOCK_MONOTONIC and CLOCK_BOOTTIME (time_namespaces(7), Linux 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_MONOTONIC.
    pub monotonic: Duration,
    /// CLOCK_BOOTTIME.
    pub boottime: Duration,
}

/// setitimer(2); all zero is disarmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntervalTimer {
    /// Period.
    pub interval: Duration,
    /// Time left.
    pub left: Duration,
}

/// timer_create(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PosixTimer {
    /// Its id.
    pub id: u32,
    /// CLOCK_*.
    pub clock: u32,
    /// Signal.
    pub signal: u32,
    /// SIGEV_*: 0 signal, 1 none, 2 thread, 4 thread id.
    pub notify: u32,
    /// sigev_value.
    pub value: u64,
    /// timer_getoverrun(2).
    pub overrun: u32,
    /// Period and time left.
    pub timer: IntervalTimer,
    /// For SIGEV_THREAD_ID: which thread.
    pub notify_thread: Option<u32>,
}

/// timerfd_create(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerFd {
    /// CLOCK_*.
    pub clock: u32,
    /// Expirations not read yet.
    pub ticks: u64,
    /// TFD_TIMER_* flags of the last timerfd_settime.
    pub settime_flags: u32,
    /// Period and time left.
    pub timer: IntervalTimer,
}
