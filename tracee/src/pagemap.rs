//! Which pages of an address space hold something.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use pages::{PageCount, PageIndex, PageRange, PageSet};

use crate::sys::pagemap::{
    Categories, IS_FILE, IS_PFNZERO, IS_PRESENT, IS_SWAPPED, IS_WPALLOWED, IS_WRITTEN, Region, scan,
};
use crate::{Error, HostPid, Result};

/// Which pages are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Pages with content of their own in an anonymous mapping: present or swapped out, without
    /// those that show the kernel's page of zeros (where the kernel tells).
    AnonContent,
    /// Pages of a private file mapping that were written to, and so differ from the file.
    CowedFileContent,
    /// Every page that is there: present or swapped out.
    Present,
}

/// /proc/PID/pagemap of one process, asked by the `PAGEMAP_SCAN` ioctl (Linux 6.7), or, where the
/// kernel does not have it, read entry by entry. May be used from any thread.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
    path: String,
    by_scan: bool,
}

/// Runs asked for in one ioctl.
const REGIONS: usize = 1024;
/// Entries read at once.
const ENTRIES: usize = 8192;

impl Pagemap {
    /// Opens /proc/PID/pagemap.
    pub fn open(pid: HostPid) -> Result<Self> {
        let path = format!("/proc/{pid}/pagemap");
        let file = File::open(&path).map_err(Error::proc(&path))?;
        // An empty walk tells whether the kernel knows the question.
        let none =
            Categories { all: 0, inverted: 0, any: IS_PRESENT, told: IS_PRESENT, protect: false };
        let by_scan = scan(file.as_fd(), 0, 0, none, &mut [Region::default()]).is_ok();
        Ok(Self { file, path, by_scan })
    }

    /// The same without the ioctl, as on a kernel before 6.7.
    pub fn open_without_scan(pid: HostPid) -> Result<Self> {
        Ok(Self { by_scan: false, ..Self::open(pid)? })
    }

    /// The wanted pages of `range`.
    pub fn scan(&self, range: PageRange, wanted: Wanted) -> Result<PageSet> {
        self.scan_beside(range, wanted, &mut PageSet::new())
    }

    /// The same, and adds the guard pages of `range` (Linux 6.15 tells them from swapped ones) to
    /// `guards`.
    pub fn scan_beside(
        &self,
        range: PageRange,
        wanted: Wanted,
        guards: &mut PageSet,
    ) -> Result<PageSet> {
        let mut found = Found { set: PageSet::new(), guards };
        if self.by_scan {
            self.by_scan(range, wanted, Among::All, &mut found)?;
        } else {
            self.add_entries(range, wanted, &mut found)?;
        }
        Ok(found.set)
    }

    /// Those of the wanted pages of `range` that were written to since they were last told here, or
    /// were never told; from now on they count as not written. Each page is told and protected in
    /// one step, so no write is lost, however busy the program is: copy a page *after* it was told.
    ///
    /// The range must be registered for it ([`crate::dirty`]). Pages of mappings that are not (new
    /// ones, made since) are told every time.
    pub(crate) fn take_written(&self, range: PageRange, wanted: Wanted) -> Result<PageSet> {
        let mut found = Found { set: PageSet::new(), guards: &mut PageSet::new() };
        self.by_scan(range, wanted, Among::Written, &mut found)?;
        self.by_scan(range, wanted, Among::Untracked, &mut found)?;
        Ok(found.set)
    }

    /// Those of the wanted pages of `range` that were told, and are since then as they were: neither
    /// written to nor given back, nor is anything else in their place. What was read of them after they
    /// were told, and before this is asked, is one moment's content.
    pub(crate) fn untouched(&self, range: PageRange, wanted: Wanted) -> Result<PageSet> {
        let mut found = Found { set: PageSet::new(), guards: &mut PageSet::new() };
        self.by_scan(range, wanted, Among::Untouched, &mut found)?;
        Ok(found.set)
    }

    /// What of `range` holds wanted content, and what of that was written to since it was last told,
    /// or never was told; in one walk. Adds the guard pages to `guards`. Nobody may run in it.
    ///
    /// # Panics
    ///
    /// If everything present is wanted.
    pub fn scan_written(
        &self,
        range: PageRange,
        wanted: Wanted,
        guards: &mut PageSet,
    ) -> Result<Written> {
        match wanted {
            Wanted::AnonContent => self.scan_written_anon(range, guards),
            Wanted::CowedFileContent => self.scan_written_cowed(range, guards),
            Wanted::Present => panic!("nobody notes writes to that"),
        }
    }

