//! Looks at a tree that somebody else has dumped: what it takes of the destination beyond processor and
//! kernel, whoever dumps it and whoever restores it know themselves.

use std::collections::BTreeMap;

use image::plan::{Plan, PlannedTask};
use pages::ByteCount;
use tracee::HostPid;
use tracee::proc::children;
use tracee::proc::status::Status;

use super::host::Host;
use super::{SurveyError, planned, tree};

/// A plan of the processes under `root`, which needs `need` on the destination.
pub(crate) fn survey(root: HostPid, need: &str) -> Result<Plan, SurveyError> {
    let host = Host::look().map_err(|source| SurveyError::Host { act: "ask for uname", source })?;
    let (mut tasks, mut resident, mut numbers) = (Vec::<PlannedTask>::new(), 0, BTreeMap::new());
    for pid in tree::processes(root) {
        let Ok(status) = Status::read(pid) else { continue };
        let own = HostPid(status.own_number());
        numbers.insert(status.pid, own);
        resident += status.vm_rss + status.vm_swap;
        let threads = children::threads(pid).unwrap_or_default();
        let threads: Vec<_> = threads.into_iter().filter_map(own_thread).collect();
        let parent = if pid == root { None } else { numbers.get(&status.ppid).copied() };
        tasks.push(planned(own, parent, status.name, &threads));
    }
    if tasks.is_empty() {
        return Err(SurveyError::NoSuchProcess(root));
    }
    let (resident, needs) = (ByteCount(resident << 10), vec![need.to_owned()]);
    Ok(Plan { resident, needs, ..host.plan(tasks) })
}

/// The number by which a thread knows itself.
fn own_thread(tid: HostPid) -> Option<HostPid> {
    Status::read(tid).ok()?.ns_pid.last().copied().map(HostPid)
}
