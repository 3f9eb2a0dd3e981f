//! What the kernel tells about sockets by netlink: sock_diag(7), one dump per family.
//!
//! `getsockopt` cannot name the other end of a unix socket, nor what was shut down; this can. The
//! answer is about the network namespace qmig runs in.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use nix::libc::{AF_INET, AF_INET6, AF_PACKET, AF_UNIX, IPPROTO_TCP, IPPROTO_UDP};
use nix::sys::socket::SockProtocol;
use tracee::net::netlink::{self, Attributes, Netlink, Writer, word};

/// What unix_diag says about one unix socket (linux/unix_diag.h, Linux 3.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnixInfo {
    /// SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_SEQPACKET 5.
    pub(crate) kind: u32,
    /// ESTABLISHED 1, CLOSE 7, LISTEN 10.
    pub(crate) state: u32,
    /// Inode of the other end, if it has one.
    pub(crate) peer: Option<u32>,
    /// Raw `sun_path`; abstract names start with NUL.
    pub(crate) name: Vec<u8>,
    /// (inode, device) of the name's node.
    pub(crate) node: Option<(u32, u32)>,
    /// For a listener: connections nobody has accepted yet. Else bytes or packets waiting.
    pub(crate) waiting: u32,
    /// For a listener: the backlog.
    pub(crate) backlog: u32,
    /// 0 none, 1 read, 2 write, 3 both.
    pub(crate) shutdown: u32,
}

/// Every unix socket of this network namespace, by inode.
pub(crate) fn unix_sockets() -> io::Result<HashMap<u32, UnixInfo>> {
    let mut request = vec![UNIX, 0, 0, 0];
    request.extend_from_slice(&u32::MAX.to_ne_bytes()); // every state
    request.extend_from_slice(&0_u32.to_ne_bytes()); // no single inode
    request.extend_from_slice(&(SHOW_NAME | SHOW_VFS | SHOW_PEER | SHOW_RQLEN).to_ne_bytes());
    request.extend_from_slice(&[0xff; 8]); // no cookie
    let mut found = HashMap::new();
    dump(&request, |body| {
        if let Some((inode, info)) = unix_message(body) {
            found.insert(inode, info);
        }
    })?;
    Ok(found)
}

/// What was shut down of every UDP socket of this network namespace, by inode; those of which
/// nothing was are left out (linux/inet_diag.h).
pub(crate) fn udp_shutdowns() -> io::Result<HashMap<u32, u32>> {
    let mut found = HashMap::new();
    for family in [INET, INET6] {
        let mut request = vec![family, UDP, 0, 0];
        request.extend_from_slice(&u32::MAX.to_ne_bytes());
        request.extend_from_slice(&[0; INET_SOCKID]);
        dump(&request, |body| {
            if let Some((inode, shutdown @ 1..)) = inet_message(body) {
                found.insert(inode, shutdown);
            }
        })?;
    }
    Ok(found)
}

/// True if somebody has begun to connect to one of these listeners, or any on the same port, and was
/// not accepted yet.
pub(crate) fn anybody_waits(doors: &[SocketAddr]) -> io::Result<bool> {
    const SYN_RECV: u8 = 3;
    const LISTEN: u8 = 10;
    let mut waits = false;
    for family in [INET, INET6] {
        let mut request = vec![family, TCP, 0, 0];
        request.extend_from_slice(&(1_u32 << SYN_RECV | 1 << LISTEN).to_ne_bytes());
        request.extend_from_slice(&[0; INET_SOCKID]);
        dump(&request, |body| {
            let port = body.get(4..6).map(|port| u16::from_be_bytes([port[0], port[1]]));
            let ours = doors.iter().any(|door| Some(door.port()) == port);
            let in_queue = || word(body, INET_MESSAGE - 16).is_some_and(|queue| queue > 0);
            waits |= ours && (body.get(1) == Some(&SYN_RECV) || in_queue());
        })?;
    }
    Ok(waits)
}

