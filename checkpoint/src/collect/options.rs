//! Socket options beyond those that every socket has: what the program has changed, told by what a
//! new socket of the kind has.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use image::state::SocketOption;
use image::state::options::{CARRIED, ICMPV6, IP, IPV6, NETLINK, PACKET, RAW, SOCKET, TCP, UDP};
use nix::libc;

use crate::survey::refusals::Trouble;

/// SO_DOMAIN, SO_TYPE, SO_PROTOCOL.
type Kind = [u32; 3];

/// The options whose values are not those of a new socket.
pub(super) fn changed(
    fd: BorrowedFd,
    kind: Kind,
    shown: &str,
) -> Result<Vec<SocketOption>, Trouble> {
    let failed =
        |error: io::Error| Trouble::new(shown, format!("its options cannot be read: {error}"));
    indexed(fd, kind, shown)?;
    let now = read(fd, kind);
    let new = of_new_socket(kind).map_err(failed)?;
    Ok(now.into_iter().filter(|option| !new.contains(option)).collect())
}

/// Options that name an interface by its number, which is another one elsewhere.
fn indexed(fd: BorrowedFd, [family, _, protocol]: Kind, shown: &str) -> Result<(), Trouble> {
    const IP_UNICAST_IF: i32 = 50; // linux/in.h
    const IPV6_UNICAST_IF: i32 = 76; // linux/in6.h
    if protocol == TCP {
        // It sends no multicast; one that was accepted names the interface it came by all the same.
        return Ok(());
    }
    let v6 = [
        (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, "IPV6_MULTICAST_IF"),
        (libc::IPPROTO_IPV6, IPV6_UNICAST_IF, "IPV6_UNICAST_IF"),
    ];
    let v4 = [(libc::IPPROTO_IP, IP_UNICAST_IF, "IP_UNICAST_IF")];
    let asked: &[_] = match family.cast_signed() {
        libc::AF_INET => &v4,
        libc::AF_INET6 => &v6,
        _ => &[],
    };
    for (level, option, name) in asked {
        let value = tracee::host::getsockopt(fd, *level, *option, 4).unwrap_or_default();
        if value.iter().any(|byte| *byte != 0) {
            return Err(Trouble::new(shown, format!("it names an interface by number ({name})")));
        }
    }
    Ok(())
}

fn read(fd: BorrowedFd, kind: Kind) -> Vec<SocketOption> {
    let levels = CARRIED.iter().filter(|(level, _)| has(kind, *level));
    let names = levels.flat_map(|(level, names)| names.iter().map(|name| (*level, *name)));
    let names = names.filter(|option| kind[2] != TCP || !MULTICAST.contains(option));
    let value = |(level, name): (u32, u32)| {
        let most = SocketOption::LONGEST;
        let value = tracee::host::getsockopt(fd, level.cast_signed(), name.cast_signed(), most);
        Some(SocketOption { level, name, value: value.ok()? })
    };
    names.filter_map(value).collect()
}

/// IP_MULTICAST_IF, IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS: an accepted TCP connection has them from
/// the packet it came by, and no TCP socket can be given them.
const MULTICAST: [(u32, u32); 3] = [(IP, 32), (IP, 33), (IPV6, 18)];

/// Does a socket of this kind have options of this level?
fn has([family, kind, protocol]: Kind, level: u32) -> bool {
    let [inet, inet6, raw] =
        [libc::AF_INET, libc::AF_INET6, libc::SOCK_RAW].map(i32::cast_unsigned);
    match level {
        SOCKET => true,
        IP => family == inet || family == inet6 && kind != raw,
        IPV6 => family == inet6,
        TCP | UDP => (family == inet || family == inet6) && protocol == level,
        RAW => (family == inet || family == inet6) && kind == raw,
        ICMPV6 => family == inet6 && kind == raw && protocol == level,
        NETLINK => family == libc::AF_NETLINK.cast_unsigned(),
        PACKET => family == libc::AF_PACKET.cast_unsigned(),
        _ => false,
    }
}

/// What a new socket of the kind has; asked once, for no host changes its mind while qmig runs.
fn of_new_socket(kind: Kind) -> io::Result<Vec<SocketOption>> {
    static KNOWN: Mutex<Option<HashMap<Kind, Vec<SocketOption>>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_with(HashMap::new);
    if let Some(options) = known.get(&kind) {
        return Ok(options.clone());
    }
    let new: OwnedFd = tracee::host::new_socket(kind.map(u32::cast_signed))?;
    let options = read(new.as_fd(), kind);
    known.insert(kind, options.clone());
    Ok(options)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn kind_of(fd: BorrowedFd) -> Kind {
        [libc::SO_DOMAIN, libc::SO_TYPE, libc::SO_PROTOCOL].map(|option| {
            let value = tracee::host::getsockopt(fd, libc::SOL_SOCKET, option, 4).expect("an int");
            u32::from_ne_bytes(value.try_into().expect("four bytes"))
        })
    }

    #[test]
    fn only_what_was_changed_is_told() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(address).expect("bind");
            let fd = socket.as_fd();
            assert_eq!(changed(fd, kind_of(fd), "it"), Ok(vec![]));
            socket.set_ttl(7).expect("IP_TTL");
            let (level, name, value) = (IP, 2, vec![7, 0, 0, 0]);
            assert_eq!(
                changed(fd, kind_of(fd), "it"),
                Ok(vec![SocketOption { level, name, value }])
            );
        }
    }

    #[test]
    fn tcp_and_unix_sockets_begin_with_nothing_changed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        assert_eq!(changed(listener.as_fd(), kind_of(listener.as_fd()), "it"), Ok(vec![]));
        let near = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("it");
        assert_eq!(changed(near.as_fd(), kind_of(near.as_fd()), "it"), Ok(vec![]));
        let (accepted, _) = listener.accept().expect("it");
        assert_eq!(changed(accepted.as_fd(), kind_of(accepted.as_fd()), "it"), Ok(vec![]));
        let (unix, _) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(changed(unix.as_fd(), kind_of(unix.as_fd()), "it"), Ok(vec![]));
    }
}
