//! Threads: `core-N.img` without what belongs to the process as a whole.

use std::time::Duration;

use pages::TaskId;

use super::{registers, seccomp, settings, signals};
use crate::error::BadField;
use crate::messages::{
    CoreEntry, CredsEntry, Machine, RseqEntry, SeccompEntry, ThreadCoreEntry, ThreadInfoX86,
    ThreadSasEntry,
};
use crate::state::check::{address, comm, signal};
use crate::state::{AltStack, Placement, RobustList, Rseq, Sched, SettingKind, SigSet, Thread};

/// The one cgroup set of what qmig writes: that of whoever restores.
pub(super) const CGROUP_SET: u32 = 1;

impl From<&Thread> for CoreEntry {
    fn from(thread: &Thread) -> Self {
        let info = ThreadInfoX86 {
            clear_tid_addr: thread.clear_child_tid.0,
            gpregs: Some((&thread.regs).into()),
            fpregs: Some((&thread.fp).into()),
            tls: registers::no_descriptors(),
        };
        Self {
            mtype: Machine::X86_64 as i32,
            thread_info: Some(Box::new(info)),
            tc: None,
            ids: None,
            thread_core: Some(Box::new(thread.into())),
        }
    }
}

impl From<&Thread> for ThreadCoreEntry {
    fn from(thread: &Thread) -> Self {
        let Sched { policy, priority, nice } = thread.sched;
        Self {
            futex_rla: thread.robust_list.map_or(0, |list| list.head.0),
            futex_rla_len: thread.robust_list.map_or(0, |list| list.len),
            sched_nice: Some(nice),
            sched_policy: Some(policy),
            sched_prio: (priority != 0).then_some(priority),
            blk_sigset: Some(thread.blocked.0),
            sas: Some((&thread.altstack).into()),
            pdeath_sig: (thread.pdeath_signal != 0).then_some(thread.pdeath_signal),
            signals_p: Some(signals::queue(&thread.pending)),
            creds: Some(CredsEntry::from(&thread.creds)),
            seccomp_mode: None,
            seccomp_filter: None,
            comm: Some(thread.comm.clone()),
            blk_sigset_extended: None,
            rseq_entry: thread.rseq.map(|rseq| RseqEntry {
                rseq_abi_pointer: rseq.area.0,
                rseq_abi_size: rseq.size,
                signature: rseq.signature,
                rseq_cs_pointer: None,
            }),
            cg_set: Some(CGROUP_SET),
            wait_left_ns: thread
                .wait_left
                .map(|left| u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)),
            cpus: thread.placement.cpus.clone(),
            io_priority: Some(thread.placement.io_priority).filter(|level| *level != 0),
            timer_slack: Some(thread.placement.timer_slack)
                .filter(|slack| *slack != Placement::USUAL_SLACK),
            settings: settings::entries(&thread.settings),
        }
    }
}

/// The thread `id` from its core, and whether its seccomp filters are those of its whole process; `blocked` and `name` are what the process says, for images that
/// say it only there.
pub(super) fn from_core(
    id: TaskId,
    core: &CoreEntry,
    process: Option<(SigSet, &str)>,
    filters: &SeccompEntry,
) -> Result<(Thread, bool), BadField> {
    if core.mtype() != Machine::X86_64 {
        return Err(BadField::unsupported("mtype", "another architecture than x86-64"));
    }
    let info = core.thread_info.as_ref().ok_or_else(|| BadField::missing("thread_info"))?;
    let entry = core.thread_core.as_ref().ok_or_else(|| BadField::missing("thread_core"))?;
    let gpregs = info.gpregs.as_ref().ok_or_else(|| BadField::missing("thread_info.gpregs"))?;
    let fpregs = info.fpregs.as_ref().ok_or_else(|| BadField::missing("thread_info.fpregs"))?;
    let creds = entry.creds.clone().ok_or_else(|| BadField::missing("thread_core.creds"))?;
    if info.tls.iter().any(|descriptor| !descriptor.seg_not_present) {
        return Err(BadField::unsupported("thread_info.tls", "a descriptor of set_thread_area(2)"));
    }
    let (seccomp, of_all) = seccomp::of_thread(entry, filters)?;
    let name = entry.comm.as_deref().or_else(|| process.map(|(_, name)| name)).unwrap_or_default();
    comm("thread_core.comm", name)?;
    let blocked = entry.blk_sigset.map(SigSet).or_else(|| process.map(|(blocked, _)| blocked));
    let thread = Thread {
        id,
        comm: name.to_owned(),
        regs: gpregs.try_into()?,
        fp: fpregs.try_into()?,
        clear_child_tid: address("thread_info.clear_tid_addr", info.clear_tid_addr)?,
        robust_list: robust_list(entry)?,
        rseq: entry.rseq_entry.as_ref().map(Rseq::try_from).transpose()?,
        blocked: blocked.unwrap_or_default(),
        pending: signals::pending("thread_core.signals_p", entry.signals_p.as_ref())?,
        altstack: altstack(entry.sas.as_ref())?,
        creds: creds.try_into()?,
        sched: sched(entry)?,
        pdeath_signal: signal("thread_core.pdeath_sig", entry.pdeath_sig.unwrap_or(0))?,
        wait_left: entry.wait_left_ns.map(Duration::from_nanos),
        placement: placement(entry)?,
        settings: settings::settings(
            "thread_core.settings",
            &entry.settings,
            &SettingKind::OF_THREAD,
        )?,
        seccomp,
    };
    Ok((thread, of_all))
}

