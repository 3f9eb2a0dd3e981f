//! Questions about, and signals to, other processes.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::c_long;
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal};

/// A result of syscall(2) that is a new descriptor.
fn new_fd(result: c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pidfd_open(2), Linux 5.3; of a thread that is no main thread, Linux 6.9.
pub(crate) fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    const PIDFD_THREAD: i32 = libc::O_EXCL;
    // SAFETY: numbers only.
    let open = |flags: i32| new_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) });
    match open(0) {
        // Which of the two differs by kernel.
        Err(Errno::EINVAL | Errno::ENOENT) => open(PIDFD_THREAD),
        opened => opened,
    }
}

/// pidfd_getfd(2), Linux 5.6: our own descriptor on the same open file.
pub(crate) fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: i32) -> nix::Result<OwnedFd> {
    // SAFETY: numbers only.
    new_fd(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

/// A descriptor by its number, whoever has it: programs we start do not inherit it.
pub(crate) fn close_on_exec(number: i32) -> nix::Result<()> {
    // SAFETY: numbers only; no memory and no ownership is touched.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

/// `struct file_handle` (linux/exportfs.h) with room for the longest there is (MAX_HANDLE_SZ).
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}
const _: () = assert!(size_of::<FileHandle>() == 136);

/// open_by_handle_at(2) with O_PATH.
pub(crate) fn open_handle(place: BorrowedFd<'_>, kind: i32, handle: &[u8]) -> nix::Result<OwnedFd> {
    let mut whole = FileHandle {
        bytes: u32::try_from(handle.len()).unwrap_or(u32::MAX),
        kind,
        handle: [0; 128],
    };
    whole.handle.get_mut(..handle.len()).ok_or(Errno::EINVAL)?.copy_from_slice(handle);
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the kernel reads `bytes` bytes of the handle, which has room for them.
    new_fd(unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, place.as_raw_fd(), &raw const whole, flags)
    })
}

/// kcmp(2): 0 equal, 1 less, 2 greater, 3 different but unordered.
pub(crate) fn kcmp(a: i32, b: i32, kind: i32, first: u64, second: u64) -> nix::Result<c_long> {
    // SAFETY: KCMP_EPOLL_TFD alone takes an address (see `kcmp_epoll`); the other kinds take numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_kcmp, a, b, kind, first, second) })
}

/// `struct kcmp_epoll_slot` (linux/kcmp.h).
#[repr(C)]
struct EpollSlot {
    epoll: u32,
    target: u32,
    offset: u32,
}
const _: () = assert!(size_of::<EpollSlot>() == 12);

/// kcmp(2) KCMP_EPOLL_TFD (7, Linux 4.13): is descriptor `fd` of `a` the file that epoll descriptor
/// `epoll` of `b` watches under number `target` (the `nth` of them)?
pub(crate) fn kcmp_epoll(
    a: i32,
    fd: u32,
    b: i32,
    epoll: u32,
    target: u32,
    nth: u32,
) -> nix::Result<c_long> {
    const KCMP_EPOLL_TFD: i32 = 7;
    let slot = EpollSlot { epoll, target, offset: nth };
    // SAFETY: the kernel reads the 12 bytes of `slot`, alive until the call returns.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_kcmp, a, b, KCMP_EPOLL_TFD, u64::from(fd), &raw const slot)
    })
}

/// get_robust_list(2): head and length.
pub(crate) fn robust_list(tid: i32) -> nix::Result<(u64, u64)> {
    let (mut head, mut len) = (0_u64, 0_u64);
    // SAFETY: both are live words, the only memory written.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len)
    })?;
    Ok((head, len))
}

/// prlimit(2): the limit as it was, after setting `new` if given. Soft, hard; `u64::MAX` infinity.
pub(crate) fn rlimit(pid: i32, resource: u32, new: Option<(u64, u64)>) -> nix::Result<(u64, u64)> {
    let new = new.map(|(soft, hard)| libc::rlimit64 { rlim_cur: soft, rlim_max: hard });
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `new` is null or points to a live structure; `old` is live and written.
    Errno::result(unsafe { libc::prlimit64(pid, resource, new, &raw mut old) })?;
    Ok((old.rlim_cur, old.rlim_max))
}

/// kill(2).
pub(crate) fn kill(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// pidfd_send_signal(2), Linux 5.1.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    // SAFETY: numbers, and a null siginfo, which stands for that of kill(2).
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Closes every descriptor from `first` on (close_range(2), Linux 5.9). For a process that has just
/// begun and owns none of them yet.
pub(crate) fn close_all_from(first: u32) {
    // SAFETY: the only caller is the keeper in its first line: no `OwnedFd` of it exists.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// sigaction(2): ignores a signal, or goes back to its default.
pub(crate) fn set_disposition(signal: Signal, to: SigHandler) -> nix::Result<()> {
    assert!(matches!(to, SigHandler::SigIgn | SigHandler::SigDfl), "no handler");
    // SAFETY: no code of ours runs on the signal.
    unsafe { nix::sys::signal::signal(signal, to) }.map(drop)
}

/// tkill(2): one thread, by its number alone.
pub(crate) fn tkill(tid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_tkill, tid, signal) }).map(drop)
}

/// gettid(2).
pub(crate) fn gettid() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::gettid() }
}

/// unshare(2) of the calling thread.
pub(crate) fn unshare(flags: i32) -> nix::Result<()> {
    // SAFETY: numbers only; no memory of ours depends on the namespaces given up.
    Errno::result(unsafe { libc::unshare(flags) }).map(drop)
}

/// clock_gettime(2) in nanoseconds.
pub(crate) fn clock(id: i32) -> nix::Result<(i64, i64)> {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is live and the only memory written.
    Errno::result(unsafe { libc::clock_gettime(id, &raw mut at) })?;
    Ok((at.tv_sec, at.tv_nsec))
}

/// Takes ownership of a descriptor just made by fcntl(F_DUPFD_CLOEXEC).
pub(crate) fn adopt_fd(number: i32) -> OwnedFd {
    // SAFETY: the only caller passes what F_DUPFD_CLOEXEC has just returned; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}
