//! Socket options that are carried as they are: numbers, and bytes that the kernel understands.

/// One option of setsockopt(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOption {
    /// SOL_SOCKET, IPPROTO_IP…
    pub level: u32,
    /// Its number.
    pub name: u32,
    /// As getsockopt(2) gave it.
    pub value: Vec<u8>,
}

impl SocketOption {
    /// Most bytes of a value: those of ICMPV6_FILTER.
    pub const LONGEST: usize = 32;

    /// True if this is one of those that are carried this way.
    pub fn is_known(level: u32, name: u32) -> bool {
        CARRIED.iter().any(|(known, names)| *known == level && names.contains(&name))
    }
}

/// SOL_SOCKET.
pub const SOCKET: u32 = 1;
/// IPPROTO_IP.
pub const IP: u32 = 0;
/// IPPROTO_IPV6.
pub const IPV6: u32 = 41;
/// IPPROTO_TCP.
pub const TCP: u32 = 6;
/// IPPROTO_UDP.
pub const UDP: u32 = 17;
/// SOL_NETLINK.
pub const NETLINK: u32 = 270;
/// SOL_RAW.
pub const RAW: u32 = 255;
/// SOL_ICMPV6.
pub const ICMPV6: u32 = 58;
/// SOL_PACKET.
pub const PACKET: u32 = 263;
/// IP_HDRINCL, ip(7).
pub const IP_HDRINCL: u32 = 3;
/// IP_NODEFRAG, ip(7).
pub const IP_NODEFRAG: u32 = 22;
/// ICMP_FILTER, raw(7), and ICMPV6_FILTER.
pub const FILTER: u32 = 1;
/// IP_TOS, ip(7).
pub const IP_TOS: u32 = 1;
/// IP_TTL, ip(7).
pub const IP_TTL: u32 = 2;
/// IP_PKTINFO, ip(7).
pub const IP_PKTINFO: u32 = 8;

/// By level; those of which a new socket has another value are carried. Numbers of asm-generic/socket.h,
/// linux/in.h, linux/in6.h, linux/tcp.h, linux/udp.h, linux/netlink.h and linux/if_packet.h.
pub const CARRIED: &[(u32, &[u32])] = &[
    // TIMESTAMP, TIMESTAMPNS, TIMESTAMPING, RXQ_OVFL, PEEK_OFF, BUSY_POLL, MAX_PACING_RATE, ZEROCOPY.
    (SOCKET, &[29, 35, 37, 40, 42, 46, 47, 60]),
    // TOS, TTL, HDRINCL, RECVOPTS, RETOPTS, PKTINFO, MTU_DISCOVER, RECVERR, RECVTTL, RECVTOS, TRANSPARENT,
    // RECVORIGDSTADDR, MINTTL, NODEFRAG, BIND_ADDRESS_NO_PORT, RECVFRAGSIZE, MULTICAST_IF, MULTICAST_TTL,
    // MULTICAST_LOOP, MULTICAST_ALL, LOCAL_PORT_RANGE.
    (IP, &[1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 19, 20, 21, 22, 24, 25, 32, 33, 34, 49, 51]),
    // UNICAST_HOPS, MULTICAST_HOPS, MULTICAST_LOOP, MTU_DISCOVER, RECVERR, MULTICAST_ALL,
    // FLOWINFO_SEND, RECVPKTINFO, RECVHOPLIMIT, RECVHOPOPTS, RECVRTHDR, RECVDSTOPTS, DONTFRAG,
    // RECVTCLASS, TCLASS, AUTOFLOWLABEL, ADDR_PREFERENCES, MINHOPCOUNT, ORIGDSTADDR, RECVFRAGSIZE.
    (IPV6, &[16, 18, 19, 23, 25, 29, 33, 49, 51, 53, 56, 58, 62, 66, 67, 70, 72, 73, 74, 77]),
    // SYNCNT, LINGER2, DEFER_ACCEPT, CONGESTION, THIN_LINEAR_TIMEOUTS, USER_TIMEOUT, FASTOPEN,
    // NOTSENT_LOWAT, SAVE_SYN, FASTOPEN_CONNECT, FASTOPEN_NO_COOKIE, INQ.
    (TCP, &[7, 8, 9, 13, 16, 18, 23, 25, 27, 30, 34, 36]),
    // NO_CHECK6_TX, NO_CHECK6_RX, SEGMENT, GRO.
    (UDP, &[101, 102, 103, 104]),
    // ICMP_FILTER, IPV6_CHECKSUM.
    (RAW, &[1, 7]),
    // ICMPV6_FILTER.
    (ICMPV6, &[1]),
    // PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, CAP_ACK, EXT_ACK, GET_STRICT_CHK.
    (NETLINK, &[3, 4, 5, 10, 11, 12]),
    // COPY_THRESH, AUXDATA, ORIGDEV, VERSION, RESERVE, LOSS, VNET_HDR, TIMESTAMP, TX_HAS_OFF, QDISC_BYPASS,
    // IGNORE_OUTGOING, VNET_HDR_SZ.
    (PACKET, &[7, 8, 9, 10, 12, 14, 15, 17, 19, 20, 23, 24]),
];
