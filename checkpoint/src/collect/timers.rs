//! Clocks and timers. Timers run on while the tree stands still, so what was left of them at the
//! freeze is what is left now and the time since.

use std::time::Duration;

use image::state::{Clocks, IntervalTimer, PosixTimer, TimerFd};
use nix::libc;
use pages::VirtAddr;
use tracee::proc::fdinfo::TimerInfo;
use tracee::proc::timers::TimerSetup;
use tracee::{Call, HostPid, Runner};

use super::long;
use crate::error::CollectError;
use crate::survey::refusals::Trouble;

/// A moment by this host's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_MONOTONIC.
    pub monotonic: Duration,
    /// CLOCK_BOOTTIME.
    pub boottime: Duration,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self { monotonic: clock(libc::CLOCK_MONOTONIC), boottime: clock(libc::CLOCK_BOOTTIME) }
    }

    /// How long ago.
    pub(crate) fn elapsed(&self) -> Duration {
        Self::now().monotonic.saturating_sub(self.monotonic)
    }

    /// What the clocks of `pid`'s time namespace showed at this moment.
    pub(crate) fn inside(&self, pid: HostPid) -> Clocks {
        let offsets = std::fs::read_to_string(format!("/proc/{}/timens_offsets", pid.0));
        // A kernel without time namespaces has no such file.
        let [monotonic, boottime] = parse_offsets(&offsets.unwrap_or_default());
        Clocks {
            monotonic: shifted(self.monotonic, monotonic),
            boottime: shifted(self.boottime, boottime),
        }
    }
}

fn clock(id: i32) -> Duration {
    tracee::host::sys_clock(id).expect("every Linux has these clocks")
}

/// Offsets in nanoseconds of `monotonic` and `boottime` (time_namespaces(7)).
fn parse_offsets(text: &str) -> [i128; 2] {
    ["monotonic", "boottime"]
        .map(|clock| {
            let line = text.lines().find_map(|line| line.strip_prefix(clock))?;
            let mut numbers = line.split_ascii_whitespace().map(str::parse::<i64>);
            let (seconds, nanos) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
        })
        .map(|offset: Option<i128>| offset.unwrap_or(0))
}

fn shifted(clock: Duration, offset: i128) -> Duration {
    let nanos = i128::try_from(clock.as_nanos()).unwrap_or(i128::MAX).saturating_add(offset);
    Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}

/// The questions for a process' timers, and where the answers will be.
pub(super) struct Timers {
    table: VirtAddr,
    /// Index of the first call of timer_getoverrun(2).
    overruns: usize,
}

/// What was left of the interval timers, and of each timer of timer_create(2).
pub(super) type Left = ([IntervalTimer; 3], Vec<Result<PosixTimer, Trouble>>);

/// `struct itimerval` and `struct itimerspec`: period and time left.
const SPEC: usize = 32;
const ITIMERS: usize = 3;

/// How much scratch memory the questions for this many timers take, calls not counted.
pub(super) const fn room_for(timers: usize) -> usize {
    (ITIMERS + timers) * SPEC
}

impl Timers {
    /// Adds getitimer(2) for all three, timer_gettime(2) and timer_getoverrun(2) for each of `ids`.
    pub(super) fn ask(
        ids: &[TimerSetup],
        runner: &mut Runner,
        calls: &mut Vec<Call>,
    ) -> Result<Self, CollectError> {
        let table = runner.room(room_for(ids.len()))?;
        let place = |nth: u64| table.0 + nth * SPEC as u64;
        calls.extend(
            (0..ITIMERS as u64).map(|nth| Call::new(libc::SYS_getitimer, &[nth, place(nth)])),
        );
        calls.extend(ids.iter().zip(ITIMERS as u64..).map(|(timer, nth)| {
            Call::new(libc::SYS_timer_gettime, &[u64::from(timer.id), place(nth)])
        }));
        let overruns = calls.len();
        calls.extend(
            ids.iter().map(|timer| Call::new(libc::SYS_timer_getoverrun, &[u64::from(timer.id)])),
        );
        Ok(Self { table, overruns })
    }

