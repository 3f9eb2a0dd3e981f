//! Questions to this host's kernel about tasks and descriptors, each safe to ask.

use std::cmp::Ordering;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

pub use crate::proc::timer_list::{HrTimer, hrtimers};
pub use crate::sys::ioctl::{
    FileOwner, Termios, bytes_waiting, file_owner, file_owner_uids, file_signal, foreground_group,
    pipe_size, rewind_timer, set_file_owner, set_file_signal, set_foreground_group, set_next_watch,
    set_pipe_size, set_termios, set_timer_ticks, set_window_size, termios, window_size,
};
pub use crate::sys::sched::CpuSet;
pub use crate::sys::socket::Peeked;
use crate::{Error, HostPid, Result, sys};

/// pidfd_open(2), Linux 5.3; of a thread that is no main thread, Linux 6.9.
pub fn pidfd_open(pid: HostPid) -> Result<OwnedFd> {
    sys::process::pidfd_open(pid.0).map_err(Error::os("open", pid))
}

/// pidfd_getfd(2), Linux 5.6: a descriptor of our own on the very file the process has open as `fd`.
pub fn pidfd_getfd(pidfd: &OwnedFd, fd: i32) -> Result<OwnedFd> {
    sys::process::pidfd_getfd(pidfd.as_fd(), fd)
        .map_err(|errno| Error::Own { act: "fetch a descriptor of a process", errno })
}

/// Ends the process that a pidfd means; one that has ended stays so.
pub fn end(pidfd: BorrowedFd<'_>) {
    let _ = sys::process::pidfd_send_signal(pidfd, libc::SIGKILL);
}

/// The process a pidfd means, as this process numbers it; `None` once it has been reaped.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> Option<HostPid> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    (pid > 0).then_some(HostPid(pid))
}

/// kcmp(2) KCMP_FILE: do two descriptors show the same open file description? The order has no
/// meaning beyond being one, and lets descriptors be sorted.
pub fn same_file(a: (HostPid, i32), b: (HostPid, i32)) -> Result<Ordering> {
    const KCMP_FILE: i32 = 0;
    let (first, second) = (a.1.cast_unsigned(), b.1.cast_unsigned());
    let answer = sys::process::kcmp(a.0.0, b.0.0, KCMP_FILE, u64::from(first), u64::from(second));
    match answer.map_err(Error::os("compare files of", a.0))? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        _ => Ok(Ordering::Greater),
    }
}

/// open_by_handle_at(2), Linux 2.6.39: the file with a handle on the file system that `place` is on,
/// opened with O_PATH. Needs CAP_DAC_READ_SEARCH.
pub fn open_handle(place: BorrowedFd<'_>, kind: i32, handle: &[u8]) -> io::Result<OwnedFd> {
    sys::process::open_handle(place, kind, handle).map_err(io::Error::from)
}

/// Resources whole tasks may share (kcmp(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kcmp {
    /// Address space.
    Vm,
    /// Descriptor table.
    Files,
    /// Root, working directory, umask.
    Fs,
    /// Signal actions.
    Sighand,
}

/// Do two tasks share the resource?
pub fn same_object(a: HostPid, b: HostPid, kind: Kcmp) -> Result<bool> {
    // linux/kcmp.h.
    let kind = match kind {
        Kcmp::Vm => 1,
        Kcmp::Files => 2,
        Kcmp::Fs => 3,
        Kcmp::Sighand => 4,
    };
    let answer = sys::process::kcmp(a.0, b.0, kind, 0, 0);
    Ok(answer.map_err(Error::os("compare", a))? == 0)
}

