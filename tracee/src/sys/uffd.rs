//! userfaultfd(2) and ioctl_userfaultfd(2): linux/userfaultfd.h as of Linux 6.18.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::{IOC_READ, IOC_WRITE, ioc};

/// `UFFD_USER_MODE_ONLY` (Linux 5.11): faults of the kernel itself are not reported.
pub(crate) const USER_MODE_ONLY: i32 = 1;
/// `UFFD_API`.
const API: u64 = 0xaa;
const KIND: u8 = 0xaa;

/// `struct uffdio_api` (Linux 4.3).
#[repr(C)]
struct ApiArg {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range` (Linux 4.3).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// `struct uffdio_copy` (Linux 4.3).
#[repr(C)]
struct CopyArg {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

/// `struct uffdio_register`, `uffdio_zeropage` (Linux 4.3), `uffdio_poison` (Linux 6.6): a range, a
/// mode, an answer.
#[repr(C)]
struct RangeArg {
    range: Range,
    mode: u64,
    answer: i64,
}

/// `struct uffdio_writeprotect` (Linux 5.7).
#[repr(C)]
struct ProtectArg {
    range: Range,
    mode: u64,
}

/// `struct uffd_msg` (Linux 4.3): the kind of event and three words of arguments.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    args: [u64; 3],
}

const UFFDIO_API: u64 = ioc(IOC_READ | IOC_WRITE, KIND, 0x3f, size_of::<ApiArg>());
const UFFDIO_REGISTER: u64 = ioc(IOC_READ | IOC_WRITE, KIND, 0x00, size_of::<RangeArg>());
const UFFDIO_UNREGISTER: u64 = ioc(IOC_READ, KIND, 0x01, size_of::<Range>());
const UFFDIO_WAKE: u64 = ioc(IOC_READ, KIND, 0x02, size_of::<Range>());
const UFFDIO_COPY: u64 = ioc(IOC_READ | IOC_WRITE, KIND, 0x03, size_of::<CopyArg>());
const UFFDIO_ZEROPAGE: u64 = ioc(IOC_READ | IOC_WRITE, KIND, 0x04, size_of::<RangeArg>());
const UFFDIO_WRITEPROTECT: u64 = ioc(IOC_READ | IOC_WRITE, KIND, 0x06, size_of::<ProtectArg>());
const UFFDIO_POISON: u64 = ioc(IOC_READ | IOC_WRITE, KIND, 0x08, size_of::<RangeArg>());

const _: () = assert!(size_of::<Message>() == 32);
const _: () = assert!(UFFDIO_API == 0xc018_aa3f && UFFDIO_REGISTER == 0xc020_aa00);
const _: () = assert!(UFFDIO_UNREGISTER == 0x8010_aa01 && UFFDIO_WAKE == 0x8010_aa02);
const _: () = assert!(UFFDIO_COPY == 0xc028_aa03 && UFFDIO_ZEROPAGE == 0xc020_aa04);
const _: () = assert!(UFFDIO_WRITEPROTECT == 0xc018_aa06 && UFFDIO_POISON == 0xc020_aa08);

/// `UFFD_EVENT_*`, and what comes with each.
pub(crate) enum Event {
    /// 0x12: `UFFD_PAGEFAULT_FLAG_*`, the address, the thread as its own PID namespace counts it.
    Fault { flags: u64, address: u64, tid: u32 },
    /// 0x13: the userfaultfd of the child.
    Fork(OwnedFd),
    /// 0x14.
    Remap { from: u64, to: u64, len: u64 },
    /// 0x15.
    Remove { start: u64, end: u64 },
    /// 0x16.
    Unmap { start: u64, end: u64 },
    /// Anything a later kernel may say.
    Unknown,
}

/// # Safety
/// The request must read or write exactly a `T`, in which any bits are valid.
unsafe fn ioctl<T>(fd: BorrowedFd<'_>, request: u64, arg: &mut T) -> nix::Result<()> {
    // SAFETY: the caller's promise; `arg` is borrowed for the call.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(arg)) })
        .map(drop)
}

/// userfaultfd(2) on this very process (Linux 4.3).
pub(crate) fn own(flags: i32) -> nix::Result<OwnedFd> {
    // SAFETY: numbers only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// UFFDIO_API: asks for features, returns those the kernel knows. Once per descriptor.
pub(crate) fn api(fd: BorrowedFd<'_>, features: u64) -> nix::Result<u64> {
    let mut arg = ApiArg { api: API, features, ioctls: 0 };
    // SAFETY: the request reads and writes a struct uffdio_api.
    unsafe { ioctl(fd, UFFDIO_API, &mut arg) }?;
    Ok(arg.features)
}

/// UFFDIO_REGISTER.
pub(crate) fn register(fd: BorrowedFd<'_>, range: Range, mode: u64) -> nix::Result<()> {
    let mut arg = RangeArg { range, mode, answer: 0 };
    // SAFETY: the request reads and writes a struct uffdio_register.
    unsafe { ioctl(fd, UFFDIO_REGISTER, &mut arg) }
}

/// UFFDIO_UNREGISTER.
pub(crate) fn unregister(fd: BorrowedFd<'_>, mut range: Range) -> nix::Result<()> {
    // SAFETY: the request reads a struct uffdio_range.
    unsafe { ioctl(fd, UFFDIO_UNREGISTER, &mut range) }
}

/// UFFDIO_WAKE.
pub(crate) fn wake(fd: BorrowedFd<'_>, mut range: Range) -> nix::Result<()> {
    // SAFETY: the request reads a struct uffdio_range.
    unsafe { ioctl(fd, UFFDIO_WAKE, &mut range) }
}

/// UFFDIO_COPY of `bytes` to `dst`: how many bytes were copied, beside the verdict.
pub(crate) fn copy(
    fd: BorrowedFd<'_>,
    dst: u64,
    bytes: &[u8],
    mode: u64,
) -> (i64, nix::Result<()>) {
    let (src, len) = (bytes.as_ptr() as u64, bytes.len() as u64);
    let mut arg = CopyArg { dst, src, len, mode, copy: 0 };
    // SAFETY: the request reads and writes a struct uffdio_copy; the kernel reads `len` bytes at
    // `src`, which is `bytes`, borrowed for the call. `dst` is in another process.
    let result = unsafe { ioctl(fd, UFFDIO_COPY, &mut arg) };
    (arg.copy, result)
}

/// UFFDIO_ZEROPAGE: how many bytes became zero, beside the verdict.
pub(crate) fn zero(fd: BorrowedFd<'_>, range: Range) -> (i64, nix::Result<()>) {
    let mut arg = RangeArg { range, mode: 0, answer: 0 };
    // SAFETY: the request reads and writes a struct uffdio_zeropage.
    let result = unsafe { ioctl(fd, UFFDIO_ZEROPAGE, &mut arg) };
    (arg.answer, result)
}

/// UFFDIO_POISON (Linux 6.6): how many bytes were poisoned, beside the verdict.
pub(crate) fn poison(fd: BorrowedFd<'_>, range: Range) -> (i64, nix::Result<()>) {
    let mut arg = RangeArg { range, mode: 0, answer: 0 };
    // SAFETY: the request reads and writes a struct uffdio_poison.
    let result = unsafe { ioctl(fd, UFFDIO_POISON, &mut arg) };
    (arg.answer, result)
}

/// UFFDIO_WRITEPROTECT (Linux 5.7): sets or clears.
pub(crate) fn write_protect(fd: BorrowedFd<'_>, range: Range, protect: bool) -> nix::Result<()> {
    let mut arg = ProtectArg { range, mode: u64::from(protect) };
    // SAFETY: the request reads a struct uffdio_writeprotect.
    unsafe { ioctl(fd, UFFDIO_WRITEPROTECT, &mut arg) }
}

/// Events that are there to be read, at most 64 at a time; EAGAIN if there are none.
pub(crate) fn read(fd: BorrowedFd<'_>, mut each: impl FnMut(Event)) -> nix::Result<()> {
    let mut messages = [Message::default(); 64];
    // SAFETY: the kernel writes at most as many bytes as `messages` has, any bits of which are valid.
    let got = Errno::result(unsafe {
        libc::read(fd.as_raw_fd(), messages.as_mut_ptr().cast(), size_of_val(&messages))
    })?;
    let got = usize::try_from(got).unwrap_or(0) / size_of::<Message>();
    for Message { event, args: [first, second, third], .. } in &messages[..got] {
        let low = |word: &u64| u32::try_from(*word & u64::from(u32::MAX)).unwrap_or(0);
        each(match event {
            0x12 => Event::Fault { flags: *first, address: *second, tid: low(third) },
            // SAFETY: the kernel has just put this descriptor into our table, for the reader of the
            // event; nobody else knows it.
            0x13 => Event::Fork(unsafe { OwnedFd::from_raw_fd(low(first).cast_signed()) }),
            0x14 => Event::Remap { from: *first, to: *second, len: *third },
            0x15 => Event::Remove { start: *first, end: *second },
            0x16 => Event::Unmap { start: *first, end: *second },
            _ => Event::Unknown,
        });
    }
    Ok(())
}
