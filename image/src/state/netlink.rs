//! netlink(7) sockets. What waits in them is not carried.

use super::SocketOptions;

/// A netlink socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkSocket {
    /// Inode at the source.
    pub inode: u32,
    /// SOCK_RAW 3 or SOCK_DGRAM 2, which is the same.
    pub kind: u32,
    /// One of [`Self::CARRIED`].
    pub protocol: u32,
    /// Its port; zero if it is not bound.
    pub port: u32,
    /// Multicast groups it hears, ascending, from 1.
    pub groups: Vec<u32>,
    /// Port and groups that what it sends goes to, if not the kernel alone.
    pub destination: Option<(u32, u32)>,
    /// Options.
    pub options: SocketOptions,
}

impl NetlinkSocket {
    /// NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_XFRM, NETLINK_KOBJECT_UEVENT: those of which the kernel
    /// keeps no more for a socket than is here, and whose groups have the same numbers everywhere.
    pub const CARRIED: [u32; 4] = [0, 4, 6, 15];
    /// More groups than any of these protocols has.
    pub const MOST_GROUPS: u32 = 1024;
}
