//! Empty memory that is filled by userfaultfd.
//!
//! A page written into another process by process_vm_writev(2) costs a fault on its behalf, an empty
//! page that is cleared for nothing, and a look-up of that page before the copy. UFFDIO_COPY
//! (userfaultfd(2)) installs a page with its content at once: two thirds of the time, measured for a
//! gibibyte on Linux 6.18. For little memory the preparation costs more than that saves.

use image::state::{Mm, VmaFlags, VmaKind};
use pages::{PAGE_SIZE, PageCount, PageRange};
use tracee::Memory;
use tracee::uffd::{Copied, Faults, Features, Mode, Uffd};

use super::process::Process;
use crate::error::Result;

/// What makes the preparation worth its while: 4 MiB.
pub(crate) const WORTHWHILE: PageCount = PageCount(1024);
/// Mappings smaller than this are written: 256 KiB.
const SMALL: PageCount = PageCount(64);

/// Mappings of a process that nobody has touched since they were made, mostly.
#[derive(Debug)]
pub(crate) struct Fresh {
    uffd: Uffd,
    /// One for each mapping, in order: the kernel copies into one mapping at a time.
    watched: Vec<PageRange>,
}

impl Fresh {
    /// Watches the large mappings of a process that stands still. `None` if this kernel does not
    /// have it, or there are none.
    pub(crate) fn watch(process: &mut Process, mm: &Mm) -> Result<Option<Self>> {
        let vmas = mm.vmas.iter();
        let all = vmas
            .filter(|vma| vma.kind == VmaKind::Anon && !vma.flags.contains(VmaFlags::LOCKED))
            .map(|vma| vma.range);
        Self::over(process, all)
    }

    /// The same of these mappings, ascending.
    pub(crate) fn over(
        process: &mut Process,
        all: impl Iterator<Item = PageRange>,
    ) -> Result<Option<Self>> {
        let watched: Vec<PageRange> = all.filter(|range| range.count() >= SMALL).collect();
        if watched.is_empty() || Features::of_this_kernel().is_empty() {
            return Ok(None);
        }
        let gate = process.gate;
        let leader = &mut process.threads[0];
        let uffd = Uffd::create_in(leader, gate, Faults::All, Features::empty())?;
        for range in &watched {
            uffd.register(*range, Mode::MISSING)?;
        }
        Ok(Some(Self { uffd, watched }))
    }

    /// Nothing is watched any more, and what nobody has written is zero. Until then nobody else may
    /// touch this memory: whoever touches a missing page waits for it.
    pub(crate) fn settle(&self) -> Result<()> {
        Ok(self.watched.iter().try_for_each(|range| self.uffd.unregister(*range))?)
    }

    /// Writes pages, here or beside: the content, which is exactly as long, or zeros.
    pub(crate) fn write(
        &self,
        memory: &Memory,
        range: PageRange,
        content: Option<&[u8]>,
    ) -> tracee::Result<()> {
        let mut done = PageCount(0);
        while done < range.count() {
            let (part, watched) = range.part(done, &self.watched);
            let bytes = content.map(|content| slice(content, done, part.count()));
            done = done + part.count();
            match bytes {
                Some(bytes) if !watched => memory.write(part.start_addr(), bytes)?,
                Some(bytes) if self.uffd.copy(part, bytes)? == Copied::Installed => {}
                None if watched && self.uffd.zero(part)? == Copied::Installed => {}
                _ => self.one_by_one(memory, part, bytes)?,
            }
        }
        Ok(())
    }

    /// Some are there already, or not to be watched. Page by page, because who writes over a missing
    /// one waits for it.
    fn one_by_one(
        &self,
        memory: &Memory,
        range: PageRange,
        content: Option<&[u8]>,
    ) -> tracee::Result<()> {
        for (at, page) in range.pieces(PageCount(1)).enumerate() {
            let bytes = content.map_or(&[0; PAGE_SIZE][..], |content| {
                slice(content, PageCount(at as u64), PageCount(1))
            });
            if self.uffd.copy(page, bytes)? != Copied::Installed {
                memory.write(page.start_addr(), bytes)?;
            }
        }
        Ok(())
    }
}

/// The part of `content` that belongs to `count` pages from its page `from` on.
pub(super) fn slice(content: &[u8], from: PageCount, count: PageCount) -> &[u8] {
    let [from, len] = [from, count].map(|pages| usize::try_from(pages.0).unwrap_or(0) * PAGE_SIZE);
    &content[from..from + len]
}
