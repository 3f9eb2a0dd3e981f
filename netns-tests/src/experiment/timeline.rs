//! Latencies over time, in bounded memory however long it lasts.

use std::time::Duration;

use crate::link::Histogram;

/// How wide a bucket is at first.
const FIRST_US: u64 = 5000;
/// As many buckets as there may be: then two and two become one, and all are twice as wide.
const MOST: usize = 2048;

/// Buckets of equal width, from the first time that was added on.
#[derive(Debug)]
pub(super) struct Timeline {
    width_us: u64,
    from_us: i64,
    buckets: Vec<Histogram>,
    all: Histogram,
}

/// What was asked in one bucket: its beginning, how much, and how long the answers took.
pub(super) type Point = (i64, u64, u64, u64);

impl Timeline {
    /// Nothing is before `from_us`.
    pub(super) fn since(from_us: i64) -> Self {
        Self { width_us: FIRST_US, from_us, buckets: Vec::new(), all: Histogram::default() }
    }

    pub(super) fn add(&mut self, at_us: i64, took: Duration) {
        let after = u64::try_from(at_us - self.from_us).unwrap_or(0);
        let place = |width: u64| usize::try_from(after / width).unwrap_or(usize::MAX);
        while place(self.width_us) >= MOST {
            self.halve();
        }
        let place = place(self.width_us);
        if place >= self.buckets.len() {
            self.buckets.resize_with(place + 1, Histogram::default);
        }
        self.buckets[place].add(took);
        self.all.add(took);
    }

    fn halve(&mut self) {
        let before = std::mem::take(&mut self.buckets);
        self.buckets.resize_with(before.len().div_ceil(2), Histogram::default);
        for (at, bucket) in before.iter().enumerate() {
            self.buckets[at / 2].absorb(bucket);
        }
        self.width_us *= 2;
    }

    pub(super) fn width_us(&self) -> u64 {
        self.width_us
    }

    /// How much, half of it no longer than, 99 of 100, the longest.
    pub(super) fn all(&self) -> [u64; 4] {
        let spread = self.all.spread();
        [spread.count, whole(spread.p50_us), whole(spread.p99_us), whole(spread.max_us)]
    }

    /// Of each bucket that has any: when it began, how much, the middle one, the longest.
    pub(super) fn points(&self) -> Vec<Point> {
        let of = |(at, bucket): (i64, &Histogram)| {
            let spread = bucket.spread();
            (spread.count > 0).then(|| {
                let began = self.from_us + at * i64::try_from(self.width_us).unwrap_or(i64::MAX);
                (began, spread.count, whole(spread.p50_us), whole(spread.max_us))
            })
        };
        (0..).zip(&self.buckets).filter_map(of).collect()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time, rounded")]
fn whole(us: f64) -> u64 {
    us.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_grow_wider_and_none_is_lost() {
        let mut line = Timeline::since(1_000_000);
        for (at, us) in [(0, 100), (1000, 300), (2000, 900), (5000, 50), (17_000, 7)] {
            line.add(1_000_000 + at, Duration::from_micros(us));
        }
        assert_eq!(line.width_us(), 5000);
        let points = line.points();
        assert_eq!(
            points.iter().map(|it| it.0).collect::<Vec<_>>(),
            [1_000_000, 1_005_000, 1_015_000]
        );
        assert_eq!((points[0].1, points[0].3, points[1].1), (3, 900, 1));
        assert!((300..=310).contains(&points[0].2), "{points:?}");
        // A minute: five of the buckets before are one.
        line.add(61_000_000, Duration::from_millis(9));
        assert_eq!(line.width_us(), 40_000);
        assert!(line.buckets.len() <= MOST);
        let points = line.points();
        assert_eq!(points.iter().map(|it| it.1).collect::<Vec<_>>(), [5, 1]);
        assert_eq!((points[0].3, line.all()[0], line.all()[3]), (900, 6, 9000));
    }
}
