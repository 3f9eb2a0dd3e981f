//! Sockets: read from outside, through a copy of the descriptor (pidfd_getfd(2), Linux 5.6) and
//! sock_diag(7). Nothing is consumed and nothing is run in the task.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use image::state::{
    InetSocket, NetlinkSocket, PacketSocket, SocketOptions, SocketState, UnixSocket,
};
use nix::libc;
use tracee::HostPid;

use super::groups::Groups;
use super::{inet, netlink, packet};
use crate::survey::TcpPolicy;
use crate::survey::diag::{self, UnixInfo};
use crate::survey::refusals::Trouble;

/// What sock_diag(7) said about all sockets of this network namespace, asked once.
#[derive(Debug, Default)]
pub(crate) struct SocketTables {
    unix: HashMap<u32, UnixInfo>,
    udp_shutdown: HashMap<u32, u32>,
    groups: Groups,
}

impl SocketTables {
    /// Asks the kernel.
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self {
            unix: diag::unix_sockets()?,
            udp_shutdown: diag::udp_shutdowns()?,
            groups: Groups::read(),
        })
    }
}

/// What is to become of TCP connections, and whether the tree stands still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp {
    pub(crate) policy: TcpPolicy,
    pub(crate) frozen: bool,
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    Unix(UnixSocket),
    Inet(InetSocket),
    Netlink(NetlinkSocket),
    Packet(PacketSocket),
}

/// The interfaces that a socket names, which must be on the destination.
pub(crate) fn interfaces(socket: &Socket) -> Vec<String> {
    let names = |options: &SocketOptions| options.bound_device.clone().into_iter().collect();
    match socket {
        Socket::Unix(socket) => names(&socket.options),
        Socket::Netlink(socket) => names(&socket.options),
        Socket::Inet(socket) => {
            let groups = socket.groups.iter().map(|group| group.device.clone());
            socket.options.bound_device.iter().cloned().chain(groups).collect()
        }
        Socket::Packet(socket) => {
            let groups = socket.memberships.iter().map(|member| &member.device);
            socket.device.iter().chain(groups).filter_map(|device| device.name.clone()).collect()
        }
    }
}

/// Reads a socket that is open in `holder`, without its queue.
pub(crate) fn socket(
    fd: BorrowedFd,
    inode: u64,
    holder: HostPid,
    tables: &SocketTables,
    asked: Tcp,
) -> Result<Socket, Trouble> {
    let shown = format!("socket:[{inode}]");
    let inode = u32::try_from(inode)
        .map_err(|_| Trouble::new(shown.clone(), "the inode number has more than 32 bits"))?;
    let get = |option| word(fd, libc::SOL_SOCKET, option).map_err(|error| unread(&shown, &error));
    let (family, kind, protocol) =
        (get(libc::SO_DOMAIN)?, get(libc::SO_TYPE)?, get(libc::SO_PROTOCOL)?);
    match family.cast_signed() {
        libc::AF_UNIX => {
            let info = tables.unix.get(&inode);
            let info = info.ok_or_else(|| Trouble::new(shown, "in another network namespace"))?;
            unix(fd, inode, holder, info).map(Socket::Unix)
        }
        libc::AF_INET | libc::AF_INET6 => {
            let mut socket = inet::read(fd, inode, family, kind, protocol, asked)?;
            if protocol.cast_signed() == libc::IPPROTO_UDP {
                socket.shutdown = tables.udp_shutdown.get(&inode).copied().unwrap_or(0);
            }
            if protocol.cast_signed() == libc::IPPROTO_UDP || socket.is_raw() {
                socket.groups = tables.groups.of(fd, family)?;
            }
            Ok(Socket::Inet(socket))
        }
        libc::AF_NETLINK => {
            let options = |shown: &str| options(fd, shown);
            netlink::read(fd, inode, (kind, protocol), options, asked.frozen).map(Socket::Netlink)
        }
        libc::AF_PACKET => {
            let options = |shown: &str| options(fd, shown);
            packet::read(fd, inode, kind, options, asked.frozen).map(Socket::Packet)
        }
        other => {
            let name = match other {
                libc::AF_VSOCK => "a vsock socket",
                libc::AF_ALG => "a socket of the kernel's cryptography",
                libc::AF_XDP => "an XDP socket",
                _ => "a socket of another family than unix, IPv4, IPv6",
            };
            Err(Trouble::new(format!("{shown} family {other}"), name))
        }
    }
}

