//! process_vm_readv(2), process_vm_writev(2): many bytes of another process in one call.

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

fn transfer(
    call: libc::c_long,
    pid: i32,
    local: *mut libc::c_void,
    len: usize,
    remote: u64,
) -> nix::Result<usize> {
    let local = libc::iovec { iov_base: local, iov_len: len };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(usize::try_from(remote).expect("64 bit")),
        iov_len: len,
    };
    // SAFETY: `local` describes a live buffer of the callers below, which is writable if `call`
    // writes to it; `remote` is never dereferenced in this process.
    let moved = Errno::result(unsafe {
        libc::syscall(call, pid, &raw const local, 1_usize, &raw const remote, 1_usize, 0_usize)
    })?;
    Ok(usize::try_from(moved).unwrap_or(0))
}

/// Reads up to `into.len()` bytes; stops short where the memory is not readable.
pub(crate) fn read(pid: i32, at: u64, into: &mut [u8]) -> nix::Result<usize> {
    transfer(libc::SYS_process_vm_readv, pid, into.as_mut_ptr().cast(), into.len(), at)
}

/// Writes up to `bytes.len()` bytes; stops short where the memory is not writable.
pub(crate) fn write(pid: i32, at: u64, bytes: &[u8]) -> nix::Result<usize> {
    transfer(libc::SYS_process_vm_writev, pid, bytes.as_ptr().cast_mut().cast(), bytes.len(), at)
}

/// Two pieces in one call: `(address, bytes)` each.
pub(crate) fn write_two(pid: i32, pieces: [(u64, &[u8]); 2]) -> nix::Result<usize> {
    let local = pieces.map(|(_, bytes)| libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    });
    let remote = pieces.map(|(at, bytes)| libc::iovec {
        iov_base: std::ptr::without_provenance_mut(usize::try_from(at).expect("64 bit")),
        iov_len: bytes.len(),
    });
    // SAFETY: the kernel only reads the two local buffers, borrowed for the call; `remote` is never
    // dereferenced in this process.
    let moved = Errno::result(unsafe {
        libc::process_vm_writev(pid, local.as_ptr(), 2, remote.as_ptr(), 2, 0)
    })?;
    Ok(moved.cast_unsigned())
}

/// A file mapped shared and writable into this process, unmapped when it is dropped. Nobody gets a
/// reference into it: it is written to as if it were another process's ([`write()`]), so that a page the
/// kernel cannot give is an error and no signal.
#[derive(Debug)]
pub(crate) struct Mapped {
    at: usize,
    len: NonZeroUsize,
}

impl Mapped {
    pub(crate) fn of(file: BorrowedFd<'_>, len: NonZeroUsize) -> nix::Result<Self> {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory that is in use.
        let at = unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { at: at.as_ptr().expose_provenance(), len })
    }

    /// Where it begins.
    pub(crate) fn start(&self) -> u64 {
        self.at as u64
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(at) = NonNull::new(std::ptr::with_exposed_provenance_mut(self.at)) {
            // SAFETY: the mapping is this value's own, and nothing refers into it.
            let _ = unsafe { munmap(at, self.len.get()) };
        }
    }
}