    /// The answers, given `since` the freeze.
    pub(super) fn answers(
        &self,
        ids: &[TimerSetup],
        runner: &Runner,
        calls: &[Call],
        since: Duration,
    ) -> Result<Left, CollectError> {
        let mut bytes = vec![0; room_for(ids.len())];
        runner.get(self.table, &mut bytes)?;
        let (itimers, posix) = bytes.split_at(ITIMERS * SPEC);
        let mut real_virtual_prof = itimers.chunks_exact(SPEC).map(|spec| spec_of(spec, 1_000));
        let mut next = || real_virtual_prof.next().unwrap_or_default();
        // setitimer(2) counts in microseconds, and so do images.
        let micros = u64::try_from(since.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let itimers = [at_freeze(next(), Duration::from_micros(micros)), next(), next()];
        let posix = ids
            .iter()
            .zip(posix.chunks_exact(SPEC))
            .zip(&calls[self.overruns..])
            .map(|((setup, spec), overrun)| posix_timer(setup, spec_of(spec, 1), overrun, since))
            .collect();
        Ok((itimers, posix))
    }
}

/// The clock a timer was made with.
pub(crate) fn timer_clock(setup: &TimerSetup) -> Result<u32, Trouble> {
    match setup.clock {
        clock @ 0.. => Ok(clock.cast_unsigned()),
        // What CLOCK_PROCESS_CPUTIME_ID becomes inside the kernel: the clock of "this process".
        -6 => Ok(libc::CLOCK_PROCESS_CPUTIME_ID.cast_unsigned()),
        _ => Err(Trouble::new(
            format!("timer {}", setup.id),
            "it counts the CPU time of a thread or of another process",
        )),
    }
}

fn posix_timer(
    setup: &TimerSetup,
    left: IntervalTimer,
    overrun: &Call,
    since: Duration,
) -> Result<PosixTimer, Trouble> {
    let clock = timer_clock(setup)?;
    let counts_cpu = clock == libc::CLOCK_PROCESS_CPUTIME_ID.cast_unsigned();
    Ok(PosixTimer {
        id: setup.id,
        clock,
        signal: setup.signal,
        notify: setup.notify,
        value: setup.value,
        overrun: overrun.value().ok().and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        timer: if counts_cpu { left } else { at_freeze(left, since) },
        notify_thread: (setup.notify & SIGEV_THREAD_ID != 0).then_some(setup.target.unsigned_abs()),
    })
}

const SIGEV_THREAD_ID: u32 = 4; // asm-generic/siginfo.h

/// timerfd, from its fdinfo.
pub(super) fn timer_fd(info: &TimerInfo, since: Duration) -> TimerFd {
    let time = |(seconds, nanos): (u64, u64)| {
        Duration::new(seconds, u32::try_from(nanos).unwrap_or(0).min(999_999_999))
    };
    let timer = IntervalTimer { interval: time(info.interval), left: time(info.value) };
    TimerFd {
        clock: info.clock.unsigned_abs(),
        ticks: info.ticks,
        settime_flags: info.settime_flags,
        timer: at_freeze(timer, since),
    }
}

/// An armed timer had more left when the tree was stopped.
fn at_freeze(timer: IntervalTimer, since: Duration) -> IntervalTimer {
    if timer.left.is_zero() {
        return timer;
    }
    let left = timer.left + since;
    // A periodic one may have gone off meanwhile (its signal is pending then): a whole period was
    // the most it had left.
    if timer.left <= timer.interval {
        return IntervalTimer { left: left.min(timer.interval), ..timer };
    }
    IntervalTimer { left, ..timer }
}

/// Period and time left, in seconds and units of `unit` nanoseconds.
fn spec_of(bytes: &[u8], unit: u64) -> IntervalTimer {
    let time = |at| {
        let part = u32::try_from(long(bytes, at + 8).saturating_mul(unit)).unwrap_or(999_999_999);
        Duration::new(long(bytes, at), part.min(999_999_999))
    };
    IntervalTimer { interval: time(0), left: time(16) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_a_time_namespace_shift_the_clocks() {
        let text = "monotonic        1000         5\nboottime          -10  500000000\n";
        assert_eq!(parse_offsets(text), [1_000_000_000_005, -9_500_000_000]);
        assert_eq!(parse_offsets(""), [0, 0]);
        assert_eq!(shifted(Duration::from_secs(20), -9_500_000_000), Duration::from_millis(10_500));
        assert_eq!(shifted(Duration::from_secs(1), -9_500_000_000), Duration::ZERO);
    }

    #[test]
    fn what_is_left_counts_from_the_freeze() {
        let ms = Duration::from_millis;
        let timer = |interval, left| IntervalTimer { interval: ms(interval), left: ms(left) };
        let table = [
            ("disarmed", timer(0, 0), timer(0, 0)),
            ("once", timer(0, 90), timer(0, 93)),
            ("periodic", timer(100, 90), timer(100, 93)),
            ("went off meanwhile", timer(100, 99), timer(100, 100)),
            ("first one longer than the period", timer(10, 90), timer(10, 93)),
        ];
        for (name, now, then) in table {
            assert_eq!(at_freeze(now, ms(3)), then, "{name}");
        }
    }

    #[test]
    fn microseconds_and_nanoseconds_are_told_apart() {
        let mut bytes = [0; SPEC];
        bytes[0] = 2;
        bytes[8] = 7;
        bytes[24] = 9;
        let timer = spec_of(&bytes, 1000);
        assert_eq!(timer.interval, Duration::new(2, 7000));
        assert_eq!(timer.left, Duration::new(0, 9000));
        assert_eq!(spec_of(&bytes, 1).left, Duration::new(0, 9));
    }
}
