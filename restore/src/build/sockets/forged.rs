//! The other end's FIN, made by ourselves.
//!
//! A connection whose other end has ended its direction is in a state that repair mode cannot set:
//! only a packet brings it there. It is made here and sent over the loopback device, with the mark
//! that lets it pass the lock ([`tracee::net::lock::PASSES`]).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use image::state::{InetSocket, TcpStream};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use tracee::net::lock::PASSES;

use super::options;

/// Has each of these connections receive its end. One that does not is told.
pub(super) fn send_ends<'a>(connections: impl Iterator<Item = (&'a InetSocket, &'a TcpStream)>) {
    for (state, stream) in connections {
        let Some(remote) = state.destination else { continue };
        let segment = Segment::end(state.source, remote, state, stream);
        if let Err(error) = segment.send() {
            let local = state.source;
            tracing::warn!(%local, %remote, %error, "the end of a connection is not told again");
        }
    }
}

/// A TCP segment without data.
struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    number: u32,
    acknowledged: u32,
    window: u16,
}

impl Segment {
    /// FIN as `remote` sent it to `local`, acknowledging nothing that is not acknowledged.
    fn end(local: SocketAddr, remote: SocketAddr, state: &InetSocket, stream: &TcpStream) -> Self {
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let written_end = u32::from(state.state.has_written_end());
        let length = u32::try_from(stream.written.len()).unwrap_or(u32::MAX);
        let scale = stream.scales.map_or(0, |(send, _)| send);
        let window = stream.window.map_or(u32::MAX, |window| window.snd_wnd) >> scale;
        Self {
            from: plain(remote),
            to: plain(local),
            number: stream.receive_next.wrapping_sub(1),
            acknowledged: stream.write_next.wrapping_sub(written_end).wrapping_sub(length),
            window: u16::try_from(window).unwrap_or(u16::MAX),
        }
    }

    fn send(&self) -> io::Result<()> {
        let (packet, family) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => (self.v4(from, to), AddressFamily::Inet),
            (IpAddr::V6(from), IpAddr::V6(to)) => (self.v6(from, to), AddressFamily::Inet6),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let raw: OwnedFd =
            socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        options::set(raw.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, PASSES)?;
        // A raw socket takes no port.
        let to = SockaddrStorage::from(SocketAddr::new(self.to.ip(), 0));
        sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
        Ok(())
    }

    fn v4(&self, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
        // The kernel fills in length, id and checksum (raw(7)).
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, HOPS, TCP, 0, 0];
        packet.extend_from_slice(&from.octets());
        packet.extend_from_slice(&to.octets());
        packet.extend(self.tcp(&[&from.octets()[..], &to.octets()].concat()));
        packet
    }

    fn v6(&self, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, TCP_LENGTH, TCP, HOPS];
        packet.extend_from_slice(&from.octets());
        packet.extend_from_slice(&to.octets());
        packet.extend(self.tcp(&[&from.octets()[..], &to.octets()].concat()));
        packet
    }

    /// The TCP header, with the checksum that needs the addresses.
    fn tcp(&self, addresses: &[u8]) -> Vec<u8> {
        const FIN_AND_ACK: u8 = 0x11;
        let mut header = Vec::with_capacity(usize::from(TCP_LENGTH));
        header.extend_from_slice(&self.from.port().to_be_bytes());
        header.extend_from_slice(&self.to.port().to_be_bytes());
        header.extend_from_slice(&self.number.to_be_bytes());
        header.extend_from_slice(&self.acknowledged.to_be_bytes());
        header.extend_from_slice(&[(TCP_LENGTH / 4) << 4, FIN_AND_ACK]);
        header.extend_from_slice(&self.window.to_be_bytes());
        header.extend_from_slice(&[0; 4]);
        let sum = checksum(&[addresses, &[0, TCP, 0, TCP_LENGTH], &header].concat());
        header[16..18].copy_from_slice(&sum.to_be_bytes());
        header
    }
}

const TCP: u8 = 6;
const TCP_LENGTH: u8 = 20;
pub(super) const HOPS: u8 = 64;

/// RFC 1071.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
    let mut sum: u32 = pairs.map(|pair| u32::from(u16::from_be_bytes(pair))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_over_everything_is_zero() {
        let segment = Segment {
            from: "192.0.2.1:1234".parse().expect("an address"),
            to: "192.0.2.2:80".parse().expect("an address"),
            number: 0xdead_beef,
            acknowledged: 7,
            window: 500,
        };
        let addresses = [192, 0, 2, 1, 192, 0, 2, 2];
        let header = segment.tcp(&addresses);
        assert_eq!(header.len(), usize::from(TCP_LENGTH));
        let whole = [&addresses[..], &[0, TCP, 0, TCP_LENGTH], &header].concat();
        assert_eq!(checksum(&whole), 0);
    }
}
