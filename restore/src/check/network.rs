//! Can the addresses of the tree be bound here? Asked by binding them, for a moment.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use image::plan::{INTERFACE, Listener, Plan, Protocol, Refusal, TCP_ESTABLISHED};
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, UnixAddr, bind, connect,
    socket,
};
use nix::sys::stat::{SFlag, lstat};

use tracee::net::NetworkLock;

use super::HERE;
use crate::build::sockets::options;
use crate::error::errno_of;
use crate::skeleton::BuildOptions;

pub(super) fn check(plan: &Plan, options: BuildOptions, refusals: &mut Vec<Refusal>) {
    connections(plan, refusals);
    for address in options.takeover.iter().filter(|address| !address.has_device()) {
        let reason = "there is no such interface";
        refusals.push(Refusal::new(format!("--takeover-ip {address}"), HERE, reason));
    }
    let comes = |ip: IpAddr| options.takeover.iter().any(|address| address.ip() == ip);
    let mut asked: Vec<Listener> = Vec::new();
    for listener in &plan.listeners {
        // Several sockets of a program may share an address (SO_REUSEPORT).
        if asked.contains(listener) {
            continue;
        }
        asked.push(*listener);
        if let Err(errno) = try_bind(listener, comes(listener.address.ip().to_canonical())) {
            let object = format!("{} socket on {}", listener.protocol, listener.address);
            refusals.push(explain(Refusal::new(object, HERE, reason(errno)), errno));
        }
    }
    let names = plan.needs.iter().filter_map(|need| need.strip_prefix(INTERFACE));
    for name in names.filter(|name| if_nametoindex(*name).is_err()) {
        let object = format!("interface {name}");
        let hint = "make one of this name here (ip link add NAME type dummy)";
        refusals.push(Refusal::new(object, HERE, "there is no such interface").hint(hint));
    }
    for name in &plan.unix_names {
        if let Err(reason) = try_name(name) {
            let object = format!("unix socket {}", name.escape_ascii());
            refusals.push(Refusal::new(object, HERE, reason));
        }
    }
}

/// Connections need their packets to be held back while they are made.
fn connections(plan: &Plan, refusals: &mut Vec<Refusal>) {
    if !plan.needs.iter().any(|need| need == TCP_ESTABLISHED) {
        return;
    }
    if let Err(error) = NetworkLock::new() {
        let refusal = Refusal::new("established TCP connections", HERE, error.to_string());
        refusals.push(refusal.hint(error.hint()));
    }
}

fn reason(errno: Errno) -> String {
    match errno {
        Errno::EADDRINUSE => "the port is taken".into(),
        Errno::EADDRNOTAVAIL => "no interface has the address".into(),
        Errno::EACCES => "not allowed to bind it".into(),
        Errno::EAFNOSUPPORT => "this kernel does not speak the protocol".into(),
        other => format!("cannot be bound: {other}"),
    }
}

fn explain(refusal: Refusal, errno: Errno) -> Refusal {
    match errno {
        Errno::EADDRINUSE => refusal.hint("stop whoever listens there (ss -lntup)"),
        Errno::EADDRNOTAVAIL => refusal
            .hint("move the address to this host first, or use --takeover-ip ADDR/LEN@DEV here"),
        _ => refusal,
    }
}

/// Binds and lets go. TCP with SO_REUSEADDR, as it will be bound, so that connections in TIME_WAIT are
/// no obstacle; UDP without, because there it would mean to share the port with a stranger.
fn try_bind(listener: &Listener, comes_later: bool) -> nix::Result<()> {
    let family =
        if listener.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol) = match listener.protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
    };
    let probe = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    let set = |level, option, value| {
        options::set(probe.as_fd(), level, option, value).map_err(|error| errno_of(&error))
    };
    if family == AddressFamily::Inet6 {
        set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, u32::from(listener.v6_only))?;
    }
    set(libc::SOL_SOCKET, libc::SO_REUSEADDR, u32::from(listener.protocol == Protocol::Tcp))?;
    if comes_later {
        let family = if family == AddressFamily::Inet { 2 } else { 10 };
        options::set_transparent(probe.as_fd(), family, true).map_err(|error| errno_of(&error))?;
    }
    bind(probe.as_raw_fd(), &SockaddrStorage::from(listener.address))
}

