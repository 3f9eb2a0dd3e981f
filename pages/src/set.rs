//! Sets of pages.

use std::fmt;

use crate::{PageCount, PageIndex, PageRange};

/// So many ranges are inserted or taken out one by one.
const FEW: usize = 8;

/// Pages, kept as sorted, disjoint, non-touching ranges.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PageSet {
    ranges: Vec<PageRange>,
}

impl PageSet {
    /// No pages.
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// The ranges in ascending order; no two overlap or touch.
    pub fn ranges(&self) -> &[PageRange] {
        &self.ranges
    }

    /// How many pages are in the set.
    pub fn count(&self) -> PageCount {
        self.ranges.iter().map(|range| range.count()).sum()
    }

    /// True if there is no page in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// True if `page` is in the set.
    pub fn contains(&self, page: PageIndex) -> bool {
        let after = self.ranges.partition_point(|range| range.end() <= page);
        self.ranges.get(after).is_some_and(|range| range.contains(page))
    }

    /// The parts that lie in `range`, ascending.
    pub fn within(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        let from = self.ranges.partition_point(|have| have.end() <= range.start());
        self.ranges[from..].iter().map_while(move |have| have.intersect(range))
    }

    /// Adds every page of `range`. Appending in ascending order is O(1).
    pub fn insert(&mut self, range: PageRange) {
        match self.ranges.last_mut() {
            None => self.ranges.push(range),
            Some(last) if last.end() < range.start() => self.ranges.push(range),
            Some(last) if last.start() <= range.start() => {
                *last = join(*last, range);
            }
            Some(_) => self.insert_within(range),
        }
    }

    fn insert_within(&mut self, range: PageRange) {
        let first = self.ranges.partition_point(|have| have.end() < range.start());
        let last = self.ranges.partition_point(|have| have.start() <= range.end());
        let joined = self.ranges[first..last].iter().fold(range, |sum, have| join(sum, *have));
        self.ranges.splice(first..last, [joined]);
    }

    /// Takes every page of `range` out.
    pub fn remove(&mut self, range: PageRange) {
        let first = self.ranges.partition_point(|have| have.end() <= range.start());
        let last = self.ranges.partition_point(|have| have.start() < range.end());
        if first >= last {
            return;
        }
        let before = PageRange::between(self.ranges[first].start(), range.start());
        let after = PageRange::between(range.end(), self.ranges[last - 1].end());
        self.ranges.splice(first..last, before.into_iter().chain(after));
    }

    /// Adds every page of another set, in one pass over both if it has many ranges.
    pub fn add_all(&mut self, other: &Self) {
        let before =
            |last: &PageRange| other.ranges.first().is_none_or(|it| last.start() <= it.start());
        if other.ranges.len() <= FEW || self.ranges.last().is_none_or(before) {
            return other.ranges.iter().for_each(|range| self.insert(*range));
        }
        let mine = std::mem::take(&mut self.ranges);
        let (mut mine, mut theirs) = (mine.iter().peekable(), other.ranges.iter().peekable());
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            let first = if a.start() <= b.start() { mine.next() } else { theirs.next() };
            first.iter().for_each(|range| self.insert(**range));
        }
        mine.chain(theirs).for_each(|range| self.insert(*range));
    }

    /// Takes every page of another set out, in one pass over both if it has many ranges.
    pub fn remove_all(&mut self, other: &Self) {
        if other.ranges.len() <= FEW {
            return other.ranges.iter().for_each(|range| self.remove(*range));
        }
        let mut theirs = other.ranges.iter().peekable();
        for range in std::mem::take(&mut self.ranges) {
            let mut rest = Some(range);
            while let (Some(left), Some(out)) = (rest, theirs.peek()) {
                if out.start() >= left.end() {
                    break;
                }
                self.ranges.extend(PageRange::between(left.start(), out.start().min(left.end())));
                rest = PageRange::between(left.start().max(out.end()), left.end());
                if rest.is_none() {
                    break; // the next range may have the rest of it
                }
                theirs.next();
            }
            self.ranges.extend(rest);
        }
    }

    /// Takes the first pages out, at most `most`.
    pub fn take_first(&mut self, most: PageCount) -> Self {
        if self.count() <= most {
            return std::mem::take(self);
        }
        let mut rest = most.0;
        let mut taken = Self::new();
        for range in &self.ranges {
            let Some(part) = PageRange::new(range.start(), PageCount(rest.min(range.count().0)))
            else {
                break; // that was all
            };
            rest -= part.count().0;
            taken.insert(part);
        }
        self.remove_all(&taken);
        taken
    }

    /// The pages in both sets.
    pub fn intersect(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut out = Self::new();
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            if let Some(both) = a.intersect(**b) {
                out.insert(both);
            }
            if a.end() <= b.end() {
                left.next()
            } else {
                right.next()
            };
        }
        out
    }
}