/// More CPUs than Linux can be built for.
const CPUS: u32 = 8192;

fn placement(entry: &ThreadCoreEntry) -> Result<Placement, BadField> {
    if !entry.cpus.is_sorted_by(|a, b| a < b) || entry.cpus.last().is_some_and(|cpu| *cpu >= CPUS) {
        let most = entry.cpus.iter().max().copied().unwrap_or_default();
        return Err(BadField::value("thread_core.cpus", most, "ascending numbers of CPUs"));
    }
    Ok(Placement {
        cpus: entry.cpus.clone(),
        io_priority: entry.io_priority.unwrap_or(0),
        timer_slack: entry.timer_slack.unwrap_or(Placement::USUAL_SLACK),
    })
}

fn robust_list(entry: &ThreadCoreEntry) -> Result<Option<RobustList>, BadField> {
    let head = address("thread_core.futex_rla", entry.futex_rla)?;
    Ok((head.0 != 0).then_some(RobustList { head, len: entry.futex_rla_len }))
}

impl TryFrom<&RseqEntry> for Rseq {
    type Error = BadField;

    fn try_from(entry: &RseqEntry) -> Result<Self, BadField> {
        if entry.rseq_cs_pointer.is_some_and(|pointer| pointer != 0) {
            let what = "an rseq critical section that asks not to be restarted";
            return Err(BadField::unsupported("thread_core.rseq_entry.rseq_cs_pointer", what));
        }
        Ok(Self {
            area: address("thread_core.rseq_entry.rseq_abi_pointer", entry.rseq_abi_pointer)?,
            size: entry.rseq_abi_size,
            signature: entry.signature,
        })
    }
}

/// SS_DISABLE, sigaltstack(2).
const DISABLED: u32 = 2;

fn altstack(entry: Option<&ThreadSasEntry>) -> Result<AltStack, BadField> {
    match entry {
        Some(entry) => entry.try_into(),
        None => Ok(AltStack { base: Default::default(), size: 0, flags: DISABLED }),
    }
}

fn sched(entry: &ThreadCoreEntry) -> Result<Sched, BadField> {
    let policy = entry.sched_policy.unwrap_or(0);
    let priority = entry.sched_prio.unwrap_or(0);
    let nice = entry.sched_nice.unwrap_or(0);
    match policy {
        0..=3 | 5 => {}
        6 | 7 => {
            let what = "a scheduling class with parameters (deadline, ext)";
            return Err(BadField::unsupported("thread_core.sched_policy", what));
        }
        _ => return Err(BadField::value("thread_core.sched_policy", policy, "0 to 3, or 5")),
    }
    if priority > 99 {
        return Err(BadField::value("thread_core.sched_prio", priority, "0 to 99"));
    }
    if !(-20..=19).contains(&nice) {
        return Err(BadField::value("thread_core.sched_nice", nice.cast_unsigned(), "-20 to 19"));
    }
    Ok(Sched { policy, priority, nice })
}
