//! Settings: numbers that a process or a thread has set for itself. Most only the task itself can ask
//! for; each question is one system call more in the batch its thread makes anyway.

use std::fs;
use std::sync::LazyLock;

use image::state::{Setting, SettingKind};
use nix::libc;
use pages::VirtAddr;
use tracee::proc::status::Status;
use tracee::{Call, HostPid, Pagemap, Runner, Wanted};

use super::{int, long};
use crate::error::CollectError;
use crate::survey::refusals::Trouble;

/// linux/prctl.h (Linux 6.3, 6.4, 5.6).
const PR_GET_MDWE: u64 = 66;
const PR_GET_MEMORY_MERGE: u64 = 68;
const PR_GET_IO_FLUSHER: u64 = 58;
/// PR_GET_THP_DISABLE answers its flags too (Linux 6.18): PR_THP_DISABLE_EXCEPT_ADVISED.
const THP_FLAGS: u64 = !1;
/// linux/membarrier.h, MEMBARRIER_CMD_GET_REGISTRATIONS (Linux 6.3).
const GET_REGISTRATIONS: u64 = 1 << 9;
/// keyctl(2).
const KEYCTL_GET_KEYRING_ID: u64 = 0;
const PROCESS_KEYRING: i64 = -2;
/// linux/mman.h.
const MCL_FUTURE: u64 = 2;
const MCL_ONFAULT: u64 = 4;
/// A core dump's content in a new process: core(5).
const USUAL_CORE_DUMP: u64 = 0x33;

/// The questions for one process, at `first` among its calls.
pub(super) struct OfProcess {
    first: usize,
}

/// What a process told.
pub(super) struct Told {
    pub(super) settings: Vec<Setting>,
    pub(super) membarrier: u32,
    /// What cannot be carried.
    pub(super) trouble: Option<Trouble>,
}

impl OfProcess {
    /// Adds the calls.
    pub(super) fn ask(calls: &mut Vec<Call>) -> Self {
        let first = calls.len();
        let prctl = |option: u64| Call::new(libc::SYS_prctl, &[option]);
        calls.extend([
            prctl(PR_GET_MEMORY_MERGE),
            prctl(PR_GET_MDWE),
            prctl(libc::PR_GET_THP_DISABLE.unsigned_abs().into()),
            Call::new(libc::SYS_membarrier, &[GET_REGISTRATIONS]),
            Call::new(
                libc::SYS_keyctl,
                &[KEYCTL_GET_KEYRING_ID, PROCESS_KEYRING.cast_unsigned(), 0],
            ),
        ]);
        Self { first }
    }

    /// Reads the answers. A kernel that does not know a question has nothing of the kind.
    pub(super) fn answers(&self, calls: &[Call]) -> Told {
        let value = |at: usize| calls[self.first + at].value().unwrap_or(0);
        let settings = [
            (SettingKind::MemoryMerge, value(0)),
            (SettingKind::DenyWriteExecute, value(1)),
            (SettingKind::HugePagesExcept, value(2) & THP_FLAGS),
        ];
        let trouble = (value(4) != 0)
            .then(|| Trouble::new("", "it has keys of its own (keyrings(7), the process keyring)"));
        Told {
            settings: list(settings.map(|(what, value)| (what, value, 0))),
            membarrier: super::low(value(3)),
            trouble,
        }
    }
}

/// What a process has set for itself and others may read.
pub(super) fn from_outside(pid: HostPid, leads_session: bool) -> Vec<Setting> {
    let read = |file| fs::read_to_string(format!("/proc/{}/{file}", pid.0)).unwrap_or_default();
    let dump = u64::from_str_radix(read("coredump_filter").trim(), 16).unwrap_or(USUAL_CORE_DUMP);
    let group = if leads_session { autogroup(&read("autogroup")) } else { 0 };
    list([
        (SettingKind::CoreDumpFilter, dump, USUAL_CORE_DUMP),
        (SettingKind::AutogroupNice, group.cast_unsigned(), 0),
    ])
}

/// `/autogroup-25 nice 5`, sched(7).
fn autogroup(text: &str) -> i64 {
    text.split_once(" nice ").and_then(|(_, nice)| nice.trim().parse().ok()).unwrap_or(0)
}

/// Whether all memory that a process will map shall be locked (MCL_FUTURE), which nothing tells: its
/// new scratch memory is then. `before` is how much was, without it.
pub(super) fn lock_future(
    pid: HostPid,
    before: u64,
    scratch: pages::PageRange,
) -> Result<Vec<Setting>, CollectError> {
    if Status::read(pid)?.vm_locked == before {
        return Ok(Vec::new());
    }
    // The end of the scratch memory is not in use; with MCL_ONFAULT it is not there either.
    let all = Pagemap::open(pid)?.scan(scratch, Wanted::AnonContent)?.count() == scratch.count();
    let value = if all { MCL_FUTURE } else { MCL_FUTURE | MCL_ONFAULT };
    Ok(list([(SettingKind::LockFuture, value, 0)]))
}

/// The questions for one thread.
pub(super) struct OfThread {
    room: VirtAddr,
    first: usize,
}

