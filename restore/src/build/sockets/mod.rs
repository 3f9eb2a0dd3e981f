//! Sockets: bound, listening, connected, with what waited in them.

mod datagrams;
mod forged;
mod inet;
mod netlink;
pub(crate) mod options;
mod packet;
mod streams;
mod unix;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use image::state::{
    File, FileId, FileKind, InetSocket, NetlinkSocket, PacketSocket, SocketOptions, UnixSocket,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};
use nix::sys::stat::lstat;

use tracee::net::HostAddress;

use super::files::{View, status_flags};
use crate::error::{Error, Result, errno_of};
use crate::takeover::Takeover;
use streams::Streams;

/// Sockets are given away as files; what is left here are their nodes in the file system and
/// addresses, taken away again if the tree never runs, and connections that do not speak yet.
#[derive(Default)]
pub(crate) struct Sockets {
    nodes: Vec<Node>,
    /// Far ends of unix sockets that nobody in the tree has; closed when all is filled.
    feeders: HashMap<FileId, OwnedFd>,
    // In this order: addresses are given up before the lock is lifted, or this host would answer for
    // connections that it no longer has.
    takeover: Takeover,
    streams: Streams,
    /// UDP sockets in which something waited.
    datagrams: Vec<InetSocket>,
}

/// A node in the file system that bind(2) made for us, or a file of /dev/shm.
struct Node {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// A file and the socket it is.
type Named<'a, S> = (&'a File, &'a S);

impl Sockets {
    /// Makes every socket among `files`.
    pub(crate) fn make_all(
        files: &[&File],
        view: &View,
        takeover: &'static [HostAddress],
        open: &mut HashMap<FileId, OwnedFd>,
    ) -> Result<Self> {
        let mut made = Self::default();
        made.takeover = Takeover::of(takeover);
        unix::make_all(&unix_among(files), view, &mut made, open)?;
        let inet: Vec<Named<'_, InetSocket>> = files
            .iter()
            .filter_map(|file| match &file.kind {
                FileKind::Inet(socket) => Some((*file, socket)),
                _ => None,
            })
            .collect();
        inet::make_all(&inet, takeover, open)?;
        let waiting = inet.iter().filter(|(_, socket)| !socket.queue.is_empty());
        made.datagrams = waiting.map(|(_, socket)| (*socket).clone()).collect();
        made.streams = Streams::make_all(&inet, open)?;
        let netlink = files.iter().filter_map(|file| match &file.kind {
            FileKind::Netlink(socket) => Some((*file, socket)),
            _ => None,
        });
        netlink::make_all(&netlink.collect::<Vec<Named<'_, NetlinkSocket>>>(), open)?;
        let packet = files.iter().filter_map(|file| match &file.kind {
            FileKind::Packet(socket) => Some((*file, socket)),
            _ => None,
        });
        packet::make_all(&packet.collect::<Vec<Named<'_, PacketSocket>>>(), open)?;
        for file in files.iter().filter(|file| options_of(file).is_some()) {
            if let Some(socket) = open.get(&file.id) {
                let keep = OFlag::O_NONBLOCK | OFlag::O_ASYNC;
                let flags = FcntlArg::F_SETFL(status_flags(file.flags) & keep);
                let failed = |errno| Error::Object { file: file.id, act: "set flags", errno };
                fcntl(socket, flags).map_err(failed)?;
            }
        }
        Ok(made)
    }

    /// Fills in what waits in unix sockets. Every file is open: any may be on its way through them.
    pub(crate) fn fill(
        &mut self,
        files: &[&File],
        view: &View,
        open: &mut HashMap<FileId, OwnedFd>,
    ) -> Result<()> {
        unix::fill_all(&unix_among(files), view, self, open)?;
        // Packet sockets have theirs before they are bound.
        let others = files.iter().filter(|file| !matches!(file.kind, FileKind::Packet(_)));
        for file in others {
            if let Some((options, socket)) = options_of(file).zip(open.get(&file.id)) {
                let act = "attach a filter to a socket";
                let failed = |error| Error::Object { file: file.id, act, errno: errno_of(&error) };
                options::attach_filter(socket, options).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The tree may run: its addresses come here, and its connections speak.
    pub(crate) fn open(&mut self) -> Result<()> {
        self.takeover.begin()?;
        datagrams::send_again(&self.datagrams);
        self.streams.open();
        Ok(())
    }

    /// The tree runs: nodes and addresses are its own now.
    pub(crate) fn keep(&mut self) {
        self.nodes.clear();
        self.takeover.keep();
    }

    /// A name that was made and is taken away again if the tree never runs.
    pub(crate) fn note_node(&mut self, path: PathBuf) {
        if let Ok(stat) = lstat(&path) {
            self.nodes.push(Node { path, device: stat.st_dev, inode: stat.st_ino });
        }
    }
}

/// None of other files.
fn options_of(file: &File) -> Option<&SocketOptions> {
    match &file.kind {
        FileKind::Unix(socket) => Some(&socket.options),
        FileKind::Inet(socket) => Some(&socket.options),
        FileKind::Netlink(socket) => Some(&socket.options),
        FileKind::Packet(socket) => Some(&socket.options),
        _ => None,
    }
}

fn unix_among<'a>(files: &[&'a File]) -> Vec<Named<'a, UnixSocket>> {
    let unix = files.iter().filter_map(|file| match &file.kind {
        FileKind::Unix(socket) => Some((*file, socket)),
        _ => None,
    });
    unix.collect()
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for node in &self.nodes {
            let same = lstat(&node.path)
                .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (node.device, node.inode));
            if same {
                let _ = nix::unistd::unlink(&node.path);
            }
        }
    }
}

/// shutdown(2) by the format's number: 0 none, 1 read, 2 write, 3 both.
fn shut(socket: &OwnedFd, how: u32) -> nix::Result<()> {
    use std::os::fd::AsRawFd;
    let how = match how {
        1 => Shutdown::Read,
        2 => Shutdown::Write,
        3 => Shutdown::Both,
        _ => return Ok(()),
    };
    shutdown(socket.as_raw_fd(), how)
}
