//! Numbers that a process or a thread has asked the kernel to keep for it: what prctl(2) and its
//! relatives can set and tell, and what is no more than a number.

/// One of them; those that are as in every new process are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Which.
    pub what: SettingKind,
    /// Its number.
    pub value: u64,
}

/// What a setting is about. The numbers are those of the image, where they are qmig's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum SettingKind {
    /// Of the process: PR_SET_MEMORY_MERGE, KSM for all of its memory.
    MemoryMerge = 1,
    /// Of the process: PR_SET_MDWE, with its flags.
    DenyWriteExecute = 2,
    /// Of the process: mlockall(2) with MCL_FUTURE 2, perhaps MCL_ONFAULT 4.
    LockFuture = 3,
    /// Of the process: PR_SET_THP_DISABLE with its flags, where it has any.
    HugePagesExcept = 4,
    /// Of the process: what a core dump of it holds, /proc/PID/coredump_filter (core(5)).
    CoreDumpFilter = 5,
    /// Of a session, at its leader: the nice value of its group of tasks (sched(7), autogroup), as i64.
    AutogroupNice = 6,
    /// Of a thread: PR_SET_TSC.
    TimeStampCounter = 32,
    /// Of a thread: PR_MCE_KILL, late 0 or early 1.
    MachineCheck = 33,
    /// Of a thread: PR_SET_IO_FLUSHER.
    IoFlusher = 34,
    /// Of a thread: PR_SET_SPECULATION_CTRL of speculative stores.
    StoreBypass = 35,
    /// Of a thread: PR_SET_SPECULATION_CTRL of indirect branches.
    IndirectBranch = 36,
    /// Of a thread: mode and flags of set_mempolicy(2).
    MemoryPolicy = 37,
    /// Of a thread: the nodes of it, as a mask.
    MemoryNodes = 38,
    /// Of a thread of an ordinary class: the length of its turns in nanoseconds (sched_setattr(2),
    /// sched_runtime; Linux 6.12).
    Slice = 39,
    /// Of a thread: personality(2); the image has a place for the leader's alone.
    Personality = 40,
}

impl SettingKind {
    /// Those of a whole process.
    pub const OF_PROCESS: [Self; 6] = [
        Self::MemoryMerge,
        Self::DenyWriteExecute,
        Self::LockFuture,
        Self::HugePagesExcept,
        Self::CoreDumpFilter,
        Self::AutogroupNice,
    ];
    /// Those of each thread.
    pub const OF_THREAD: [Self; 9] = [
        Self::TimeStampCounter,
        Self::MachineCheck,
        Self::IoFlusher,
        Self::StoreBypass,
        Self::IndirectBranch,
        Self::MemoryPolicy,
        Self::MemoryNodes,
        Self::Slice,
        Self::Personality,
    ];
}

impl Setting {
    /// The number of `what` among `settings`, if it is set.
    pub fn of(settings: &[Self], what: SettingKind) -> Option<u64> {
        settings.iter().find(|setting| setting.what == what).map(|setting| setting.value)
    }
}
