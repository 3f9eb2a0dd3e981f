//! The networks of Podman's that a container is in.

use std::io;

use criu::{Connected, ContainerState};
use tracee::HostPid;

/// Of each network its name, what the container calls its interface there, if it has one with the
/// address on the link that the network gave, and what the network gave.
pub(crate) fn networks_of(
    state: &ContainerState,
) -> io::Result<Vec<(&str, Option<String>, &Connected)>> {
    let mut networks = state.own_networks().peekable();
    if networks.peek().is_none() {
        return Ok(Vec::new());
    }
    let interfaces = tracee::net::interfaces(HostPid(state.pid))?;
    let interface = |has: &Connected| interfaces.get(&has.link_address()?).cloned();
    Ok(networks.map(|(name, has)| (name, interface(has), has)).collect())
}