    /// Most of a private mapping of a file is the file's, and passed over.
    fn scan_written_cowed(&self, range: PageRange, guards: &mut PageSet) -> Result<Written> {
        let categories = Categories {
            all: IS_PFNZERO | IS_FILE,
            inverted: IS_PFNZERO | IS_FILE,
            any: IS_PRESENT | IS_SWAPPED,
            told: IS_SWAPPED | IS_WRITTEN,
            protect: false,
        };
        let mut found = Written::default();
        let mut swapped = Found { set: PageSet::new(), guards };
        self.walk(range, categories, |run, is| {
            if is & IS_SWAPPED != 0 {
                return self.add_entries(run, Wanted::CowedFileContent, &mut swapped);
            }
            found.content.insert(run);
            if is & IS_WRITTEN != 0 {
                found.written.insert(run);
            }
            Ok(())
        })?;
        // What is swapped out may have been written to before.
        found.written.add_all(&swapped.set);
        found.content.add_all(&swapped.set);
        Ok(found)
    }

    /// Three times as fast as to ask for every page there is, because what is good is passed over. So
    /// all of the range must be mapped, as anonymous memory.
    fn scan_written_anon(&self, range: PageRange, guards: &mut PageSet) -> Result<Written> {
        let categories = Categories {
            all: 0,
            inverted: IS_PRESENT,
            any: IS_PRESENT | IS_WRITTEN,
            told: IS_PRESENT | IS_SWAPPED | IS_WRITTEN | IS_PFNZERO,
            protect: false,
        };
        let (mut written, mut empty) = (PageSet::new(), PageSet::new());
        let mut swapped = Found { set: PageSet::new(), guards };
        self.walk(range, categories, |run, is| {
            if is & IS_SWAPPED != 0 {
                self.add_entries(run, Wanted::AnonContent, &mut swapped)?;
            }
            match is & IS_PRESENT != 0 && is & IS_PFNZERO == 0 {
                true => written.insert(run),
                false => empty.insert(run),
            }
            Ok(())
        })?;
        // What is swapped out may have been written to before.
        written.add_all(&swapped.set);
        let mut content: PageSet = [range].into_iter().collect();
        content.remove_all(&empty);
        content.add_all(&swapped.set);
        Ok(Written { content, written })
    }

    fn by_scan(
        &self,
        range: PageRange,
        wanted: Wanted,
        among: Among,
        found: &mut Found,
    ) -> Result<()> {
        let without = match wanted {
            Wanted::AnonContent => IS_PFNZERO,
            Wanted::CowedFileContent => IS_PFNZERO | IS_FILE,
            Wanted::Present => 0,
        };
        let any = IS_PRESENT | IS_SWAPPED;
        let (with, without) = match among {
            Among::All => (0, without),
            Among::Written => (IS_WRITTEN, without),
            Among::Untracked => (0, without | IS_WPALLOWED),
            Among::Untouched => (IS_WPALLOWED, without | IS_WRITTEN),
        };
        let categories = Categories {
            all: with | without,
            inverted: without,
            any,
            told: any,
            protect: among == Among::Written,
        };
        self.walk(range, categories, |run, is| {
            if is & IS_SWAPPED != 0 {
                return self.add_entries(run, wanted, found);
            }
            found.set.insert(run);
            Ok(())
        })
    }

    /// Runs of pages that are as `asked`, each with its categories, in order.
    fn walk(
        &self,
        range: PageRange,
        asked: Categories,
        mut tell: impl FnMut(PageRange, u64) -> Result<()>,
    ) -> Result<()> {
        let end = range.end_addr().0;
        let mut from = range.start_addr().0;
        let mut regions = [Region::default(); REGIONS];
        while from < end {
            let (count, walked) = scan(self.file.as_fd(), from, end, asked, &mut regions)
                .map_err(|errno| self.refused(errno))?;
            for region in &regions[..count] {
                let start = PageIndex(region.start >> pages::PAGE_SHIFT);
                let end = PageIndex(region.end >> pages::PAGE_SHIFT);
                if let Some(run) = PageRange::between(start, end) {
                    tell(run, region.categories)?;
                }
            }
            if walked <= from {
                return Err(self.refused(Errno::ENODATA));
            }
            from = walked;
        }
        Ok(())
    }

