//! TCP connections: held back while they move, read in repair mode, and ended without a word.
//!
//! The order is what keeps the other ends from noticing. New connections are held back before the
//! tree is stopped, so that it accepts those that wait ([`Doors`]). When it stands still, packets of
//! its connections are held back, and only then are they read ([`Connections`]): what was read stays
//! true as long as the lock is there. The sockets leave repair mode at once, so that the tree runs on
//! with them whatever happens to qmig. When the right to run leaves, they enter it for good: a socket
//! in repair mode is closed without a packet.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use image::plan::{Plan, Protocol, Refusal};
use image::state::{File, FileId, FileKind, InetSocket, SocketState, TcpStream, TcpWindow};
use nix::libc;
use tracee::net::repair::{self, Leave, Negotiated, Queue};
use tracee::net::{FourTuple, LockError, NetworkLock};

use crate::error::CollectError;
use crate::survey::{TcpPolicy, diag};

/// A connection of the tree that is still to be read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: FileId,
    pub(super) copy: OwnedFd,
    /// Whose it is, for people.
    pub(super) object: String,
}

/// The connections of a tree that were read. Dropped, their packets pass again.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    // In this order: the sockets are let go of before the lock is lifted.
    sockets: Vec<OwnedFd>,
    lock: Option<NetworkLock>,
}

impl Connections {
    /// Holds back the packets of `found` and reads them into their files.
    pub(super) fn read(found: Vec<Found>, files: &mut [File]) -> Result<Self, CollectError> {
        if found.is_empty() {
            return Ok(Self::default());
        }
        let mut lock = NetworkLock::new()?;
        let ends = |found: &Found| ends_of(inet(files, found.file)?);
        let tuples: Vec<FourTuple> = found.iter().filter_map(ends).collect();
        lock.hold(&tuples)?;
        let mut refusals = Vec::new();
        let mut sockets = Vec::with_capacity(found.len());
        for Found { file, copy, object } in found {
            let at = files.iter_mut().find(|known| known.id == file);
            let Some(File { kind: FileKind::Inet(socket), .. }) = at else { continue };
            match read(copy.as_fd()) {
                Ok((state, stream)) => {
                    socket.state = state;
                    socket.stream = stream.map(Box::new);
                    if socket.stream.is_none() {
                        // It ended a moment ago: a closed socket has no address any more.
                        socket.destination = None;
                    }
                    sockets.push(copy);
                }
                Err(error) => {
                    let place = format!("tcp:{}", socket.source);
                    let reason = format!("the connection cannot be read: {error}");
                    refusals.push(Refusal::new(object, &place, reason));
                }
            }
        }
        if refusals.is_empty() {
            Ok(Self { sockets, lock: Some(lock) })
        } else {
            Err(CollectError::Refused(refusals))
        }
    }

    /// From here on they end in silence, whoever ends them.
    pub(crate) fn silence(&self) -> io::Result<()> {
        let mut silenced = Vec::with_capacity(self.sockets.len());
        for socket in &self.sockets {
            if let Err(error) = repair::enter(socket.as_fd()) {
                speak(&silenced);
                return Err(error);
            }
            silenced.push(socket.as_fd());
        }
        Ok(())
    }

    /// They are the tree's again, and tell the other ends so; their packets pass.
    pub(crate) fn give_back(mut self) {
        // What they say about themselves must not be held back.
        if let Some(lock) = self.lock.take() {
            lock.lift();
        }
        let sockets: Vec<BorrowedFd> = self.sockets.iter().map(AsFd::as_fd).collect();
        speak(&sockets);
    }
}

fn speak(sockets: &[BorrowedFd]) {
    for socket in sockets {
        if let Err(error) = repair::leave(*socket, Leave::Telling) {
            tracing::warn!(%error, "a connection stays silent");
        }
    }
}

/// The two ends of a connected socket.
pub(crate) fn ends_of(socket: &InetSocket) -> Option<FourTuple> {
    Some(FourTuple { local: socket.source, remote: socket.destination? })
}

