//! TCP_REPAIR, linux/tcp.h: a connection's queues, numbers and options, read and written in place.
//!
//! A socket in repair mode sends nothing: not when it is connected, and not when it is closed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};

pub use crate::sys::ioctl::{bytes_unacknowledged, bytes_unsent};

const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29; // Linux 4.8
/// Numbers of options, as packets have them (tcp.h of the kernel).
const MAXIMUM_SEGMENT: u32 = 2;
const WINDOW_SCALE: u32 = 3;
const SACK_PERMITTED: u32 = 4;
const TIMESTAMPS: u32 = 8;
/// TCPI_OPT_*, linux/tcp.h.
const INFO_TIMESTAMPS: u8 = 1;
const INFO_SACK: u8 = 2;
const INFO_WINDOW_SCALE: u8 = 4;

/// How to leave repair mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The other end is asked for a sign of life, which tells it also where we are.
    Telling,
    /// Nothing is sent (Linux 4.19).
    Quietly,
}

/// One of the two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// What was received and not yet read.
    Receive = 1,
    /// What was written and not yet acknowledged.
    Send = 2,
}

/// Enters repair mode; needs CAP_NET_ADMIN.
pub fn enter(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, TCP_REPAIR, 1)
}

/// Leaves repair mode.
pub fn leave(fd: BorrowedFd<'_>, how: Leave) -> io::Result<()> {
    let value = match how {
        Leave::Telling => 0,
        Leave::Quietly => -1_i32,
    };
    set(fd, TCP_REPAIR, value.cast_unsigned())
}

/// What two ends agreed on when they connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// Largest segment of the other end.
    pub segment: u32,
    /// Selective acknowledgements.
    pub sack: bool,
    /// Window scales: ours for what we send, theirs for what we receive.
    pub scales: Option<(u8, u8)>,
    /// The clock of our timestamps now.
    pub timestamp: Option<u32>,
}

/// State as TCP numbers it, and what was agreed on, of a socket in repair mode.
pub fn negotiated(fd: BorrowedFd<'_>) -> io::Result<(u8, Negotiated)> {
    let info = crate::host::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, 8)?;
    let [state, _, _, _, _, options, scales, _] = info[..] else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let timestamp =
        if options & INFO_TIMESTAMPS != 0 { Some(get(fd, TCP_TIMESTAMP)?) } else { None };
    let agreed = Negotiated {
        segment: get(fd, libc::TCP_MAXSEG)?,
        sack: options & INFO_SACK != 0,
        scales: (options & INFO_WINDOW_SCALE != 0).then_some((scales & 15, scales >> 4)),
        timestamp,
    };
    Ok((state, agreed))
}

/// Says to a connected socket in repair mode what was agreed on.
pub fn agree(fd: BorrowedFd<'_>, agreed: &Negotiated) -> io::Result<()> {
    let scales = agreed.scales.map(|(ours, theirs)| u32::from(ours) | u32::from(theirs) << 16);
    let options = [
        agreed.sack.then_some((SACK_PERMITTED, 0)),
        scales.map(|scales| (WINDOW_SCALE, scales)),
        agreed.timestamp.map(|_| (TIMESTAMPS, 0)),
        Some((MAXIMUM_SEGMENT, agreed.segment)),
    ];
    let bytes: Vec<u8> = options
        .into_iter()
        .flatten()
        .flat_map(|(code, value)| [code.to_ne_bytes(), value.to_ne_bytes()].concat())
        .collect();
    crate::host::setsockopt(fd, libc::IPPROTO_TCP, TCP_REPAIR_OPTIONS, &bytes)?;
    agreed.timestamp.map_or(Ok(()), |timestamp| set(fd, TCP_TIMESTAMP, timestamp))
}

/// `struct tcp_repair_window`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // named as in the kernel
pub struct Window {
    pub snd_wl1: u32,
    pub snd_wnd: u32,
    pub max_window: u32,
    pub rcv_wnd: u32,
    pub rcv_wup: u32,
}

