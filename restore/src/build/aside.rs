//! Pages that private mappings of files will hold, which come before those mappings are there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use pages::{PageCount, PageRange, PageSet};
use tracee::Memory;

use crate::error::{During, Result};

/// Pages copied in one go.
const PIECE: PageCount = PageCount(256);

/// Those of one process: in a memfd without end, each at its address. The newest wins. For any thread.
#[derive(Debug)]
pub(crate) struct Aside {
    file: File,
    pages: Mutex<PageSet>,
}

impl Aside {
    /// Nothing.
    pub(crate) fn new() -> Result<Self> {
        let file = memfd_create("qmig-aside", MFdFlags::MFD_CLOEXEC);
        let file = file.during("make room for pages of files")?.into();
        Ok(Self { file, pages: Mutex::default() })
    }

    /// Keeps pages: the content, which is exactly as long, or zeros.
    pub(crate) fn write(&self, range: PageRange, content: Option<&[u8]>) -> io::Result<()> {
        let at = range.start_addr().0;
        match content {
            Some(bytes) => self.file.write_all_at(bytes, at)?,
            None => {
                let hole =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let [at, len] = [at, range.bytes().0].map(|n| i64::try_from(n).unwrap_or(0));
                fallocate(&self.file, hole, at, len)?;
            }
        }
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).insert(range);
        Ok(())
    }

    /// Puts those that belong into `places` there.
    pub(crate) fn settle(&self, places: &PageSet, memory: &Memory) -> Result<()> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner).intersect(places);
        for piece in pages.ranges().iter().flat_map(|range| range.pieces(PIECE)) {
            let bytes = self.read(piece).during("read pages of files")?;
            memory.write(piece.start_addr(), &bytes)?;
        }
        Ok(())
    }

    fn read(&self, range: PageRange) -> nix::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.bytes().0).unwrap_or(0)];
        let mut done = 0;
        while done < bytes.len() {
            let at = range.start_addr().0 + done as u64;
            match self.file.read_at(&mut bytes[done..], at) {
                Ok(0) => break, // zeros, beyond all that was written
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(crate::error::errno_of(&error)),
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use pages::{PAGE_SIZE, PageIndex};

    use super::*;

    #[test]
    fn the_newest_is_kept_however_high_its_address() {
        let aside = Aside::new().expect("a memfd");
        let range = |start, count| PageRange::new(PageIndex(start), PageCount(count)).expect("one");
        let high = 0x0007_ffff_fffe;
        aside.write(range(high, 1), Some(&[1; PAGE_SIZE])).expect("kept");
        aside.write(range(3, 2), Some(&[2; 2 * PAGE_SIZE])).expect("kept");
        aside.write(range(4, 1), None).expect("kept");
        aside.write(range(high, 1), Some(&[3; PAGE_SIZE])).expect("kept");
        aside.write(range(high + 1, 1), None).expect("zeros beyond the end");
        let read = aside.read(range(3, 2)).expect("read");
        assert!(read[..PAGE_SIZE] == [2; PAGE_SIZE] && read[PAGE_SIZE..] == [0; PAGE_SIZE]);
        let read = aside.read(range(high, 2)).expect("read");
        assert!(read[..PAGE_SIZE] == [3; PAGE_SIZE] && read[PAGE_SIZE..] == [0; PAGE_SIZE]);
    }
}
