//! TCP connections, in repair mode until the tree runs.
//!
//! They are made while their packets are held back, without a packet of their own. When the tree may
//! run ([`Streams::open`]) and its addresses are here, the lock is lifted and each tells the other
//! end where it is; what comes then is answered as if nothing had been.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use image::state::{FileId, InetSocket, TcpStream};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockProtocol, SockType, SockaddrStorage, bind,
    connect, send, shutdown, socket,
};
use tracee::net::repair::{self, Leave, Negotiated, Queue, Window};
use tracee::net::{FourTuple, NetworkLock};

use super::{Named, forged, options};
use crate::error::{Error, Result, errno_of};

/// Connections that are made and silent.
#[derive(Debug, Default)]
pub(super) struct Streams {
    // In this order: sockets in repair mode are let go of before the lock is lifted.
    waiting: Vec<Waiting>,
    lock: Option<NetworkLock>,
}

#[derive(Debug)]
struct Waiting {
    socket: OwnedFd,
    state: InetSocket,
    stream: TcpStream,
}

impl Streams {
    /// Makes the connections among `sockets`.
    pub(super) fn make_all(
        sockets: &[Named<'_, InetSocket>],
        open: &mut HashMap<FileId, OwnedFd>,
    ) -> Result<Self> {
        let connected: Vec<_> = sockets
            .iter()
            .filter_map(|(file, state)| {
                let stream = state.stream.as_deref()?;
                let ends = FourTuple { local: state.source, remote: state.destination? };
                Some((file.id, *state, stream, ends))
            })
            .collect();
        if connected.is_empty() {
            return Ok(Self::default());
        }
        let mut lock = NetworkLock::new()?;
        let tuples: Vec<FourTuple> = connected.iter().map(|(.., ends)| *ends).collect();
        lock.hold(&tuples)?;
        let mut waiting = Vec::with_capacity(connected.len());
        for (id, state, stream, ends) in connected {
            let failed = |act| {
                move |error: std::io::Error| {
                    let FourTuple { local, remote } = ends;
                    Error::Connection { local, remote, act, errno: errno_of(&error) }
                }
            };
            let socket = make(state, stream, ends).map_err(failed("make again"))?;
            let copy = socket.try_clone().map_err(failed("keep"))?;
            open.insert(id, socket);
            waiting.push(Waiting { socket: copy, state: state.clone(), stream: stream.clone() });
        }
        Ok(Self { waiting, lock: Some(lock) })
    }

    /// They go on. Their addresses are here, and whoever has them runs in a moment: what fails now is
    /// told, and costs one connection.
    pub(super) fn open(&mut self) {
        let ended: Vec<_> =
            self.waiting.iter().filter(|one| one.state.state.has_received_end()).collect();
        if !ended.is_empty() {
            forged::send_ends(ended.iter().map(|one| (&one.state, &one.stream)));
        }
        if let Some(lock) = self.lock.take() {
            lock.lift();
        }
        for one in self.waiting.drain(..) {
            if let Err(error) = one.go_on() {
                let (local, remote) = (one.state.source, one.state.destination);
                tracing::warn!(%local, ?remote, %error, "a connection does not go on as it was");
            }
        }
    }
}

/// Room for whatever was in a queue; the program's own sizes are set afterwards.
const ROOM: u32 = 1 << 29;

/// A connected socket in repair mode with both queues filled, except for what was never sent.
fn make(state: &InetSocket, stream: &TcpStream, ends: FourTuple) -> std::io::Result<OwnedFd> {
    let family = match state.family {
        2 => AddressFamily::Inet,
        10 => AddressFamily::Inet6,
        _ => return Err(Errno::EAFNOSUPPORT.into()),
    };
    let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    let fd = made.as_fd();
    repair::enter(fd)?;
    options::before_bind(&made, &state.options)?;
    for option in [libc::SO_SNDBUFFORCE, libc::SO_RCVBUFFORCE] {
        options::set(fd, libc::SOL_SOCKET, option, ROOM)?;
    }
    options::set_transparent(fd, state.family, true)?;
    bind(made.as_raw_fd(), &SockaddrStorage::from(ends.local))?;
    let (received_end, written_end) =
        (u32::from(state.state.has_received_end()), u32::from(state.state.has_written_end()));
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let first = |next: u32, bytes, end: u32| next.wrapping_sub(end).wrapping_sub(length(bytes));
    let receive = first(stream.receive_next, &stream.received, received_end);
    let write = first(stream.write_next, &stream.written, written_end);
    repair::set_sequence(fd, Queue::Receive, receive)?;
    repair::set_sequence(fd, Queue::Send, write)?;
    connect(made.as_raw_fd(), &SockaddrStorage::from(ends.remote))?;
    options::set_transparent(fd, state.family, false)?;
    let TcpStream { segment, sack, scales, timestamp, .. } = *stream;
    repair::agree(fd, &Negotiated { segment, sack, scales, timestamp })?;
    repair::put(fd, Queue::Receive, &stream.received)?;
    repair::put(fd, Queue::Send, sent(stream))?;
    if let Some(window) = stream.window {
        let end = received_end;
        let window = Window {
            snd_wl1: window.snd_wl1,
            snd_wnd: window.snd_wnd,
            max_window: window.max_window,
            rcv_wnd: window.rcv_wnd.wrapping_add(end),
            rcv_wup: window.rcv_wup.wrapping_sub(end),
        };
        repair::set_window(fd, &window)?;
    }
    Ok(made)
}

fn halves(stream: &TcpStream) -> (&[u8], &[u8]) {
    let unsent = usize::try_from(stream.unsent).unwrap_or(usize::MAX);
    stream.written.split_at(stream.written.len().saturating_sub(unsent))
}

fn sent(stream: &TcpStream) -> &[u8] {
    halves(stream).0
}

impl Waiting {
    fn go_on(&self) -> std::io::Result<()> {
        let Self { socket, state, stream } = self;
        let fd = socket.as_fd();
        repair::leave(fd, Leave::Telling)?;
        let mut unsent = halves(stream).1;
        while !unsent.is_empty() {
            let quiet = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let sent = send(socket.as_raw_fd(), unsent, quiet)?;
            unsent = unsent.get(sent..).unwrap_or(&[]);
        }
        if state.state.has_written_end() {
            shutdown(socket.as_raw_fd(), Shutdown::Write)?;
        }
        let set = |level, option, value: bool| options::set(fd, level, option, u32::from(value));
        set(libc::SOL_SOCKET, libc::SO_REUSEADDR, state.options.reuse_address)?;
        set(libc::SOL_SOCKET, libc::SO_REUSEPORT, state.options.reuse_port)?;
        set(libc::IPPROTO_TCP, libc::TCP_NODELAY, state.no_delay)?;
        if state.cork {
            set(libc::IPPROTO_TCP, libc::TCP_CORK, true)?;
        }
        options::apply(socket, &state.options)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as Stream};

