//! Scheduling class, niceness and CPU affinity.

use nix::errno::Errno;

/// Words of a CPU mask: room for 8192 CPUs, the most Linux can be built for.
const WORDS: usize = 128;

/// A set of CPUs, in the words sched_setaffinity(2) takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuSet(pub(crate) Box<[u64; WORDS]>);

impl CpuSet {
    /// Only this CPU.
    pub fn only(cpu: usize) -> Self {
        let mut set = Self(Box::new([0; WORDS]));
        if let Some(word) = set.0.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
        }
        set
    }

    /// These CPUs; numbers beyond what Linux can be built for are left out.
    pub fn of(cpus: impl IntoIterator<Item = u32>) -> Self {
        let mut set = Self(Box::new([0; WORDS]));
        for cpu in cpus {
            if let Some(word) = set.0.get_mut(cpu as usize / 64) {
                *word |= 1 << (cpu % 64);
            }
        }
        set
    }

    /// The CPUs in the set, ascending.
    pub fn cpus(&self) -> Vec<u32> {
        (0..u32::try_from(64 * WORDS).unwrap_or(0))
            .filter(|cpu| self.contains(*cpu as usize))
            .collect()
    }

    /// True if `cpu` is in the set.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.get(cpu / 64).is_some_and(|word| word & (1 << (cpu % 64)) != 0)
    }

    /// How many CPUs are in the set.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// sched_getaffinity(2).
pub(crate) fn affinity(tid: i32) -> nix::Result<CpuSet> {
    let mut set = CpuSet(Box::new([0; WORDS]));
    // SAFETY: the kernel writes at most the size given. The raw call, because the library's wrapper
    // is only about clearing the rest, which is zero already.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            tid,
            size_of::<[u64; WORDS]>(),
            set.0.as_mut_ptr(),
        )
    })?;
    Ok(set)
}

/// sched_setaffinity(2).
pub(crate) fn set_affinity(tid: i32, set: &CpuSet) -> nix::Result<()> {
    // SAFETY: the kernel reads the size given.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, tid, size_of::<[u64; WORDS]>(), set.0.as_ptr())
    })
    .map(drop)
}

/// The CPU the calling thread is on at this moment.
pub(crate) fn current_cpu() -> usize {
    // SAFETY: no arguments.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// sched_getscheduler(2), sched_getparam(2): policy and static priority.
pub(crate) fn scheduler(tid: i32) -> nix::Result<(i32, i32)> {
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` is live and the only memory written.
    unsafe {
        let policy = Errno::result(libc::sched_getscheduler(tid))?;
        Errno::result(libc::sched_getparam(tid, &raw mut param))?;
        Ok((policy, param.sched_priority))
    }
}

/// `struct sched_attr`, linux/sched/types.h, as of Linux 3.14.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SchedAttr {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
    /// Since Linux 5.3.
    pub(crate) least: u32,
    pub(crate) most: u32,
}

const _: () = assert!(size_of::<SchedAttr>() == 56);

/// The cookie of a thread whose siblings on a core must have the same, PR_SCHED_CORE_GET (prctl(2),
/// Linux 5.14); zero without one.
pub(crate) fn core_cookie(tid: i32) -> nix::Result<u64> {
    const PR_SCHED_CORE: i32 = 62;
    let mut cookie = 0_u64;
    // SAFETY: `cookie` is live and the only memory written. PR_SCHED_CORE_GET and PIDTYPE_PID are 0.
    Errno::result(unsafe { libc::prctl(PR_SCHED_CORE, 0_u64, tid, 0_u64, &raw mut cookie) })?;
    Ok(cookie)
}

/// sched_getattr(2).
pub(crate) fn attributes(tid: i32) -> nix::Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    // SAFETY: `attr` is live, of the size announced, and any bits are valid in it.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size, 0) })?;
    Ok(attr)
}

/// sched_setattr(2).
pub(crate) fn set_attributes(tid: i32, attr: SchedAttr) -> nix::Result<()> {
    let attr = SchedAttr { size: 48, ..attr };
    // SAFETY: `attr` is live and only read.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attr, 0) })
        .map(drop)
}

/// sched_setscheduler(2).
pub(crate) fn set_scheduler(tid: i32, policy: i32, priority: i32) -> nix::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is live and only read.
    Errno::result(unsafe { libc::sched_setscheduler(tid, policy, &raw const param) }).map(drop)
}

/// getpriority(2): the nice value of one thread.
pub(crate) fn nice(tid: i32) -> nix::Result<i32> {
    // The raw call answers 20 - nice, so that an error cannot be mistaken for a value.
    // SAFETY: numbers only.
    let answer =
        Errno::result(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid) })?;
    Ok(20 - i32::try_from(answer).unwrap_or(20))
}

/// setpriority(2).
pub(crate) fn set_nice(tid: i32, nice: i32) -> nix::Result<()> {
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, tid, nice) })
        .map(drop)
}
