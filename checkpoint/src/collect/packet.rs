//! packet(7) sockets: what they hear, where, and with whom they share it.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};

use image::state::packet::{Device, Membership};
use image::state::{PacketSocket, SocketOptions};
use nix::net::if_::if_indextoname;
use nix::sys::socket::{SockaddrStorage, getsockname};

use crate::survey::diag::{self, PacketInfo};
use crate::survey::refusals::{BY_CRIU, Trouble};

/// SOCK_PACKET, linux/net.h.
const OBSOLETE: u32 = 10;

/// Reads a packet socket; `frozen`: the tree stands still, and what waits now is lost.
pub(super) fn read(
    fd: BorrowedFd,
    inode: u32,
    kind: u32,
    options: impl FnOnce(&str) -> Result<SocketOptions, Trouble>,
    frozen: bool,
) -> Result<PacketSocket, Trouble> {
    let shown = format!("packet:[{inode}]");
    let refuse = |reason: &str| Err(Trouble::new(shown.as_str(), reason));
    if kind == OBSOLETE {
        return refuse("a packet socket of the kind SOCK_PACKET, which is obsolete");
    }
    let failed =
        |error| Trouble::new(shown.as_str(), format!("packet sockets are not told: {error}"));
    let all = diag::packet_sockets().map_err(failed)?;
    let Some(info) = all.get(&inode) else { return refuse("in another network namespace") };
    let waiting = waiting(inode);
    if frozen && waiting > 0 {
        tracing::warn!(socket = shown, bytes = waiting, "what waits in a packet socket is lost");
    }
    if info.ring {
        let trouble = Trouble::new(shown.as_str(), "a ring of a packet socket (PACKET_RX_RING)");
        return Err(trouble.but(BY_CRIU));
    }
    if info.fanout.is_some_and(|fanout| fanout >> 16 & 0xff >= PacketSocket::FANOUT_TYPES) {
        return refuse("it shares packets by a program (PACKET_FANOUT_CBPF or _EBPF)");
    }
    let own: Option<SockaddrStorage> = getsockname(fd.as_raw_fd()).ok();
    let Some(own) = own.as_ref().and_then(SockaddrStorage::as_link_addr) else {
        return refuse("its address is not told");
    };
    let index = u32::try_from(own.ifindex()).unwrap_or(u32::MAX);
    let device = (index != 0).then(|| device(index, &shown)).transpose()?;
    Ok(PacketSocket {
        kind,
        protocol: own.protocol().into(),
        device,
        memberships: memberships(info, &shown)?,
        fanout: info.fanout,
        options: options(&shown)?,
    })
}

fn device(index: u32, shown: &str) -> Result<Device, Trouble> {
    let name = if_indextoname(index).ok().and_then(|name| name.into_string().ok());
    match name {
        Some(name) => Ok(Device { index, name: Some(name) }),
        None => Err(Trouble::new(shown, "bound to an interface that is gone")),
    }
}

/// One that was joined twice must be left twice, and is here twice.
fn memberships(info: &PacketInfo, shown: &str) -> Result<Vec<Membership>, Trouble> {
    let mut all = Vec::new();
    for member in &info.members {
        if member.address.len() > Membership::LONGEST {
            return Err(Trouble::new(shown, "a member of a group with a long address"));
        }
        let device = device(member.device, shown)?;
        let address = member.address.clone();
        let one = Membership { device, kind: member.kind.into(), address };
        all.extend(std::iter::repeat_n(one, member.count as usize));
        if all.len() > PacketSocket::MOST_MEMBERSHIPS {
            return Err(Trouble::new(shown, "a member of too many groups"));
        }
    }
    // The kernel tells the one joined last first.
    all.reverse();
    Ok(all)
}

/// Bytes that the program has not read.
fn waiting(inode: u32) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/packet").unwrap_or_default();
    text.lines().filter_map(parse).find(|(one, _)| *one == inode).map_or(0, |(_, bytes)| bytes)
}

/// `sk RefCnt Type Proto Iface R Rmem User Inode`.
fn parse(line: &str) -> Option<(u32, u64)> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    Some((words.get(8)?.parse().ok()?, words.get(6)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let line = "00000000e5f0a1c8 3      3    0003   2     1 768    0      19337 ";
        assert_eq!(parse(line), Some((19337, 768)));
        let head = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode";
        assert_eq!(parse(head), None);
    }
}
