//! How much of a timed wait was left.
//!
//! A thread stopped inside nanosleep(2), poll(2) or a futex(2) wait with a relative timeout is made
//! to wait again on the destination. Its registers hold the *whole* timeout, and no interface tells
//! how much of it had passed: the kernel keeps the end of the wait in a restart block that nobody
//! can read, and the timer itself is gone once the thread is stopped. So the driver looks while the
//! thread still sleeps, immediately before the freeze ([`Clockwork::sample`]):
//!
//! - /proc/timer_list has the exact ends of all sleeps of the machine, but not whose they are;
//! - `se.exec_start` of /proc/TID/sched tells when the thread went to sleep, on a clock of its CPU
//!   that lags behind CLOCK_MONOTONIC by the time the hypervisor took from that CPU.
//!
//! By how much that clock lags is measured when all threads have been seen: the guess is late, never early.
//! A timer whose end minus the thread's timeout falls where the thread went to sleep is its timer,
//! and the end is then exact to the nanosecond. Where the kernel itself wrote the rest into the
//! program's memory (nanosleep with a second argument) no guess is made.

use std::collections::HashMap;
use std::time::Duration;

use nix::libc;
use pages::VirtAddr;
use tracee::host::{hrtimers, sys_clock};
use tracee::proc::stat::Stat;
use tracee::proc::syscall::{self, Doing};
use tracee::{HostPid, Memory};

use super::advised::Advised;
use super::interrupted::Waits;
use super::lags::{self, Lags};
use crate::survey::tree;

/// What was seen before a freeze that cannot be seen, or only slowly, after it: sleeping threads,
/// armed timers, and flags of mappings.
#[derive(Debug, Default)]
pub struct Clockwork {
    sleepers: HashMap<i32, Sleeper>,
    /// Ends of sleeps on CLOCK_MONOTONIC, in nanoseconds, ascending.
    ends: Vec<u64>,
    /// When `ends` was read, on CLOCK_MONOTONIC.
    taken: Duration,
    /// Mappings of large processes, which take long to read.
    pub(super) advised: Advised,
    /// The waits that an earlier stop of ours has interrupted.
    interrupted: Waits,
}

/// A thread seen asleep in a call that may have a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sleeper {
    call: u64,
    args: [u64; 6],
    /// Voluntary context switches so far.
    switches: u64,
    began: Began,
}

/// When a thread went to sleep, in nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Began {
    /// If no time was stolen from its CPU since: the best guess.
    pub(crate) likely: u64,
    /// If all time ever stolen from its CPU was stolen since.
    pub(crate) earliest: u64,
}

impl Clockwork {
    /// Looks at every thread of the tree under `root`. To be called right before the freeze: what
    /// falls asleep between the two waits its whole time again (late, never early).
    ///
    /// Nothing here can fail a migration: what cannot be read is not known.
    pub fn sample(root: HostPid) -> Self {
        Self::sample_beside(root, None)
    }

    /// The same, if the flags of mappings have been read already.
    pub(crate) fn sample_beside(root: HostPid, advised: Option<Advised>) -> Self {
        let processes = tree::processes(root);
        // First: it takes longest, and sleeps want to be seen last.
        let advised = advised.unwrap_or_else(|| Advised::sample(&processes));
        let threads = tree::threads(&processes).into_iter();
        let seen: Vec<_> = threads.filter_map(|tid| Some((tid, Asleep::look(tid)?))).collect();
        if seen.is_empty() {
            return Self { advised, ..Self::default() };
        }
        // After the sleepers: what is stolen from a CPU before one of them falls asleep must count.
        let mut lags = Lags::default();
        let sleepers = seen.into_iter().filter_map(|(tid, seen)| {
            let lag = lags.of(seen.cpu)?;
            Some((tid.0, Sleeper::of(&seen, lag)))
        });
        let sleepers = sleepers.collect();
        // After the sleepers: a timer must be seen for each of them that sleeps on.
        let timers = hrtimers().unwrap_or_default();
        let mut ends: Vec<u64> = timers
            .iter()
            .filter(|timer| timer.function == "hrtimer_wakeup" && MONOTONIC.contains(&timer.base))
            .map(|timer| timer.expires_soft_ns)
            .collect();
        ends.sort_unstable();
        let taken = sys_clock(libc::CLOCK_MONOTONIC).unwrap_or_default();
        Self { sleepers, ends, taken, advised, interrupted: Waits::default() }
    }

    /// Of a tree that was stopped before, in these waits, and whose writes we watch since
    /// ([`tracee::dirty`]).
    #[must_use]
    pub fn again(mut self, waits: &Waits) -> Self {
        self.advised.watched = true;
        self.interrupted = waits.clone();
        self
    }

