//! Counters, timers, signals and watches as descriptors.

use std::collections::HashMap;
use std::io::Error as IoError;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use image::state::{
    EpollTarget, FdTable, FdTableId, File, FileId, FileKind, TimerFd as TimerState,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use nix::time::clock_gettime;
use tracee::HostPid;

use super::process::{Batch, Process};
use crate::error::{BadCheckpoint, During, Result, errno_of};

/// eventfd(2) with its counter.
pub(crate) fn event_fd(counter: u64, semaphore: bool, flags: OFlag) -> nix::Result<OwnedFd> {
    let mut how = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    how.set(EfdFlags::EFD_SEMAPHORE, semaphore);
    let made = EventFd::from_value_and_flags(0, how)?;
    if counter > 0 {
        made.write(counter)?;
    }
    let made = OwnedFd::from(made);
    settle(&made, flags)?;
    Ok(made)
}

/// signalfd(2): `maker` makes it, because the mask must not be cut to the signals nix has names for.
pub(crate) fn signal_fd(maker: &mut Process, mask: u64, flags: OFlag) -> Result<OwnedFd> {
    let at = maker.put(&mask.to_le_bytes())?;
    let how = (flags & OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits().cast_unsigned();
    let args = [u64::MAX, at, 8, u64::from(how)];
    let number = maker.call("make a signal descriptor", libc::SYS_signalfd4, &args)?;
    let taken = tracee::host::pidfd_open(maker.host).and_then(|pidfd| {
        let number = i32::try_from(number).unwrap_or(-1);
        tracee::host::pidfd_getfd(&pidfd, number)
    });
    maker.call("close its signal descriptor", libc::SYS_close, &[number])?;
    Ok(taken?)
}

/// pidfd_open(2) on the process that is now what it was.
pub(crate) fn pid_fd(host: HostPid, flags: OFlag) -> Result<OwnedFd> {
    let made = tracee::host::pidfd_open(host)?;
    settle(&made, flags & OFlag::O_NONBLOCK).during("set the flags of a pidfd")?;
    Ok(made)
}

fn settle(fd: &OwnedFd, flags: OFlag) -> nix::Result<()> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(flags)).map(drop)
}

/// The timers among the descriptors. They are armed at the very end.
#[derive(Default)]
pub(crate) struct Clockwork {
    timers: Vec<(TimerFd, TimerState)>,
}

impl Clockwork {
    pub(crate) fn timer_fd(&mut self, state: &TimerState, flags: OFlag) -> nix::Result<OwnedFd> {
        const CLOCKS: [ClockId; 5] = [
            ClockId::CLOCK_REALTIME,
            ClockId::CLOCK_MONOTONIC,
            ClockId::CLOCK_BOOTTIME,
            ClockId::CLOCK_REALTIME_ALARM,
            ClockId::CLOCK_BOOTTIME_ALARM,
        ];
        let clock = CLOCKS.into_iter().find(|clock| *clock as u32 == state.clock);
        let clock = clock.ok_or(Errno::EINVAL)?;
        let mut how = TimerFlags::TFD_CLOEXEC;
        how.set(TimerFlags::TFD_NONBLOCK, flags.contains(OFlag::O_NONBLOCK));
        let timer = TimerFd::new(clock, how)?;
        let copy = timer.as_fd().try_clone_to_owned().map_err(|error| errno_of(&error))?;
        self.timers.push((timer, *state));
        Ok(copy)
    }

    /// Winds every timer up, with the expirations nobody has read yet.
    pub(crate) fn arm(&self) -> Result<()> {
        for (timer, state) in &self.timers {
            if let Some(left) = left(state) {
                let flags =
                    TimerSetTimeFlags::from_bits_truncate(state.settime_flags.cast_signed());
                let absolute = flags.contains(TimerSetTimeFlags::TFD_TIMER_ABSTIME);
                let first = if absolute { after(state.clock, left) } else { Ok(left) };
                let first = TimeSpec::from(first.during("read a clock")?);
                let expiration = match state.timer.interval {
                    Duration::ZERO => Expiration::OneShot(first),
                    interval => Expiration::IntervalDelayed(first, interval.into()),
                };
                timer.set(expiration, flags).during("arm a timer descriptor")?;
            }
            if state.ticks > 0 {
                tracee::host::set_timer_ticks(timer.as_fd(), state.ticks)
                    .map_err(|error: IoError| errno_of(&error))
                    .during("set the ticks of a timer descriptor")?;
            }
        }
        Ok(())
    }

    pub(crate) fn close_all(&mut self) {
        self.timers.clear();
    }
}

/// What is left until a timer goes off; `None` if it is not going to.
///
/// A periodic timer that has gone off is wound up again only when somebody reads it: until then
/// nothing is left of it, and there are ticks. (Without ticks it was never wound up.)
fn left(state: &TimerState) -> Option<Duration> {
    let left = match state.ticks {
        0 => state.timer.left,
        _ if state.timer.left.is_zero() => state.timer.interval,
        _ => state.timer.left,
    };
    (!left.is_zero()).then_some(left)
}