/// kcmp(2) KCMP_EPOLL_TFD: is descriptor `fd` of `pid` the file its epoll descriptor `epoll` watches
/// under number `target`? `nth` counts files watched under one number (the number was reused).
/// `None`: `epoll` watches no such file.
pub fn epoll_target(
    pid: HostPid,
    epoll: i32,
    target: i32,
    nth: u32,
    fd: i32,
) -> Result<Option<bool>> {
    let [epoll, target, fd] = [epoll, target, fd].map(i32::cast_unsigned);
    match sys::process::kcmp_epoll(pid.0, fd, pid.0, epoll, target, nth) {
        Ok(answer) => Ok(Some(answer == 0)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(Error::os("compare files of", pid)(errno)),
    }
}

/// get_robust_list(2): head and length; `None` if the thread has none.
pub fn robust_list(tid: HostPid) -> Result<Option<(u64, u64)>> {
    let (head, len) =
        sys::process::robust_list(tid.0).map_err(Error::os("read the robust list of", tid))?;
    Ok((head != 0).then_some((head, len)))
}

/// All 16 limits as (soft, hard), by RLIMIT_* number; `u64::MAX` is infinity.
pub fn rlimits(pid: HostPid) -> Result<[(u64, u64); 16]> {
    crate::proc::limits::read(pid)
}

/// Sets one limit.
pub fn set_rlimit(pid: HostPid, resource: u32, soft: u64, hard: u64) -> Result<()> {
    sys::process::rlimit(pid.0, resource, Some((soft, hard)))
        .map(drop)
        .map_err(Error::os("set a limit of", pid))
}

/// Scheduling policy (SCHED_*, with SCHED_RESET_ON_FORK as the bit 0x40000000), static priority,
/// nice value of one thread.
pub fn sched(tid: HostPid) -> Result<(u32, u32, i32)> {
    let (policy, priority) =
        sys::sched::scheduler(tid.0).map_err(Error::os("read the scheduling of", tid))?;
    let nice = sys::sched::nice(tid.0).map_err(Error::os("read the scheduling of", tid))?;
    Ok((policy.cast_unsigned(), priority.cast_unsigned(), nice))
}

/// Sets what [`sched`] reads. SCHED_DEADLINE cannot be set this way.
pub fn set_sched(tid: HostPid, policy: u32, priority: u32, nice: i32) -> Result<()> {
    let set = Error::os("set the scheduling of", tid);
    sys::sched::set_scheduler(tid.0, policy.cast_signed(), priority.cast_signed())
        .and_then(|()| sys::sched::set_nice(tid.0, nice))
        .map_err(set)
}

/// The length of the turns of a thread of an ordinary class, in nanoseconds; `None` if there is no
/// such thing (before Linux 6.12, and in other classes).
pub fn slice(tid: HostPid) -> Option<u64> {
    let attributes = sys::sched::attributes(tid.0).ok()?;
    let ordinary = matches!(attributes.policy, 0 | 3);
    (ordinary && attributes.runtime != 0).then_some(attributes.runtime)
}

/// The cookie of a thread that shares cores with its like alone (PR_SCHED_CORE), if it has one.
pub fn core_cookie(tid: HostPid) -> Option<u64> {
    sys::sched::core_cookie(tid.0).ok().filter(|cookie| *cookie != 0)
}

/// Least and most use of a CPU, of 1024, if a thread has clamped it (sched_setattr(2)).
pub fn utilization_clamps(tid: HostPid) -> Option<(u32, u32)> {
    let attributes = sys::sched::attributes(tid.0).ok()?;
    // A kernel without clamps says zero twice.
    let unclamped = [(0, 0), (0, 1024)];
    let clamps = (attributes.least, attributes.most);
    (!unclamped.contains(&clamps)).then_some(clamps)
}

/// Sets what [`slice()`] reads, and nothing else.
pub fn set_slice(tid: HostPid, nanoseconds: u64) -> Result<()> {
    let set = Error::os("set the scheduling of", tid);
    sys::sched::attributes(tid.0)
        .and_then(|attributes| {
            let wanted = sys::sched::SchedAttr { runtime: nanoseconds, ..attributes };
            sys::sched::set_attributes(tid.0, wanted)
        })
        .map_err(set)
}

/// The CPUs a thread may run on.
pub fn affinity(tid: HostPid) -> Result<CpuSet> {
    sys::sched::affinity(tid.0).map_err(Error::os("read the CPU affinity of", tid))
}

/// Sets the CPUs a thread may run on.
pub fn set_affinity(tid: HostPid, set: &CpuSet) -> Result<()> {
    sys::sched::set_affinity(tid.0, set).map_err(Error::os("set the CPU affinity of", tid))
}

/// Where a thread may run again once this is restored. Dropping it restores too.
#[derive(Debug)]
#[must_use = "dropping it gives the thread its CPUs back at once"]
pub struct SavedAffinity {
    tid: HostPid,
    set: Option<CpuSet>,
}

impl SavedAffinity {
    /// Gives the thread its CPUs back.
    pub fn restore(mut self) -> Result<()> {
        self.set.take().map_or(Ok(()), |set| set_affinity(self.tid, &set))
    }
}

impl Drop for SavedAffinity {
    fn drop(&mut self) {
        if let Some(set) = self.set.take() {
            let _ = set_affinity(self.tid, &set);
        }
    }
}

/// Binds a thread to the CPU the caller is on. The caller should be bound itself
/// ([`stay_on_this_cpu`]), or they drift apart.
pub fn pin_to_my_cpu(tid: HostPid) -> Result<SavedAffinity> {
    let set = affinity(tid)?;
    set_affinity(tid, &CpuSet::only(sys::sched::current_cpu()))?;
    Ok(SavedAffinity { tid, set: Some(set) })
}

/// Binds the calling thread to the CPU it is on.
pub fn stay_on_this_cpu() -> Result<SavedAffinity> {
    pin_to_my_cpu(HostPid(sys::process::gettid()))
}

/// The calling thread goes before ordinary ones (SCHED_FIFO) as long as this lives.
///
/// For the short time a program is stopped: otherwise each wake-up of the tracer queues behind
/// whatever else keeps its CPU busy.
#[derive(Debug)]
#[must_use = "dropping it ends the urgency at once"]
pub struct Urgency {
    tid: HostPid,
    policy: u32,
    priority: u32,
    nice: i32,
}

impl Urgency {
    /// Raises the calling thread; needs CAP_SYS_NICE. Children made meanwhile begin as ordinary ones.
    pub fn raise() -> Result<Self> {
        const SCHED_RESET_ON_FORK: i32 = 0x4000_0000;
        let tid = HostPid(sys::process::gettid());
        let (policy, priority, nice) = sched(tid)?;
        sys::sched::set_scheduler(tid.0, libc::SCHED_FIFO | SCHED_RESET_ON_FORK, 1)
            .map_err(Error::os("set the scheduling of", tid))?;
        Ok(Self { tid, policy, priority, nice })
    }
}

/// The calling thread goes before most others (setpriority(2)) as long as this lives.
///
/// For those who wait for pages: on a busy host each would wait for its turn at both ends, and what
/// fills the rest would take the turns of others for a slow network.
#[derive(Debug)]
#[must_use = "dropping it ends the preference at once"]
pub struct Preference {
    tid: HostPid,
    nice: i32,
}

impl Preference {
    /// As nice as it becomes: two in three turns beside seven others.
    const NICE: i32 = -10;

    /// Raises the calling thread; needs CAP_SYS_NICE.
    pub fn take() -> Result<Self> {
        let tid = HostPid(sys::process::gettid());
        let nice = sys::sched::nice(tid.0).map_err(Error::os("read the scheduling of", tid))?;
        prefer(tid)?;
        Ok(Self { tid, nice })
    }
}

/// The same for a task until [`set_sched`] says what it shall be; its children inherit it.
pub fn prefer(tid: HostPid) -> Result<()> {
    let set = || Error::os("set the scheduling of", tid);
    let nice = sys::sched::nice(tid.0).map_err(set())?;
    sys::sched::set_nice(tid.0, nice.min(Preference::NICE)).map_err(set())
}

impl Drop for Preference {
    fn drop(&mut self) {
        let _ = sys::sched::set_nice(self.tid.0, self.nice);
    }
}

impl Drop for Urgency {
    fn drop(&mut self) {
        let _ = set_sched(self.tid, self.policy, self.priority, self.nice);
    }
}

/// getsockopt(2): the option's bytes, at most `max`.
pub fn getsockopt(fd: BorrowedFd<'_>, level: i32, option: i32, max: usize) -> io::Result<Vec<u8>> {
    sys::socket::get(fd, level, option, max)
}

/// getsockopt(2) of an option that is also a question: `value` holds it, and then the answer.
pub fn ask_socket(fd: BorrowedFd<'_>, level: i32, option: i32, value: &mut [u8]) -> io::Result<()> {
    sys::socket::ask(fd, level, option, value)
}

/// socket(2) by the numbers of its family, type and protocol; it is not inherited by programs.
pub fn new_socket(kind: [i32; 3]) -> io::Result<OwnedFd> {
    sys::socket::new(kind)
}

/// What waits first in a socket, without waiting and without taking it: at most `into` of it, and
/// copies of the files that come along, which are then open in qmig too.
pub fn peek(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Peeked> {
    sys::socket::peek(fd, into)
}

/// setsockopt(2).
pub fn setsockopt(fd: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    sys::socket::set(fd, level, option, value)
}

/// The program of classic BPF that looks at what comes to a socket (SO_ATTACH_FILTER, socket(7)), eight
/// bytes an instruction; none, no program. EACCES: a program of extended BPF.
pub fn socket_filter(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    sys::socket::filter(fd)
}

/// Gives a socket such a program.
pub fn attach_filter(fd: BorrowedFd<'_>, program: &[u8]) -> io::Result<()> {
    sys::socket::attach_filter(fd, program)
}

/// Binds a packet(7) socket to a protocol, in network order, and an interface, or all (zero).
pub fn bind_packets(fd: BorrowedFd<'_>, protocol: u16, device: u32) -> io::Result<()> {
    sys::socket::bind_packets(fd, protocol, device)
}

/// clock_gettime(2); times before the clock's zero read as zero.
pub fn sys_clock(id: i32) -> Result<Duration> {
    let (seconds, nanos) =
        sys::process::clock(id).map_err(|errno| Error::Own { act: "read a clock", errno })?;
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Ok(Duration::new(seconds, u32::try_from(nanos).unwrap_or(0)))
}

/// A signal to a whole process (kill(2)).
pub fn kill(pid: HostPid, signal: i32) -> Result<()> {
    sys::process::kill(pid.0, signal).map_err(Error::os("signal", pid))
}

/// The UDP socket that qmig inherited as descriptor `number` (systemd.socket(5), or whoever bound
/// it for us). It is duplicated; the inherited number stays, but is not inherited any further.
pub fn inherited_udp_socket(number: i32) -> io::Result<std::net::UdpSocket> {
    let own = pidfd_open(HostPid(nix::unistd::getpid().as_raw())).map_err(io::Error::other)?;
    let socket = pidfd_getfd(&own, number).map_err(io::Error::other)?;
    let kind = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::SockType)?;
    if kind != nix::sys::socket::SockType::Datagram {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no datagram socket"));
    }
    sys::process::close_on_exec(number)?;
    Ok(socket.into())
}
