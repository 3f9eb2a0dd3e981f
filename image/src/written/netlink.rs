//! Netlink sockets: entries of `files.img`.

use super::options::{from_options, to_options};
use super::sockets::same_namespace;
use crate::error::BadField;
use crate::messages::{FownEntry, NetlinkSkEntry};
use crate::state::NetlinkSocket;

/// What CRIU calls the kernel's NETLINK_UNCONNECTED and NETLINK_CONNECTED (linux/netlink.h).
const CONNECTED: u32 = 1;
const DATAGRAM: u32 = 2;
const RAW: u32 = 3;

pub(super) fn entry(
    socket: &NetlinkSocket,
    id: u32,
    flags: u32,
    fown: FownEntry,
    net: u32,
) -> NetlinkSkEntry {
    let (dst_portid, dst_group) = socket.destination.unwrap_or_default();
    NetlinkSkEntry {
        id,
        ino: socket.inode,
        protocol: socket.protocol,
        state: socket.destination.map_or(0, |_| CONNECTED),
        flags,
        portid: socket.port,
        groups: words(&socket.groups),
        dst_portid,
        dst_group,
        fown,
        opts: to_options(&socket.options),
        ns_id: Some(net),
        kind: (socket.kind != RAW).then_some(socket.kind),
    }
}

/// Group n is bit n-1.
fn words(groups: &[u32]) -> Vec<u32> {
    let mut words = Vec::new();
    for bit in groups.iter().map(|group| group - 1) {
        let at = (bit / 32) as usize;
        words.resize(words.len().max(at + 1), 0);
        words[at] |= 1 << (bit % 32);
    }
    words
}

pub(super) fn from(entry: &NetlinkSkEntry, net: Option<u32>) -> Result<NetlinkSocket, BadField> {
    same_namespace("nlsk.ns_id", entry.ns_id, net)?;
    if !NetlinkSocket::CARRIED.contains(&entry.protocol) {
        return Err(BadField::unsupported("nlsk.protocol", "a netlink socket of this protocol"));
    }
    let kind = entry.kind.unwrap_or(RAW);
    if !matches!(kind, DATAGRAM | RAW) {
        return Err(BadField::value("nlsk.kind", kind, "2 or 3"));
    }
    if entry.groups.len() > NetlinkSocket::MOST_GROUPS as usize / 32 {
        return Err(BadField::count("nlsk.groups", entry.groups.len(), "at most 32 words"));
    }
    let bits = (0..NetlinkSocket::MOST_GROUPS).filter(|bit| {
        let word = entry.groups.get((bit / 32) as usize);
        word.is_some_and(|word| word & 1 << (bit % 32) != 0)
    });
    let destination = Some((entry.dst_portid, entry.dst_group));
    Ok(NetlinkSocket {
        inode: entry.ino,
        kind,
        protocol: entry.protocol,
        port: entry.portid,
        groups: bits.map(|bit| bit + 1).collect(),
        destination: destination.filter(|to| entry.state == CONNECTED && *to != (0, 0)),
        options: from_options(&entry.opts, None)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_bits() {
        assert!(words(&[]).is_empty());
        assert_eq!(words(&[1, 5, 33, 70]), [0b1_0001, 1, 1 << 5]);
    }
}
