//! Looks at a tree while it runs, and writes the Plan, or refuses by name.
//!
//! Nothing is stopped and nothing is changed: /proc is read, descriptors are copied
//! (pidfd_getfd(2)) and asked. Tasks may come and go meanwhile; what is gone when it is looked at
//! is not part of the plan. Everything that cannot be carried is told at once, so that nobody stops
//! a program for a migration that could not succeed; what appears between here and the freeze,
//! [`crate::collect`] refuses.

pub(crate) mod brief;
mod container;
pub(crate) mod descriptor;
pub(crate) mod diag;
pub(crate) mod fanotify;
mod guards;
mod host;
pub(crate) mod huge;
pub(crate) mod inotify;
pub(crate) mod ipc;
pub(crate) mod locks;
pub(crate) mod mapped;
mod mounts;
pub(crate) mod named;
mod needed;
pub(crate) mod open;
pub(crate) mod outside;
mod policies;
mod process;
pub(crate) mod refusals;
pub(crate) mod sysv;
pub(crate) mod task;
pub(crate) mod terminal;
pub(crate) mod tree;
pub(crate) mod watches;

use std::time::Duration;

use image::plan::{
    CRIU, HUGE_PAGES, INTERFACE, Plan, PlannedFile, PlannedTask, Refusal, SYSTEM_V_IPC,
    TCP_ESTABLISHED,
};
use pages::{ByteCount, TaskId};
use tracee::HostPid;
use tracee::proc::stat::Stat;

pub use crate::error::SurveyError;
pub(crate) use container::survey as survey_container;
use host::Host;
use process::Look;
use refusals::BY_CRIU;

/// What the person who asks for the migration allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurveyOptions {
    /// The tree stands on a terminal; the destination's takes its place.
    pub shell_job: bool,
    /// What becomes of TCP connections.
    pub tcp: TcpPolicy,
    /// Most bytes of one deleted file.
    pub ghost_limit: ByteCount,
}

/// What is to become of TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpPolicy {
    /// A tree that has any is refused.
    #[default]
    Refuse,
    /// They go along (`--tcp-established`).
    Keep,
    /// They become closed sockets (`--tcp-close`).
    Close,
}

impl Default for SurveyOptions {
    fn default() -> Self {
        Self { shell_job: false, tcp: TcpPolicy::Refuse, ghost_limit: ByteCount(64 << 20) }
    }
}

/// How often a tree is looked at again before it is refused, and how long after.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// Surveys the tree under `root`.
///
/// Some states last for microseconds: a shell that has just called vfork(2) shares its memory with
/// its child, a process that is born shares pipes with a tree it is not yet listed in. So a tree is
/// refused only for what it still is after a few looks.
pub fn survey(root: HostPid, options: &SurveyOptions) -> Result<Plan, SurveyError> {
    let mut looks = 1;
    loop {
        match look_at(root, options) {
            Ok((.., refusals)) if !refusals.is_empty() => {
                if looks == LOOKS {
                    return Err(SurveyError::Refused(refusals));
                }
                looks += 1;
                std::thread::sleep(LOOK_AGAIN);
            }
            Ok((plan, ..)) => return Ok(plan),
            Err(error) => return Err(error),
        }
    }
}

/// Surveys a tree that a stock CRIU shall take, which knows itself what it can carry. What the
/// native engine cannot, no native engine can restore: the plan then needs CRIU.
pub(crate) fn survey_for_criu(root: HostPid, options: &SurveyOptions) -> Result<Plan, SurveyError> {
    let (mut plan, brought, mut refusals) = look_at(root, options)?;
    plan.files.extend(brought);
    let mut needs: Vec<String> =
        plan.needs.iter().filter(|need| need.starts_with(HUGE_PAGES)).cloned().collect();
    if !refusals.is_empty() {
        needs.push(CRIU.to_owned());
    }
    let ipc = plan.needs.iter().any(|need| need == SYSTEM_V_IPC);
    for (there, object, reason) in [
        (ipc, "System V semaphores or message queues", "they go along with qmig's own only"),
        (plan.shell_job, "terminal", "a stock CRIU has no terminal to give"),
        (options.tcp == TcpPolicy::Keep, "TCP connections", "they go along with qmig's own only"),
    ] {
        if there {
            refusals.push(Refusal::new(object, "", reason).hint("use `--engine native`"));
        }
    }
    match criu_can(&refusals) {
        true => Ok(Plan { needs, ..plan }),
        false => Err(SurveyError::Refused(refusals)),
    }
}

/// True if everything that is refused could be carried by a stock CRIU.
pub fn criu_can(refusals: &[Refusal]) -> bool {
    refusals.iter().all(|refusal| refusal.hint.as_deref() == Some(BY_CRIU))
}

/// What a tree looks like, which files a stock CRIU would need beside, and why it cannot be carried.
fn look_at(root: HostPid, options: &SurveyOptions) -> Result<Looked, SurveyError> {
    let root_stat = Stat::read(root).map_err(|error| gone(root, error))?;
    let host = Host::look().map_err(|source| SurveyError::Host { act: "ask for uname", source })?;
    let mut look = Look::new(root, options)?;
    look.is_not_qmig(root, &root_stat);
    look.session(root, &root_stat);
    let pids = tree::processes(root);
    look.all(&pids);
    look.segments(&pids);
    outside::judge(&mut look);
    look.connections_can_be_held();
    if !pids.contains(&root) || Stat::read(root).is_err() {
        return Err(SurveyError::NoSuchProcess(root));
    }
    let plan = Plan {
        vdso: look.vdso,
        root: TaskId(root.0.unsigned_abs()),
        files: look.needed.files(),
        listeners: look.listeners,
        unix_names: look.unix_names.into_iter().collect(),
        hard_limits: look.hard_limits,
        highest_fd: look.highest_fd,
        resident: ByteCount(look.resident),
        ghosts: ByteCount(look.needed.ghosts()),
        shell_job: look.terminal,
        // What the first version carries every destination knows.
        needs: [(TCP_ESTABLISHED, look.connections), (SYSTEM_V_IPC, look.objects)]
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(need, _)| need.to_owned())
            .chain(look.huge.needs())
            .chain(look.interfaces.iter().map(|name| format!("{INTERFACE}{name}")))
            .collect(),
        ..host.plan(look.tasks)
    };
    Ok((plan, look.needed.brought(), look.refusals))
}

type Looked = (Plan, Vec<PlannedFile>, Vec<Refusal>);

fn gone(root: HostPid, error: tracee::Error) -> SurveyError {
    if error.is_gone() { SurveyError::NoSuchProcess(root) } else { error.into() }
}

/// One process as the destination will know it.
fn planned(
    pid: HostPid,
    parent: Option<HostPid>,
    comm: String,
    threads: &[HostPid],
) -> PlannedTask {
    let id = |pid: &HostPid| TaskId(pid.0.unsigned_abs());
    PlannedTask {
        id: id(&pid),
        parent: parent.as_ref().map(id),
        comm,
        threads: threads.iter().map(id).collect(),
    }
}
