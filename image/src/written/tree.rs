//! The process tree: `pstree.img`, and for each process `core-N.img`, `ids-N.img`, `fs-N.img`.

use pages::TaskId;

use super::threads::CGROUP_SET;
use super::{Reader, Writer, seccomp, settings, signals, threads, timers};
use crate::error::{BadField, BadImage};
use crate::kind::ImageKind;
use crate::messages::{
    CoreEntry, FsEntry, Machine, MmEntry, PstreeEntry, RlimitEntry, SaEntry, TaskCoreEntry,
    TaskKobjIdsEntry, TaskRlimitsEntry,
};
use crate::state::check::{comm, group_id, task_id};
use crate::state::{
    Body, FdTableId, FileId, Fs, IntervalTimer, Living, PosixTimer, Rlimit, Seccomp, Setting,
    SettingKind, SigAction, SigInfo, SigSet, Task, Thread,
};

const ALIVE: u32 = 1;
const DEAD: u32 = 2;
const STOPPED: u32 = 3;
const SIGSTOP: u32 = 19;
/// An audit login id that was never set.
const NO_LOGIN: u32 = u32::MAX;

pub(super) fn write(writer: &mut Writer<'_>) {
    let checkpoint = writer.checkpoint;
    writer.many(ImageKind::Pstree, 0, checkpoint.tasks.iter().map(PstreeEntry::from));
    for (index, task) in checkpoint.tasks.iter().enumerate() {
        match &task.body {
            Body::Zombie { comm, status } => {
                writer.one(ImageKind::Core, task.id.0, &zombie_core(comm, *status));
            }
            Body::Living(living) => write_living(writer, index, task, living),
        }
    }
}

fn write_living(writer: &mut Writer<'_>, index: usize, task: &Task, living: &Living) {
    let id = task.id.0;
    for (number, thread) in living.threads.iter().enumerate() {
        let mut core = CoreEntry::from(thread);
        if let Some(said) = core.thread_core.as_mut() {
            writer.chains.say(&living.threads, number, said);
        }
        if number == 0 {
            core.tc = Some(Box::new(task_core(living, thread)));
        }
        writer.one(ImageKind::Core, thread.id.0, &core);
    }
    // Objects that no two processes share get a number each; whoever restores has number 1.
    let own = u32::try_from(index + 2).expect("fewer processes than pids");
    let ids = TaskKobjIdsEntry {
        vm_id: own,
        files_id: living.fds.0,
        fs_id: own,
        sighand_id: own,
        ..writer.namespaces.into()
    };
    writer.one(ImageKind::Ids, id, &ids);
    let Fs { cwd, root, umask } = living.fs;
    let fs = FsEntry { cwd_id: cwd.0, root_id: root.0, umask: Some(umask) };
    writer.one(ImageKind::Fs, id, &fs);
    writer.one(ImageKind::Mm, id, &MmEntry::from(&living.mm));
}

impl From<&Task> for PstreeEntry {
    fn from(task: &Task) -> Self {
        Self {
            pid: task.id.0,
            ppid: task.parent.map_or(0, |parent| parent.0),
            pgid: task.group.0,
            sid: task.session.0,
            threads: match &task.body {
                Body::Zombie { .. } => vec![task.id.0],
                Body::Living(living) => living.threads.iter().map(|thread| thread.id.0).collect(),
            },
        }
    }
}

fn zombie_core(comm: &str, status: i32) -> CoreEntry {
    let tc = TaskCoreEntry {
        task_state: DEAD,
        exit_code: status.cast_unsigned(),
        comm: comm.to_owned(),
        ..TaskCoreEntry::default()
    };
    let mtype = Machine::X86_64 as i32;
    CoreEntry { mtype, tc: Some(Box::new(tc)), ..CoreEntry::default() }
}

