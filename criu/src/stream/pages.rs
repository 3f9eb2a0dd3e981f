//! Where a CRIU that somebody else has started sends its pages, if it is told to (`--page-server`), and
//! where it serves those that it keeps (`--lazy-pages`).
//!
//! `--ps-socket` names a connection to a socket in the directory, which only root can reach;
//! `--address` and `--port` lead to one of the network, which everybody can. So whoever comes there
//! must be the CRIU that asks before its steps.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Door;

/// The socket's name in the directory.
const NAME: &str = "page-server.sock";

/// A connection within this host takes no time.
const SOON: Duration = Duration::from_secs(10);

/// See above.
#[derive(Debug)]
pub(super) struct PageDoors {
    plain: Door,
    network: Option<TcpListener>,
}

impl PageDoors {
    pub(super) fn listen(folder: &Path, network: Option<SocketAddr>) -> io::Result<Self> {
        let network = network.map(TcpListener::bind).transpose()?;
        Ok(Self { plain: Door::open(folder.join(NAME))?, network })
    }

    /// The one in the directory, and the one of the network.
    pub(super) fn as_fds(&self) -> [Option<BorrowedFd<'_>>; 2] {
        let network = self.network.as_ref().map(AsFd::as_fd);
        [Some(self.plain.listener.as_fd()), network]
    }

    /// Who has come. Streams are streams, whatever they are made of.
    pub(super) fn accept(&self, network: bool) -> io::Result<UnixStream> {
        match self.network.as_ref().filter(|_| network) {
            Some(door) => Ok(OwnedFd::from(door.accept()?.0).into()),
            None => Ok(self.plain.listener.accept()?.0),
        }
    }
}

/// The port that a connection comes from; `None` if it is no connection of the network.
fn port(stream: &UnixStream) -> io::Result<Option<u16>> {
    let stream = TcpStream::from(OwnedFd::from(stream.try_clone()?));
    Ok(stream.peer_addr().ok().map(|peer| peer.port()))
}

/// True if it came by a way that nobody but root has.
pub(super) fn is_plain(stream: &UnixStream) -> bool {
    port(stream).is_ok_and(|port| port.is_none())
}

/// True if a connection that was accepted is this process's, or is [plain](is_plain).
pub(super) fn is_of(stream: &UnixStream, process: Option<i32>) -> io::Result<bool> {
    let Some(port) = port(stream)? else { return Ok(true) };
    let Some(process) = process else { return Ok(false) };
    let is_it = |row: &Row| row.state == ESTABLISHED && row.own.port() == port;
    let Some(row) = table().into_iter().find(is_it) else { return Ok(false) };
    Ok(row.is_open_in(&sockets(process)?))
}

/// Comes to wherever a process listens, and leaves at once: of a CRIU that serves pages this is how
/// one says that no (more) pages are wanted.
pub(super) fn want_none(process: Option<i32>) -> io::Result<()> {
    let Some(process) = process else { return Ok(()) };
    let open = sockets(process)?;
    for row in table().iter().filter(|row| row.state == LISTEN && row.is_open_in(&open)) {
        TcpStream::connect_timeout(&reachable(row.own), SOON)?;
    }
    Ok(())
}

/// An address of this host by which whoever listens there is reached.
fn reachable(place: SocketAddr) -> SocketAddr {
    let any = place.ip().is_unspecified();
    let loopback = match place.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(if any { loopback } else { place.ip() }, place.port())
}

/// The inodes of the sockets that a process has open.
fn sockets(process: i32) -> io::Result<Vec<u64>> {
    let open = std::fs::read_dir(format!("/proc/{process}/fd"))?.flatten();
    let names = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inode =
        |name: PathBuf| name.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    Ok(names.filter_map(inode).collect())
}

/// `TCP_ESTABLISHED` and `TCP_LISTEN` (net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

/// A line of `/proc/net/tcp` or `tcp6`, proc(5).
#[derive(Debug, PartialEq, Eq)]
struct Row {
    own: SocketAddr,
    state: u8,
    inode: u64,
}

/// Every TCP socket of this network namespace.
fn table() -> Vec<Row> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let texts = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
    texts.iter().flat_map(|text| text.lines().skip(1)).filter_map(Row::parse).collect()
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip(1);
        let (own, state) = (words.next()?, words.nth(1)?);
        let (address, port) = own.rsplit_once(':')?;
        let own = SocketAddr::new(address_of(address)?, u16::from_str_radix(port, 16).ok()?);
        let state = u8::from_str_radix(state, 16).ok()?;
        Some(Self { own, state, inode: words.nth(5)?.parse().ok()? })
    }

    fn is_open_in(&self, inodes: &[u64]) -> bool {
        inodes.contains(&self.inode)
    }
}

/// Words of four bytes, each as this machine reads it as a number.
fn address_of(digits: &str) -> Option<IpAddr> {
    let word = |at| Some(u32::from_str_radix(digits.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let words: Option<Vec<_>> = (0..digits.len()).step_by(8).map(word).collect();
    let bytes = words?.concat();
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_connection_is_can_be_told() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let doors = PageDoors::listen(folder.path(), Some(([127, 0, 0, 1], 0).into()))?;
        let place = doors.network.as_ref().map(TcpListener::local_addr).transpose()?;
        let ours = TcpStream::connect(place.expect("it listens"))?;
        let accepted = doors.accept(true)?;
        let us = std::process::id().cast_signed();
        assert!(is_of(&accepted, Some(us))?);
        assert!(!is_of(&accepted, Some(std::os::unix::process::parent_id().cast_signed()))?);
        assert!(!is_of(&accepted, None)?);
        drop(ours);
        let _plain = UnixStream::connect(folder.path().join(NAME))?;
        assert!(is_of(&doors.accept(false)?, None)?);
        Ok(())
    }

    #[test]
    fn a_line_of_the_table() {
        let line = "  41: 0100007F:26F9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 91442 1 0 100";
        let row = Row { own: ([127, 0, 0, 1], 9977).into(), state: LISTEN, inode: 91442 };
        assert_eq!(Row::parse(line), Some(row));
        let line = "   0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 01 0:0 0:0 0 0 0 7 1";
        let own = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 22);
        assert_eq!(Row::parse(line), Some(Row { own, state: ESTABLISHED, inode: 7 }));
        assert_eq!(Row::parse("  sl  local_address rem_address   st"), None);
    }

    #[test]
    fn whoever_listens_is_come_to_and_left() -> io::Result<()> {
        for any in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(any) else { continue };
            let row = table().into_iter().find(|row| Some(row.own) == listener.local_addr().ok());
            let row = row.expect("it is in the table");
            assert!(
                row.state == LISTEN && row.is_open_in(&sockets(std::process::id().cast_signed())?)
            );
            drop(TcpStream::connect_timeout(&reachable(row.own), SOON)?);
            let (mut came, _) = listener.accept()?;
            assert_eq!(io::Read::read(&mut came, &mut [0])?, 0);
        }
        Ok(())
    }
}