/// SHUTDOWN_MASK, net/sock.h.
const SHUT_BOTH: u32 = 3;
const SO_BUF_LOCK: i32 = 72; // asm-generic/socket.h, Linux 5.14
const SO_PASSPIDFD: i32 = 76; // asm-generic/socket.h, Linux 6.5

pub(super) fn unread(shown: &str, error: &io::Error) -> Trouble {
    Trouble::new(shown, format!("the socket cannot be read: {error}"))
}

fn unix(
    fd: BorrowedFd,
    inode: u32,
    holder: HostPid,
    info: &UnixInfo,
) -> Result<UnixSocket, Trouble> {
    let shown = match info.name.as_slice() {
        [] => format!("socket:[{inode}]"),
        [0, rest @ ..] => format!("unix:@{}", String::from_utf8_lossy(rest)),
        path => format!("unix:{}", String::from_utf8_lossy(path)),
    };
    let state = match info.state {
        1 => SocketState::Established,
        7 => SocketState::Closed,
        10 => SocketState::Listening,
        other => return Err(Trouble::new(shown, format!("in the state {other}"))),
    };
    if state == SocketState::Listening && info.waiting > 0 {
        let reason = format!("{} connections wait to be accepted", info.waiting);
        return Err(Trouble::new(shown, reason).but("try again when they are accepted"));
    }
    // The other end of a connection has no inode before it is accepted; after it was closed
    // neither, but then both directions are shut down.
    if state == SocketState::Established && info.peer.is_none() && info.shutdown != SHUT_BOTH {
        let reason = "the other side has not accepted the connection yet";
        return Err(Trouble::new(shown, reason).but("try again when it has"));
    }
    for (option, name) in [(libc::SO_PASSSEC, "SO_PASSSEC"), (SO_PASSPIDFD, "SO_PASSPIDFD")] {
        if flag(fd, libc::SOL_SOCKET, option) {
            return Err(Trouble::new(shown, format!("{name} is set")));
        }
    }
    let mut socket = UnixSocket {
        inode,
        peer: info.peer.unwrap_or(0),
        kind: info.kind,
        state,
        name: info.name.clone(),
        name_dir: None,
        deleted: false,
        node: None,
        backlog: if state == SocketState::Listening { info.backlog } else { 0 },
        shutdown: info.shutdown,
        options: options(fd, &shown)?,
        queue: Vec::new(),
    };
    if let Some(node) = info.node.filter(|_| !matches!(info.name.as_slice(), [] | [0, ..])) {
        find_node(&mut socket, &shown, holder, node)?;
    }
    Ok(socket)
}

/// Looks whether the path a socket was bound to still names it.
fn find_node(
    socket: &mut UnixSocket,
    shown: &str,
    holder: HostPid,
    (inode, _): (u32, u32),
) -> Result<(), Trouble> {
    let end = socket.name.iter().position(|byte| *byte == 0).unwrap_or(socket.name.len());
    let name = Path::new(OsStr::from_bytes(&socket.name[..end]));
    let path = if name.is_absolute() {
        PathBuf::from(name)
    } else {
        let here = fs::read_link(format!("/proc/{}/cwd", holder.0)).unwrap_or_default();
        let path = here.join(name);
        let here = here.to_str().filter(|_| path.exists()).ok_or_else(|| {
            Trouble::new(shown, "bound to a path relative to a directory that is not known")
        })?;
        socket.name_dir = Some(here.to_owned());
        path
    };
    match fs::symlink_metadata(&path) {
        // The low half of the inode number is all that unix_diag tells.
        Ok(node) if node.file_type().is_socket() && super::low(node.ino()) == inode => {
            socket.node = Some((node.mode(), node.uid(), node.gid()));
        }
        _ => socket.deleted = true,
    }
    Ok(())
}

