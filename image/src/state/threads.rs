//! Threads: registers, and what the kernel keeps for each.

use std::time::Duration;

use pages::{TaskId, VirtAddr};

use super::{AltStack, Creds, Seccomp, Setting, SigInfo, SigSet};

/// One thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Thread {
    /// Its thread id; for the leader, the process id.
    pub id: TaskId,
    /// Its name, at most 15 bytes.
    pub comm: String,
    /// General registers, ready to run: an interrupted system call is already wound back.
    pub regs: Regs,
    /// Floating point and vector registers.
    pub fp: FpState,
    /// set_tid_address(2); zero if none.
    pub clear_child_tid: VirtAddr,
    /// set_robust_list(2).
    pub robust_list: Option<RobustList>,
    /// rseq(2) registration.
    pub rseq: Option<Rseq>,
    /// Blocked signals.
    pub blocked: SigSet,
    /// Signals pending for this thread alone, oldest first.
    pub pending: Vec<SigInfo>,
    /// sigaltstack(2).
    pub altstack: AltStack,
    /// User, groups, capabilities.
    pub creds: Creds,
    /// Scheduling class.
    pub sched: Sched,
    /// Where and how eagerly it runs.
    pub placement: Placement,
    /// prctl(PR_SET_PDEATHSIG), zero if none.
    pub pdeath_signal: u32,
    /// Of [`super::SettingKind::OF_THREAD`], each at most once.
    pub settings: Vec<Setting>,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// The thread was inside a relative timed wait (nanosleep, poll, futex) whose full length is in
    /// its registers; this much of it was left. `None`: nothing to continue, or the rest is unknown
    /// and the whole length is waited again (late, never early). Carried in a field of qmig's own
    /// that CRIU skips.
    pub wait_left: Option<Duration>,
}

/// The x86-64 general registers, in the words of `struct user_regs_struct` (linux, sys/user.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the processor manual names them
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub bp: u64,
    pub bx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub ax: u64,
    pub cx: u64,
    pub dx: u64,
    pub si: u64,
    pub di: u64,
    pub orig_ax: u64,
    pub ip: u64,
    pub cs: u64,
    pub flags: u64,
    pub sp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// Extended processor state by component, free of any one CPU's memory layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FpState {
    /// The FXSAVE area (x87, MMX, SSE, MXCSR): 512 bytes.
    pub legacy: Box<[u8; 512]>,
    /// XSTATE_BV: which components are not in their initial state.
    pub in_use: u64,
    /// Components 2 and up, ascending by number.
    pub components: Vec<XComponent>,
}

/// One XSAVE component (number as in CPUID leaf 0xD: 2 AVX, 5 opmask, 6 ZMM_Hi256, 9 PKRU, …).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XComponent {
    /// Component number.
    pub number: u8,
    /// Its bytes, as many as the CPU says it has.
    pub bytes: Vec<u8>,
}

/// set_robust_list(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RobustList {
    /// Address of the head.
    pub head: VirtAddr,
    /// Length the program gave.
    pub len: u32,
}

/// rseq(2) registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rseq {
    /// Address of struct rseq.
    pub area: VirtAddr,
    /// Its registered size.
    pub size: u32,
    /// Abort signature.
    pub signature: u32,
}

/// What a thread asked of the scheduler beside its class. CRIU's format has no place for it, fields
/// of qmig's own carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// CPUs it may run on (sched_setaffinity(2)), ascending; empty if it may run anywhere.
    pub cpus: Vec<u32>,
    /// ioprio_set(2): class and level, zero if never set.
    pub io_priority: u32,
    /// prctl(PR_SET_TIMERSLACK), in nanoseconds.
    pub timer_slack: u64,
}

impl Placement {
    /// The timer slack of a thread that never asked for another (50 µs).
    pub const USUAL_SLACK: u64 = 50_000;
}

impl Default for Placement {
    fn default() -> Self {
        Self { cpus: Vec::new(), io_priority: 0, timer_slack: Self::USUAL_SLACK }
    }
}

/// sched_setscheduler(2) and nice(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sched {
    /// SCHED_*.
    pub policy: u32,
    /// Static priority of the real-time classes.
    pub priority: u32,
    /// -20 to 19.
    pub nice: i32,
}
