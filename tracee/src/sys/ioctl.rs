//! ioctl(2) and fcntl(2) on descriptors of our own (often got by pidfd_getfd).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{IOC_WRITE, ioc};

/// `struct termios` as the kernel has it (asm-generic/termbits.h): not the C library's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Termios {
    /// c_iflag, c_oflag, c_cflag, c_lflag.
    pub modes: [u32; 4],
    /// c_line: the line discipline.
    pub line: u8,
    /// c_cc: the control characters.
    pub control: [u8; 19],
}

/// `struct f_owner_ex` (fcntl(2), Linux 2.6.32).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOwner {
    /// F_OWNER_TID 0, F_OWNER_PID 1, F_OWNER_PGRP 2.
    pub kind: i32,
    /// The task or group, as this process numbers it; zero if nobody.
    pub pid: i32,
}

const _: () = assert!(size_of::<Termios>() == 36);
const _: () = assert!(size_of::<FileOwner>() == 8);

/// `TFD_IOC_SET_TICKS` (linux/timerfd.h, Linux 3.17).
const TFD_IOC_SET_TICKS: u64 = ioc(IOC_WRITE, b'T', 0, 8);
const _: () = assert!(TFD_IOC_SET_TICKS == 0x4008_5400);
/// `INOTIFY_IOC_SETNEXTWD` (linux/inotify.h, Linux 4.17).
const INOTIFY_IOC_SETNEXTWD: u64 = ioc(IOC_WRITE, b'I', 0, 4);
const _: () = assert!(INOTIFY_IOC_SETNEXTWD == 0x4004_4900);
/// asm-generic/fcntl.h.
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// # Safety
/// The request must read or write exactly a `T`, in which any bits are valid.
unsafe fn ioctl<T>(fd: BorrowedFd<'_>, request: u64, value: &mut T) -> io::Result<()> {
    // SAFETY: the caller's promise; `value` is borrowed for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(value)) }).map(drop)
}

/// FIONREAD: bytes waiting to be read.
pub fn bytes_waiting(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count = 0_i32;
    // SAFETY: FIONREAD writes an int.
    unsafe { ioctl(fd, libc::FIONREAD, &mut count) }?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// SIOCOUTQ: what a TCP socket has sent or will send, and nobody has acknowledged; a FIN counts as one.
pub fn bytes_unacknowledged(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut count = 0_i32;
    // SAFETY: SIOCOUTQ writes an int.
    unsafe { ioctl(fd, libc::TIOCOUTQ, &mut count) }?;
    Ok(count.cast_unsigned())
}

/// SIOCOUTQNSD (linux/sockios.h, Linux 2.6.39): the part of it that was never sent.
pub fn bytes_unsent(fd: BorrowedFd<'_>) -> io::Result<u32> {
    const SIOCOUTQNSD: u64 = 0x894b;
    let mut count = 0_i32;
    // SAFETY: SIOCOUTQNSD writes an int.
    unsafe { ioctl(fd, SIOCOUTQNSD, &mut count) }?;
    Ok(count.cast_unsigned())
}

/// F_GETPIPE_SZ.
pub fn pipe_size(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: numbers only.
    let size = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETPIPE_SZ) })?;
    Ok(size.cast_unsigned())
}

/// F_SETPIPE_SZ; returns what the kernel made of it.
pub fn set_pipe_size(fd: BorrowedFd<'_>, size: u32) -> io::Result<u32> {
    // SAFETY: numbers only.
    let size = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, size) })?;
    Ok(size.cast_unsigned())
}

/// TCGETS.
pub fn termios(fd: BorrowedFd<'_>) -> io::Result<Termios> {
    let mut value = Termios::default();
    // SAFETY: TCGETS writes a struct termios of the kernel.
    unsafe { ioctl(fd, libc::TCGETS, &mut value) }?;
    Ok(value)
}

/// TCSETS.
pub fn set_termios(fd: BorrowedFd<'_>, value: &Termios) -> io::Result<()> {
    // SAFETY: TCSETS reads a struct termios of the kernel.
    unsafe { ioctl(fd, libc::TCSETS, &mut value.clone()) }
}

