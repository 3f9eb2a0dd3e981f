//! Looks at a container. What can be carried its CRIU knows; files, sockets and numbers of processes
//! are in namespaces of its own, so that the destination need not be asked about them.

use criu::{Container, ContainerState};
use image::plan::{CONNECTIONS, CONTAINER, INPUT, MOUNT, NETWORK, Plan, Refusal, TERMINAL};
use tracee::HostPid;

use crate::networks::networks_of;

use super::{SurveyError, SurveyOptions, TcpPolicy, brief};

/// Surveys the container whose root process is `root`.
pub(crate) fn survey(
    root: HostPid,
    (container, state): (&Container, &ContainerState),
    options: &SurveyOptions,
) -> Result<Plan, SurveyError> {
    let mut refusals = Vec::new();
    if state.status != "running" {
        let reason = format!("it is {}", state.status.escape_debug());
        refusals.push(Refusal::new("container", "", reason).hint("start it"));
    }
    let networks = match refusals.is_empty() {
        true => networks_of(state)
            .map_err(|source| SurveyError::Host { act: "look at its network", source })?,
        false => Vec::new(),
    };
    if state.is_networked() && state.own_networks().next().is_none() {
        let reason = "only networks of Podman's that are its own can be had again over there";
        let hint = "have it in such networks, or with --network none or host";
        let object = format!("network {}", state.network.escape_debug());
        refusals.push(Refusal::new(object, "", reason).hint(hint));
    }
    for (name, ..) in networks.iter().filter(|(_, interface, _)| interface.is_none()) {
        let reason = "it has no interface there with the address on the link that Podman gave it";
        let hint = "give that address back to the interface, or `podman network disconnect` it";
        let object = format!("network {}", name.escape_debug());
        refusals.push(Refusal::new(object, "", reason).hint(hint));
    }
    // Of others' bundles whoever wrote them says what they are to have in common over there.
    let shared = if container.is_kept() { state.shared_namespaces() } else { Vec::new() };
    for kind in shared {
        let reason = "it has that in common with another container, and would not over there";
        let hint = format!("give it one of its own, with --{kind} private");
        let object = format!("{} namespace", kind.escape_debug());
        refusals.push(Refusal::new(object, "", reason).hint(&hint));
    }
    let keeps = options.tcp == TcpPolicy::Keep;
    if keeps && !networks.is_empty() {
        let reason = "they lead out of its networks, which nobody holds back";
        refusals.push(Refusal::new(CONNECTIONS, "", reason).hint("use --tcp-close"));
    } else if keeps && !has_own_network(root) {
        // Nobody else may speak to them before they are over there.
        let reason = "its network is the host's: CRIU would not keep their packets back";
        refusals.push(Refusal::new(CONNECTIONS, "", reason).hint("use --tcp-close"));
    }
    if !refusals.is_empty() {
        return Err(SurveyError::Refused(refusals));
    }
    let mut plan = brief::survey(root, CONTAINER)?;
    plan.needs.extend(state.has_terminal().then(|| TERMINAL.to_owned()));
    plan.needs.extend(networks.iter().map(|(name, ..)| format!("{NETWORK}{name}")));
    plan.needs.extend(state.hears.then(|| INPUT.to_owned()));
    plan.needs.extend(state.mounted().map(|place| format!("{MOUNT}{place}")));
    plan.needs.extend(keeps.then(|| CONNECTIONS.to_owned()));
    Ok(plan)
}

/// True if both ends of each of its connections are in it: nothing of its network leads outside, or
/// CRIU does not take it.
fn has_own_network(root: HostPid) -> bool {
    let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let (its, ours) = (network(&root.0.to_string()), network("self"));
    its.is_some() && its != ours
}
