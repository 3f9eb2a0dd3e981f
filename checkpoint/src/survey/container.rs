//! Looks at a container. What can be carried its CRIU knows; files, sockets and numbers of processes
//! are in namespaces of its own, so that the destination need not be asked about them.

use criu::{CONFIG, ContainerState};
use image::plan::{CONTAINER, Plan, Refusal};
use tracee::HostPid;

use super::{SurveyError, SurveyOptions, TcpPolicy, brief};

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
    if state.is_networked() {
        let reason = "Podman would give it another address there";
        let hint = "only containers with --network none or host can be moved";
        let object = format!("network {}", state.network.escape_debug());
        refusals.push(Refusal::new(object, "", reason).hint(hint));
    }
    if options.tcp == TcpPolicy::Keep {
        let reason = "CRIU takes them along under a lock that it cannot hold until the hand-over";
        refusals.push(Refusal::new("TCP connections", "", reason).hint("use --tcp-close"));
    }
    if !refusals.is_empty() {
        return Err(SurveyError::Refused(refusals));
    }
    brief::survey(root, CONTAINER)
}
