//! UDP: multicast groups are joined again, and what waited comes again, from whom it came.
//!
//! No call puts a datagram into a queue. It is made here, with the address of whoever sent it, and
//! sent over the loopback device when the tree's addresses are here, just before it runs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use image::state::{Group, InetSocket};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use tracee::net::lock::PASSES;

use super::forged::{HOPS, checksum};
use super::options;
use crate::error::{Error, Result, errno_of};

/// linux/in.h.
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_BLOCK_SOURCE: i32 = 43;
const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
/// `struct sockaddr_storage`.
const STORAGE: usize = 128;

/// Joins the groups of a socket.
pub(super) fn join(fd: BorrowedFd<'_>, groups: &[Group]) -> Result<()> {
    for group in groups {
        let failed = |error: io::Error| Error::Group {
            group: group.group,
            device: group.device.clone(),
            errno: errno_of(&error),
        };
        let index = nix::net::if_::if_nametoindex(group.device.as_str())
            .map_err(|errno| failed(errno.into()))?;
        let level = if group.group.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 };
        let set = |option, addresses: &[IpAddr]| {
            // `struct group_req` and `group_source_req`: an interface, then addresses.
            let mut value = u64::from(index).to_ne_bytes().to_vec();
            addresses.iter().for_each(|address| value.extend(storage(*address)));
            tracee::host::setsockopt(fd, level, option, &value)
        };
        if !group.include {
            set(MCAST_JOIN_GROUP, &[group.group]).map_err(failed)?;
        }
        let option = if group.include { MCAST_JOIN_SOURCE_GROUP } else { MCAST_BLOCK_SOURCE };
        for source in &group.sources {
            set(option, &[group.group, *source]).map_err(failed)?;
        }
    }
    Ok(())
}

fn storage(address: IpAddr) -> [u8; STORAGE] {
    let mut bytes = [0; STORAGE];
    match address {
        IpAddr::V4(address) => {
            bytes[..2].copy_from_slice(&2_u16.to_ne_bytes());
            bytes[4..8].copy_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            bytes[..2].copy_from_slice(&10_u16.to_ne_bytes());
            bytes[8..24].copy_from_slice(&address.octets());
        }
    }
    bytes
}

/// Has each socket receive what waited in it. What does not arrive is told.
pub(super) fn send_again(sockets: &[InetSocket]) {
    for state in sockets {
        for packet in &state.queue {
            let Some(from) = packet.from else { continue };
            if let Err(error) = send(from, state.source, &packet.bytes) {
                let socket = state.source;
                tracing::warn!(%socket, %from, %error, "what waited in a UDP socket is lost");
            }
        }
    }
}

fn send(from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let (from, to) = (plain(from), plain(to));
    let own = match (from.ip(), to.ip()) {
        (IpAddr::V4(_), any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        (IpAddr::V6(_), any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        (_, one) => one,
    };
    let to = SocketAddr::new(own, to.port());
    let (packet, family) = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            // The kernel fills in length, id and checksum (raw(7)).
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, HOPS, UDP, 0, 0];
            let addresses = [source.octets(), target.octets()].concat();
            packet.extend_from_slice(&addresses);
            packet.extend(udp(&addresses, from.port(), to.port(), bytes)?);
            (packet, AddressFamily::Inet)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let addresses = [source.octets(), target.octets()].concat();
            let body = udp(&addresses, from.port(), to.port(), bytes)?;
            let length = u16::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes();
            let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], UDP, HOPS];
            packet.extend_from_slice(&addresses);
            packet.extend(body);
            (packet, AddressFamily::Inet6)
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let raw: OwnedFd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    options::set(raw.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, PASSES)?;
    // Whatever the routes say: an address that is not of this host gets nothing from us.
    tracee::host::setsockopt(raw.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo\0")?;
    // A raw socket takes no port.
    let target = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    sendto(raw.as_raw_fd(), &packet, &target, MsgFlags::empty())?;
    Ok(())
}

const UDP: u8 = 17;

/// A header with the checksum that needs the addresses, and what follows it.
fn udp(addresses: &[u8], from: u16, to: u16, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(8 + bytes.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut datagram = Vec::with_capacity(8 + bytes.len());
    datagram.extend_from_slice(&from.to_be_bytes());
    datagram.extend_from_slice(&to.to_be_bytes());
    datagram.extend_from_slice(&length);
    datagram.extend_from_slice(&[0; 2]);
    datagram.extend_from_slice(bytes);
    let sum = checksum(&[addresses, &[0, UDP], &length, &datagram].concat());
    // Zero would say that there is none (RFC 768).
    let sum = if sum == 0 { u16::MAX } else { sum };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    Ok(datagram)
}

fn plain(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_datagram_comes_from_whoever_sent_it() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        for (own, from) in [("127.0.0.1:0", "192.0.2.7:53"), ("[::1]:0", "[2001:db8::7]:53")] {
            let socket = UdpSocket::bind(own).expect("bound");
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("patience");
            let from: SocketAddr = from.parse().expect("an address");
            for bytes in [&b""[..], b"odd", &[7; 9000]] {
                send(from, socket.local_addr().expect("bound"), bytes).expect("sent");
                let mut room = vec![0; 10_000];
                let (length, sender) = socket.recv_from(&mut room).expect("received");
                assert_eq!((&room[..length], sender), (bytes, from));
            }
        }
    }

    #[test]
    fn groups_are_joined_with_their_filters() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let one = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut group = Group {
            group: one("239.9.8.7"),
            device: "lo".to_owned(),
            include: true,
            sources: vec![one("192.0.2.1"), one("192.0.2.2")],
        };
        join(socket.as_fd(), std::slice::from_ref(&group)).expect("joined");
        let error = join(socket.as_fd(), &[Group { include: false, ..group.clone() }]);
        assert!(error.is_err(), "it is in it already");
        group.device = "nowhere".to_owned();
        let error = join(socket.as_fd(), &[group]).expect_err("no such device").to_string();
        assert!(error.contains("nowhere") && error.contains("239.9.8.7"), "{error}");
    }
}
