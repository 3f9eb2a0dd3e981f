//! tcp(7) and udp(7): listening, bound, connected (UDP) and closed sockets; connections are made by
//! [`super::streams`].

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use image::state::{FileId, InetSocket, SocketState};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
    listen, socket,
};

use tracee::net::HostAddress;

use super::{Named, datagrams, options, shut};
use crate::error::{Error, Result, errno_of};

/// Makes the sockets. They are bound with SO_REUSEADDR, and with SO_REUSEPORT where several of them
/// share a port; what the program had set is set when all exist.
pub(super) fn make_all(
    sockets: &[Named<'_, InetSocket>],
    takeover: &[HostAddress],
    open: &mut HashMap<FileId, OwnedFd>,
) -> Result<()> {
    let mut made = Vec::new();
    for (file, socket) in sockets.iter().filter(|(_, socket)| socket.stream.is_none()) {
        let twins = sockets.iter().filter(|(_, other)| same_port(other, socket)).count();
        let twins = if socket.is_raw() { 1 } else { twins };
        made.push((*file, *socket, make(socket, twins > 1, takeover)?));
    }
    for (file, socket, fd) in made {
        let failed = |errno| Error::Object { file: file.id, act: "set socket options", errno };
        finish(&fd, socket).map_err(failed)?;
        datagrams::join(fd.as_fd(), &socket.groups)?;
        open.insert(file.id, fd);
    }
    Ok(())
}

fn same_port(one: &InetSocket, other: &InetSocket) -> bool {
    one.protocol == other.protocol && one.source.port() == other.source.port()
}

fn make(state: &InetSocket, shares_port: bool, takeover: &[HostAddress]) -> Result<OwnedFd> {
    let failed = |errno| Error::Bind { address: state.source.to_string(), errno };
    let fd = new(state).map_err(failed)?;
    let later = takeover.iter().any(|address| address.ip() == state.source.ip().to_canonical());
    let transparent = |on| {
        options::set_transparent(fd.as_fd(), state.family, on).map_err(|error| errno_of(&error))
    };
    if later {
        transparent(true).map_err(failed)?;
    }
    place(&fd, state, shares_port).map_err(failed)?;
    if later {
        transparent(false).map_err(failed)?;
    }
    Ok(fd)
}

fn new(state: &InetSocket) -> nix::Result<OwnedFd> {
    let family = match state.family {
        2 => AddressFamily::Inet,
        10 => AddressFamily::Inet6,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let (kind, protocol) = match (state.kind, state.protocol) {
        (1, 6 | 0) => (SockType::Stream, SockProtocol::Tcp),
        (2, 17 | 0) => (SockType::Datagram, SockProtocol::Udp),
        (3, protocol) if InetSocket::RAW.contains(&protocol) => {
            let kind = [state.family, state.kind, protocol].map(u32::cast_signed);
            return tracee::host::new_socket(kind).map_err(|error| errno_of(&error));
        }
        _ => return Err(Errno::EPROTONOSUPPORT),
    };
    socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)
}

/// Binds, listens, connects.
fn place(fd: &OwnedFd, state: &InetSocket, shares_port: bool) -> nix::Result<()> {
    let set = |level, option, value| {
        options::set(fd.as_fd(), level, option, value).map_err(|error| errno_of(&error))
    };
    options::before_bind(fd, &state.options).map_err(|error| errno_of(&error))?;
    if state.family == 10 && !state.is_raw() {
        set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, u32::from(state.v6_only))?;
    }
    if state.free_bind {
        set(libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
    }
    set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if shares_port || state.options.reuse_port {
        set(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    let bound = state.source.port() != 0 || !state.source.ip().is_unspecified();
    let has_connections = state.kind == 1;
    if bound && (state.state != SocketState::Closed || !has_connections) {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(state.source))?;
    }
    match (state.state, state.destination) {
        (SocketState::Listening, _) => {
            let backlog = i32::try_from(state.backlog).unwrap_or(i32::MAX);
            listen(fd, Backlog::new(backlog).unwrap_or(Backlog::MAXCONN))
        }
        (_, Some(peer)) if !has_connections => {
            connect(fd.as_raw_fd(), &SockaddrStorage::from(peer))
        }
        _ => Ok(()),
    }
}

fn finish(fd: &OwnedFd, state: &InetSocket) -> nix::Result<()> {
    let set = |level, option, value: bool| {
        options::set(fd.as_fd(), level, option, u32::from(value)).map_err(|error| errno_of(&error))
    };
    set(libc::SOL_SOCKET, libc::SO_REUSEADDR, state.options.reuse_address)?;
    set(libc::SOL_SOCKET, libc::SO_REUSEPORT, state.options.reuse_port)?;
    if state.kind == 1 {
        set(libc::IPPROTO_TCP, libc::TCP_NODELAY, state.no_delay)?;
        if state.cork {
            set(libc::IPPROTO_TCP, libc::TCP_CORK, true)?;
        }
    }
    options::apply(fd, &state.options).map_err(|error| errno_of(&error))?;
    match shut(fd, state.shutdown) {
        // A closed TCP socket has no connection to shut; it reads as ended all the same.
        Err(Errno::ENOTCONN) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use image::state::{File, FileKind, Owner, SocketOptions};

    use super::*;

    fn state(kind: u32, state: SocketState, source: &str) -> InetSocket {
        InetSocket {
            inode: 1,
            family: 2,
            kind,
            protocol: if kind == 1 { 6 } else { 17 },
            state,
            source: source.parse().expect("an address"),
            destination: None,
            backlog: 16,
            v6_only: false,
            free_bind: false,
            no_delay: true,
            cork: false,
            shutdown: 0,
            options: SocketOptions { keep_alive: true, ..SocketOptions::default() },
            stream: None,
            groups: Vec::new(),
            queue: Vec::new(),
        }
    }

    fn make_one(state: InetSocket) -> Result<OwnedFd> {
        let file = File {
            id: FileId(1),
            flags: 2,
            owner: Owner::default(),
            kind: FileKind::Inet(state.clone()),
        };
        let mut open = HashMap::new();
        make_all(&[(&file, &state)], &[], &mut open)?;
        Ok(open.remove(&FileId(1)).expect("made"))
    }

    fn free_port() -> std::net::SocketAddr {
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address")
    }

    #[test]
    fn a_listener_accepts_at_once() {
        let address = free_port();
        let made = make_one(state(1, SocketState::Listening, &address.to_string())).expect("made");
        let listener = TcpListener::from(made);
        TcpStream::connect(address).expect("connected");
        listener.accept().expect("accepted");
        let taken = make_one(state(1, SocketState::Listening, &address.to_string()));
        let error = taken.expect_err("taken").to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }

    #[test]
    fn a_udp_socket_keeps_both_addresses() {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut wanted = state(2, SocketState::Closed, &free_port().to_string());
        wanted.destination = peer.local_addr().ok();
        let made = UdpSocket::from(make_one(wanted.clone()).expect("made"));
        assert_eq!(made.local_addr().expect("bound"), wanted.source);
        assert_eq!(made.peer_addr().ok(), wanted.destination);
    }

    #[test]
    fn a_closed_tcp_socket_takes_no_port() {
        let address = free_port();
        make_one(InetSocket { shutdown: 3, ..state(1, SocketState::Closed, &address.to_string()) })
            .expect("made");
        TcpListener::bind(address).expect("still free");
    }

    #[test]
    fn a_family_nobody_knows_is_refused() {
        let odd = InetSocket { family: 9, ..state(1, SocketState::Closed, "0.0.0.0:0") };
        assert!(matches!(make_one(odd), Err(Error::Bind { errno: Errno::EAFNOSUPPORT, .. })));
    }
}
