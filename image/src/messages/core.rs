//! `core-N.img`: one thread, and for a leader its process.

use prost::{Enumeration, Message};
use serde::Serialize;

use super::json::{name, optional_name};
use super::{
    CredsEntry, SaEntry, SeccompMode, SignalQueueEntry, TaskKobjIdsEntry, TaskTimersEntry,
    ThreadInfoX86,
};

/// One thread (other architectures use fields 6 and 8 to 13).
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct CoreEntry {
    #[serde(serialize_with = "name::<_, Machine>")]
    #[prost(enumeration = "Machine", required, tag = "1")]
    pub mtype: i32,
    #[prost(message, optional, boxed, tag = "2")]
    pub thread_info: Option<Box<ThreadInfoX86>>,
    #[prost(message, optional, boxed, tag = "3")]
    pub tc: Option<Box<TaskCoreEntry>>,
    #[prost(message, optional, boxed, tag = "4")]
    pub ids: Option<Box<TaskKobjIdsEntry>>,
    #[prost(message, optional, boxed, tag = "5")]
    pub thread_core: Option<Box<ThreadCoreEntry>>,
}

/// Architecture of a [`CoreEntry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
#[allow(non_camel_case_types)]
pub enum Machine {
    Unknown = 0,
    X86_64 = 1,
    Arm = 2,
    Aarch64 = 3,
    Ppc64 = 4,
    S390 = 5,
    Mips = 6,
    Loongarch64 = 7,
    Riscv64 = 8,
}

/// What the leader's image says of the process as a whole.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct TaskCoreEntry {
    #[prost(uint32, required, tag = "1")]
    pub task_state: u32,
    #[prost(uint32, required, tag = "2")]
    pub exit_code: u32,
    #[prost(uint32, required, tag = "3")]
    pub personality: u32,
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
    #[prost(uint64, required, tag = "5")]
    pub blk_sigset: u64,
    #[prost(string, required, tag = "6")]
    pub comm: String,
    #[prost(message, optional, tag = "7")]
    pub timers: Option<TaskTimersEntry>,
    #[prost(message, optional, tag = "8")]
    pub rlimits: Option<TaskRlimitsEntry>,
    #[prost(uint32, optional, tag = "9")]
    pub cg_set: Option<u32>,
    #[prost(message, optional, tag = "10")]
    pub signals_s: Option<SignalQueueEntry>,
    #[serde(serialize_with = "optional_name::<_, SeccompMode>")]
    #[prost(enumeration = "SeccompMode", optional, tag = "11")]
    pub old_seccomp_mode: Option<i32>,
    #[prost(uint32, optional, tag = "12")]
    pub old_seccomp_filter: Option<u32>,
    #[prost(uint32, optional, tag = "13")]
    pub loginuid: Option<u32>,
    #[prost(int32, optional, tag = "14")]
    pub oom_score_adj: Option<i32>,
    #[prost(message, repeated, tag = "15")]
    pub sigactions: Vec<SaEntry>,
    #[prost(bool, optional, tag = "18")]
    pub child_subreaper: Option<bool>,
    #[prost(uint64, optional, tag = "20")]
    pub blk_sigset_extended: Option<u64>,
    #[prost(uint32, optional, tag = "21")]
    pub stop_signo: Option<u32>,
    #[prost(uint32, optional, tag = "22")]
    pub membarrier_registration_mask: Option<u32>,
    #[prost(message, repeated, tag = "10000")]
    pub settings: Vec<SettingEntry>,
}

/// What there is of every thread, whatever the architecture.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ThreadCoreEntry {
    #[prost(uint64, required, tag = "1")]
    pub futex_rla: u64,
    #[prost(uint32, required, tag = "2")]
    pub futex_rla_len: u32,
    #[prost(sint32, optional, tag = "3")]
    pub sched_nice: Option<i32>,
    #[prost(uint32, optional, tag = "4")]
    pub sched_policy: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub sched_prio: Option<u32>,
    #[prost(uint64, optional, tag = "6")]
    pub blk_sigset: Option<u64>,
    #[prost(message, optional, tag = "7")]
    pub sas: Option<ThreadSasEntry>,
    #[prost(uint32, optional, tag = "8")]
    pub pdeath_sig: Option<u32>,
    #[prost(message, optional, tag = "9")]
    pub signals_p: Option<SignalQueueEntry>,
    #[prost(message, optional, tag = "10")]
    pub creds: Option<CredsEntry>,
    #[serde(serialize_with = "optional_name::<_, SeccompMode>")]
    #[prost(enumeration = "SeccompMode", optional, tag = "11")]
    pub seccomp_mode: Option<i32>,
    #[prost(uint32, optional, tag = "12")]
    pub seccomp_filter: Option<u32>,
    #[prost(string, optional, tag = "13")]
    pub comm: Option<String>,
    #[prost(uint64, optional, tag = "14")]
    pub blk_sigset_extended: Option<u64>,
    #[prost(message, optional, tag = "15")]
    pub rseq_entry: Option<RseqEntry>,
    #[prost(uint32, optional, tag = "16")]
    pub cg_set: Option<u32>,
    #[prost(uint64, optional, tag = "10000")]
    pub wait_left_ns: Option<u64>,
    #[prost(uint32, repeated, packed = "false", tag = "10001")]
    pub cpus: Vec<u32>,
    #[prost(uint32, optional, tag = "10002")]
    pub io_priority: Option<u32>,
    #[prost(uint64, optional, tag = "10003")]
    pub timer_slack: Option<u64>,
    #[prost(message, repeated, tag = "10004")]
    pub settings: Vec<SettingEntry>,
}

/// A number that a process or thread has set; qmig's own.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SettingEntry {
    #[prost(uint32, required, tag = "1")]
    pub what: u32,
    #[prost(uint64, required, tag = "2")]
    pub value: u64,
}

/// sigaltstack(2).
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ThreadSasEntry {
    #[prost(uint64, required, tag = "1")]
    pub ss_sp: u64,
    #[prost(uint64, required, tag = "2")]
    pub ss_size: u64,
    #[prost(uint32, required, tag = "3")]
    pub ss_flags: u32,
}

/// Resource limits, indexed by RLIMIT_*.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct TaskRlimitsEntry {
    #[prost(message, repeated, tag = "1")]
    pub rlimits: Vec<RlimitEntry>,
}

/// One resource limit.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RlimitEntry {
    #[prost(uint64, required, tag = "1")]
    pub cur: u64,
    #[prost(uint64, required, tag = "2")]
    pub max: u64,
}

/// rseq(2) registration.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RseqEntry {
    #[prost(uint64, required, tag = "1")]
    pub rseq_abi_pointer: u64,
    #[prost(uint32, required, tag = "2")]
    pub rseq_abi_size: u32,
    #[prost(uint32, required, tag = "3")]
    pub signature: u32,
    #[prost(uint64, optional, tag = "4")]
    pub rseq_cs_pointer: Option<u64>,
}
