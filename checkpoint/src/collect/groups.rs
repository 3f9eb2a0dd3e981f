//! Multicast groups a socket has joined, and what waits in a UDP socket.
//!
//! The kernel has no list of a socket's groups, but it says of any one group on one interface whether
//! the socket is in it, and from whom it wants to hear (MCAST_MSFILTER, RFC 3678); and /proc/net/igmp
//! and igmp6 list every group that anybody on this host is in.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use image::state::{Group, InetSocket, Packet};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::sockets::word;
use crate::survey::refusals::Trouble;

/// Every group of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups(Vec<Joined>);

/// A group on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Joined {
    index: u32,
    device: String,
    group: IpAddr,
}

impl Groups {
    /// Reads the lists.
    pub(crate) fn read() -> Self {
        let text = |file| fs::read_to_string(file).unwrap_or_default();
        let mut all = v4(&text("/proc/net/igmp"));
        all.extend(v6(&text("/proc/net/igmp6")));
        Self(all)
    }

    /// Those that a socket is in.
    pub(super) fn of(&self, fd: BorrowedFd, family: u32) -> Result<Vec<Group>, Trouble> {
        let both = family == libc::AF_INET6.cast_unsigned();
        let asked = self.0.iter().filter(|joined| both || joined.group.is_ipv4());
        let mut groups = Vec::new();
        for Joined { index, device, group } in asked {
            let Some((include, sources)) = filter(fd, *index, *group) else { continue };
            if sources.len() > Group::MOST_SOURCES {
                let reason = format!("a multicast filter of {} sources", sources.len());
                return Err(Trouble::new(group.to_string(), reason));
            }
            groups.push(Group { group: *group, device: device.clone(), include, sources });
        }
        Ok(groups)
    }
}

/// Lines of a device (`1  lo  :  1  V3`), then of its groups, by the bytes as they lie in memory.
fn v4(text: &str) -> Vec<Joined> {
    let mut device = None;
    let mut all = Vec::new();
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if !line.starts_with('\t') {
            device = words.first().and_then(|index| Some((index.parse().ok()?, *words.get(1)?)));
        } else if let (Some((index, name)), Some(group)) = (device, words.first())
            && let Ok(group) = u32::from_str_radix(group, 16)
        {
            let group = IpAddr::from(group.to_ne_bytes());
            all.push(Joined { index, device: name.to_owned(), group });
        }
    }
    all
}

fn v6(text: &str) -> Vec<Joined> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let group = u128::from_str_radix(words.get(2)?, 16).ok()?;
        let group = IpAddr::V6(Ipv6Addr::from_bits(group));
        let device = (*words.get(1)?).to_owned();
        Some(Joined { index: words.first()?.parse().ok()?, device, group })
    };
    text.lines().filter_map(line).collect()
}

/// `struct group_filter` without its sources: interface, group, mode, number of sources.
const HEAD: usize = 144;
/// `struct sockaddr_storage`.
const STORAGE: usize = 128;
/// MCAST_INCLUDE, linux/in.h.
const INCLUDE: u32 = 1;
/// MCAST_MSFILTER, linux/in.h.
const MCAST_MSFILTER: i32 = 48;
/// Room for sources; more are counted by the kernel and not told.
const ROOM: usize = Group::MOST_SOURCES + 1;

/// Whom a socket wants to hear in a group, if it is in it: these, or all but these.
fn filter(fd: BorrowedFd, index: u32, group: IpAddr) -> Option<(bool, Vec<IpAddr>)> {
    let mut room = vec![0; HEAD + ROOM * STORAGE];
    room[..4].copy_from_slice(&index.to_ne_bytes());
    let level = match group {
        IpAddr::V4(group) => {
            room[8..10].copy_from_slice(&2_u16.to_ne_bytes());
            room[12..16].copy_from_slice(&group.octets());
            libc::IPPROTO_IP
        }
        IpAddr::V6(group) => {
            room[8..10].copy_from_slice(&10_u16.to_ne_bytes());
            room[16..32].copy_from_slice(&group.octets());
            libc::IPPROTO_IPV6
        }
    };
    room[140..144].copy_from_slice(&u32::try_from(ROOM).ok()?.to_ne_bytes());
    // Not joined: EADDRNOTAVAIL.
    tracee::host::ask_socket(fd, level, MCAST_MSFILTER, &mut room).ok()?;
    let number = |at: usize| u32::from_ne_bytes(room[at..at + 4].try_into().expect("four bytes"));
    let count = usize::try_from(number(140)).ok()?.min(ROOM);
    let source = |one: &[u8]| match group {
        IpAddr::V4(_) => Ipv4Addr::from(<[u8; 4]>::try_from(&one[4..8]).expect("four")).into(),
        IpAddr::V6(_) => Ipv6Addr::from(<[u8; 16]>::try_from(&one[8..24]).expect("16")).into(),
    };
    let sources = room[HEAD..].chunks_exact(STORAGE).take(count).map(source).collect();
    Some((number(136) == INCLUDE, sources))
}

