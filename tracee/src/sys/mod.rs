//! The fence: every line of qmig that the compiler cannot check is in this folder.
//!
//! One file a subsystem. What leaves the fence is an [`OwnedFd`](std::os::fd::OwnedFd), a number or
//! a plain structure; no function here can be called in a way that harms *this* process. What they
//! do to other processes is the business of the callers.
#![allow(unsafe_code)]

pub(crate) mod clone;
pub(crate) mod cpu;
pub(crate) mod ioctl;
pub(crate) mod ipc;
pub(crate) mod memory;
pub(crate) mod pagemap;
pub(crate) mod process;
pub(crate) mod ptrace;
pub(crate) mod sched;
pub(crate) mod socket;
pub(crate) mod uffd;
pub(crate) mod wait;

/// `_IOC(dir, kind, nr, size)` of asm-generic/ioctl.h: the number of an ioctl.
pub(crate) const fn ioc(dir: u32, kind: u8, nr: u8, size: usize) -> u64 {
    ((dir as u64) << 30) | ((size as u64) << 16) | ((kind as u64) << 8) | nr as u64
}
/// `_IOC_WRITE`: the kernel reads from us.
pub(crate) const IOC_WRITE: u32 = 1;
/// `_IOC_READ`: the kernel writes to us.
pub(crate) const IOC_READ: u32 = 2;
