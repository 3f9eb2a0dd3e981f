//! What waits to be read in unix sockets, peeked at: bytes, and the open files that come with them.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use image::state::{FileKind, Packet, SocketState, UnixSocket};
use nix::libc;
use tracee::HostPid;
use tracee::host::{Peeked, pidfd_open};

use super::Refusals;
use super::files::Files;
use super::sockets::word;
use crate::error::CollectError;
use crate::survey::refusals::{BY_CRIU, Trouble, Whose};

impl Files<'_> {
    /// Reads what waits in unix sockets, when every file that somebody has open is known. What comes
    /// along may be files that nobody has open, sockets with queues of their own among them.
    pub(super) fn read_queues(&mut self, refusals: &mut Refusals) -> Result<(), CollectError> {
        if self.queues.is_empty() {
            return Ok(());
        }
        let own = HostPid(std::process::id().cast_signed());
        let process = pidfd_open(own)?;
        while let Some((file, copy, object)) = self.queues.pop() {
            let Some(at) = self.files.iter().position(|known| known.id == file) else { continue };
            let FileKind::Unix(socket) = &self.files[at].kind else { continue };
            let waiting = match waiting(copy.as_fd(), socket) {
                Ok(waiting) => waiting,
                Err(trouble) => {
                    refusals.add(trouble, object);
                    continue;
                }
            };
            let mut queue = Vec::with_capacity(waiting.len());
            let whose = Whose { pid: own, comm: format!("on its way to {object}") };
            for Waiting { bytes, files } in waiting {
                let mut packet = Packet::plain(bytes);
                for flying in files {
                    // It is open in qmig now, and known by its number here.
                    let number = flying.as_raw_fd().cast_unsigned();
                    let (known, _) = self.descriptor(&whose, number, &process, refusals)?;
                    packet.files.extend(known);
                    self.flying.push(flying);
                }
                queue.push(packet);
            }
            if let FileKind::Unix(socket) = &mut self.files[at].kind {
                socket.queue = queue;
            }
        }
        self.peers_are_here(refusals);
        Ok(())
    }

    /// The survey cannot see everything that is on its way: the other end of a socket may be.
    fn peers_are_here(&self, refusals: &mut Refusals) {
        let sockets = self.files.iter().filter_map(|file| match &file.kind {
            FileKind::Unix(socket) => Some(socket),
            _ => None,
        });
        let here: HashSet<u32> = sockets.clone().map(|socket| socket.inode).collect();
        for socket in sockets.filter(|one| one.peer != 0 && !here.contains(&one.peer)) {
            let reason = format!("connected to the unix socket {} outside the tree", socket.peer);
            let place = format!("socket:[{}]", socket.inode);
            refusals.add(Trouble::new(place, reason).but(BY_CRIU), "a unix socket");
        }
    }
}

/// Bytes, and the files that come with the first of them.
struct Waiting {
    bytes: Vec<u8>,
    files: Vec<OwnedFd>,
}

/// Everything that waits: packet by packet, or of a stream piece by piece.
///
/// SO_PEEK_OFF (Linux 3.4, for streams too since 4.10) walks the queue; the program's own value is
/// put back.
fn waiting(fd: BorrowedFd, socket: &UnixSocket) -> Result<Vec<Waiting>, Trouble> {
    if socket.state == SocketState::Listening {
        return Ok(Vec::new());
    }
    let shown = format!("socket:[{}]", socket.inode);
    let failed =
        |error: io::Error| Trouble::new(&*shown, format!("the queue cannot be read: {error}"));
    let before = word(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF).map_err(failed)?;
    let walked = Walk { fd, socket }.all();
    set_offset(fd, before).map_err(failed)?;
    walked.map_err(failed)
}

/// Do files wait in the stream, or with the first packet? For a task that runs: nothing is changed.
pub(crate) fn carries_files(fd: BorrowedFd) -> bool {
    tracee::host::peek(fd, &mut [0]).is_ok_and(|peeked| !peeked.files.is_empty())
}

fn set_offset(fd: BorrowedFd, offset: u32) -> io::Result<()> {
    tracee::host::setsockopt(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &offset.to_ne_bytes())
}

struct Walk<'a> {
    fd: BorrowedFd<'a>,
    socket: &'a UnixSocket,
}

/// Bytes of a stream looked at in one go.
const PIECE: usize = 64 << 10;