/// The answer about the time stamp counter, the mode of memory policy, its nodes.
const ROOM: usize = NODES_AT + MOST_NODES / 8;
const NODES_AT: usize = 8;
/// Most nodes of a kernel (CONFIG_NODES_SHIFT is 10 at most).
const MOST_NODES: usize = 1024;
/// linux/prctl.h: what PR_SPEC_* are of a task that has not been asked about.
const PR_SPEC_PRCTL: u64 = 1;
const PR_SPEC_ENABLE: u64 = 2;
const PR_SPEC_STORE_BYPASS: u64 = 0;
const PR_SPEC_INDIRECT_BRANCH: u64 = 1;
/// PR_MCE_KILL_DEFAULT, PR_TSC_ENABLE.
const MCE_USUAL: u64 = 2;
const TSC_USUAL: u64 = 1;
const PR_MCE_KILL_GET: u64 = 34;
const THREAD_KEYRING: i64 = -1;
/// personality(2) that changes nothing.
const TELL_PERSONALITY: u64 = 0xffff_ffff;

impl OfThread {
    /// Adds the calls.
    pub(super) fn ask(runner: &mut Runner, calls: &mut Vec<Call>) -> Result<Self, CollectError> {
        let room = runner.room(ROOM)?;
        let first = calls.len();
        let prctl = |option: u64, second: u64| Call::new(libc::SYS_prctl, &[option, second]);
        let speculation = libc::PR_GET_SPECULATION_CTRL.unsigned_abs().into();
        let policy = [room.0 + 4, room.0 + NODES_AT as u64, MOST_NODES as u64, 0, 0];
        calls.extend([
            prctl(libc::PR_GET_TSC.unsigned_abs().into(), room.0),
            prctl(PR_MCE_KILL_GET, 0),
            prctl(PR_GET_IO_FLUSHER, 0),
            prctl(speculation, PR_SPEC_STORE_BYPASS),
            prctl(speculation, PR_SPEC_INDIRECT_BRANCH),
            Call::new(libc::SYS_get_mempolicy, &policy),
            Call::new(
                libc::SYS_keyctl,
                &[KEYCTL_GET_KEYRING_ID, THREAD_KEYRING.cast_unsigned(), 0],
            ),
            Call::new(libc::SYS_personality, &[TELL_PERSONALITY]),
        ]);
        Ok(Self { room, first })
    }

    /// Reads the answers.
    pub(super) fn answers(
        &self,
        runner: &Runner,
        calls: &[Call],
    ) -> Result<Result<Vec<Setting>, Trouble>, CollectError> {
        let mut room = [0; ROOM];
        runner.get(self.room, &mut room)?;
        let value = |at: usize| calls[self.first + at].value();
        let or = |at: usize, usual: u64| value(at).unwrap_or(usual);
        let tsc = if value(0).is_ok() { u64::from(int(&room, 0)) } else { TSC_USUAL };
        let mode = if value(5).is_ok() { u64::from(int(&room, 4)) } else { 0 };
        let nodes = if mode == 0 { 0 } else { long(&room, NODES_AT) };
        if mode != 0 && room[NODES_AT + 8..].iter().any(|byte| *byte != 0) {
            return Ok(Err(Trouble::new("", "a memory policy of nodes above 63")));
        }
        if value(6).is_ok() {
            return Ok(Err(Trouble::new(
                "",
                "it has keys of its own (keyrings(7), a thread keyring)",
            )));
        }
        Ok(Ok(list([
            (SettingKind::TimeStampCounter, tsc, TSC_USUAL),
            (SettingKind::MachineCheck, or(1, MCE_USUAL), MCE_USUAL),
            (SettingKind::IoFlusher, or(2, 0), 0),
            (SettingKind::StoreBypass, restrained(or(3, 0)), 0),
            (SettingKind::IndirectBranch, restrained(or(4, 0)), 0),
            (SettingKind::MemoryPolicy, mode, 0),
            (SettingKind::MemoryNodes, nodes, 0),
            (SettingKind::Personality, or(7, 0), 0),
        ])))
    }
}

/// What to give PR_SET_SPECULATION_CTRL; zero where the task has not asked for anything.
fn restrained(answer: u64) -> u64 {
    match answer & PR_SPEC_PRCTL {
        0 => 0,
        _ => answer & !PR_SPEC_PRCTL & !PR_SPEC_ENABLE,
    }
}

/// The length of a thread's turns, if it is not what every thread has here.
pub(super) fn slice(tid: HostPid) -> Option<Setting> {
    let usual = (*USUAL_SLICE)?;
    let theirs = tracee::host::slice(tid).filter(|theirs| *theirs != usual);
    theirs.map(|value| Setting { what: SettingKind::Slice, value })
}

/// What a thread has that never asked for another: such as ours, unless it is urgent just now.
static USUAL_SLICE: LazyLock<Option<u64>> =
    LazyLock::new(|| tracee::host::slice(HostPid(nix::unistd::gettid().as_raw())));

/// Looks at what is usual here, while this thread is an ordinary one.
pub(crate) fn learn() {
    LazyLock::force(&USUAL_SLICE);
}

/// Those of `settings` (which, value, usual value) that are not as usual.
fn list<const N: usize>(settings: [(SettingKind, u64, u64); N]) -> Vec<Setting> {
    let unusual = settings.into_iter().filter(|(_, value, usual)| value != usual);
    unusual.map(|(what, value, _)| Setting { what, value }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_task_has_asked_for_is_a_setting() {
        for (answer, wanted) in [(0, 0), (2, 0), (4, 0), (3, 0), (5, 4), (9, 8), (17, 16)] {
            assert_eq!(restrained(answer), wanted, "{answer}");
        }
        for (text, nice) in [("/autogroup-25 nice 5\n", 5), ("/autogroup-1 nice -3\n", -3), ("", 0)]
        {
            assert_eq!(autogroup(text), nice, "{text}");
        }
        let own = HostPid(std::process::id().cast_signed());
        assert_eq!(slice(own), None, "ours is ours");
    }
}