    /// Which wait a thread goes on with that an earlier stop of ours has interrupted, and what is
    /// left of it.
    pub(crate) fn going_on(
        &self,
        tid: HostPid,
        args: &[u64; 6],
        switches: u64,
        frozen: Duration,
    ) -> Option<(u64, Option<Duration>)> {
        self.interrupted.going_on(tid, args, switches, frozen)
    }

    /// How much of the wait in `wait` was left at `frozen`, if that can be told.
    ///
    /// `switches` is the thread's count of voluntary context switches after the freeze, before
    /// anything was run in it.
    pub(crate) fn left(
        &self,
        tid: HostPid,
        wait: &Wait,
        switches: u64,
        frozen: Duration,
    ) -> Option<Duration> {
        let seen = self.sleepers.get(&tid.0).filter(|seen| {
            let same_call = seen.call == wait.call || seen.call == RESTART_SYSCALL;
            // Going from sleep to the ptrace stop is one switch; more of them are another wait.
            same_call && seen.args[..4] == wait.args[..4] && switches <= seen.switches + 1
        });
        match (wait.rest, seen) {
            (Rest::Written(rest), Some(_)) => Some(written(&self.ends, rest, self.taken, frozen)),
            (Rest::Written(rest), None) => Some(rest),
            (Rest::Of(whole), Some(seen)) => {
                let began = match seen.call {
                    // It went on with a wait it had begun at any time before.
                    RESTART_SYSCALL => Began { earliest: 0, ..seen.began },
                    _ => seen.began,
                };
                let again = seen.call == RESTART_SYSCALL;
                rest(&self.ends, whole, began, again, (self.taken, frozen))
            }
            (Rest::Of(_), None) => None,
        }
    }
}

/// A timed wait a thread was stopped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// The system call.
    pub(crate) call: u64,
    args: [u64; 6],
    rest: Rest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// The kernel wrote what was left into the program's memory when it was interrupted.
    Written(Duration),
    /// Only the whole is known.
    Of(Duration),
}

impl Wait {
    /// Reads the timeout of a call that ended with ERESTART_RESTARTBLOCK; `None` if it has none,
    /// or an absolute one, which needs no care.
    pub(crate) fn read(memory: &Memory, call: u64, args: [u64; 6]) -> Option<Self> {
        let rest = match call {
            NANOSLEEP => sleep(memory, args[0], args[1])?,
            CLOCK_NANOSLEEP if args[1] & TIMER_ABSTIME == 0 => sleep(memory, args[2], args[3])?,
            // The timeout is an int; negative is for ever.
            POLL => match super::low(args[2]) {
                milliseconds if milliseconds >> 31 == 0 => {
                    Rest::Of(Duration::from_millis(u64::from(milliseconds)))
                }
                _ => return None,
            },
            FUTEX if args[1] & FUTEX_COMMAND == FUTEX_WAIT && args[3] != 0 => {
                Rest::Of(timespec(memory, args[3])?)
            }
            _ => return None,
        };
        Some(Self { call, args, rest })
    }
}

/// nanosleep(2) writes the rest to `left` before it returns to be restarted.
fn sleep(memory: &Memory, whole: u64, left: u64) -> Option<Rest> {
    match left {
        0 => timespec(memory, whole).map(Rest::Of),
        left => timespec(memory, left).map(Rest::Written),
    }
}

fn timespec(memory: &Memory, at: u64) -> Option<Duration> {
    let mut bytes = [0; 16];
    memory.read(VirtAddr(at), &mut bytes).ok()?;
    let [seconds, nanos] = [&bytes[..8], &bytes[8..]]
        .map(|half| u64::from_le_bytes(half.try_into().expect("half of 16 bytes")));
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    (seconds >> 63 == 0).then(|| Duration::new(seconds, nanos))
}

/// Which call restart_syscall(2) stands for: the number was overwritten at an earlier interruption,
/// but compilers and C libraries load it (`b8 imm32`) right before the `syscall` instruction.
pub(crate) fn call_before_restart(memory: &Memory, after_syscall: u64) -> Option<u64> {
    let mut code = [0; 7];
    memory.read(VirtAddr(after_syscall.checked_sub(7)?), &mut code).ok()?;
    loaded_number(code)
}

fn loaded_number(code: [u8; 7]) -> Option<u64> {
    let [0xb8, n0, n1, n2, n3, 0x0f, 0x05] = code else { return None };
    let number = u64::from(u32::from_le_bytes([n0, n1, n2, n3]));
    [NANOSLEEP, CLOCK_NANOSLEEP, POLL, FUTEX].contains(&number).then_some(number)
}