    /// Reads the entries of `range` and adds the wanted pages. Zero pages cannot be told from others
    /// here; taking them along is only slower.
    fn add_entries(&self, range: PageRange, wanted: Wanted, found: &mut Found) -> Result<()> {
        let mut buffer = vec![0_u8; ENTRIES.min(usize_of(range.count())) * 8];
        for piece in range.pieces(PageCount(ENTRIES as u64)) {
            let bytes = &mut buffer[..usize_of(piece.count()) * 8];
            self.file.read_exact_at(bytes, piece.start().0 * 8).map_err(Error::proc(&self.path))?;
            let mut page = piece.start();
            for entry in bytes.chunks_exact(8) {
                let entry = Entry(u64::from_le_bytes(entry.try_into().expect("eight bytes")));
                let one = PageRange::new(page, PageCount(1)).expect("inside `range`");
                if entry.is(wanted) {
                    found.set.insert(one);
                } else if entry.0 & Entry::GUARD != 0 {
                    found.guards.insert(one);
                }
                page = PageIndex(page.0 + 1);
            }
        }
        Ok(())
    }

    /// For each page of `range`, one after the other: the number of the frame that holds its private
    /// content; `None` where there is none, or the kernel does not say (to whom it may not, or of what is
    /// swapped out). Two pages in one frame are the same as long as nobody runs.
    pub fn frames(&self, range: PageRange) -> Result<Vec<Option<u64>>> {
        let mut frames = Vec::with_capacity(usize_of(range.count()));
        let mut buffer = vec![0_u8; ENTRIES.min(usize_of(range.count())) * 8];
        for piece in range.pieces(PageCount(ENTRIES as u64)) {
            let bytes = &mut buffer[..usize_of(piece.count()) * 8];
            self.file.read_exact_at(bytes, piece.start().0 * 8).map_err(Error::proc(&self.path))?;
            let entries = bytes.chunks_exact(8);
            frames.extend(entries.map(|entry| {
                Entry(u64::from_le_bytes(entry.try_into().expect("eight bytes"))).frame()
            }));
        }
        Ok(frames)
    }

    fn refused(&self, errno: Errno) -> Error {
        Error::Proc { path: self.path.clone().into(), source: errno.into() }
    }
}

/// What of a range is news, and what there is.
#[derive(Debug, Default)]
pub struct Written {
    /// Pages that hold something.
    pub content: PageSet,
    /// Of those, the ones written to. More may be told than were.
    pub written: PageSet,
}

/// What a scan has found.
struct Found<'g> {
    set: PageSet,
    guards: &'g mut PageSet,
}

/// Which pages a scan looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Among {
    All,
    /// Those written to, which are protected again.
    Written,
    /// Those whose writes nobody notes.
    Untracked,
    /// Those not written to since they were protected.
    Untouched,
}

fn usize_of(count: PageCount) -> usize {
    usize::try_from(count.0).expect("64 bit")
}

/// One word of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
#[derive(Clone, Copy)]
struct Entry(u64);

impl Entry {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    /// Mapped from a file, or shared anonymous memory.
    const FILE: u64 = 1 << 61;
    /// A guard region (madvise(2), MADV_GUARD_INSTALL; Linux 6.15): nothing there.
    const GUARD: u64 = 1 << 58;
    /// Swap type of a marker (userfaultfd write protection, poison): an entry without content.
    const MARKER: u64 = 0x1f;

    /// Where its private content is.
    fn frame(self) -> Option<u64> {
        /// The low bits of an entry.
        const NUMBER: u64 = (1 << 55) - 1;
        let private = self.0 & Self::PRESENT != 0 && self.0 & Self::FILE == 0;
        Some(self.0 & NUMBER).filter(|frame| private && *frame != 0)
    }

    fn is(self, wanted: Wanted) -> bool {
        let swapped = self.0 & Self::SWAPPED != 0
            && self.0 & Self::GUARD == 0
            && self.0 & 0x1f != Self::MARKER;
        let there = self.0 & Self::PRESENT != 0 || swapped;
        match wanted {
            Wanted::AnonContent | Wanted::Present => there,
            Wanted::CowedFileContent => there && self.0 & Self::FILE == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_the_kernel_documents_them() {
        let table = [
            (0, false, false),
            (Entry::PRESENT, true, true),
            (Entry::PRESENT | Entry::FILE, true, false),
            (Entry::SWAPPED | 0x40, true, true),
            (Entry::SWAPPED | Entry::MARKER, false, false),
            (Entry::SWAPPED | Entry::GUARD, false, false),
            (Entry::FILE, false, false),
        ];
        for (word, present, cowed) in table {
            assert_eq!(Entry(word).is(Wanted::Present), present, "{word:#x}");
            assert_eq!(Entry(word).is(Wanted::AnonContent), present, "{word:#x}");
            assert_eq!(Entry(word).is(Wanted::CowedFileContent), cowed, "{word:#x}");
        }
    }
}