/// Most bytes of a datagram.
const LONGEST: usize = 64 << 10;

/// What waits in a UDP socket, in order, each with who sent it. What came by a way of its own cannot
/// be made to come again: to one of several sockets of a port, to a group, by one device.
pub(super) fn waiting(fd: BorrowedFd, socket: &InetSocket) -> io::Result<Vec<Packet>> {
    // An error that waits would be taken by looking.
    let mut asked = [PollFd::new(fd, PollFlags::POLLIN)];
    let told = poll(&mut asked, PollTimeout::ZERO).map(|_| asked[0].revents());
    let readable = matches!(told, Ok(Some(told)) if told == PollFlags::POLLIN);
    if socket.shutdown & 1 != 0 || !readable {
        return Ok(Vec::new());
    }
    let ip = socket.source.ip();
    let options = &socket.options;
    let link_local = matches!(socket.source, SocketAddr::V6(own) if own.scope_id() != 0);
    if options.reuse_port || options.bound_device.is_some() || ip.is_multicast() || link_local {
        let socket = socket.source;
        tracing::warn!(%socket, "what waits in this UDP socket is lost, as a network might lose it");
        return Ok(Vec::new());
    }
    let before = word(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
    let found = walk(fd);
    set_offset(fd, before)?;
    found
}

fn walk(fd: BorrowedFd) -> io::Result<Vec<Packet>> {
    let mut all = Vec::new();
    let mut room = vec![0; LONGEST];
    let mut offset = 0_u32;
    loop {
        set_offset(fd, offset)?;
        match tracee::host::peek(fd, &mut room) {
            Ok(seen) => {
                let bytes = room[..seen.length.min(LONGEST)].to_vec();
                offset = offset.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                all.push(Packet { bytes, files: Vec::new(), from: seen.from });
            }
            // Nothing more; or an error that waits, of which the program has yet to be told.
            Err(_) => return Ok(all),
        }
        // Nothing else ends a queue of empty ones.
        if all.len() > MOST_DATAGRAMS {
            return Ok(all);
        }
    }
}

/// Far above what the largest receive buffer can hold.
const MOST_DATAGRAMS: usize = 1 << 16;

fn set_offset(fd: BorrowedFd, offset: u32) -> io::Result<()> {
    tracee::host::setsockopt(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &offset.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    1\tlo        :     2      V3\n\t\t\t\t030201EF     1 0:00000000\t\t0\n\
                    4\teth0      :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let seen: Vec<_> = v4(text).into_iter().map(|it| (it.index, it.device, it.group)).collect();
        let group = |text: &str| text.parse::<IpAddr>().expect("an address");
        let wanted =
            [(1, "lo".to_owned(), group("239.1.2.3")), (4, "eth0".to_owned(), group("224.0.0.1"))];
        assert_eq!(seen, wanted);
        let text = "1    lo              ff020000000000000000000000004242     1 00000004 0\n";
        let seen = v6(text);
        assert_eq!((seen[0].index, seen[0].group), (1, group("ff02::4242")));
    }

    #[test]
    fn a_socket_is_in_the_groups_it_has_joined() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let lone = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let group = Ipv4Addr::new(239, 77, 1, 2);
        socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).expect("joined");
        let all = Groups::read();
        let wanted = Group {
            group: group.into(),
            device: "lo".to_owned(),
            include: false,
            sources: Vec::new(),
        };
        assert_eq!(all.of(socket.as_fd(), 2), Ok(vec![wanted]));
        assert_eq!(all.of(lone.as_fd(), 2), Ok(vec![]));
    }

    #[test]
    fn datagrams_are_seen_with_their_senders_and_stay() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let at = socket.local_addr().expect("bound");
        for packet in [&b"one"[..], &[7; 3000], b"x"] {
            sender.send_to(packet, at).expect("sent");
        }
        for _ in 0..2 {
            let seen = walk(socket.as_fd()).expect("readable");
            let lengths: Vec<_> = seen.iter().map(|one| one.bytes.len()).collect();
            assert_eq!(lengths, [3, 3000, 1]);
            assert!(seen.iter().all(|one| one.from == sender.local_addr().ok()));
        }
        assert_eq!(socket.recv(&mut [0; 9]).expect("received"), 3);
    }
}
