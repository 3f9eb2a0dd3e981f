//! Which pages of a space have not come yet, and under which number the source knows them.
//!
//! A page has two numbers: its *place* here, which mremap(2) changes, and its *source* number, by
//! which it is asked for. Within one address space the two map one to one: a page of the source is
//! missing in one place at most. A child that was forked meanwhile has a ledger of its own.
//!
//! Pure: no I/O, no clock. A page that is not in the ledger is either here, or is a page of zeros as
//! the kernel makes them.

use std::collections::BTreeMap;

use pages::{PageCount, PageIndex, PageRange, PageSet};

/// The missing pages of one address space.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// By place: source and count of a segment.
    places: BTreeMap<u64, (u64, u64)>,
    /// By source: place and count of the same segments.
    sources: BTreeMap<u64, (u64, u64)>,
    missing: u64,
}

/// Consecutive missing pages, consecutive at the source too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where they are missing.
    pub(crate) place: PageRange,
    /// What the source calls the first.
    pub(crate) source: PageIndex,
}

impl Segment {
    /// What the source calls them.
    pub(crate) fn sources(self) -> PageRange {
        PageRange::new(self.source, self.place.count()).expect("the source had them")
    }
}

impl Ledger {
    /// Every page of `owed` is missing, where it was.
    pub(crate) fn new(owed: &PageSet) -> Self {
        let mut ledger = Self::default();
        for range in owed.ranges() {
            ledger.add(range.start().0, range.start().0, range.count().0);
        }
        ledger
    }

    /// How many pages are missing.
    pub(crate) fn missing(&self) -> PageCount {
        PageCount(self.missing)
    }

    /// The missing pages from `place` on that are consecutive here and at the source, at most
    /// `most`; `None` if that page is not missing.
    pub(crate) fn from(&self, place: PageIndex, most: PageCount) -> Option<Segment> {
        let (&start, &(source, count)) = self.places.range(..=place.0).next_back()?;
        let skipped = place.0 - start;
        let left = count.checked_sub(skipped).filter(|left| *left > 0)?;
        Some(segment(place.0, source + skipped, left.min(most.0.max(1))))
    }

    /// Where pages of the source are missing.
    pub(crate) fn places_of(&self, sources: PageRange) -> Vec<Segment> {
        let [start, end] = [sources.start().0, sources.end().0];
        let before = self.sources.range(..start).next_back().map(|(at, _)| *at).unwrap_or(start);
        let overlap = |(&source, &(place, count)): (&u64, &(u64, u64))| {
            let [from, to] = [source.max(start), (source + count).min(end)];
            (from < to).then(|| segment(place + (from - source), from, to - from))
        };
        self.sources.range(before..end).filter_map(overlap).collect()
    }

    /// These pages are here, or will never be wanted: nobody waits for them any more.
    pub(crate) fn settle(&mut self, places: PageRange) {
        self.take(places);
    }

    /// mremap(2) moved what was at `from` to `to`.
    pub(crate) fn moved(&mut self, from: PageRange, to: PageIndex) {
        // What was there before has been unmapped by the same call.
        if let Some(over) = PageRange::new(to, from.count()) {
            let parts = self.take(from);
            self.take(over);
            for part in parts {
                let place = to.0 + (part.place.start().0 - from.start().0);
                self.add(place, part.source.0, part.place.count().0);
            }
        }
    }

    /// What the source calls the pages that are missing.
    pub(crate) fn sources(&self) -> PageSet {
        self.sources.iter().map(|(&start, &(_, count))| range(start, count)).collect()
    }

    fn add(&mut self, place: u64, source: u64, count: u64) {
        self.places.insert(place, (source, count));
        self.sources.insert(source, (place, count));
        self.missing += count;
    }

    /// Takes out, and tells, what is missing among `places`.
    fn take(&mut self, places: PageRange) -> Vec<Segment> {
        let [start, end] = [places.start().0, places.end().0];
        let before = self.places.range(..start).next_back().map(|(at, _)| *at).unwrap_or(start);
        let hit: Vec<(u64, (u64, u64))> = self
            .places
            .range(before..end)
            .filter(|(place, (_, count))| **place + count > start)
            .map(|(place, rest)| (*place, *rest))
            .collect();
        hit.into_iter()
            .map(|(place, (source, count))| {
                self.places.remove(&place);
                self.sources.remove(&source);
                self.missing -= count;
                let [from, to] = [place.max(start), (place + count).min(end)];
                if place < from {
                    self.add(place, source, from - place);
                }
                if to < place + count {
                    self.add(to, source + (to - place), place + count - to);
                }
                segment(from, source + (from - place), to - from)
            })
            .collect()
    }
}