impl Walk<'_> {
    fn all(&self) -> io::Result<Vec<Waiting>> {
        let stream = self.socket.kind == libc::SOCK_STREAM.cast_unsigned();
        let mut all: Vec<Waiting> = Vec::new();
        let mut offset = 0;
        loop {
            set_offset(self.fd, offset)?;
            let Some(found) = (if stream { self.piece()? } else { self.packet(offset)? }) else {
                return Ok(all);
            };
            let length = u32::try_from(found.bytes.len()).map_err(io::Error::other)?;
            offset = offset.checked_add(length).ok_or(io::ErrorKind::FileTooLarge)?;
            match all.last_mut() {
                Some(last) if stream && found.files.is_empty() && last.files.is_empty() => {
                    last.bytes.extend_from_slice(&found.bytes);
                }
                _ => all.push(found),
            }
        }
    }

    /// Some bytes of a stream. A look ends with the bytes that files were sent with, but tells of
    /// them from any byte before: so they go with the last of these, whole messages as they came.
    fn piece(&self) -> io::Result<Option<Waiting>> {
        let mut bytes = vec![0; PIECE];
        let Some(Peeked { length, files, .. }) = self.look(&mut bytes)? else { return Ok(None) };
        bytes.truncate(length);
        Ok(match length {
            0 => None, // an end, told for ever
            1 => Some(Waiting { bytes, files }),
            // Where there was no room left, the files may be those of any later bytes.
            _ if files.is_empty() && length < PIECE => Some(Waiting { bytes, files }),
            _ => {
                bytes.truncate(length - 1);
                Some(Waiting { bytes, files: Vec::new() })
            }
        })
    }

    /// The next packet, whole.
    fn packet(&self, offset: u32) -> io::Result<Option<Waiting>> {
        let Some(first) = self.look(&mut [])? else { return Ok(None) };
        let shut = self.socket.shutdown & 1 != 0;
        let datagrams = self.socket.kind == libc::SOCK_DGRAM.cast_unsigned();
        if first.length == 0 {
            // An end of file, told for ever, looks like an empty packet. One that was seen is passed
            // over by the kernel from then on.
            let end = (shut || !datagrams) && first.files.is_empty();
            return Ok((!end).then_some(Waiting { bytes: Vec::new(), files: first.files }));
        }
        drop(first.files);
        set_offset(self.fd, offset)?;
        let mut bytes = vec![0; first.length];
        let Some(Peeked { length, files, .. }) = self.look(&mut bytes)? else { return Ok(None) };
        bytes.truncate(length);
        Ok(Some(Waiting { bytes, files }))
    }

    fn look(&self, into: &mut [u8]) -> io::Result<Option<Peeked>> {
        match tracee::host::peek(self.fd, into) {
            Ok(peeked) => Ok(Some(peeked)),
            Err(error) => match error.raw_os_error() {
                // Nothing; unconnected; or the other end closed with unread data, of which the
                // program has yet to be told.
                Some(libc::EAGAIN | libc::ENOTCONN | libc::EINVAL | libc::ECONNRESET) => Ok(None),
                _ => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read, Write};
    use std::os::fd::RawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use image::state::SocketOptions;
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    fn state(kind: i32) -> UnixSocket {
        UnixSocket {
            inode: 1,
            peer: 2,
            kind: kind.cast_unsigned(),
            state: SocketState::Established,
            name: vec![],
            name_dir: None,
            deleted: false,
            node: None,
            backlog: 0,
            shutdown: 0,
            options: SocketOptions::default(),
            queue: vec![],
        }
    }

    fn seen(fd: &impl AsFd, kind: i32) -> Vec<(Vec<u8>, usize)> {
        let all = waiting(fd.as_fd(), &state(kind)).expect("readable").into_iter();
        all.map(|one| (one.bytes, one.files.len())).collect()
    }

    fn pass(through: &impl AsRawFd, bytes: &[u8], files: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(files)];
        let bytes = [IoSlice::new(bytes)];
        sendmsg::<()>(through.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).expect("sent");
    }

    #[test]
    fn a_stream_is_peeked_whole_and_stays() {
        let (mut left, mut right) = UnixStream::pair().expect("a pair");
        let sent: Vec<u8> = (0..=250).cycle().take(100_000).collect();
        left.write_all(&sent).expect("send");
        for _ in 0..2 {
            assert_eq!(seen(&right, libc::SOCK_STREAM), [(sent.clone(), 0)]);
        }
        assert_eq!(seen(&left, libc::SOCK_STREAM), []);
        let mut back = vec![0; sent.len()];
        right.read_exact(&mut back).expect("receive");
        assert_eq!(back, sent);
    }

    #[test]
    fn files_come_with_the_last_byte_they_were_sent_with() {
        let (mut left, right) = UnixStream::pair().expect("a pair");
        assert!(!carries_files(right.as_fd()));
        left.write_all(b"before").expect("sent");
        pass(&left, b"xyz", &[left.as_raw_fd(), right.as_raw_fd()]);
        pass(&left, b"!", &[0]);
        left.write_all(b"behind").expect("sent");
        assert!(carries_files(right.as_fd()));
        for _ in 0..2 {
            let wanted = [(&b"beforexy"[..], 0), (b"z", 2), (b"!", 1), (b"behind", 0)];
            let seen = seen(&right, libc::SOCK_STREAM);
            let seen: Vec<_> = seen.iter().map(|(bytes, files)| (&bytes[..], *files)).collect();
            assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn packets_keep_their_bounds() {
        let (left, right) = UnixDatagram::pair().expect("a pair");
        for packet in [&b"one"[..], b"", b"three", &[7; 3000]] {
            left.send(packet).expect("send");
        }
        pass(&left, b"four", &[0, 1]);
        let wanted = [
            (b"one".to_vec(), 0),
            (vec![], 0),
            (b"three".to_vec(), 0),
            (vec![7; 3000], 0),
            (b"four".to_vec(), 2),
        ];
        assert_eq!(seen(&right, libc::SOCK_DGRAM), wanted);
        assert!(!carries_files(right.as_fd()));
    }
}