    use image::state::{File, FileKind, Owner, SocketOptions, SocketState};

    use super::*;

    /// What a source would tell of `live`, which it takes away without a packet, and the lock under
    /// which it does.
    fn taken(live: Stream, state: SocketState) -> (InetSocket, NetworkLock) {
        let fd = live.as_fd();
        let mut lock = NetworkLock::new().expect("a lock");
        let source = live.local_addr().expect("bound");
        let remote = live.peer_addr().expect("connected");
        lock.hold(&[FourTuple { local: source, remote }]).expect("held");
        repair::enter(fd).expect("repair mode");
        let agreed = repair::negotiated(fd).expect("read").1;
        let waiting = tracee::host::bytes_waiting(fd).expect("SIOCINQ");
        let unacknowledged = repair::bytes_unacknowledged(fd).expect("SIOCOUTQ") as usize;
        let unsent = repair::bytes_unsent(fd).expect("SIOCOUTQNSD");
        let end = u32::from(state.has_written_end());
        let windows = repair::window(fd).expect("windows");
        let stream = TcpStream {
            receive_next: repair::sequence(fd, Queue::Receive).expect("a number"),
            received: repair::peek(fd, Queue::Receive, waiting + 1).expect("bytes"),
            write_next: repair::sequence(fd, Queue::Send).expect("a number"),
            written: repair::peek(fd, Queue::Send, unacknowledged + 1).expect("bytes"),
            unsent: unsent.saturating_sub(end),
            segment: agreed.segment,
            sack: agreed.sack,
            scales: agreed.scales,
            timestamp: agreed.timestamp,
            window: Some(image::state::TcpWindow {
                snd_wl1: windows.snd_wl1,
                snd_wnd: windows.snd_wnd,
                max_window: windows.max_window,
                rcv_wnd: windows.rcv_wnd,
                rcv_wup: windows.rcv_wup,
            }),
        };
        let state = InetSocket {
            inode: 1,
            family: if source.is_ipv4() { 2 } else { 10 },
            kind: 1,
            protocol: 6,
            state,
            source,
            destination: Some(remote),
            backlog: 0,
            v6_only: false,
            free_bind: false,
            no_delay: true,
            cork: false,
            shutdown: 0,
            options: SocketOptions {
                send_buffer: 100_000,
                receive_buffer: 100_000,
                ..SocketOptions::default()
            },
            groups: Vec::new(),
            queue: Vec::new(),
            stream: Some(Box::new(stream)),
        };
        (state, lock)
    }

