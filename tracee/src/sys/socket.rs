//! getsockopt(2), setsockopt(2) with the option as bytes; descriptors that come by unix(7) sockets.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// The option's value, at most `max` bytes of it.
pub(crate) fn get(fd: BorrowedFd<'_>, level: i32, option: i32, max: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0_u8; max];
    let mut len = libc::socklen_t::try_from(max).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel writes at most `len` bytes, the length of `value`, and then `len`.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut len)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    value.truncate(len as usize);
    Ok(value)
}

/// socket(2) by numbers: family, type, protocol.
pub(crate) fn new([family, kind, protocol]: [i32; 3]) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets the option.
pub(crate) fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads the `len` bytes of `value`.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// One message of one byte and the descriptors with it (unix(7), SCM_RIGHTS); `None` at the end. EMFILE
/// if not all descriptors found room.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> nix::Result<(Option<u8>, Vec<OwnedFd>)> {
    let mut word = [0];
    let mut space = nix::cmsg_space!([RawFd; 253]);
    loop {
        let mut into = [io::IoSliceMut::new(&mut word)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let got = match recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut space), flags) {
            Err(Errno::EINTR) => continue,
            got => got?,
        };
        let numbers = got.cmsgs()?.filter_map(|message| match message {
            ControlMessageOwned::ScmRights(numbers) => Some(numbers),
            _ => None,
        });
        // SAFETY: the kernel has just put these into our table; nobody else knows them.
        let fds = numbers.flatten().map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect();
        let (bytes, short) = (got.bytes, got.flags.contains(MsgFlags::MSG_CTRUNC));
        return if short { Err(Errno::EMFILE) } else { Ok(((bytes == 1).then_some(word[0]), fds)) };
    }
}
