//! Where qmig's own pages go while a process is built: where no process of the tree has any.
//!
//! ```text
//! hole:  | seed (1 page) | gap | vdso and vvar, parked | gap | scratch |
//! ```

use image::state::{Body, Checkpoint};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, VirtAddr};

use crate::error::{Error, Result};

/// Scratch memory of the runner: call arrays, and the largest argument (65536 groups, 256 KiB).
const SCRATCH: PageCount = PageCount(256);
/// Room for the parked vdso; today's kernels have 8 pages of it.
const PARKED: PageCount = PageCount(64);
/// Pages left free around qmig's own: a stack's guard gap is 256 pages.
const MARGIN: u64 = 1024;
/// The same in a tree that may still grow while it is built: 64 GiB.
const WIDE_MARGIN: u64 = 1 << 24;
/// Holes are looked for above this address (vm.mmap_min_addr is far below) …
const LOWEST: PageIndex = PageIndex(0x1000_0000 / PAGE_SIZE as u64);
/// … and below this one, where execve(2) puts nothing of its own.
const HIGHEST: PageIndex = PageIndex(0x5000_0000_0000 / PAGE_SIZE as u64);

/// Where qmig's own pages are in every process under construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// The page of the seed program.
    pub(crate) seed: VirtAddr,
    /// Where vdso and vvar wait.
    pub(crate) parked: PageRange,
    /// Scratch memory of the runner: a child inherits its parent's, at the same place.
    pub(crate) scratch: PageRange,
}

impl Hole {
    /// A hole that is free in every process of `tree`; and far from all they have, if they may
    /// still grow.
    pub(crate) fn find(tree: &Checkpoint, growing: bool) -> Result<Self> {
        let mut used: Vec<PageRange> = tree
            .tasks
            .iter()
            .filter_map(|task| match &task.body {
                Body::Living(living) => Some(&living.mm.vmas),
                Body::Zombie { .. } => None,
            })
            .flatten()
            .map(|vma| vma.range)
            .collect();
        used.sort_unstable();
        Self::between(&used, if growing { WIDE_MARGIN } else { MARGIN })
    }

    /// True if a page of `range` is one of qmig's.
    pub(crate) fn touches(&self, range: PageRange) -> bool {
        let seed = self.seed.page();
        range.contains(seed)
            || range.intersect(self.parked).is_some()
            || range.intersect(self.scratch).is_some()
    }

    /// Room for so many pages behind it, if it was found for a tree that may still grow.
    pub(crate) fn aside(&self, count: PageCount) -> Option<PageRange> {
        let start = PageIndex(self.scratch.end().0 + MARGIN);
        PageRange::new(start, count).filter(|_| count.0 < WIDE_MARGIN / 2)
    }

    fn between(used: &[PageRange], margin: u64) -> Result<Self> {
        let need = 2 * margin + 3 + PARKED.0 + SCRATCH.0 + 1;
        let mut free_from = LOWEST;
        for range in used {
            if range.start().0.saturating_sub(free_from.0) >= need {
                break;
            }
            free_from = free_from.max(range.end());
        }
        if free_from.0 + need > HIGHEST.0 {
            return Err(Error::NoHole { pages: need });
        }
        let mut next = free_from.0 + margin;
        let mut take = |count: PageCount| {
            let range = PageRange::new(PageIndex(next), count).ok_or(Error::NoHole { pages: need });
            next += count.0 + 1;
            range
        };
        Ok(Self {
            seed: take(PageCount(1))?.start_addr(),
            parked: take(PARKED)?,
            scratch: take(SCRATCH)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::between(PageIndex(start), PageIndex(end)).expect("a range")
    }

    fn whole(hole: Hole) -> PageRange {
        range(hole.seed.page().0, hole.scratch.end().0)
    }

    #[test]
    fn the_hole_keeps_its_distance_from_every_mapping() {
        let low = LOWEST.0;
        let used =
            [range(1, low + 5), range(low + 2000, low + 9000), range(low + 20_000, low + 20_001)];
        let hole = whole(Hole::between(&used, MARGIN).expect("a hole"));
        for range in used {
            let apart = hole.start().0 >= range.end().0 + MARGIN
                || hole.end().0 + MARGIN <= range.start().0;
            assert!(apart, "{hole:?} and {range:?}");
        }
        assert!(hole.start().0 < low + 20_000, "{hole:?}");
    }

    #[test]
    fn a_full_address_space_has_no_hole() {
        let used = [range(1, HIGHEST.0 + 10)];
        assert!(matches!(Hole::between(&used, MARGIN), Err(Error::NoHole { .. })));
    }

    #[test]
    fn an_empty_tree_leaves_the_lowest_place() {
        let hole = Hole::between(&[], MARGIN).expect("a hole");
        assert_eq!(hole.seed.page().0, LOWEST.0 + MARGIN);
    }
}
