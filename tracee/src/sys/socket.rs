//! getsockopt(2), setsockopt(2) with the option as bytes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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

/// Sets the option.
pub(crate) fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads the `len` bytes of `value`.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