fn segment(place: u64, source: u64, count: u64) -> Segment {
    Segment { place: range(place, count), source: PageIndex(source) }
}

fn range(start: u64, count: u64) -> PageRange {
    PageRange::new(PageIndex(start), PageCount(count)).expect("part of a range that was valid")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn ledger(ranges: &[(u64, u64)]) -> Ledger {
        Ledger::new(&ranges.iter().map(|(start, count)| range(*start, *count)).collect())
    }

    #[test]
    fn a_wish_runs_on_as_far_as_pages_are_missing_in_a_row() {
        let mut ledger = ledger(&[(10, 6), (20, 2)]);
        let from = |ledger: &Ledger, place, most| {
            ledger.from(PageIndex(place), PageCount(most)).map(|found| found.place.count().0)
        };
        assert_eq!(from(&ledger, 10, 64), Some(6));
        assert_eq!(from(&ledger, 14, 64), Some(2));
        assert_eq!(from(&ledger, 14, 1), Some(1));
        assert_eq!(from(&ledger, 16, 64), None);
        ledger.settle(range(12, 1));
        assert_eq!(from(&ledger, 10, 64), Some(2));
        assert_eq!(from(&ledger, 12, 64), None);
        assert_eq!(ledger.missing(), PageCount(7));
    }

    #[test]
    fn what_was_moved_is_asked_for_by_its_old_number() {
        let mut ledger = ledger(&[(10, 6)]);
        ledger.moved(range(12, 2), PageIndex(100));
        let found = ledger.from(PageIndex(101), PageCount(9)).expect("missing there");
        assert_eq!((found.place, found.source), (range(101, 1), PageIndex(13)));
        assert!(ledger.from(PageIndex(12), PageCount(1)).is_none(), "a hole was left");
        let places: Vec<_> = ledger.places_of(range(11, 3)).iter().map(|at| at.place).collect();
        assert_eq!(places, [range(11, 1), range(100, 2)]);
        // Moved over pages that were missing: those are gone.
        ledger.moved(range(100, 2), PageIndex(14));
        assert_eq!(ledger.missing(), PageCount(4));
        assert_eq!(ledger.sources().ranges(), [range(10, 4)]);
    }

    /// Every short history agrees with a map of single pages.
    #[test]
    fn behaves_like_a_map_of_single_pages() {
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            (seed >> 33) % below
        };
        for _ in 0..400 {
            let mut ledger = ledger(&[(0, 12), (20, 12)]);
            let mut model: BTreeMap<u64, u64> =
                (0..12).chain(20..32).map(|page| (page, page)).collect();
            for _ in 0..10 {
                let piece = range(next(36), 1 + next(6));
                let pages = piece.start().0..piece.end().0;
                if next(2) == 0 {
                    ledger.settle(piece);
                    model.retain(|page, _| !pages.contains(page));
                } else {
                    // mremap refuses places that overlap.
                    let to = 40 + next(10);
                    ledger.moved(piece, PageIndex(to));
                    let parts: Vec<_> = pages.clone().map(|page| model.remove(&page)).collect();
                    for (at, part) in parts.into_iter().enumerate() {
                        model.remove(&(to + at as u64));
                        model.extend(part.map(|source| (to + at as u64, source)));
                    }
                }
                assert_eq!(ledger.missing().0, model.len() as u64);
                for place in 0..60 {
                    let found = ledger.from(PageIndex(place), PageCount(1));
                    assert_eq!(found.map(|at| at.source.0), model.get(&place).copied());
                }
                for source in 0..36 {
                    let found = ledger.places_of(range(source, 1));
                    let found: Vec<_> = found.iter().map(|at| at.place.start().0).collect();
                    let wanted: Vec<_> =
                        model.iter().filter(|(_, at)| **at == source).map(|(at, _)| *at).collect();
                    assert_eq!(found, wanted);
                }
            }
        }
    }
}
