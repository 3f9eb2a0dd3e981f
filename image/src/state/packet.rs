//! packet(7) sockets. What waits in them is not carried, and neither are rings.

use super::SocketOptions;

/// A packet socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketSocket {
    /// SOCK_RAW 3 or SOCK_DGRAM 2.
    pub kind: u32,
    /// The protocol it hears as the socket has it, in network order; zero for none.
    pub protocol: u32,
    /// The interface it is bound to, if not all of them.
    pub device: Option<Device>,
    /// What it has joined (PACKET_ADD_MEMBERSHIP).
    pub memberships: Vec<Membership>,
    /// The group of sockets it shares packets with (PACKET_FANOUT): its number, type and flags.
    pub fanout: Option<u32>,
    /// Options, those of SOL_PACKET among [`SocketOptions::more`].
    pub options: SocketOptions,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number at the source.
    pub index: u32,
    /// Its name, which counts; CRIU does not tell it.
    pub name: Option<String>,
}

/// `struct packet_mreq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Of which interface.
    pub device: Device,
    /// PACKET_MR_MULTICAST 0, PROMISC 1, ALLMULTI 2, UNICAST 3.
    pub kind: u32,
    /// The address; none of all.
    pub address: Vec<u8>,
}

impl Membership {
    /// Most bytes of an address: what `struct packet_mreq` has room for.
    pub const LONGEST: usize = 8;
}

impl PacketSocket {
    /// Most memberships; the kernel's own limit is far lower unless somebody raised it
    /// (net.core.optmem_max).
    pub const MOST_MEMBERSHIPS: usize = 4096;
    /// PACKET_FANOUT_CBPF 6, PACKET_FANOUT_EBPF 7 have a program that nobody tells.
    pub const FANOUT_TYPES: u32 = 6;
}