/// What is left at `frozen` of a wait of `whole` that began about `began`, given the ends of all
/// sleeps, ascending.
///
/// The thread's own timer is the one whose beginning (end − whole) lies in the window between the
/// earliest and the likely beginning; of several the nearest to the likely one. Without any, the
/// likely beginning must do. Of a wait that goes on after an interruption (`again`) only the latest
/// possible beginning is known, so the last timer of the window is taken: late perhaps, never early.
///
/// The timers were read at `taken`, and the wait was interrupted after that: it cannot have ended before,
/// whatever fits. `None` if nothing else fits.
pub(crate) fn rest(
    ends: &[u64],
    whole: Duration,
    began: Began,
    again: bool,
    (taken, frozen): (Duration, Duration),
) -> Option<Duration> {
    let (whole, taken, frozen) = (nanos(whole), nanos(taken), nanos(frozen));
    let likely = began.likely.saturating_add(whole);
    let first = began.earliest.saturating_add(whole).saturating_sub(SLACK_NS);
    let last = likely.saturating_add(SLACK_NS);
    let from = ends.partition_point(|end| *end < first.max(if again { frozen } else { taken }));
    let to = ends.partition_point(|end| *end <= last).max(from);
    let fitting = &ends[from..to];
    let end = if again {
        fitting.last().copied()
    } else {
        fitting.iter().copied().min_by_key(|end| end.abs_diff(likely))
    };
    let end = end.unwrap_or(likely);
    (end >= taken).then(|| Duration::from_nanos(end.saturating_sub(frozen).min(whole)))
}

/// Clock bases of /proc/timer_list that count CLOCK_MONOTONIC.
const MONOTONIC: [u32; 2] = [0, 4];

/// What is left at `frozen` if `rest` was left when the thread was interrupted, at a moment between
/// `taken` and `frozen`: the last sleep that fits ends it; late perhaps, never early.
fn written(ends: &[u64], rest: Duration, taken: Duration, frozen: Duration) -> Duration {
    let (first, last) = (nanos(taken + rest), nanos(frozen + rest));
    let after = ends.partition_point(|end| *end <= last);
    let end = ends[..after].last().filter(|end| **end >= first);
    end.map_or(rest, |end| Duration::from_nanos(end.saturating_sub(nanos(frozen))))
}

/// A timer is set a little before the thread leaves the CPU, and clocks are read one after another.
const SLACK_NS: u64 = 2_000_000;

pub(super) const NANOSLEEP: u64 = libc::SYS_nanosleep as u64;
pub(super) const CLOCK_NANOSLEEP: u64 = libc::SYS_clock_nanosleep as u64;
pub(super) const POLL: u64 = libc::SYS_poll as u64;
pub(super) const FUTEX: u64 = libc::SYS_futex as u64;
pub(crate) const RESTART_SYSCALL: u64 = libc::SYS_restart_syscall as u64;
const TIMER_ABSTIME: u64 = 1;
const FUTEX_COMMAND: u64 = 0x7f;
const FUTEX_WAIT: u64 = 0;

/// What is told of a sleeping thread.
struct Asleep {
    call: u64,
    args: [u64; 6],
    /// When it went to sleep, on the clock of its CPU.
    start: u64,
    switches: u64,
    cpu: usize,
}

impl Asleep {
    fn look(tid: HostPid) -> Option<Self> {
        let Doing::Call { nr, args, .. } = syscall::read(tid, tid).ok()? else { return None };
        let call = nr.cast_unsigned();
        if ![NANOSLEEP, CLOCK_NANOSLEEP, POLL, FUTEX, RESTART_SYSCALL].contains(&call) {
            return None;
        }
        let (start, switches) = lags::of_thread(tid)?;
        let cpu = usize::try_from(Stat::read(tid).ok()?.processor).ok()?;
        Some(Self { call, args, start, switches, cpu })
    }
}