pub(super) fn options(fd: BorrowedFd, shown: &str) -> Result<SocketOptions, Trouble> {
    let get = |option| word(fd, libc::SOL_SOCKET, option).map_err(|error| unread(shown, &error));
    let on = |option| flag(fd, libc::SOL_SOCKET, option);
    let kind =
        [libc::SO_DOMAIN, libc::SO_TYPE, libc::SO_PROTOCOL].map(|option| get(option).unwrap_or(0));
    let more = super::options::changed(fd, kind, shown)?;
    let linger = tracee::host::getsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, 8)
        .map_err(|error| unread(shown, &error))?;
    let device = tracee::host::getsockopt(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, 16)
        .unwrap_or_default();
    let device = device.split(|byte| *byte == 0).next().filter(|name| !name.is_empty());
    Ok(SocketOptions {
        send_buffer: get(libc::SO_SNDBUF)?,
        receive_buffer: get(libc::SO_RCVBUF)?,
        buffer_lock: word(fd, libc::SOL_SOCKET, SO_BUF_LOCK).unwrap_or(0),
        send_timeout: timeout(fd, libc::SO_SNDTIMEO),
        receive_timeout: timeout(fd, libc::SO_RCVTIMEO),
        reuse_address: on(libc::SO_REUSEADDR),
        reuse_port: on(libc::SO_REUSEPORT),
        broadcast: on(libc::SO_BROADCAST),
        keep_alive: on(libc::SO_KEEPALIVE),
        pass_credentials: on(libc::SO_PASSCRED),
        oob_inline: on(libc::SO_OOBINLINE),
        no_route: on(libc::SO_DONTROUTE),
        priority: get(libc::SO_PRIORITY)?,
        receive_low_water: get(libc::SO_RCVLOWAT)?,
        mark: word(fd, libc::SOL_SOCKET, libc::SO_MARK).unwrap_or(0),
        linger: (info_word(&linger, 0) != 0).then(|| info_word(&linger, 4)),
        bound_device: device.map(|name| String::from_utf8_lossy(name).into_owned()),
        tcp_keep: None,
        more,
        filter: filter(fd, shown)?,
        filter_locked: on(libc::SO_LOCK_FILTER),
    })
}

/// The program that looks at what comes in.
fn filter(fd: BorrowedFd, shown: &str) -> Result<Vec<u8>, Trouble> {
    match tracee::host::socket_filter(fd) {
        Ok(program) => Ok(program),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::EACCES) => {
                Trouble::new(shown, "a BPF program looks at what comes (SO_ATTACH_BPF)")
            }
            _ => unread(shown, &error),
        }),
    }
}

/// The number at byte `at`, zero if there is none.
pub(super) fn info_word(info: &[u8], at: usize) -> u32 {
    info.get(at..at + 4).map_or(0, |word| u32::from_ne_bytes(word.try_into().expect("4 bytes")))
}

/// `struct timeval` of SO_SNDTIMEO and SO_RCVTIMEO.
fn timeout(fd: BorrowedFd, option: i32) -> (u64, u64) {
    let bytes = tracee::host::getsockopt(fd, libc::SOL_SOCKET, option, 16).unwrap_or_default();
    let half = |at: usize| {
        bytes
            .get(at..at + 8)
            .map_or(0, |word| u64::from_ne_bytes(word.try_into().expect("8 bytes")))
    };
    (half(0), half(8))
}

