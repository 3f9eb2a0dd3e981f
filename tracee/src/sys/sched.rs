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
