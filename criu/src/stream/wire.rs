//! What CRIU says to an image streamer, and hears from it.

use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use prost::Message;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Longest request: a name.
const LONGEST: u32 = 512;

/// `img_streamer_request_entry`.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, required, tag = "1")]
    filename: String,
}

/// `img_streamer_reply_entry`.
#[derive(Clone, PartialEq, Message)]
struct Reply {
    #[prost(bool, required, tag = "1")]
    exists: bool,
}

/// The name of the image that CRIU wants to write, or to read: a plain file name.
pub(super) fn request(mut way: &UnixStream) -> io::Result<String> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut length = [0; 4];
    way.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(bad(format!("a request of {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    way.read_exact(&mut bytes)?;
    let name = Request::decode(&*bytes).map_err(|error| bad(error.to_string()))?.filename;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match name.bytes().all(plain) && !name.starts_with('.') && (1..=64).contains(&name.len()) {
        true => Ok(name),
        false => Err(bad(format!("no name of an image: {}", name.escape_debug()))),
    }
}

/// Whether it is there.
pub(super) fn reply(mut way: &UnixStream, exists: bool) -> io::Result<()> {
    let bytes = Reply { exists }.encode_to_vec();
    let length = u32::try_from(bytes.len()).expect("a few bytes");
    way.write_all(&[&length.to_le_bytes()[..], &bytes].concat())
}

/// Our end of the pipe that CRIU has made for an image.
pub(super) fn pipe(way: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(way, &mut [IoSliceMut::new(&mut byte)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    let ends = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(ends) => Some(ends),
        _ => None,
    });
    ends.flatten().next().ok_or_else(|| io::Error::other("CRIU sent no pipe for an image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(bytes: &[u8]) -> io::Result<String> {
        let (mut client, server) = UnixStream::pair()?;
        client.write_all(bytes)?;
        drop(client);
        request(&server)
    }

    #[test]
    fn a_name_is_taken_and_a_way_out_of_the_folder_is_not() -> io::Result<()> {
        let frame = |name: &str| {
            let bytes = Request { filename: name.to_owned() }.encode_to_vec();
            [&u32::try_from(bytes.len()).expect("short").to_le_bytes()[..], &bytes].concat()
        };
        assert_eq!(asked(&frame("core-1.img"))?, "core-1.img");
        for name in ["", "..", "../x", "a/b", ".hidden", "a\0b", &"a".repeat(65)] {
            assert!(asked(&frame(name)).is_err(), "{name:?}");
        }
        assert!(asked(&u32::MAX.to_le_bytes()).is_err());
        assert!(asked(&frame("core-1.img")[..7]).is_err());
        Ok(())
    }
}