pub(super) fn word(fd: BorrowedFd, level: i32, option: i32) -> io::Result<u32> {
    let bytes = tracee::host::getsockopt(fd, level, option, 4)?;
    match bytes.as_slice() {
        [a, b, c, d] => Ok(u32::from_ne_bytes([*a, *b, *c, *d])),
        // A few options of IPPROTO_IP answer with one byte.
        [a] => Ok(u32::from(*a)),
        _ => Ok(0),
    }
}

pub(super) fn flag(fd: BorrowedFd, level: i32, option: i32) -> bool {
    word(fd, level, option).is_ok_and(|value| value != 0)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::survey::refusals::KEEP_OR_CLOSE;

    fn read(fd: &impl AsFd, policy: TcpPolicy) -> Result<Socket, Trouble> {
        let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        let inode = fs::metadata(link).expect("own descriptor").ino();
        let own = HostPid(std::process::id().cast_signed());
        let asked = Tcp { policy, frozen: true };
        socket(fd.as_fd(), inode, own, &SocketTables::read().expect("sock_diag"), asked)
    }

    fn unix_of(fd: &impl AsFd) -> UnixSocket {
        match read(fd, TcpPolicy::Refuse).expect("carried") {
            Socket::Unix(socket) => socket,
            other => panic!("a unix socket: {other:?}"),
        }
    }

    fn inet_of(fd: &impl AsFd, policy: TcpPolicy) -> InetSocket {
        match read(fd, policy).expect("carried") {
            Socket::Inet(socket) => socket,
            other => panic!("an inet socket: {other:?}"),
        }
    }

    #[test]
    fn listeners_tell_their_backlog_and_refuse_the_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let (refuse, close) = (TcpPolicy::Refuse, TcpPolicy::Close);
        let socket = inet_of(&listener, refuse);
        assert_eq!(socket.state, SocketState::Listening);
        assert!(socket.backlog >= 128, "{socket:?}");
        assert_eq!(socket.source, listener.local_addr().expect("bound"));
        assert!(socket.options.reuse_address, "std sets it");
        let client = TcpStream::connect(socket.source).expect("connect");
        for policy in [refuse, TcpPolicy::Keep] {
            let trouble = read(&listener, policy).expect_err("one waits");
            assert!(trouble.reason.starts_with("1 connection"), "{trouble:?}");
        }
        assert_eq!(inet_of(&listener, close).state, SocketState::Listening);

        let trouble = read(&client, refuse).expect_err("established");
        assert_eq!(trouble.hint, Some(KEEP_OR_CLOSE));
        assert_eq!(inet_of(&client, TcpPolicy::Keep).state, SocketState::Established);
        let closed = inet_of(&client, close);
        assert_eq!((closed.state, closed.source.port()), (SocketState::Closed, 0));
        assert_eq!(closed.destination, None);
    }

    #[test]
    fn udp_keeps_its_addresses() {
        let socket = UdpSocket::bind("[::1]:0").expect("bind");
        let peer = UdpSocket::bind("[::1]:0").expect("bind").local_addr().expect("bound");
        socket.connect(peer).expect("connect");
        let read = inet_of(&socket, TcpPolicy::Refuse);
        assert_eq!(
            (read.source, read.destination),
            (socket.local_addr().expect("bound"), Some(peer))
        );
    }

    #[test]
    fn a_bound_path_is_told_with_its_node_and_its_loss() {
        let path = std::env::temp_dir().join(format!("qmig-sock-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("bind");
        let socket = unix_of(&listener);
        let node = fs::metadata(&path).expect("bound");
        // The kernel counts the NUL behind a path.
        assert_eq!(socket.name.strip_suffix(b"\0"), Some(path.as_os_str().as_bytes()));
        assert_eq!(socket.node, Some((node.mode(), node.uid(), node.gid())));
        fs::remove_file(&path).expect("remove");
        let socket = unix_of(&listener);
        assert_eq!((socket.deleted, socket.node), (true, None));
    }
}