/// The windows.
pub fn window(fd: BorrowedFd<'_>) -> io::Result<Window> {
    let bytes = crate::host::getsockopt(fd, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, 20)?;
    let word = |at: usize| super::netlink::word(&bytes, 4 * at).ok_or(io::ErrorKind::UnexpectedEof);
    Ok(Window {
        snd_wl1: word(0)?,
        snd_wnd: word(1)?,
        max_window: word(2)?,
        rcv_wnd: word(3)?,
        rcv_wup: word(4)?,
    })
}

/// Sets the windows.
pub fn set_window(fd: BorrowedFd<'_>, window: &Window) -> io::Result<()> {
    let Window { snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup } = *window;
    let words = [snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup];
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    crate::host::setsockopt(fd, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &bytes)
}

/// The number of the byte that follows what the queue ever held.
pub fn sequence(fd: BorrowedFd<'_>, queue: Queue) -> io::Result<u32> {
    set(fd, TCP_REPAIR_QUEUE, queue as u32)?;
    get(fd, TCP_QUEUE_SEQ)
}

/// Sets that number, of a socket that is not connected yet.
pub fn set_sequence(fd: BorrowedFd<'_>, queue: Queue, number: u32) -> io::Result<()> {
    set(fd, TCP_REPAIR_QUEUE, queue as u32)?;
    set(fd, TCP_QUEUE_SEQ, number)
}

/// What is in the queue, at most `room` bytes of it; it stays there.
pub fn peek(fd: BorrowedFd<'_>, queue: Queue, room: usize) -> io::Result<Vec<u8>> {
    set(fd, TCP_REPAIR_QUEUE, queue as u32)?;
    let mut bytes = vec![0; room];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let got = match recv(fd.as_raw_fd(), &mut bytes, flags) {
        Err(nix::errno::Errno::EAGAIN) => 0,
        other => other?,
    };
    bytes.truncate(got);
    // None is selected outside of here: a socket that runs on must not be left with one.
    set(fd, TCP_REPAIR_QUEUE, 0)?;
    Ok(bytes)
}

/// Puts bytes into the queue; those of the send queue count as sent.
pub fn put(fd: BorrowedFd<'_>, queue: Queue, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    set(fd, TCP_REPAIR_QUEUE, queue as u32)?;
    let mut rest = bytes;
    let mut piece = PIECE;
    while !rest.is_empty() {
        let some = &rest[..rest.len().min(piece)];
        match send(fd.as_raw_fd(), some, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or(&[]),
            // Memory for the receive queue comes in one piece.
            Err(nix::errno::Errno::ENOMEM | nix::errno::Errno::ENOBUFS) if piece > 1024 => {
                piece /= 2
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    set(fd, TCP_REPAIR_QUEUE, 0)
}

/// Bytes put into a queue in one go.
const PIECE: usize = 64 << 10;

fn get(fd: BorrowedFd<'_>, option: i32) -> io::Result<u32> {
    let bytes = crate::host::getsockopt(fd, libc::IPPROTO_TCP, option, 4)?;
    super::netlink::word(&bytes, 0).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn set(fd: BorrowedFd<'_>, option: i32, value: u32) -> io::Result<()> {
    crate::host::setsockopt(fd, libc::IPPROTO_TCP, option, &value.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn both_queues_are_read_and_stay() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: repair mode takes root");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (mut far, _) = listener.accept().expect("accept");
        near.write_all(b"hello").expect("sent");
        let mut first = [0; 1];
        far.read_exact(&mut first).expect("received");
        let fd = far.as_fd();
        enter(fd).expect("repair mode");
        let (state, agreed) = negotiated(fd).expect("read");
        assert_eq!((state, agreed.sack, agreed.scales.is_some()), (1, true, true), "{agreed:?}");
        assert_eq!(crate::host::bytes_waiting(fd).expect("SIOCINQ"), 4);
        for _ in 0..2 {
            assert_eq!(peek(fd, Queue::Receive, 10).expect("peek"), b"ello");
        }
        assert!(peek(fd, Queue::Send, 10).expect("peek").is_empty());
        assert!(window(fd).expect("windows").rcv_wnd > 0);
        leave(fd, Leave::Quietly).expect("left");
        far.write_all(b"back").expect("sent");
        let mut back = [0; 4];
        near.read_exact(&mut back).expect("it runs on");
        assert_eq!(&back, b"back");
    }
}