    fn again((state, lock): (InetSocket, NetworkLock)) -> Stream {
        let kind = FileKind::Inet(state.clone());
        let file = File { id: FileId(1), flags: 2, owner: Owner::default(), kind };
        let mut open = HashMap::new();
        let mut streams = Streams::make_all(&[(&file, &state)], &mut open).expect("made");
        drop(lock);
        streams.open();
        Stream::from(open.remove(&FileId(1)).expect("there"))
    }

    fn pair(address: &str) -> Option<(Stream, Stream)> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: repair mode takes root");
            return None;
        }
        let listener = TcpListener::bind(address).expect("bind");
        let near = Stream::connect(listener.local_addr().expect("bound")).expect("connect");
        Some((near, listener.accept().expect("accept").0))
    }

    #[test]
    fn a_connection_goes_on_where_it_was() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Some((mut near, mut far)) = pair(address) else { return };
            near.write_all(b"before").expect("sent");
            far = again(taken(far, SocketState::Established));
            let mut bytes = [0; 6];
            far.read_exact(&mut bytes).expect("what waited");
            assert_eq!(&bytes, b"before");
            far.write_all(b"behind").expect("sent");
            near.read_exact(&mut bytes).expect("arrives");
            assert_eq!(&bytes, b"behind");
            near.write_all(b"beyond").expect("sent");
            far.read_exact(&mut bytes).expect("arrives");
            assert_eq!(&bytes, b"beyond");
            drop(near);
            assert_eq!(far.read(&mut bytes).expect("an end"), 0);
        }
    }

    #[test]
    fn what_was_on_its_way_arrives() {
        let Some((near, mut far)) = pair("127.0.0.1:0") else { return };
        near.set_nonblocking(true).expect("non-blocking");
        let piece: Vec<u8> = (0..=250).cycle().take(65_536).collect();
        let mut all = Vec::new();
        while let Ok(more) = (&near).write(&piece) {
            all.extend_from_slice(&piece[..more]);
        }
        let taken = taken(near, SocketState::Established);
        assert!(taken.0.stream.as_ref().is_some_and(|stream| stream.unsent > 0));
        let near = again(taken);
        let mut read = vec![0; all.len()];
        far.read_exact(&mut read).expect("everything");
        assert!(read == all);
        drop(near);
    }

    #[test]
    fn half_closed_connections_stay_half_closed() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Some((mut near, mut far)) = pair(address) else { return };
            // Ours is ended: the other direction goes on.
            near.shutdown(std::net::Shutdown::Write).expect("shut down");
            assert_eq!(far.read(&mut [0]).expect("an end"), 0);
            near = again(taken(near, SocketState::FinWait2));
            far.write_all(b"still").expect("sent");
            let mut bytes = [0; 5];
            near.read_exact(&mut bytes).expect("arrives");
            assert_eq!(&bytes, b"still");
            assert_eq!(near.write(b"x").expect_err("ended").kind(), std::io::ErrorKind::BrokenPipe);
            // Theirs is ended: ours goes on.
            far.write_all(b"last").expect("sent");
            far = again(taken(far, SocketState::CloseWait));
            assert_eq!(far.read(&mut bytes).expect("an end"), 0);
            far.write_all(b"word").expect("sent");
            drop(far);
            let mut rest = String::new();
            near.read_to_string(&mut rest).expect("the rest");
            assert_eq!(rest, "lastword");
        }
    }
}