fn task_core(living: &Living, leader: &Thread) -> TaskCoreEntry {
    TaskCoreEntry {
        task_state: if living.stopped_by.is_some() { STOPPED } else { ALIVE },
        exit_code: 0,
        personality: living.personality,
        flags: living.flags,
        blk_sigset: leader.blocked.0,
        comm: leader.comm.clone(),
        timers: Some(timers::to_entry(&living.itimers, &living.posix_timers)),
        rlimits: Some(TaskRlimitsEntry {
            rlimits: living.rlimits.iter().map(RlimitEntry::from).collect(),
        }),
        cg_set: Some(CGROUP_SET),
        signals_s: Some(signals::queue(&living.pending)),
        loginuid: Some(NO_LOGIN),
        oom_score_adj: Some(living.oom_score_adj),
        sigactions: living.sigactions.iter().map(SaEntry::from).collect(),
        child_subreaper: Some(living.child_subreaper),
        stop_signo: living.stopped_by,
        membarrier_registration_mask: Some(living.membarrier).filter(|mask| *mask != 0),
        settings: settings::entries(&living.settings),
        ..TaskCoreEntry::default()
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> Result<Vec<Task>, BadImage> {
    let mut entries = Vec::new();
    reader.each(ImageKind::Pstree, 0, |entry: PstreeEntry| {
        entries.push(Branch::try_from(&entry)?);
        Ok(())
    })?;
    if entries.is_empty() {
        return Err(BadImage::Missing { image: ImageKind::Pstree.name(0) });
    }
    reader.root = entries.first().map(|branch| branch.id);
    entries.into_iter().map(|branch| read_task(reader, branch)).collect()
}

/// One line of the tree, its numbers checked.
struct Branch {
    id: TaskId,
    parent: Option<TaskId>,
    group: TaskId,
    session: TaskId,
    threads: Vec<u32>,
}

impl TryFrom<&PstreeEntry> for Branch {
    type Error = BadField;

    fn try_from(entry: &PstreeEntry) -> Result<Self, BadField> {
        let parent = match entry.ppid {
            0 => None,
            parent => Some(task_id("ppid", parent)?),
        };
        Ok(Self {
            id: task_id("pid", entry.pid)?,
            parent,
            group: group_id("pgid", entry.pgid)?,
            session: group_id("sid", entry.sid)?,
            threads: entry.threads.clone(),
        })
    }
}

fn read_task(reader: &mut Reader<'_>, branch: Branch) -> Result<Task, BadImage> {
    let Branch { id, parent, group, session, threads } = branch;
    let core: CoreEntry = reader.one(ImageKind::Core, id.0)?;
    let at = |lie: BadField| lie.at(ImageKind::Core.name(id.0), 1);
    let tc = core.tc.as_deref().ok_or_else(|| at(BadField::missing("tc")))?;
    comm("tc.comm", &tc.comm).map_err(at)?;
    let body = if tc.task_state == DEAD {
        let status = tc.exit_code.cast_signed();
        Body::Zombie { comm: tc.comm.clone(), status }
    } else {
        let process = Process::try_from(tc).map_err(at)?;
        Body::Living(Box::new(read_living(reader, id, &threads, &core, process)?))
    };
    Ok(Task { id, parent, group, session, body })
}

fn read_living(
    reader: &mut Reader<'_>,
    id: TaskId,
    threads: &[u32],
    core: &CoreEntry,
    process: Process<'_>,
) -> Result<Living, BadImage> {
    let at = |id: TaskId| move |lie: BadField| lie.at(ImageKind::Core.name(id.0), 1);
    let mut all = Vec::new();
    let filters = seccomp::read(reader)?;
    for thread in threads {
        let said = Some((process.blocked, process.comm));
        let thread = task_id("threads", *thread).map_err(|lie| lie.at("pstree.img", 0))?;
        let thread = if thread == id {
            threads::from_core(id, core, said, &filters).map_err(at(id))?
        } else {
            let core: CoreEntry = reader.one(ImageKind::Core, thread.0)?;
            threads::from_core(thread, &core, None, &filters).map_err(at(thread))?
        };
        all.push(thread);
    }
    // What the leader says of all: the others say nothing.
    if let Some(common) =
        all.iter().find_map(|(thread, of_all)| of_all.then(|| thread.seccomp.clone()))
    {
        let silent = all.iter_mut().filter(|(thread, _)| thread.seccomp == Seccomp::Off);
        silent.for_each(|(thread, _)| thread.seccomp = common.clone());
    }
    let all = all.into_iter().map(|(thread, _)| thread).collect();
    let ids = reader.ids(id, core)?;
    let fs: FsEntry = reader.one(ImageKind::Fs, id.0)?;
    let mm = super::mm::read(reader, id)?;
    Ok(Living {
        threads: all,
        stopped_by: process.stopped_by,
        mm,
        fs: Fs {
            cwd: FileId(fs.cwd_id),
            root: FileId(fs.root_id),
            umask: fs.umask.unwrap_or(0o22) & 0o777,
        },
        fds: FdTableId(ids.files_id),
        sigactions: process.sigactions,
        pending: process.pending,
        itimers: process.itimers,
        posix_timers: process.posix_timers,
        rlimits: process.rlimits,
        oom_score_adj: process.oom_score_adj,
        child_subreaper: process.child_subreaper,
        personality: process.personality,
        membarrier: process.membarrier,
        settings: process.settings,
        flags: process.flags,
    })
}

/// What a leader's core says of the process as a whole.
struct Process<'a> {
    comm: &'a str,
    blocked: SigSet,
    stopped_by: Option<u32>,
    sigactions: Vec<SigAction>,
    pending: Vec<SigInfo>,
    itimers: [IntervalTimer; 3],
    posix_timers: Vec<PosixTimer>,
    rlimits: [Rlimit; 16],
    oom_score_adj: i32,
    child_subreaper: bool,
    personality: u32,
    membarrier: u32,
    settings: Vec<Setting>,
    flags: u32,
}

impl<'a> TryFrom<&'a TaskCoreEntry> for Process<'a> {
    type Error = BadField;

    fn try_from(tc: &'a TaskCoreEntry) -> Result<Self, BadField> {
        let timers = tc.timers.as_ref().ok_or_else(|| BadField::missing("tc.timers"))?;
        let (itimers, posix_timers) = timers::from_entry(timers)?;
        let count = tc.sigactions.len();
        if count != 62 {
            return Err(BadField::count(
                "tc.sigactions",
                count,
                "signals 1 to 64 without 9 and 19",
            ));
        }
        let oom_score_adj = tc.oom_score_adj.unwrap_or(0);
        if !(-1000..=1000).contains(&oom_score_adj) {
            let got = oom_score_adj.cast_unsigned();
            return Err(BadField::value("tc.oom_score_adj", got, "-1000 to 1000"));
        }
        Ok(Self {
            comm: &tc.comm,
            blocked: SigSet(tc.blk_sigset),
            stopped_by: stopped_by(tc)?,
            sigactions: tc.sigactions.iter().map(SigAction::try_from).collect::<Result<_, _>>()?,
            pending: signals::pending("tc.signals_s", tc.signals_s.as_ref())?,
            itimers,
            posix_timers,
            rlimits: rlimits(tc.rlimits.as_ref())?,
            oom_score_adj,
            child_subreaper: tc.child_subreaper.unwrap_or(false),
            personality: tc.personality,
            membarrier: membarrier(tc.membarrier_registration_mask.unwrap_or(0))?,
            settings: settings::settings("tc.settings", &tc.settings, &SettingKind::OF_PROCESS)?,
            flags: tc.flags,
        })
    }
}

