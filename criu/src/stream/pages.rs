//! Where a CRIU that somebody else has started sends its pages, if it is told to (`--page-server`).
//!
//! `--ps-socket` names a connection to a socket in the directory, which only root can reach;
//! `--address` and `--port` lead to one of the network, which everybody can. So whoever comes there
//! must be the CRIU that asks before its steps.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::Door;

/// The socket's name in the directory.
const NAME: &str = "page-server.sock";

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
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let texts = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let Some(inode) = texts.iter().find_map(|text| inode_of(port, text)) else {
        return Ok(false);
    };
    let name = format!("socket:[{inode}]");
    let mut open = std::fs::read_dir(format!("/proc/{process}/fd"))?.flatten();
    Ok(open.any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| *link == *name)))
}

/// The inode of the established connection whose own end has this port, proc(5) `/proc/net/tcp`.
fn inode_of(port: u16, table: &str) -> Option<u64> {
    const ESTABLISHED: &str = "01";
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (own, state) = (words.next()?, words.nth(1)?);
        let own = u16::from_str_radix(own.rsplit_once(':')?.1, 16).ok()?;
        (own == port && state == ESTABLISHED).then(|| words.nth(5)?.parse().ok()).flatten()
    })
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
}
