//! netlink(7) sockets: who they are, what they hear, and that nothing waits in them.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};

use image::state::{NetlinkSocket, SocketOptions};
use nix::libc;
use nix::sys::socket::{NetlinkAddr, SockaddrStorage, getpeername, getsockname};

use crate::survey::refusals::{BY_CRIU, Trouble};

/// Reads a netlink socket; `frozen`: the tree stands still, and what waits now is lost.
pub(super) fn read(
    fd: BorrowedFd,
    inode: u32,
    (kind, protocol): (u32, u32),
    options: impl FnOnce(&str) -> Result<SocketOptions, Trouble>,
    frozen: bool,
) -> Result<NetlinkSocket, Trouble> {
    let shown = format!("netlink:[{inode}]");
    if !NetlinkSocket::CARRIED.contains(&protocol) {
        let name = NAMES.iter().find(|(number, _)| *number == protocol);
        let name =
            name.map_or_else(|| format!("protocol {protocol}"), |(_, name)| (*name).to_owned());
        let reason =
            format!("a netlink socket of {name}: the kernel keeps more for it than it tells");
        return Err(Trouble::new(shown, reason).but(BY_CRIU));
    }
    let own = address(getsockname(fd.as_raw_fd()));
    let to = address(getpeername(fd.as_raw_fd()));
    let port = own.map_or(0, |own| own.pid());
    // One without a port is on no list, and nothing can come to it.
    if port != 0 {
        let text = fs::read_to_string("/proc/thread-self/net/netlink").unwrap_or_default();
        let Some(row) = text.lines().filter_map(parse).find(|row| row.inode == inode) else {
            return Err(Trouble::new(shown, "in another network namespace"));
        };
        if frozen && (row.waiting > 0 || row.answering) {
            let reason = "messages of the kernel that the program has not read";
            return Err(Trouble::new(shown, reason).but("try again when it has read them"));
        }
    }
    Ok(NetlinkSocket {
        inode,
        kind,
        protocol,
        port,
        groups: groups(fd),
        destination: to.map(|to| (to.pid(), to.groups())).filter(|to| *to != (0, 0)),
        options: options(&shown)?,
    })
}

/// linux/netlink.h.
const NAMES: [(u32, &str); 6] = [
    (9, "the audit system"),
    (10, "routing tables (NETLINK_FIB_LOOKUP)"),
    (11, "the connector"),
    (12, "netfilter"),
    (16, "generic netlink"),
    (18, "SCSI"),
];

fn address(got: nix::Result<SockaddrStorage>) -> Option<NetlinkAddr> {
    got.ok()?.as_netlink_addr().copied()
}

/// NETLINK_LIST_MEMBERSHIPS (Linux 4.2): a bit for each group.
fn groups(fd: BorrowedFd) -> Vec<u32> {
    const LIST_MEMBERSHIPS: i32 = 9;
    let most = NetlinkSocket::MOST_GROUPS as usize / 8;
    let bits = tracee::host::getsockopt(fd, libc::SOL_NETLINK, LIST_MEMBERSHIPS, most);
    let bits = bits.unwrap_or_default();
    let is_in = |group: &u32| {
        let bit = group - 1;
        bits.get((bit / 8) as usize).is_some_and(|byte| byte & 1 << (bit % 8) != 0)
    };
    (1..=NetlinkSocket::MOST_GROUPS).filter(is_in).collect()
}

/// A line of /proc/net/netlink.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    inode: u32,
    /// Bytes of messages that wait.
    waiting: u64,
    /// A longer answer is under way.
    answering: bool,
}

/// `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`.
fn parse(line: &str) -> Option<Row> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    Some(Row {
        inode: words.get(9)?.parse().ok()?,
        waiting: words.get(4)?.parse().ok()?,
        answering: *words.get(6)? != "0",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let line =
            "000000006a15d419 0   77  00000001 768      0        1     2        0        1516    ";
        assert_eq!(parse(line), Some(Row { inode: 1516, waiting: 768, answering: true }));
        let head = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode";
        assert_eq!(parse(head), None);
    }
}