/// What packet_diag says about one packet socket (linux/packet_diag.h, Linux 3.7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PacketInfo {
    /// What it has joined; the last one first.
    pub(crate) members: Vec<Member>,
    /// Number, type and flags of its PACKET_FANOUT.
    pub(crate) fanout: Option<u32>,
    /// It has a ring in memory.
    pub(crate) ring: bool,
}

/// `struct packet_diag_mclist`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Number of the interface.
    pub(crate) device: u32,
    /// How often it was joined.
    pub(crate) count: u32,
    /// PACKET_MR_*.
    pub(crate) kind: u16,
    /// The address.
    pub(crate) address: Vec<u8>,
}

/// Every packet socket of this network namespace, by inode.
pub(crate) fn packet_sockets() -> io::Result<HashMap<u32, PacketInfo>> {
    const PACKET: u8 = 17;
    const SHOW_MEMBERS: u32 = 2;
    const SHOW_RINGS: u32 = 4;
    const SHOW_FANOUT: u32 = 8;
    const { assert!(PACKET as i32 == AF_PACKET) };
    let mut request = vec![PACKET, 0, 0, 0, 0, 0, 0, 0];
    request.extend_from_slice(&(SHOW_MEMBERS | SHOW_RINGS | SHOW_FANOUT).to_ne_bytes());
    request.extend_from_slice(&[0xff; 8]); // no cookie
    let mut found = HashMap::new();
    dump(&request, |body| found.extend(packet_message(body)))?;
    Ok(found)
}

const SOCK_DIAG_BY_FAMILY: u16 = 20; // linux/sock_diag.h
// AF_* and IPPROTO_* as sock_diag wants them: one byte.
const UNIX: u8 = 1;
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
const _: () = assert!(UNIX as i32 == AF_UNIX && INET as i32 == AF_INET);
const _: () = assert!(INET6 as i32 == AF_INET6 && UDP as i32 == IPPROTO_UDP);
const _: () = assert!(TCP as i32 == IPPROTO_TCP);
const SHOW_NAME: u32 = 1;
const SHOW_VFS: u32 = 2;
const SHOW_PEER: u32 = 4;
const SHOW_RQLEN: u32 = 16;
const ATTR_NAME: u16 = 0;
const ATTR_VFS: u16 = 1;
const ATTR_PEER: u16 = 2;
const ATTR_RQLEN: u16 = 4;
const ATTR_SHUTDOWN: u16 = 6;
/// `struct inet_diag_sockid`.
const INET_SOCKID: usize = 48;
/// `struct inet_diag_msg`.
const INET_MESSAGE: usize = 72;
const INET_ATTR_SHUTDOWN: u16 = 8;

/// Sends one dump request and hands every answer's payload to `each`.
fn dump(request: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut message = Writer::default();
    message.message(SOCK_DIAG_BY_FAMILY, netlink::REQUEST | netlink::DUMP, 1, |body| {
        body.raw(request);
    });
    Netlink::open(SockProtocol::NetlinkSockDiag)?.dump(&message, each)
}

/// `struct unix_diag_msg` and its attributes.
fn unix_message(body: &[u8]) -> Option<(u32, UnixInfo)> {
    let mut info = UnixInfo {
        kind: u32::from(*body.get(1)?),
        state: u32::from(*body.get(2)?),
        ..UnixInfo::default()
    };
    let inode = word(body, 4)?;
    for (kind, value) in Attributes(body.get(16..)?) {
        match kind {
            ATTR_NAME => info.name = value.to_vec(),
            ATTR_VFS => info.node = word(value, 0).zip(word(value, 4)),
            ATTR_PEER => info.peer = word(value, 0).filter(|peer| *peer != 0),
            ATTR_RQLEN => {
                info.waiting = word(value, 0)?;
                info.backlog = word(value, 4)?;
            }
            ATTR_SHUTDOWN => info.shutdown = u32::from(*value.first()?),
            _ => {}
        }
    }
    Some((inode, info))
}

