//! Reading and writing another address space.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pages::VirtAddr;

use crate::{Error, HostPid, Result, sys};

/// From this many bytes on process_vm_readv(2) pays: /proc/PID/mem copies every byte twice.
const LARGE: usize = 16 * 1024;

/// The memory of one process, whatever its protections say: pages without PROT_READ are read, and
/// private ones without PROT_WRITE are written (a shared file mapping without PROT_WRITE is not).
///
/// Bound to the address space at the time of opening: after execve(2) or death it is gone, and
/// never shows another process. May be used from any thread; opening takes ptrace access.
#[derive(Debug)]
pub struct Memory {
    pid: HostPid,
    mem: File,
    process: OwnedFd,
    /// True if it may be read by process_vm_readv(2).
    pins: bool,
}

impl Memory {
    /// Opens /proc/PID/mem.
    pub fn open(pid: HostPid) -> Result<Self> {
        // The pidfd first: if the process still lives by it afterwards, the file was its own.
        let process = sys::process::pidfd_open(pid.0).map_err(Error::os("open", pid))?;
        let path = format!("/proc/{pid}/mem");
        let mem = OpenOptions::new().read(true).write(true).open(&path);
        let mem = mem.map_err(Error::proc(path))?;
        Ok(Self { pid, mem, process, pins: true })
    }

    /// Fills `into` from `at`.
    pub fn read(&self, at: VirtAddr, into: &mut [u8]) -> Result<()> {
        match self.read_some(at, into)? {
            count if count == into.len() => Ok(()),
            count => Err(self.error(at, count, into.len(), Errno::EFAULT.into())),
        }
    }

    /// The same, read in the way that takes longer and leaves memory as it is: process_vm_readv(2) pins what it
    /// reads, for which the kernel gives the process a copy of its own of a page shared copy on write.
    pub fn sparing(self) -> Self {
        Self { pins: false, ..self }
    }

    /// Reads as much as there is from `at`; stops at the first page that cannot be read. Zero if
    /// that is already the first.
    pub fn read_some(&self, at: VirtAddr, into: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        if into.len() >= LARGE
            && self.pins
            && let Ok(count) = sys::memory::read(self.pid.0, at.0, into)
            && self.is_alive()
        {
            done = count;
        }
        while done < into.len() {
            match self.mem.read_at(&mut into[done..], at.0.wrapping_add(done as u64)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EIO) => break,
                Err(error) => return Err(self.error(at, done, into.len(), error)),
            }
        }
        if done == 0 && !into.is_empty() && !self.is_alive() {
            return Err(Error::Died { pid: self.pid });
        }
        Ok(done)
    }

    /// Writes `bytes` at `at`.
    pub fn write(&self, at: VirtAddr, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        if bytes.len() >= LARGE && self.is_alive() {
            done = sys::memory::write(self.pid.0, at.0, bytes).unwrap_or(0);
        }
        while done < bytes.len() {
            match self.mem.write_at(&bytes[done..], at.0.wrapping_add(done as u64)) {
                Ok(0) if !self.is_alive() => return Err(Error::Died { pid: self.pid }),
                Ok(0) => return Err(self.error(at, done, bytes.len(), Errno::EFAULT.into())),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(at, done, bytes.len(), error)),
            }
        }
        Ok(())
    }

    /// True as long as its number means this process and no other.
    fn is_alive(&self) -> bool {
        let mut ended = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut ended, PollTimeout::ZERO), Ok(0))
    }

    fn error(&self, at: VirtAddr, done: usize, len: usize, source: io::Error) -> Error {
        let at = VirtAddr(at.0.wrapping_add(done as u64));
        Error::Memory { pid: self.pid, at, len: len - done, source }
    }
}