/// The time on `clock`, `left` from now.
fn after(clock: u32, left: Duration) -> nix::Result<Duration> {
    let now = clock_gettime(nix::time::ClockId::from_raw(clock.cast_signed()))?;
    Ok(Duration::from(now) + left)
}

/// Makes the epoll instances watch what they watched: each watch is set by a process in whose table
/// both the instance and its target are, because the kernel remembers the target's number there.
pub(crate) fn watch_all(
    files: &[File],
    tables: &HashMap<FdTableId, &FdTable>,
    holders: &[(FdTableId, u32)],
    processes: &mut HashMap<u32, Process>,
) -> Result<()> {
    for file in files {
        let FileKind::Epoll { targets } = &file.kind else { continue };
        let mut by_holder: HashMap<u32, Vec<(u32, &EpollTarget)>> = HashMap::new();
        for target in targets {
            let found = holders.iter().find_map(|(table, holder)| {
                let fds = &tables.get(table)?.fds;
                let watcher = fds.iter().find(|fd| fd.file == file.id)?;
                fds.iter().any(|fd| fd.number == target.fd).then_some((*holder, watcher.number))
            });
            match found {
                Some((holder, watcher)) => {
                    by_holder.entry(holder).or_default().push((watcher, target));
                }
                None if holds(tables, file.id) => {
                    return Err(BadCheckpoint::EpollTarget { file: file.id, fd: target.fd }.into());
                }
                None => {}
            }
        }
        for (holder, targets) in by_holder {
            if let Some(process) = processes.get_mut(&holder) {
                watch(process, &targets)?;
            }
        }
    }
    Ok(())
}

fn holds(tables: &HashMap<FdTableId, &FdTable>, file: FileId) -> bool {
    tables.values().any(|table| table.fds.iter().any(|fd| fd.file == file))
}

/// `struct epoll_event` is packed: 12 bytes.
fn watch(process: &mut Process, targets: &[(u32, &EpollTarget)]) -> Result<()> {
    const MOST: usize = 4096;
    for part in targets.chunks(MOST) {
        let mut batch = Batch::default();
        for (watcher, target) in part {
            let mut event = target.events.to_le_bytes().to_vec();
            event.extend(target.data.to_le_bytes());
            let at = process.put(&event)?;
            let add = libc::EPOLL_CTL_ADD.cast_unsigned();
            let args = [u64::from(*watcher), u64::from(add), u64::from(target.fd), at];
            batch.must("watch a descriptor", libc::SYS_epoll_ctl, &args);
        }
        process.run(0, batch)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use image::state::IntervalTimer;
    use nix::unistd::read;

    use super::*;

    #[test]
    fn counters_count_on() {
        let plain = event_fd(7, false, OFlag::O_RDWR | OFlag::O_NONBLOCK).expect("a counter");
        let mut value = [0; 8];
        assert_eq!(read(&plain, &mut value), Ok(8));
        assert_eq!(u64::from_le_bytes(value), 7);
        let one_by_one = event_fd(2, true, OFlag::O_RDWR | OFlag::O_NONBLOCK).expect("a counter");
        for expected in [Ok(8), Ok(8), Err(Errno::EAGAIN)] {
            assert_eq!(read(&one_by_one, &mut value), expected);
        }
        assert!(event_fd(u64::MAX, false, OFlag::O_RDWR).is_err());
    }

    #[test]
    fn timers_keep_rest_interval_and_ticks() {
        let state = TimerState {
            clock: 1,
            ticks: 3,
            settime_flags: 1,
            timer: IntervalTimer {
                interval: Duration::from_secs(5),
                left: Duration::from_secs(100),
            },
        };
        let mut clockwork = Clockwork::default();
        let fd = clockwork.timer_fd(&state, OFlag::O_RDWR | OFlag::O_NONBLOCK).expect("a timer");
        clockwork.arm().expect("armed");
        let info = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{info}")).expect("fdinfo");
        for line in ["clockid: 1", "ticks: 3", "settime flags: 01", "it_interval: (5, 0)"] {
            assert!(info.contains(line), "{line} in {info}");
        }
        assert!(info.contains("it_value: (99, 9") || info.contains("it_value: (100, 0"), "{info}");
        let seconds = Duration::from_secs;
        let timer =
            |interval, left| IntervalTimer { interval: seconds(interval), left: seconds(left) };
        for (ticks, timer, expected) in [
            (1, timer(5, 0), Some(seconds(5))),
            (0, timer(5, 0), None),
            (1, timer(0, 0), None),
            (1, timer(5, 2), Some(seconds(2))),
        ] {
            assert_eq!(left(&TimerState { ticks, timer, ..state }), expected, "{timer:?}");
        }
        let mut ticks = [0; 8];
        assert_eq!(read(&fd, &mut ticks), Ok(8));
        assert_eq!(u64::from_le_bytes(ticks), 3);
    }
}
