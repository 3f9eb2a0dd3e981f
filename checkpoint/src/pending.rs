//! Which owed pages have not been sent yet, and which of them goes next.
//!
//! Pure: no I/O, no clock. The order: what follows a page that was just wanted, as long as wishes
//! come one after the other; then what is likely to be in use; then the rest, ascending.

use std::collections::{BTreeMap, VecDeque};

use pages::{PageCount, PageIndex, PageRange, PageSet, SpaceId};

/// Wishes that are followed at a time; the oldest is forgotten first.
const TRAILS: usize = 8;
/// Pages that are sent behind a wish before the order goes back to what is next anyway.
const TRAIL: u64 = 128;

/// Owed pages not sent yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    spaces: BTreeMap<SpaceId, Runs>,
    hot: VecDeque<(SpaceId, PageRange)>,
    trails: VecDeque<Trail>,
}

/// A place where wishes came one after the other.
#[derive(Debug)]
struct Trail {
    space: SpaceId,
    next: PageIndex,
    left: u64,
}

impl Pending {
    /// All of `pages` are to be sent, `hot` among them first.
    pub(crate) fn owe(&mut self, space: SpaceId, pages: &PageSet, hot: &PageSet) {
        let runs = self.spaces.entry(space).or_default();
        pages.ranges().iter().for_each(|range| runs.insert(*range));
        self.hot.extend(hot.ranges().iter().map(|range| (space, *range)));
    }

    /// Nothing of what was owed counts any more: what is missing is about to be told.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many pages are left.
    pub(crate) fn left(&self) -> PageCount {
        self.spaces.values().map(|runs| PageCount(runs.pages)).sum()
    }

    /// These are being sent on account of a wish.
    pub(crate) fn wanted(&mut self, space: SpaceId, range: PageRange) {
        let Some(runs) = self.spaces.get_mut(&space) else { return };
        runs.remove(range);
        let behind = range.end();
        let known = self.trails.iter().position(|trail| {
            trail.space == space && trail.next.0.abs_diff(range.start().0) <= TRAIL
        });
        let mut trail = match known.and_then(|at| self.trails.remove(at)) {
            Some(trail) => Trail { left: TRAIL, ..trail },
            None => Trail { space, next: behind, left: 0 },
        };
        trail.next = trail.next.max(behind);
        self.trails.push_front(trail);
        self.trails.truncate(TRAILS);
    }

    /// Takes the next pages out, at most `most`.
    pub(crate) fn next(&mut self, most: PageCount) -> Option<(SpaceId, PageRange)> {
        for trail in &mut self.trails {
            let Some(runs) = self.spaces.get_mut(&trail.space) else { continue };
            let wanted = PageRange::new(trail.next, PageCount(trail.left.min(most.0)));
            if let Some(range) = wanted.and_then(|wanted| runs.take_within(wanted)) {
                trail.left -= range.count().0.min(trail.left);
                trail.next = range.end();
                return Some((trail.space, range));
            }
            trail.left = 0;
        }
        while let Some((space, range)) = self.hot.pop_front() {
            let Some(runs) = self.spaces.get_mut(&space) else { continue };
            if let Some(taken) = runs.take_within(range.split_at(most).0) {
                let rest = PageRange::between(taken.end(), range.end());
                rest.into_iter().for_each(|rest| self.hot.push_front((space, rest)));
                return Some((space, taken));
            }
            let rest = range.split_at(most).1;
            rest.into_iter().for_each(|rest| self.hot.push_front((space, rest)));
        }
        let (space, runs) = self.spaces.iter_mut().find(|(_, runs)| runs.pages > 0)?;
        Some((*space, runs.take_first(most)?))
    }
}

/// Runs of pages, any of which may be taken out.
#[derive(Debug, Default)]
struct Runs {
    by_start: BTreeMap<u64, u64>,
    pages: u64,
}

impl Runs {
    /// Adds a run; pages that are there already stay.
    fn insert(&mut self, range: PageRange) {
        self.remove(range);
        self.by_start.insert(range.start().0, range.end().0);
        self.pages += range.count().0;
    }

    fn remove(&mut self, range: PageRange) {
        while self.take_within(range).is_some() {}
    }

    fn take_first(&mut self, most: PageCount) -> Option<PageRange> {
        let (&start, &end) = self.by_start.first_key_value()?;
        let whole = PageRange::between(PageIndex(start), PageIndex(end))?;
        self.take_within(whole.split_at(most).0)
    }

    /// Takes out the first run of pages that are both here and in `range`.
    fn take_within(&mut self, range: PageRange) -> Option<PageRange> {
        let [from, to] = [range.start().0, range.end().0];
        let before = self.by_start.range(..=from).next_back().filter(|(_, end)| **end > from);
        let (&start, &end) = before.or_else(|| self.by_start.range(from..to).next())?;
        let taken = PageRange::between(PageIndex(start.max(from)), PageIndex(end.min(to)))?;
        self.by_start.remove(&start);
        if start < taken.start().0 {
            self.by_start.insert(start, taken.start().0);
        }
        if taken.end().0 < end {
            self.by_start.insert(taken.end().0, end);
        }
        self.pages -= taken.count().0;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use pages::TaskId;

    use super::*;

    const SPACE: SpaceId = SpaceId::Process(TaskId(1));
    const MOST: PageCount = PageCount(64);

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
    }

    fn owing(pages: &[(u64, u64)], hot: &[(u64, u64)]) -> Pending {
        let set = |of: &[(u64, u64)]| -> PageSet {
            of.iter().map(|(start, count)| range(*start, *count)).collect()
        };
        let mut pending = Pending::default();
        pending.owe(SPACE, &set(pages), &set(hot));
        pending
    }

    fn all(pending: &mut Pending) -> Vec<(u64, u64)> {
        let next = || pending.next(MOST).map(|(_, range)| (range.start().0, range.count().0));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn each_page_goes_once_and_hot_ones_first() {
        let mut pending = owing(&[(0, 100), (200, 10)], &[(70, 3), (200, 10)]);
        pending.wanted(SPACE, range(5, 1));
        assert_eq!(pending.left(), PageCount(109));
        assert_eq!(all(&mut pending), [(70, 3), (200, 10), (0, 5), (6, 64), (73, 27)]);
        assert_eq!(pending.left(), PageCount(0));
    }

    #[test]
    fn one_wish_is_a_chance_and_two_are_a_trail() {
        let mut pending = owing(&[(0, 10), (1000, 1000)], &[]);
        pending.wanted(SPACE, range(1500, 1));
        assert_eq!(pending.next(MOST), Some((SPACE, range(0, 10))));
        pending.wanted(SPACE, range(1501, 1));
        assert_eq!(pending.next(MOST), Some((SPACE, range(1502, 64))));
        // The program has caught up with what is under way.
        pending.wanted(SPACE, range(1530, 1));
        assert_eq!(pending.next(MOST), Some((SPACE, range(1566, 64))));
        assert_eq!(pending.next(MOST), Some((SPACE, range(1630, 64))));
        assert_eq!(pending.next(MOST), Some((SPACE, range(1000, 64))), "the trail has gone cold");
    }

    #[test]
    fn what_is_told_again_replaces_what_was_owed() {
        let mut pending = owing(&[(0, 10)], &[(0, 10)]);
        pending.clear();
        pending.owe(SPACE, &[range(4, 2)].into_iter().collect(), &PageSet::new());
        assert_eq!(all(&mut pending), [(4, 2)]);
    }
}
