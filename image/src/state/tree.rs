//! The process tree: who is whose child, in which group and session.

use pages::TaskId;

use super::{
    FdTableId, FileId, IntervalTimer, Mm, PosixTimer, Rlimit, Setting, SigAction, SigInfo, Thread,
};

/// One process.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its process id.
    pub id: TaskId,
    /// Its parent within the tree; `None` for the root alone.
    pub parent: Option<TaskId>,
    /// Process group.
    pub group: TaskId,
    /// Session.
    pub session: TaskId,
    /// What there is of it.
    pub body: Body,
}

/// A process lives, or waits to be reaped.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// It has ended and its parent has not asked yet.
    Zombie {
        /// Its command name.
        comm: String,
        /// What `wait` will tell (exit 3 is 0x300, death by signal n is n).
        status: i32,
    },
    /// It has threads, memory and files.
    Living(Box<Living>),
}

/// A process that is not a zombie.
#[derive(Clone, Debug, PartialEq)]
pub struct Living {
    /// The leader first.
    pub threads: Vec<Thread>,
    /// If it was stopped by job control before the dump: by which signal.
    pub stopped_by: Option<u32>,
    /// Address space.
    pub mm: Mm,
    /// Where it stands in the file system.
    pub fs: Fs,
    /// Its descriptors.
    pub fds: FdTableId,
    /// Actions of signals 1 to 64 in order, without SIGKILL and SIGSTOP: always 62.
    pub sigactions: Vec<SigAction>,
    /// Signals pending for the process as a whole, oldest first.
    pub pending: Vec<SigInfo>,
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
    pub itimers: [IntervalTimer; 3],
    /// Timers of timer_create(2).
    pub posix_timers: Vec<PosixTimer>,
    /// Indexed by RLIMIT_*.
    pub rlimits: [Rlimit; 16],
    /// Badness adjustment, -1000 to 1000.
    pub oom_score_adj: i32,
    /// prctl(PR_SET_CHILD_SUBREAPER).
    pub child_subreaper: bool,
    /// Execution domain, personality(2).
    pub personality: u32,
    /// What membarrier(2) is registered for: MEMBARRIER_CMD_REGISTER_* bits.
    pub membarrier: u32,
    /// Of [`super::SettingKind::OF_PROCESS`], each at most once.
    pub settings: Vec<Setting>,
    /// PF_* flags of /proc/PID/stat; informative.
    pub flags: u32,
}

impl Living {
    /// The thread whose id is the process id.
    pub fn leader(&self) -> &Thread {
        &self.threads[0]
    }
}

/// Where a process stands in the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fs {
    /// Working directory.
    pub cwd: FileId,
    /// Root directory.
    pub root: FileId,
    /// umask(2).
    pub umask: u32,
}

impl Task {
    /// The living part, if it has one.
    pub fn living(&self) -> Option<&Living> {
        match &self.body {
            Body::Living(living) => Some(living),
            Body::Zombie { .. } => None,
        }
    }
}