/// TIOCGWINSZ: rows, columns, x pixels, y pixels.
pub fn window_size(fd: BorrowedFd<'_>) -> io::Result<[u16; 4]> {
    let mut value = [0_u16; 4];
    // SAFETY: TIOCGWINSZ writes a struct winsize: four u16.
    unsafe { ioctl(fd, libc::TIOCGWINSZ, &mut value) }?;
    Ok(value)
}

/// TIOCSWINSZ.
pub fn set_window_size(fd: BorrowedFd<'_>, mut value: [u16; 4]) -> io::Result<()> {
    // SAFETY: TIOCSWINSZ reads a struct winsize: four u16.
    unsafe { ioctl(fd, libc::TIOCSWINSZ, &mut value) }
}

/// TIOCGPGRP: the foreground process group (of the session this process is in).
pub fn foreground_group(fd: BorrowedFd<'_>) -> io::Result<i32> {
    let mut value = 0_i32;
    // SAFETY: TIOCGPGRP writes a pid_t.
    unsafe { ioctl(fd, libc::TIOCGPGRP, &mut value) }?;
    Ok(value)
}

/// TIOCSPGRP.
pub fn set_foreground_group(fd: BorrowedFd<'_>, mut group: i32) -> io::Result<()> {
    // SAFETY: TIOCSPGRP reads a pid_t.
    unsafe { ioctl(fd, libc::TIOCSPGRP, &mut group) }
}

/// TFD_IOC_SET_TICKS: expirations not yet read of a timerfd (needs CONFIG_CHECKPOINT_RESTORE).
pub fn set_timer_ticks(fd: BorrowedFd<'_>, mut ticks: u64) -> io::Result<()> {
    // SAFETY: the request reads a u64.
    unsafe { ioctl(fd, TFD_IOC_SET_TICKS, &mut ticks) }
}

/// INOTIFY_IOC_SETNEXTWD: the number of the watch that is added next (needs
/// CONFIG_CHECKPOINT_RESTORE).
pub fn set_next_watch(fd: BorrowedFd<'_>, wd: i32) -> io::Result<()> {
    // The number is the argument itself (fs/notify/inotify/inotify_user.c).
    // SAFETY: numbers only.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), INOTIFY_IOC_SETNEXTWD, wd) }).map(drop)
}

/// timerfd_gettime(2), for what it does beside answering: a periodic timer whose expirations nobody
/// has read stands still until it is asked, and fdinfo does not ask.
pub fn rewind_timer(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut now = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec { tv_sec: 0, tv_nsec: 0 },
    };
    // SAFETY: `now` is live and written.
    check(unsafe { libc::timerfd_gettime(fd.as_raw_fd(), &raw mut now) }).map(drop)
}

/// F_GETOWN_EX: whom the file sends SIGIO or SIGURG.
pub fn file_owner(fd: BorrowedFd<'_>) -> io::Result<FileOwner> {
    let mut owner = FileOwner::default();
    // SAFETY: F_GETOWN_EX writes a struct f_owner_ex.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, &raw mut owner) })?;
    Ok(owner)
}

/// F_SETOWN_EX.
pub fn set_file_owner(fd: BorrowedFd<'_>, owner: FileOwner) -> io::Result<()> {
    // SAFETY: F_SETOWN_EX reads a struct f_owner_ex.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, &raw const owner) }).map(drop)
}

/// F_GETOWNER_UIDS: real and effective user id of whoever set the owner (Linux 3.6).
pub fn file_owner_uids(fd: BorrowedFd<'_>) -> io::Result<[u32; 2]> {
    let mut uids = [0_u32; 2];
    // SAFETY: F_GETOWNER_UIDS writes two uid_t.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWNER_UIDS, uids.as_mut_ptr()) })?;
    Ok(uids)
}

/// F_GETSIG: the signal sent instead of SIGIO; zero is SIGIO.
pub fn file_signal(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: numbers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETSIG) })
}

/// F_SETSIG.
pub fn set_file_signal(fd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, signal) }).map(drop)
}