impl Sleeper {
    fn of(seen: &Asleep, lag: u64) -> Self {
        let likely = seen.start.saturating_add(lag);
        let began = Began { likely, earliest: seen.start.min(likely) };
        Self { call: seen.call, args: seen.args, switches: seen.switches, began }
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A sleep of 400 ms that began at 10 s and was frozen at 10.150 s.
    #[test]
    fn the_timer_that_fits_the_thread_gives_the_rest() {
        struct Case {
            name: &'static str,
            ends: &'static [u64],
            likely: u64,
            earliest: u64,
            again: bool,
            left_ms: Option<u64>,
        }
        let cases = [
            Case {
                name: "exact end, guess 1 ms late",
                ends: &[9_000 * MS, 10_400 * MS, 12_000 * MS],
                likely: 10_001 * MS,
                earliest: 10_001 * MS,
                again: false,
                left_ms: Some(250),
            },
            Case {
                name: "clock lagged 60 ms since, still the only timer in the window",
                ends: &[10_390 * MS - 100 * MS, 10_400 * MS],
                likely: 10_060 * MS,
                earliest: 9_950 * MS,
                again: false,
                left_ms: Some(250),
            },
            Case {
                name: "several fit: the nearest to the guess",
                ends: &[10_380 * MS, 10_400 * MS, 10_401 * MS + MS / 2],
                likely: 10_000 * MS + MS / 10,
                earliest: 9_980 * MS,
                again: false,
                left_ms: Some(250),
            },
            Case {
                name: "none fits: the guess itself",
                ends: &[10_300 * MS, 10_500 * MS],
                likely: 10_000 * MS,
                earliest: 10_000 * MS,
                again: false,
                left_ms: Some(250),
            },
            Case {
                name: "no timers at all",
                ends: &[],
                likely: 10_040 * MS,
                earliest: 10_000 * MS,
                again: false,
                left_ms: Some(290),
            },
            Case {
                name: "goes on after an interruption: the last that can be, not the nearest",
                ends: &[10_140 * MS, 10_200 * MS, 10_400 * MS, 10_600 * MS],
                likely: 10_100 * MS,
                earliest: 0,
                again: true,
                left_ms: Some(250),
            },
            Case {
                name: "never more than the whole",
                ends: &[],
                likely: 11_000 * MS,
                earliest: 10_000 * MS,
                again: false,
                left_ms: Some(400),
            },
            Case {
                name: "over: nothing left",
                ends: &[10_145 * MS],
                likely: 9_750 * MS,
                earliest: 9_740 * MS,
                again: false,
                left_ms: Some(0),
            },
            Case {
                name: "what was over before the timers were read is another's",
                ends: &[10_130 * MS, 10_143 * MS],
                likely: 9_735 * MS,
                earliest: 9_700 * MS,
                again: false,
                left_ms: None,
            },
            Case {
                name: "the guess is another's too",
                ends: &[],
                likely: 9_000 * MS,
                earliest: 9_000 * MS,
                again: false,
                left_ms: None,
            },
        ];
        for case in cases {
            let began = Began { likely: case.likely, earliest: case.earliest };
            let whole = Duration::from_millis(400);
            let times = (Duration::from_millis(10_140), Duration::from_millis(10_150));
            let left = rest(case.ends, whole, began, case.again, times);
            assert_eq!(left, case.left_ms.map(Duration::from_millis), "{}", case.name);
        }
    }

    #[test]
    fn another_wait_than_the_one_seen_is_not_guessed() {
        let args = [0x1000, 1, 400, 0, 0, 0];
        let began = Began { likely: 10_000 * MS, earliest: 10_000 * MS };
        let sleeper = Sleeper { call: POLL, args, switches: 5, began };
        let clockwork = Clockwork {
            sleepers: HashMap::from([(7, sleeper)]),
            ends: vec![10_400 * MS],
            ..Clockwork::default()
        };
        let frozen = Duration::from_millis(10_150);
        let wait = Wait { call: POLL, args, rest: Rest::Of(Duration::from_millis(400)) };
        let left = |tid, wait, switches| clockwork.left(HostPid(tid), &wait, switches, frozen);
        assert_eq!(left(7, wait, 6), Some(Duration::from_millis(250)));
        assert_eq!(left(7, wait, 7), None, "it slept again in between");
        assert_eq!(left(8, wait, 6), None, "never seen");
        assert_eq!(left(7, Wait { args: [1; 6], ..wait }, 6), None, "another call");
        let written = Wait { rest: Rest::Written(Duration::from_millis(3)), ..wait };
        assert_eq!(left(8, written, 9), Some(Duration::from_millis(3)));
    }

    #[test]
    fn a_rest_the_kernel_wrote_is_counted_from_the_interruption() {
        let ms = Duration::from_millis;
        // Interrupted at some moment from 10.000 to 10.010 s, with 90 ms left then.
        let left = |ends: &[u64]| written(ends, ms(90), ms(10_000), ms(10_010));
        assert_eq!(left(&[10_050 * MS, 10_093 * MS, 10_200 * MS]), ms(83), "so it was at 10.003");
        assert_eq!(left(&[10_093 * MS, 10_098 * MS]), ms(88), "either: the later");
        assert_eq!(left(&[10_050 * MS, 10_200 * MS]), ms(90), "none fits");
        assert_eq!(left(&[]), ms(90));
    }

    #[test]
    fn the_number_is_read_from_the_code_that_loads_it() {
        assert_eq!(loaded_number([0xb8, 0xe6, 0, 0, 0, 0x0f, 0x05]), Some(CLOCK_NANOSLEEP));
        assert_eq!(loaded_number([0xb8, 0x01, 0, 0, 0, 0x0f, 0x05]), None, "write never restarts");
        assert_eq!(loaded_number([0x90, 0xe6, 0, 0, 0, 0x0f, 0x05]), None);
    }
}