fn inet(files: &[File], id: FileId) -> Option<&InetSocket> {
    files.iter().find(|file| file.id == id).and_then(|file| match &file.kind {
        FileKind::Inet(socket) => Some(socket),
        _ => None,
    })
}

/// How often a connection is read again that changed meanwhile: a packet may have been past the lock
/// when that was made, and is dealt with when the socket is let go of.
const READS: u32 = 10;

/// Reads a connection. It has none to read if it ended meanwhile.
fn read(fd: BorrowedFd) -> io::Result<(SocketState, Option<TcpStream>)> {
    let peeking = Peeking::pause(fd)?;
    let mut outcome = Err(io::Error::other("its queues do not stand still"));
    for _ in 0..READS {
        repair::enter(fd)?;
        let once = read_once(fd);
        repair::leave(fd, Leave::Quietly)?;
        match once {
            Ok(None) => {}
            Ok(Some(whole)) => {
                outcome = Ok(whole);
                break;
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    peeking.resume()?;
    outcome
}

/// SO_PEEK_OFF, which moves what MSG_PEEK sees, set aside.
struct Peeking<'a>(BorrowedFd<'a>, Option<Vec<u8>>);

impl<'a> Peeking<'a> {
    fn pause(fd: BorrowedFd<'a>) -> io::Result<Self> {
        let off = (-1_i32).to_ne_bytes();
        let set = tracee::host::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 4)?;
        if set == off {
            return Ok(Self(fd, None));
        }
        tracee::host::setsockopt(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &off)?;
        Ok(Self(fd, Some(set)))
    }

    fn resume(self) -> io::Result<()> {
        let Some(set) = self.1 else { return Ok(()) };
        tracee::host::setsockopt(self.0, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &set)
    }
}

/// What must be the same before and after a reading.
fn numbers(fd: BorrowedFd) -> io::Result<[u32; 5]> {
    Ok([
        repair::sequence(fd, Queue::Receive)?,
        repair::sequence(fd, Queue::Send)?,
        repair::bytes_unacknowledged(fd)?,
        repair::bytes_unsent(fd)?,
        u32::try_from(tracee::host::bytes_waiting(fd)?).unwrap_or(u32::MAX),
    ])
}

/// `None` if it changed meanwhile.
fn read_once(fd: BorrowedFd) -> io::Result<Option<(SocketState, Option<TcpStream>)>> {
    let (state, agreed) = repair::negotiated(fd)?;
    let Some(state) = connected(state) else { return Ok(Some((SocketState::Closed, None))) };
    let before = numbers(fd)?;
    let [receive_next, write_next, unacknowledged, unsent, waiting] = before;
    // A FIN counts as a byte of the queue, and is none.
    let fin = u32::from(state.has_written_end());
    let (unacknowledged, unsent) = (unacknowledged.saturating_sub(fin), unsent.saturating_sub(fin));
    let room = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(1);
    let received = repair::peek(fd, Queue::Receive, room(waiting))?;
    let written = repair::peek(fd, Queue::Send, room(unacknowledged))?;
    let window = repair::window(fd)?;
    let whole = received.len() + 1 == room(waiting) && written.len() + 1 == room(unacknowledged);
    if !whole || numbers(fd)? != before || connected(repair::negotiated(fd)?.0) != Some(state) {
        return Ok(None);
    }
    let Negotiated { segment, sack, scales, timestamp } = agreed;
    let repair::Window { snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup } = window;
    let window = Some(TcpWindow { snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup });
    let stream = TcpStream {
        received,
        receive_next,
        written,
        unsent,
        write_next,
        segment,
        sack,
        scales,
        timestamp,
        window,
    };
    Ok(Some((state, Some(stream))))
}

/// The kernel's number of a state that a connection can be carried in.
pub(super) fn connected(state: u8) -> Option<SocketState> {
    Some(match state {
        1 => SocketState::Established,
        4 => SocketState::FinWait1,
        5 => SocketState::FinWait2,
        8 => SocketState::CloseWait,
        9 => SocketState::LastAck,
        11 => SocketState::Closing,
        _ => return None,
    })
}

/// New connections to the tree, held back while it moves: who connects tries again a second later,
/// and meets the tree where it runs then. Dropped, they pass again.
#[derive(Debug, Default)]
pub(crate) struct Doors(#[allow(dead_code, reason = "held for its drop")] Option<NetworkLock>);

/// How long a running tree may take to accept those that came before.
const ACCEPTS_WITHIN: Duration = Duration::from_millis(250);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(1);

impl Doors {
    /// Shuts the doors of a tree whose connections are kept, and lets it accept who is inside: a
    /// connection that nobody has accepted cannot be carried, because nothing makes one again.
    pub(crate) fn shut(plan: &Plan, policy: TcpPolicy) -> Result<Self, LockError> {
        let tcp = plan.listeners.iter().filter(|listener| listener.protocol == Protocol::Tcp);
        let doors: Vec<SocketAddr> = tcp.map(|listener| listener.address).collect();
        if policy != TcpPolicy::Keep || doors.is_empty() {
            return Ok(Self(None));
        }
        let mut lock = NetworkLock::new()?;
        lock.hold_new(&doors)?;
        let until = Instant::now() + ACCEPTS_WITHIN;
        while diag::anybody_waits(&doors).unwrap_or(false) && Instant::now() < until {
            std::thread::sleep(GLANCE);
        }
        Ok(Self(Some(lock)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream as Stream};

    use super::*;

    fn pair() -> (Stream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let near = Stream::connect(listener.local_addr().expect("bound")).expect("connect");
        (near, listener.accept().expect("accept").0)
    }

    fn is_root() -> bool {
        nix::unistd::geteuid().is_root() || {
            eprintln!("SKIPPED: repair mode takes root");
            false
        }
    }

    #[test]
    fn both_directions_are_read_and_the_connection_goes_on() {
        if !is_root() {
            return;
        }
        let (mut near, mut far) = pair();
        near.write_all(b"waits to be read").expect("sent");
        let mut first = [0; 6];
        far.read_exact(&mut first).expect("received");
        far.write_all(b"back").expect("sent");
        let (state, stream) = read(far.as_fd()).expect("read");
        let stream = stream.expect("connected");
        assert_eq!((state, &stream.received[..]), (SocketState::Established, &b"to be read"[..]));
        assert!(stream.scales.is_some() && stream.segment > 500, "{stream:?}");
        let mut rest = String::new();
        near.shutdown(Shutdown::Write).expect("shut down");
        far.read_to_string(&mut rest).expect("the rest");
        assert_eq!(rest, "to be read");
        assert_eq!(read(far.as_fd()).expect("read").0, SocketState::CloseWait);
        let (state, _) = read(near.as_fd()).expect("read");
        assert!(matches!(state, SocketState::FinWait1 | SocketState::FinWait2), "{state:?}");
    }

    #[test]
    fn what_is_unsent_is_told() {
        if !is_root() {
            return;
        }
        let (near, _far) = pair();
        near.set_nonblocking(true).expect("non-blocking");
        let piece = [7_u8; 65536];
        let mut sent = 0;
        while let Ok(more) = (&near).write(&piece) {
            sent += more;
        }
        let (_, stream) = read(near.as_fd()).expect("read");
        let stream = stream.expect("connected");
        assert!(stream.unsent > 0 && stream.written.len() <= sent, "{}", stream.unsent);
        assert!(stream.written.len() >= stream.unsent as usize);
    }

    #[test]
    fn silenced_sockets_end_without_a_word() {
        if !is_root() {
            return;
        }
        let (near, mut far) = pair();
        let copy = OwnedFd::from(near.try_clone().expect("a copy"));
        let connections = Connections { sockets: vec![copy], lock: None };
        connections.silence().expect("silent");
        drop((near, connections));
        far.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let error = far.read(&mut [0]).expect_err("neither an end nor a reset");
        assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
    }
}
