//! The one socket through which qmig hands open files to the tasks it builds.
//!
//! There is no pidfd_getfd(2) the other way round. So every task of the tree inherits the same end
//! of one unix(7) socket pair; qmig sends descriptors with SCM_RIGHTS and makes one task receive.
//! The tracer steers every task, so nobody else can take the message.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};

use super::process::Process;
use crate::error::{During, Error, Result};

/// Descriptors in one message; the kernel allows 253 (SCM_MAX_FD).
const PER_MESSAGE: usize = 250;
/// `struct cmsghdr`: length, level, type.
const HEADER: usize = 16;
/// `struct msghdr` on x86-64.
const MESSAGE: usize = 56;
/// Where `msg_flags` lies in it.
const FLAGS_AT: usize = 48;

/// qmig's end, and the number of the other end in every task.
pub(crate) struct Channel {
    ours: OwnedFd,
    theirs: Option<OwnedFd>,
    number: u32,
}

impl Channel {
    /// A channel whose far end will be descriptor `number` of every task: higher than any other.
    pub(crate) fn new(number: u32) -> Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .during("make the channel for open files")?;
        Ok(Self { ours, theirs: Some(theirs), number })
    }

    /// The far end, to be inherited by the first task at [`Channel::number`].
    pub(crate) fn theirs(&self) -> Option<BorrowedFd<'_>> {
        self.theirs.as_ref().map(AsFd::as_fd)
    }

    /// The first task has it: qmig lets go.
    pub(crate) fn handed_over(&mut self) {
        self.theirs = None;
    }

    /// The descriptor number in every task.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Gives `files` to `to`, which gets them at its lowest free numbers, in order: `first`, and so on.
    pub(crate) fn give(
        &self,
        to: &mut Process,
        files: &[BorrowedFd<'_>],
        first: u32,
    ) -> Result<()> {
        let mut next = first;
        for part in files.chunks(PER_MESSAGE) {
            self.give_part(to, part, next)?;
            next += u32::try_from(part.len()).unwrap_or(u32::MAX);
        }
        Ok(())
    }

    fn give_part(&self, to: &mut Process, files: &[BorrowedFd<'_>], first: u32) -> Result<()> {
        let raw: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = sendmsg::<()>(
            self.ours.as_raw_fd(),
            &[IoSlice::new(b"f")],
            &[ControlMessage::ScmRights(&raw)],
            MsgFlags::MSG_DONTWAIT,
            None,
        );
        sent.during("send open files to a task")?;

        let room = (HEADER + 4 * files.len()).next_multiple_of(8);
        let byte = to.room(8)?;
        let vector = to.put(&words(&[byte, 1]))?;
        let control = to.room(room)?;
        let message = to.put(&words(&[0, 0, vector, 1, control, room as u64, 0]))?;
        let flags = u64::from((libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC).cast_unsigned());
        let act = "receive open files";
        to.call(act, libc::SYS_recvmsg, &[u64::from(self.number), message, flags])?;

        let mut header = [0; MESSAGE];
        to.get(message, &mut header)?;
        let mut rights = vec![0; room];
        to.get(control, &mut rights)?;
        let whole = header[FLAGS_AT] & 0x8 == 0; // MSG_CTRUNC
        let numbers = rights[HEADER..].chunks_exact(4).take(files.len());
        let in_order = numbers.zip(first..).all(|(got, wanted)| got == wanted.to_le_bytes());
        if whole && in_order {
            return Ok(());
        }
        Err(Error::Call { task: to.id, act, errno: Errno::EMFILE })
    }
}

/// Words as the bytes of an array or structure of them.
pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