/// MEMBARRIER_CMD_REGISTER_*: global expedited 4, private expedited 16, sync core 64, rseq 256.
const MEMBARRIERS: u32 = 4 | 16 | 64 | 256;

fn membarrier(mask: u32) -> Result<u32, BadField> {
    match mask & !MEMBARRIERS {
        0 => Ok(mask),
        _ => {
            let what = "a registration with membarrier(2) that is not known here";
            Err(BadField::unsupported("tc.membarrier_registration_mask", what))
        }
    }
}

fn stopped_by(tc: &TaskCoreEntry) -> Result<Option<u32>, BadField> {
    match (tc.task_state, tc.stop_signo.unwrap_or(SIGSTOP)) {
        (ALIVE, _) => Ok(None),
        (STOPPED, signal @ 19..=22) => Ok(Some(signal)),
        (STOPPED, other) => {
            Err(BadField::value("tc.stop_signo", other, "a signal that stops, 19 to 22"))
        }
        (other, _) => Err(BadField::value("tc.task_state", other, "1, 2 or 3")),
    }
}

fn rlimits(entry: Option<&TaskRlimitsEntry>) -> Result<[Rlimit; 16], BadField> {
    let entry = entry.ok_or_else(|| BadField::missing("tc.rlimits"))?;
    let limits: Vec<_> = entry.rlimits.iter().map(Rlimit::from).collect();
    <[Rlimit; 16]>::try_from(limits)
        .map_err(|limits| BadField::count("tc.rlimits", limits.len(), "16 limits"))
}
