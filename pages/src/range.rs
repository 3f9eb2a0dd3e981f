//! A run of consecutive pages.

use std::fmt;

use crate::{ByteCount, PageCount, PageIndex, VirtAddr};

/// Consecutive pages: never empty, half-open, inside the 64-bit address space by construction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRange {
    start: PageIndex,
    count: PageCount,
}

impl PageRange {
    /// `count` pages from `start`; `None` if that is no page or runs off the end of the address space.
    pub const fn new(start: PageIndex, count: PageCount) -> Option<Self> {
        if count.0 == 0 || start.0 > PageIndex::MAX.0 || count.0 > PageIndex::MAX.0 - start.0 + 1 {
            return None;
        }
        Some(Self { start, count })
    }

    /// Pages from `start` up to, not including, `end`.
    pub const fn between(start: PageIndex, end: PageIndex) -> Option<Self> {
        if end.0 <= start.0 {
            return None;
        }
        Self::new(start, PageCount(end.0 - start.0))
    }

    /// The pages of the byte range `start..end`, which must be page aligned.
    pub const fn from_addrs(start: VirtAddr, end: VirtAddr) -> Option<Self> {
        if !start.is_page_aligned() || !end.is_page_aligned() {
            return None;
        }
        Self::between(start.page(), end.page())
    }

    /// The first page.
    pub const fn start(self) -> PageIndex {
        self.start
    }

    /// One past the last page.
    pub const fn end(self) -> PageIndex {
        PageIndex(self.start.0 + self.count.0)
    }

    /// How many pages; at least one.
    pub const fn count(self) -> PageCount {
        self.count
    }

    /// How many bytes.
    pub const fn bytes(self) -> ByteCount {
        self.count.bytes()
    }

    /// Address of the first byte.
    pub const fn start_addr(self) -> VirtAddr {
        self.start.address()
    }

    /// Address one past the last byte.
    pub const fn end_addr(self) -> VirtAddr {
        VirtAddr(self.start_addr().0.wrapping_add(self.bytes().0))
    }

    /// True if `page` is one of these.
    pub const fn contains(self, page: PageIndex) -> bool {
        page.0 >= self.start.0 && page.0 < self.end().0
    }

    /// True if every page of `other` is one of these.
    pub const fn covers(self, other: Self) -> bool {
        other.start.0 >= self.start.0 && other.end().0 <= self.end().0
    }

    /// What of it, from its page `done` on, is within one of `ranges`, or beside all of them; true if
    /// within. `ranges` are sorted and disjoint.
    ///
    /// # Panics
    ///
    /// If it has no page `done`.
    pub fn part(self, done: PageCount, ranges: &[Self]) -> (Self, bool) {
        let start = PageIndex(self.start().0 + done.0);
        let next = ranges.partition_point(|range| range.end() <= start);
        let (end, within) = match ranges.get(next) {
            Some(range) if range.start() <= start => (range.end(), true),
            Some(range) => (range.start(), false),
            None => (self.end(), false),
        };
        let part = Self::between(start, end.min(self.end()));
        (part.expect("a part of a range is one"), within)
    }

    /// The pages both have.
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::between(self.start.max(other.start), self.end().min(other.end()))
    }

    /// The first `count` pages and the rest; the rest is `None` if there are no more than that.
    /// A `count` of zero is taken as one, so that a loop over pieces always ends.
    pub fn split_at(self, count: PageCount) -> (Self, Option<Self>) {
        let head = count.0.clamp(1, self.count.0);
        let first = Self { start: self.start, count: PageCount(head) };
        (first, Self::between(first.end(), self.end()))
    }

    /// The range in pieces of at most `most` pages.
    pub fn pieces(self, most: PageCount) -> impl Iterator<Item = Self> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let (piece, after) = rest?.split_at(most);
            rest = after;
            Some(piece)
        })
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start_addr().0, self.end_addr().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::between(PageIndex(start), PageIndex(end)).expect("a range")
    }

    #[test]
    fn emptiness_and_overflow_cannot_be_built() {
        assert_eq!(PageRange::new(PageIndex(3), PageCount(0)), None);
        assert_eq!(PageRange::between(PageIndex(3), PageIndex(3)), None);
        assert_eq!(PageRange::new(PageIndex::MAX, PageCount(2)), None);
        assert!(PageRange::new(PageIndex::MAX, PageCount(1)).is_some());
        assert_eq!(PageRange::new(PageIndex(u64::MAX), PageCount(u64::MAX)), None);
        assert_eq!(PageRange::from_addrs(VirtAddr(1), VirtAddr(0x2000)), None);
    }

    #[test]
    fn pieces_cover_the_range_in_order() {
        let pieces: Vec<_> = range(10, 17).pieces(PageCount(3)).collect();
        assert_eq!(pieces, [range(10, 13), range(13, 16), range(16, 17)]);
        assert_eq!(range(10, 12).pieces(PageCount(0)).count(), 2);
    }

    #[test]
    fn intersection_is_symmetric() {
        assert_eq!(range(1, 5).intersect(range(4, 9)), Some(range(4, 5)));
        assert_eq!(range(4, 9).intersect(range(1, 5)), Some(range(4, 5)));
        assert_eq!(range(1, 4).intersect(range(4, 9)), None);
    }

    #[test]
    fn parts_are_within_one_range_or_beside_all() {
        let ranges = [range(5, 10), range(10, 12)];
        let (whole, mut done, mut parts) = (range(2, 14), PageCount(0), Vec::new());
        while done < whole.count() {
            let (part, within) = whole.part(done, &ranges);
            parts.push((part, within));
            done.0 += part.count().0;
        }
        let expected = [
            (range(2, 5), false),
            (range(5, 10), true),
            (range(10, 12), true),
            (range(12, 14), false),
        ];
        assert_eq!(parts, expected);
    }
}
