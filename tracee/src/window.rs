//! Writing to a file in memory that write(2) does not reach: hugetlbfs has mappings only.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::sys;

/// A whole file, mapped for as long as this lives.
#[derive(Debug)]
pub struct Window {
    mapped: sys::memory::Mapped,
    len: u64,
}

impl Window {
    /// Maps `len` bytes of `file`, all it has.
    pub fn onto(file: &File, len: u64) -> io::Result<Self> {
        let bytes = usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        Ok(Self { mapped: sys::memory::Mapped::of(file.as_fd(), bytes)?, len })
    }

    /// Writes `bytes` at `offset`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(Errno::EFAULT.into());
        }
        let me = nix::unistd::getpid().as_raw();
        let mut done = 0;
        while done < bytes.len() {
            let at = self.mapped.start() + offset + done as u64;
            match sys::memory::write(me, at, &bytes[done..])? {
                0 => return Err(Errno::ENOMEM.into()),
                count => done += count,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn what_is_written_is_in_the_file() {
        let file = File::from(memfd_create("window", MFdFlags::empty()).expect("memfd"));
        file.set_len(8192).expect("size");
        let window = Window::onto(&file, 8192).expect("mapped");
        window.write(4095, b"abc").expect("written");
        assert!(window.write(8190, b"abc").is_err(), "over the end");
        let mut back = [0; 3];
        file.read_exact_at(&mut back, 4095).expect("read");
        assert_eq!(&back, b"abc");
        assert!(Window::onto(&file, 0).is_err(), "nothing cannot be mapped");
    }
}
