//! What was sent of shared memory, known by fingerprints.
//!
//! Private memory tells which pages were written to. Shared memory does not: it is written through
//! any mapping of any process, and through descriptors, which pass no mapping at all. So a round notes
//! a fingerprint of each page as it was sent, and whoever wants to know what has changed reads the
//! memory again and compares: six gigabytes a second and core (measured, XXH3 with SSE2), where the link
//! carries one at most.
//!
//! Sixteen bytes a page: the 128 bits of XXH3 under a seed of each migration, which nobody knows
//! beforehand. A page that has changed is taken for unchanged if both contents have the same
//! fingerprint: for contents that do not depend on the seed once in 2¹²⁸ changes, as far as the mixing
//! of XXH3 is known; a billion pages changing each second for a hundred years make that 10⁻²⁰. It is
//! no cryptographic hash: a program that reads qmig's own memory, and so the seed, could deceive it
//! about its own pages, and nobody else's.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Pages of one piece of the table: memory with holes costs at most one such piece for each page.
const PIECE: usize = 512;

/// Fingerprints of the pages of one object, as they were sent last. For any thread.
#[derive(Debug)]
pub struct Fingerprints {
    seed: u64,
    pieces: Mutex<BTreeMap<u64, Box<[Option<Print>; PIECE]>>>,
}

/// Never zero, so that none of it costs nothing: one in 2¹²⁸ is another.
type Print = std::num::NonZeroU128;

impl Fingerprints {
    /// Nothing was sent.
    pub(crate) fn new() -> Self {
        Self { seed: RandomState::new().hash_one(0), pieces: Mutex::default() }
    }

    /// These pages are sent with this content, which is as long.
    pub(crate) fn note(&self, range: PageRange, bytes: &[u8]) {
        let prints: Vec<Print> = bytes.chunks_exact(PAGE_SIZE).map(|page| self.of(page)).collect();
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        for (page, print) in (range.start().0..range.end().0).zip(prints) {
            let (piece, at) = place(page);
            pieces.entry(piece).or_insert_with(|| Box::new([None; PIECE]))[at] = Some(print);
        }
    }

    /// Of these pages, those whose content is not what was sent.
    pub(crate) fn changed(&self, range: PageRange, bytes: &[u8]) -> PageSet {
        let now: Vec<Print> = bytes.chunks_exact(PAGE_SIZE).map(|page| self.of(page)).collect();
        let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = PageSet::new();
        for (page, print) in (range.start().0..range.end().0).zip(now) {
            let (piece, at) = place(page);
            let sent = pieces.get(&piece).and_then(|piece| piece[at]);
            if sent != Some(print)
                && let Some(one) = PageRange::new(PageIndex(page), PageCount(1))
            {
                changed.insert(one);
            }
        }
        changed
    }

    /// The pages that were ever sent.
    pub(crate) fn known(&self) -> PageSet {
        let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = PageSet::new();
        for (piece, prints) in pieces.iter() {
            let start = piece * PIECE as u64;
            for (page, _) in (start..).zip(prints.iter()).filter(|(_, print)| print.is_some()) {
                PageRange::new(PageIndex(page), PageCount(1))
                    .iter()
                    .for_each(|one| known.insert(*one));
            }
        }
        known
    }

    fn of(&self, page: &[u8]) -> Print {
        Print::new(xxh3_128_with_seed(page, self.seed)).unwrap_or(Print::MAX)
    }
}

fn place(page: u64) -> (u64, usize) {
    let piece = PIECE as u64;
    (page / piece, usize::try_from(page % piece).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
    }

    #[test]
    fn a_changed_byte_is_a_changed_page() {
        let prints = Fingerprints::new();
        let mut bytes = vec![0; 4 * PAGE_SIZE];
        let all = range(510, 4); // of two pieces
        assert_eq!(prints.changed(all, &bytes).ranges(), [all], "never sent, zero or not");
        prints.note(all, &bytes);
        assert!(prints.changed(all, &bytes).is_empty());
        assert_eq!(prints.known().ranges(), [all]);
        bytes[2 * PAGE_SIZE - 1] = 1;
        assert_eq!(prints.changed(all, &bytes).ranges(), [range(511, 1)]);
        prints.note(range(511, 1), &bytes[PAGE_SIZE..2 * PAGE_SIZE]);
        assert!(prints.changed(all, &bytes).is_empty());
        bytes[2 * PAGE_SIZE - 1] = 0;
        assert_eq!(prints.changed(all, &bytes).ranges(), [range(511, 1)], "there and back");
    }

    #[test]
    fn a_print_costs_sixteen_bytes() {
        assert_eq!(size_of::<Option<Print>>(), 16);
        assert_ne!(Fingerprints::new().seed, Fingerprints::new().seed);
    }
}
