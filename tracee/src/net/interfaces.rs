//! The interfaces of a network that we are not in.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};

use crate::HostPid;

/// The names of the interfaces of that process's network, by their addresses on the link.
pub fn interfaces(of: HostPid) -> io::Result<BTreeMap<[u8; 6], String>> {
    let network = File::open(format!("/proc/{}/ns/net", of.0))?;
    // A thread of its own, which ends there: no other is ever in that network.
    let look = std::thread::Builder::new().name("interfaces".to_owned());
    let look = look.spawn(move || {
        setns(network, CloneFlags::CLONE_NEWNET)?;
        let links = getifaddrs()?.filter_map(|link| {
            let address = link.address?.as_link_addr()?.addr()?;
            (address != [0; 6]).then_some((address, link.interface_name))
        });
        Ok(links.collect())
    })?;
    look.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}
