//! tcp(7) and udp(7) sockets.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use image::state::{InetSocket, SocketState};
use nix::libc;
use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};

use super::sockets::{Tcp, flag, info_word, options, unread, word};
use super::{raw, streams};
use crate::survey::TcpPolicy;
use crate::survey::refusals::{KEEP_OR_CLOSE, TCP_CLOSE, Trouble};

const UDP_CORK: i32 = 1; // linux/udp.h
const UDP_ENCAP: i32 = 100; // linux/udp.h
const IPV6_FREEBIND: i32 = 78; // linux/in6.h

/// Reads a socket of IPv4 or IPv6; of a connection what is in its queues is read later, by [`streams`].
pub(super) fn read(
    fd: BorrowedFd,
    inode: u32,
    family: u32,
    kind: u32,
    protocol: u32,
    asked: Tcp,
) -> Result<InetSocket, Trouble> {
    let unbound = match family.cast_signed() {
        libc::AF_INET => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        _ => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let source = address(getsockname(fd.as_raw_fd())).unwrap_or(unbound);
    let destination = address(getpeername(fd.as_raw_fd()));
    let proto = match protocol.cast_signed() {
        libc::IPPROTO_TCP => "tcp",
        libc::IPPROTO_UDP => "udp",
        _ if kind == libc::SOCK_RAW.cast_unsigned() => "raw",
        _ => "socket",
    };
    let shown = match destination {
        Some(destination) => format!("{proto}:{source}->{destination}"),
        None => format!("{proto}:{source}"),
    };
    let mut socket = InetSocket {
        inode,
        family,
        kind,
        protocol,
        state: SocketState::Closed,
        source,
        destination,
        backlog: 0,
        v6_only: flag(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
        free_bind: flag(fd, libc::IPPROTO_IP, libc::IP_FREEBIND)
            || flag(fd, libc::IPPROTO_IPV6, IPV6_FREEBIND),
        no_delay: false,
        cork: false,
        shutdown: 0,
        options: options(fd, &shown)?,
        stream: None,
        groups: Vec::new(),
        queue: Vec::new(),
    };
    if socket.is_raw() {
        raw::read(&mut socket, &shown, asked.frozen)?;
        return Ok(socket);
    }
    match protocol.cast_signed() {
        libc::IPPROTO_TCP => tcp(fd, &mut socket, &shown, unbound, asked)?,
        libc::IPPROTO_UDP => {
            if flag(fd, libc::IPPROTO_UDP, UDP_CORK) {
                return Err(Trouble::new(shown, "a corked UDP socket (UDP_CORK)"));
            }
            if flag(fd, libc::IPPROTO_UDP, UDP_ENCAP) {
                return Err(Trouble::new(shown, "a UDP socket that carries a tunnel (UDP_ENCAP)"));
            }
        }
        libc::IPPROTO_MPTCP => return Err(Trouble::new(shown, "a multipath TCP socket")),
        other => {
            return Err(Trouble::new(shown, format!("a socket of the protocol {other}")));
        }
    }
    Ok(socket)
}

/// tcp(7): listening and closed sockets are carried; a connection as it is or as a closed socket,
/// whichever was asked for. What is in its queues is read later, by [`streams`].
fn tcp(
    fd: BorrowedFd,
    socket: &mut InetSocket,
    shown: &str,
    unbound: SocketAddr,
    Tcp { policy, frozen }: Tcp,
) -> Result<(), Trouble> {
    let info = tracee::host::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, 256)
        .map_err(|error| unread(shown, &error))?;
    let state = info.first().copied().unwrap_or(0);
    let ulp =
        tracee::host::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_ULP, 16).unwrap_or_default();
    if ulp.iter().any(|byte| *byte != 0) {
        return Err(Trouble::new(shown, "the kernel speaks TLS on it (TCP_ULP)"));
    }
    socket.no_delay = flag(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY);
    socket.cork = flag(fd, libc::IPPROTO_TCP, libc::TCP_CORK);
    let keep = [libc::TCP_KEEPCNT, libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL]
        .map(|option| word(fd, libc::IPPROTO_TCP, option).ok());
    if let [Some(count), Some(idle), Some(interval)] = keep {
        socket.options.tcp_keep = Some([count, idle, interval]);
    }
    match state {
        LISTEN => {
            // For a listener these two fields are the queue and its limit (Linux 2.6.14).
            let waiting = info_word(&info, TCPI_UNACKED);
            // With connections kept, the tree is given time to accept them before it is stopped.
            let refused = match policy {
                TcpPolicy::Refuse => true,
                TcpPolicy::Keep => frozen,
                TcpPolicy::Close => false,
            };
            if waiting > 0 && refused {
                let reason = format!("{waiting} connections wait to be accepted");
                return Err(Trouble::new(shown, reason)
                    .but("use `--tcp-close` to drop them, or try again when they are accepted"));
            }
            socket.state = SocketState::Listening;
            socket.backlog = info_word(&info, TCPI_SACKED);
        }
        CLOSE if policy != TcpPolicy::Close && tracee::host::bytes_waiting(fd).unwrap_or(0) > 0 => {
            let reason = "unread data of a TCP connection that has ended";
            return Err(Trouble::new(shown, reason).but("try again when the program has read it"));
        }
        CLOSE => {}
        _ if policy == TcpPolicy::Close => {
            socket.source = unbound;
            socket.destination = None;
        }
        other => match streams::connected(other) {
            None => {
                let trouble = Trouble::new(shown, "a TCP connection being made");
                return Err(trouble.but("try again when it is made, or use `--tcp-close`"));
            }
            Some(_) if policy == TcpPolicy::Refuse => {
                let name = match other {
                    1 => "an established TCP connection",
                    _ => "a TCP connection being closed",
                };
                return Err(Trouble::new(shown, name).but(KEEP_OR_CLOSE));
            }
            Some(state) => {
                let link_local = |address: SocketAddr| match address {
                    SocketAddr::V6(address) => address.ip().is_unicast_link_local(),
                    SocketAddr::V4(_) => false,
                };
                if link_local(socket.source) {
                    let reason = "a connection between addresses of one link (fe80::/10)";
                    return Err(Trouble::new(shown, reason).but(TCP_CLOSE));
                }
                socket.state = state;
            }
        },
    }
    Ok(())
}

const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// Offsets in `struct tcp_info`, linux/tcp.h.
const TCPI_UNACKED: usize = 24;
const TCPI_SACKED: usize = 28;

fn address(got: nix::Result<SockaddrStorage>) -> Option<SocketAddr> {
    let got = got.ok()?;
    if let Some(v4) = got.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    got.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into())
}