/// `struct packet_diag_msg` and its attributes.
fn packet_message(body: &[u8]) -> Option<(u32, PacketInfo)> {
    const MEMBERS: u16 = 1;
    const RX_RING: u16 = 2;
    const TX_RING: u16 = 3;
    const FANOUT: u16 = 4;
    let inode = word(body, 4)?;
    let mut info = PacketInfo::default();
    for (kind, value) in Attributes(body.get(16..)?) {
        match kind {
            // Two words, two halves, and room for an address of MAX_ADDR_LEN (32) bytes.
            MEMBERS => info.members = value.chunks_exact(44).filter_map(member).collect(),
            RX_RING | TX_RING => info.ring = true,
            FANOUT => info.fanout = word(value, 0),
            _ => {}
        }
    }
    Some((inode, info))
}

fn member(of: &[u8]) -> Option<Member> {
    let half = |at: usize| Some(u16::from_ne_bytes([*of.get(at)?, *of.get(at + 1)?]));
    let address = of.get(12..)?.get(..usize::from(half(10)?))?.to_vec();
    Some(Member { device: word(of, 0)?, count: word(of, 4)?, kind: half(8)?, address })
}

/// `struct inet_diag_msg`: (inode, shutdown).
fn inet_message(body: &[u8]) -> Option<(u32, u32)> {
    let inode = word(body, INET_MESSAGE - 4)?;
    let shutdown = Attributes(body.get(INET_MESSAGE..)?)
        .find(|(kind, _)| *kind == INET_ATTR_SHUTDOWN)
        .and_then(|(_, value)| value.first().copied());
    Some((inode, u32::from(shutdown.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use super::*;

    fn inode(fd: &impl AsRawFd) -> u32 {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        u32::try_from(std::fs::metadata(link).expect("own descriptor").ino()).expect("32 bits")
    }

    #[test]
    fn a_pair_names_its_peers() {
        let (left, right) = UnixStream::pair().expect("a pair");
        right.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let all = unix_sockets().expect("unix_diag");
        let (of_left, of_right) = (&all[&inode(&left)], &all[&inode(&right)]);
        assert_eq!(of_left.peer, Some(inode(&right)));
        assert_eq!(of_right.peer, Some(inode(&left)));
        assert_eq!((of_left.kind, of_left.state), (1, 1));
        assert_eq!((of_left.shutdown, of_right.shutdown), (1, 2));
    }

    #[test]
    fn a_listener_tells_its_name_backlog_and_who_waits() {
        let name = format!("qmig-diag-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let listener = UnixListener::bind_addr(&address).expect("bind");
        let _waiting = UnixStream::connect_addr(&address).expect("connect");
        let info = unix_sockets().expect("unix_diag").remove(&inode(&listener)).expect("ours");
        assert_eq!(info.name, format!("\0{name}").into_bytes());
        assert_eq!((info.state, info.waiting), (10, 1));
        assert!(info.backlog >= 128, "std listens with at least 128: {}", info.backlog);
    }

    #[test]
    fn a_shut_down_udp_socket_is_told_from_others() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.connect(socket.local_addr().expect("bound")).expect("connect");
        assert_eq!(udp_shutdowns().expect("inet_diag").get(&inode(&socket)), None);
        nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Write)
            .expect("shutdown");
        assert_eq!(udp_shutdowns().expect("inet_diag").get(&inode(&socket)), Some(&2));
    }

    #[test]
    fn who_waits_at_a_door_is_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let door = [listener.local_addr().expect("bound")];
        assert!(!anybody_waits(&door).expect("inet_diag"));
        let _client = std::net::TcpStream::connect(door[0]).expect("connect");
        assert!(anybody_waits(&door).expect("inet_diag"));
        listener.accept().expect("accept");
        assert!(!anybody_waits(&door).expect("inet_diag"));
    }

    #[test]
    fn messages_that_are_cut_tell_nothing() {
        assert_eq!(unix_message(&[1, 1, 1]), None);
        assert_eq!(inet_message(&[0; 71]), None);
    }
}