/// A name in the file system may be there as a socket nobody listens on: what an earlier life of the
/// program left behind is replaced. Relative names cannot be judged before the tree is there.
fn try_name(name: &[u8]) -> Result<(), String> {
    if let Some(abstract_name) = name.strip_prefix(b"\0") {
        let bound = UnixAddr::new_abstract(abstract_name).and_then(|address| {
            let kind = SockType::Stream;
            let probe = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
            bind(probe.as_raw_fd(), &address)
        });
        return bound.map_err(|_| "the name is taken".to_owned());
    }
    let path = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let path = Path::new(OsStr::from_bytes(path));
    if !path.is_absolute() {
        return Ok(());
    }
    let Ok(found) = lstat(path) else {
        let parent = path.parent().is_some_and(Path::is_dir);
        return if parent { Ok(()) } else { Err("its directory is not here".to_owned()) };
    };
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        return Err("a file that is no socket is in its place".to_owned());
    }
    let kinds = [SockType::Stream, SockType::Datagram, SockType::SeqPacket];
    match kinds.into_iter().all(|kind| nobody_there(path, kind)) {
        true => Ok(()),
        false => Err("somebody listens there".to_owned()),
    }
}

fn nobody_there(path: &Path, kind: SockType) -> bool {
    let knock = || {
        let probe = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
        connect(probe.as_raw_fd(), &UnixAddr::new(path)?)
    };
    // EPROTOTYPE: a live socket of another type, found by the knock of that type.
    matches!(knock(), Err(Errno::ECONNREFUSED | Errno::EPROTOTYPE))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn refused(protocol: Protocol, address: SocketAddr) -> Option<String> {
        let mut plan = crate::check::tests::easy();
        plan.listeners = vec![Listener { protocol, address, v6_only: false }; 2];
        let mut refusals = Vec::new();
        check(&plan, BuildOptions::default(), &mut refusals);
        assert!(refusals.len() <= 1, "the same address is asked for once");
        refusals.pop().map(|refusal| refusal.to_string())
    }

    #[test]
    fn taken_ports_and_foreign_addresses_are_named() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp.local_addr().expect("bound");
        let refusal = refused(Protocol::Tcp, address).expect("taken");
        assert!(refusal.contains(&format!("tcp socket on {address}")), "{refusal}");
        assert!(refusal.contains("the port is taken"), "{refusal}");
        drop(tcp);
        assert_eq!(refused(Protocol::Tcp, address), None);
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        assert!(refused(Protocol::Udp, udp.local_addr().expect("bound")).is_some());
        let foreign = "192.0.2.77:4000".parse().expect("an address");
        let refusal = refused(Protocol::Tcp, foreign).expect("not ours");
        assert!(refusal.contains("no interface has the address"), "{refusal}");
    }

    #[test]
    fn an_interface_that_is_not_here_is_named() {
        let mut plan = crate::check::tests::easy();
        plan.needs = ["lo", "nosuch7"].map(|name| format!("{INTERFACE}{name}")).to_vec();
        let mut refusals = Vec::new();
        check(&plan, BuildOptions::default(), &mut refusals);
        let objects: Vec<&str> = refusals.iter().map(|one| one.object.as_str()).collect();
        assert_eq!(objects, ["interface nosuch7"]);
    }

    #[test]
    fn live_names_are_refused_and_stale_ones_are_not() {
        let path = std::env::temp_dir().join(format!("qmig-check-{}", std::process::id()));
        let name = path.as_os_str().as_bytes();
        let live = UnixListener::bind(&path).expect("bound");
        assert_eq!(try_name(name), Err("somebody listens there".to_owned()));
        drop(live);
        assert_eq!(try_name(name), Ok(()));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(try_name(name), Ok(()));
        std::fs::write(&path, "").expect("written");
        assert!(try_name(name).is_err());
        std::fs::remove_file(&path).expect("removed");
        assert!(try_name(b"/no/such/directory/x").is_err());
        assert_eq!(try_name(b"\0surely nobody has this name"), Ok(()));
    }
}
