//! The kernel's own pages in a process: where they are, and how they move.
//!
//! A vdso finds its data pages by their distance from its code, so all parts move together: first,
//! in the root of the tree, to a hole that no process uses (its children inherit that), later in
//! each process to where its program looks for them. Two hops, because the places may overlap.

use nix::libc;
use pages::{PageIndex, PageRange};
use tracee::SpecialMapping;

use super::layout::Hole;
use super::mm::remap;
use super::process::{Batch, Process};
use crate::error::{Error, Result};

/// The vdso and its data pages, parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    /// Which part is the code.
    code: usize,
    /// Ascending.
    parts: Vec<PageRange>,
}

impl Parked {
    /// Moves all parts in `process` (whose stack is not needed either) into the hole.
    pub(crate) fn park(
        process: &mut Process,
        found: &[SpecialMapping],
        hole: &Hole,
    ) -> Result<Self> {
        let refuse = |why| Error::Vdso { task: process.id, why };
        let mut parts: Vec<&SpecialMapping> = found
            .iter()
            .filter(|part| part.name.starts_with("[v") && part.name != "[vsyscall]")
            .collect();
        parts.sort_unstable_by_key(|part| part.range.start());
        let code = parts.iter().position(|part| part.name == "[vdso]");
        let code = code.ok_or_else(|| refuse("this kernel has none"))?;
        let lowest = parts[0].range.start();
        let ranges: Vec<PageRange> = parts.iter().map(|part| part.range).collect();
        let away = |range: PageRange| {
            let start = PageIndex(hole.parked.start().0 + (range.start().0 - lowest.0));
            PageRange::new(start, range.count()).filter(|to| hole.parked.covers(*to))
        };
        let parked: Option<Vec<PageRange>> = ranges.iter().map(|range| away(*range)).collect();
        let parked = parked.ok_or_else(|| refuse("this kernel's is larger than any known"))?;
        let mut batch = Batch::default();
        for (from, to) in ranges.iter().zip(&parked) {
            batch.must("park its vdso", libc::SYS_mremap, &remap(*from, *to));
        }
        process.run(0, batch)?;
        Ok(Self { code, parts: parked })
    }

    /// What moves where, if the code is to be at `vdso`.
    pub(crate) fn moves_to(
        &self,
        vdso: PageRange,
    ) -> std::result::Result<Vec<(PageRange, PageRange)>, &'static str> {
        let code = self.parts[self.code];
        if code.count() != vdso.count() {
            return Err("it has another size on this kernel");
        }
        self.parts
            .iter()
            .map(|part| {
                let start = vdso.start().0.checked_add(part.start().0);
                let start = start.and_then(|sum| sum.checked_sub(code.start().0));
                let to = start.and_then(|start| PageRange::new(PageIndex(start), part.count()));
                to.map(|to| (*part, to)).ok_or("its place leaves no room for its data")
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use pages::PageCount;

    use super::*;

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
    }

    #[test]
    fn all_parts_keep_their_distance_from_the_code() {
        let parked = Parked { code: 2, parts: vec![range(100, 4), range(104, 2), range(106, 2)] };
        let moves = parked.moves_to(range(1006, 2)).expect("fits");
        let to: Vec<PageRange> = moves.into_iter().map(|(_, to)| to).collect();
        assert_eq!(to, [range(1000, 4), range(1004, 2), range(1006, 2)]);
        assert!(parked.moves_to(range(1006, 1)).is_err());
        assert!(parked.moves_to(range(3, 2)).is_err());
    }
}
