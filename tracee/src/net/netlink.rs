//! netlink(7): messages and attributes as bytes, and a socket that speaks them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// NLM_F_REQUEST.
pub const REQUEST: u16 = 1;
/// NLM_F_ACK.
pub const ACK: u16 = 4;
/// NLM_F_EXCL.
pub const EXCLUSIVE: u16 = 0x200;
/// NLM_F_CREATE.
pub const CREATE: u16 = 0x400;
/// NLM_F_APPEND.
pub const APPEND: u16 = 0x800;
/// NLM_F_DUMP.
pub const DUMP: u16 = 0x300;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
const ERROR: u16 = 2; // NLMSG_ERROR
const DONE: u16 = 3; // NLMSG_DONE
/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;
/// Attribute types without their flags (NLA_TYPE_MASK).
const TYPE: u16 = 0x3fff;

/// A message, or part of one, being written.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Adds a whole message: header, then what `body` writes.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        body(self);
        let length = u32::try_from(self.bytes.len() - start).expect("messages are small");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.align();
    }

    /// Adds bytes as they are, as the fixed head of a message.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + value.len()).expect("attributes are below 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.align();
        self
    }

    /// Adds text with its NUL.
    pub fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.attribute(kind, &[text.as_bytes(), b"\0"].concat())
    }

    /// Adds a number in network order, as nfnetlink wants them.
    pub fn number(&mut self, kind: u16, number: u32) -> &mut Self {
        self.attribute(kind, &number.to_be_bytes())
    }

    /// Adds an attribute of attributes.
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        body(&mut inner);
        self.attribute(kind | NESTED, &inner.bytes)
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A netlink socket of one protocol.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one. It is not inherited by programs.
    pub fn open(protocol: SockProtocol) -> io::Result<Self> {
        let kind = SockType::Raw;
        Ok(Self(socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, protocol)?))
    }

    /// Sends messages as one datagram and reads answers until the one of `last` has come. The first
    /// error that any message gets is the answer.
    pub fn ask(&self, messages: &Writer, last: u32) -> io::Result<()> {
        self.send(messages)?;
        let mut buffer = vec![0; 64 << 10];
        let mut outcome = Ok(());
        loop {
            let length = self.receive(&mut buffer)?;
            for message in Messages(&buffer[..length]).filter(|message| message.kind == ERROR) {
                let code = word(message.body, 0).map_or(0, u32::cast_signed);
                if code != 0 && outcome.is_ok() {
                    outcome = Err(io::Error::from_raw_os_error(code.wrapping_neg()));
                }
                // A batch that failed is answered no further than its bad message.
                if message.sequence == last || outcome.is_err() {
                    return outcome;
                }
            }
        }
    }

    /// Sends one dump request and hands every answer's payload to `each`.
    pub fn dump(&self, request: &Writer, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(request)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = self.receive(&mut buffer)?;
            for Message { kind, body, .. } in Messages(&buffer[..length]) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => {
                        let code = word(body, 0).map_or(0, u32::cast_signed);
                        return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
                    }
                    _ => each(body),
                }
            }
        }
    }

    fn send(&self, messages: &Writer) -> io::Result<()> {
        // The kernel takes a datagram whole or not at all: there must be room for it.
        let room = u32::try_from(messages.bytes.len()).unwrap_or(u32::MAX).saturating_mul(2);
        if room > 64 << 10 {
            use std::os::fd::AsFd as _;
            let (fd, level) = (self.0.as_fd(), libc::SOL_SOCKET);
            crate::host::setsockopt(fd, level, libc::SO_SNDBUFFORCE, &room.to_ne_bytes())?;
        }
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.0.as_raw_fd(), &messages.bytes, &kernel, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match recv(self.0.as_raw_fd(), buffer, MsgFlags::empty())? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => Ok(length),
        }
    }
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// The sequence number of the request it answers.
    pub sequence: u32,
    /// What follows its header.
    pub body: &'a [u8],
}

/// The messages of one datagram; ends at the first that is cut.
#[derive(Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = word(self.0, 0)? as usize;
        let (kind, sequence) = (half(self.0, 4)?, word(self.0, 8)?);
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message { kind, sequence, body })
    }
}

/// Attributes: (type, payload); ends at the first that is cut.
#[derive(Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(half(self.0, 0)?);
        let kind = half(self.0, 2)? & TYPE;
        let body = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, body))
    }
}

/// The four bytes at `at`, in this machine's order.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The two bytes at `at`, in this machine's order.
pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut writer = Writer::default();
        writer.message(7, REQUEST, 3, |body| {
            body.raw(&[1, 2, 3, 4]).text(1, "ab").nested(2, |inner| {
                inner.number(5, 6);
            });
        });
        let message = Messages(&writer.bytes).next().expect("one message");
        assert_eq!((message.kind, message.sequence), (7, 3));
        let read: Vec<_> = Attributes(&message.body[4..]).collect();
        assert_eq!(read, [(1, &b"ab\0"[..]), (2, &[8, 0, 5, 0, 0, 0, 0, 6][..])]);
    }

    #[test]
    fn cut_messages_end_the_walk() {
        let whole = [20, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0];
        let only = Message { kind: 3, sequence: 9, body: &[7, 0, 0, 0] };
        assert_eq!(Messages(&whole).collect::<Vec<_>>(), [only]);
        assert_eq!(Messages(&whole[..19]).count(), 0);
        assert_eq!(Messages(&[0; 16]).count(), 0, "a length below the header is no message");
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
    }
}
