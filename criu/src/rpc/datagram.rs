//! One message on its way between a runtime and its CRIU, with a descriptor if there is one in it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::error::{Error, Result};

/// Longest message that is read.
const LONGEST: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Datagram {
    pub(super) bytes: Vec<u8>,
    /// At most one: the other end of a terminal.
    descriptor: Option<OwnedFd>,
}

impl From<Vec<u8>> for Datagram {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, descriptor: None }
    }
}

impl Datagram {
    pub(super) fn send(&self, socket: &OwnedFd) -> Result<()> {
        let descriptor: Vec<_> = self.descriptor.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !descriptor.is_empty() {
            rights.push(SendAncillaryMessage::ScmRights(&descriptor));
        }
        match sendmsg(socket, &[IoSlice::new(&self.bytes)], &mut rights, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Error::Ended { log: Vec::new() }),
            Err(errno) => Err(Error::rustix("talk to CRIU")(errno)),
        }
    }

    /// The next one; `None` at the end.
    pub(super) fn receive(socket: &OwnedFd) -> Result<Option<Self>> {
        let mut bytes = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::TRUNC | RecvFlags::CMSG_CLOEXEC;
        let length = loop {
            match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut rights, flags) {
                Ok(got) if got.bytes == 0 => return Ok(None),
                Ok(got) => break got.bytes,
                Err(Errno::CONNRESET) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::rustix("hear CRIU")(errno)),
            }
        };
        if length > bytes.len() {
            let said = format!("a message of {length} bytes");
            return Err(Error::OutOfTurn { said, due: "one that is read" });
        }
        bytes.truncate(length);
        let mut descriptors = rights.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let descriptor = descriptors.next();
        Ok(Some(Self { bytes, descriptor }))
    }
}