/// The smallest range over two that overlap or touch.
fn join(a: PageRange, b: PageRange) -> PageRange {
    let (start, end) = (a.start().min(b.start()), a.end().max(b.end()));
    PageRange::between(start, end).expect("a union of ranges is not empty")
}

impl FromIterator<PageRange> for PageSet {
    fn from_iter<I: IntoIterator<Item = PageRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

impl fmt::Debug for PageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.ranges).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
    }

    #[test]
    fn the_first_pages_are_taken_out() {
        let all = [range(0, 10), range(20, 10), range(40, 1)];
        let mut pages: PageSet = all.into_iter().collect();
        assert_eq!(pages.take_first(PageCount(12)).ranges(), [range(0, 10), range(20, 2)]);
        assert_eq!(pages.take_first(PageCount(8)).ranges(), [range(22, 8)]);
        assert_eq!(pages.take_first(PageCount(0)), PageSet::new());
        assert_eq!(pages.take_first(PageCount(u64::MAX)).ranges(), [range(40, 1)]);
        assert!(pages.is_empty());
    }

    #[test]
    fn parts_within_a_range() {
        let pages: PageSet = [range(0, 10), range(20, 10), range(40, 1)].into_iter().collect();
        let within = |start, count| pages.within(range(start, count)).collect::<Vec<_>>();
        assert_eq!(within(5, 20), [range(5, 5), range(20, 5)]);
        assert_eq!(within(20, 21), [range(20, 10), range(40, 1)]);
        assert_eq!(within(10, 10), []);
        assert_eq!(within(41, 9), []);
    }

    /// Every short history of inserts and removes agrees with a set of single pages.
    #[test]
    fn behaves_like_a_set_of_single_pages() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            (seed >> 33) % below
        };
        for _ in 0..500 {
            let (mut set, mut model) = (PageSet::new(), BTreeSet::new());
            for _ in 0..12 {
                let piece = range(next(40), 1 + next(8));
                let pages = piece.start().0..piece.end().0;
                if next(3) == 0 {
                    set.remove(piece);
                    model.retain(|page| !pages.contains(page));
                } else {
                    set.insert(piece);
                    model.extend(pages);
                }
                let flat: Vec<u64> =
                    set.ranges().iter().flat_map(|r| r.start().0..r.end().0).collect();
                assert_eq!(flat, model.iter().copied().collect::<Vec<_>>());
                assert!(set.ranges().windows(2).all(|w| w[0].end() < w[1].start()));
                assert_eq!(set.count(), PageCount(model.len() as u64));
                assert_eq!(set.contains(PageIndex(7)), model.contains(&7));
            }
        }
    }

    #[test]
    fn whole_sets_are_added_and_taken_out() {
        let mut set: PageSet = [range(0, 4), range(10, 5)].into_iter().collect();
        let other: PageSet = [range(3, 2), range(12, 9)].into_iter().collect();
        let both = set.intersect(&other);
        set.add_all(&other);
        assert_eq!(set.ranges(), [range(0, 5), range(10, 11)]);
        set.remove_all(&both);
        assert_eq!(set.ranges(), [range(0, 3), range(4, 1), range(10, 2), range(15, 6)]);
    }

    /// In one pass, as piece by piece.
    #[test]
    fn many_ranges_are_added_and_taken_out() {
        let mut seed = 7_u64;
        let mut some = |most: u64| -> PageSet {
            let mut next = |below: u64| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                (seed >> 33) % below
            };
            (0..next(most)).map(|_| range(next(400), 1 + next(5))).collect()
        };
        for _ in 0..300 {
            let (set, other) = (some(60), some(90));
            let (mut at_once, mut one_by_one) = (set.clone(), set.clone());
            at_once.add_all(&other);
            other.ranges().iter().for_each(|range| one_by_one.insert(*range));
            assert_eq!(at_once, one_by_one, "{set:?} and {other:?}");
            let (mut at_once, mut one_by_one) = (set.clone(), set.clone());
            at_once.remove_all(&other);
            other.ranges().iter().for_each(|range| one_by_one.remove(*range));
            assert_eq!(at_once, one_by_one, "{set:?} without {other:?}");
        }
    }

    #[test]
    fn intersection_keeps_what_both_have() {
        let a: PageSet = [range(0, 4), range(10, 5)].into_iter().collect();
        let b: PageSet = [range(2, 9), range(14, 3)].into_iter().collect();
        assert_eq!(a.intersect(&b).ranges(), [range(2, 2), range(10, 1), range(14, 1)]);
    }
}
