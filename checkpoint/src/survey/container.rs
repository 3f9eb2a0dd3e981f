//! Looks at a container. What can be carried its CRIU knows; files, sockets and numbers of processes
//! are in namespaces of its own, so that the destination need not be asked about them.

use std::collections::BTreeMap;

use criu::{CONFIG, ContainerState};
use image::plan::{CONTAINER, Plan, PlannedTask, Refusal};
use pages::{ByteCount, PAGE_SHIFT, TaskId};
use tracee::HostPid;
use tracee::proc::children;
use tracee::proc::status::Status;

use super::host::Host;
use super::{SurveyError, SurveyOptions, TcpPolicy, planned, tree};

/// Surveys the container whose root process is `root`.
pub(crate) fn survey(
    root: HostPid,
    state: &ContainerState,
    options: &SurveyOptions,
) -> Result<Plan, SurveyError> {
    let mut refusals = Vec::new();
    if state.status != "running" {
        let reason = format!("it is {}", state.status.escape_debug());
        refusals.push(Refusal::new("container", "", reason).hint("start it"));
    }
    if state.has_terminal() {
        let reason = "nobody there has its other end";
        refusals.push(Refusal::new("terminal of the container", CONFIG, reason));
    }
    if options.tcp == TcpPolicy::Keep {
        let reason = "CRIU takes them along under a lock that it cannot hold until the hand-over";
        refusals.push(Refusal::new("TCP connections", "", reason).hint("use --tcp-close"));
    }
    if !refusals.is_empty() {
        return Err(SurveyError::Refused(refusals));
    }
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
    let first = tasks.first().ok_or(SurveyError::NoSuchProcess(root))?;
    Ok(Plan {
        qmig_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: host.kernel,
        architecture: host.architecture,
        page_size: 1 << PAGE_SHIFT,
        hostname: host.hostname,
        cpu: host.cpu,
        vdso: Vec::new(),
        root: TaskId(first.id.0),
        command: first.comm.clone(),
        tasks,
        files: Vec::new(),
        listeners: Vec::new(),
        unix_names: Vec::new(),
        hard_limits: [0; 16],
        highest_fd: 0,
        resident: ByteCount(resident << 10),
        ghosts: ByteCount(0),
        shell_job: false,
        needs: vec![CONTAINER.to_owned()],
    })
}

/// The number by which a thread knows itself.
fn own_thread(tid: HostPid) -> Option<HostPid> {
    Status::read(tid).ok()?.ns_pid.last().copied().map(HostPid)
}
