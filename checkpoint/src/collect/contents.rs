//! Which pages of a process must travel: what private memory holds of its own, and the vdso, which is
//! not ours but which CRIU compares with the destination's. And which are guard pages.
//!
//! The kernel walks every page for it, half a millisecond a GiB, while the tree stands still: so several
//! threads share large memory. Not beside anything that the process is made to do: whatever changes an
//! address space waits for those who walk it, up to 4 ms if they come back at once (rwsem's handoff).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use image::state::{Vma, VmaKind};
use pages::{PageCount, PageRange, PageSet};
use tracee::host::Urgency;
use tracee::{HostPid, Pagemap, Wanted};

use crate::error::CollectError;

/// What of a process's memory is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLook {
    /// Which pages hold something.
    Content,
    /// That, and which of them were written to since they were last told: it is watched
    /// ([`tracee::dirty`]).
    Written,
    /// Nothing: it will be asked while the tree runs.
    Nothing,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Pages that must travel.
    pub(super) pages: PageSet,
    pub(super) guards: PageSet,
    /// Of private memory, if that was asked.
    pub(super) written: PageSet,
}

/// What one thread walks at a time: 128 MiB.
const PIECE: PageCount = PageCount(32 << 10);
/// More pieces than this are larger instead: most of so much room is empty, which the kernel passes over.
const PIECES: u64 = 1024;
/// Pieces for which another thread is worth its beginning.
const WORTH: usize = 4;
/// More threads than this wait for each other.
const MOST: usize = 4;

/// What is asked of one process.
struct Questions {
    pagemap: Pagemap,
    pieces: Vec<(PageRange, Wanted)>,
    /// The first that nobody has taken yet.
    next: AtomicUsize,
    watched: bool,
}

impl Contents {
    /// Looks.
    pub(super) fn of(pid: HostPid, vmas: &[Vma], memory: MemoryLook) -> Result<Self, CollectError> {
        let mut found = Self::default();
        if memory == MemoryLook::Nothing {
            return Ok(found);
        }
        let kernels = vmas.iter().filter(|vma| vma.kind == VmaKind::Vdso);
        found.pages = kernels.map(|vma| vma.range).collect();
        let whole = joined(vmas);
        let total: PageCount = whole.iter().map(|(range, _)| range.count()).sum();
        let piece = PIECE.max(PageCount(total.0 / PIECES));
        let pieces = whole.into_iter();
        let pieces =
            pieces.flat_map(|(range, wanted)| range.pieces(piece).map(move |it| (it, wanted)));
        let questions = Questions {
            pagemap: Pagemap::open(pid)?,
            pieces: pieces.collect(),
            next: AtomicUsize::new(0),
            watched: memory == MemoryLook::Written,
        };
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let others = (questions.pieces.len() / WORTH).min(MOST).min(processors).saturating_sub(1);
        let help = || {
            let _urgency = Urgency::raise();
            questions.work()
        };
        let parts: Vec<_> = thread::scope(|scope| {
            let helpers: Vec<_> = (0..others).map(|_| scope.spawn(help)).collect();
            let own = questions.work();
            let theirs =
                helpers.into_iter().map(|helper| helper.join().expect("it does not panic"));
            [own].into_iter().chain(theirs).collect()
        });
        for part in parts {
            let part = part?;
            found.pages.add_all(&part.pages);
            found.guards.add_all(&part.guards);
            found.written.add_all(&part.written);
        }
        Ok(found)
    }
}

impl Questions {
    /// Answers until none is left.
    fn work(&self) -> tracee::Result<Contents> {
        let mut found = Contents::default();
        while let Some((range, wanted)) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            let content = if self.watched {
                let looked = self.pagemap.scan_written(*range, *wanted, &mut found.guards)?;
                looked.written.ranges().iter().for_each(|run| found.written.insert(*run));
                looked.content
            } else {
                self.pagemap.scan_beside(*range, *wanted, &mut found.guards)?
            };
            content.ranges().iter().for_each(|run| found.pages.insert(*run));
        }
        Ok(found)
    }
}

/// What to ask: neighbours of one kind are one question.
fn joined(vmas: &[Vma]) -> Vec<(PageRange, Wanted)> {
    let mut all: Vec<(PageRange, Wanted)> = Vec::new();
    for vma in vmas {
        let wanted = match vma.kind {
            VmaKind::Anon | VmaKind::Huge(_) => Wanted::AnonContent,
            VmaKind::File { shared: false, .. } | VmaKind::Memfd { shared: false, .. } => {
                Wanted::CowedFileContent
            }
            _ => continue,
        };
        match all.last_mut() {
            Some((range, same)) if *same == wanted && range.end() == vma.range.start() => {
                *range = PageRange::between(range.start(), vma.range.end()).unwrap_or(*range);
            }
            _ => all.push((vma.range, wanted)),
        }
    }
    all
}
