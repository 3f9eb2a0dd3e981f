//! How long things took, in buckets of about three percent.

use std::time::Duration;

use super::tally::Spread;

/// Buckets of one octave.
const PARTS: u64 = 32;

/// Times, counted by their logarithm.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    min: Duration,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Vec::new(), count: 0, min: Duration::MAX, max: Duration::ZERO }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, time: Duration) {
        let index = bucket(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        if index >= self.buckets.len() {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] += 1;
        self.count += 1;
        (self.min, self.max) = (self.min.min(time), self.max.max(time));
    }

    /// With all that another has counted.
    pub(crate) fn absorb(&mut self, other: &Self) {
        if other.buckets.len() > self.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, more)| *mine += more);
        self.count += other.count;
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
    }

    pub(crate) fn spread(&self) -> Spread {
        if self.count == 0 {
            return Spread::default();
        }
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        Spread {
            count: self.count,
            min_us: us(self.min),
            p50_us: us(self.percentile(50)),
            p99_us: us(self.percentile(99)),
            max_us: us(self.max),
        }
    }

    /// The upper end of the bucket that the nearest rank is in, but never beyond the extremes.
    fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(end(index)).clamp(self.min, self.max);
            }
        }
        self.max
    }
}

/// Below `2 × PARTS` each number has its own.
fn bucket(nanos: u64) -> usize {
    let octave = u64::from(63 - (nanos | 1).leading_zeros());
    let shift = octave.saturating_sub(u64::from(PARTS.trailing_zeros()));
    usize::try_from(shift * PARTS + (nanos >> shift)).unwrap_or(usize::MAX)
}

/// The last number of a bucket.
fn end(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * PARTS {
        return index;
    }
    let shift = index / PARTS - 1;
    let part = index - shift * PARTS;
    ((part + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_end_where_the_next_begins() {
        for nanos in (0..5000).chain([1 << 20, (1 << 20) + 1, u64::from(u32::MAX), 1 << 50]) {
            let index = bucket(nanos);
            assert!(end(index) >= nanos && bucket(end(index)) == index, "{nanos}");
            assert!(bucket(end(index) + 1) == index + 1, "{nanos}");
            assert!(end(index) - nanos <= nanos / PARTS + 1, "{nanos}");
        }
    }

    #[test]
    fn percentiles() {
        let mut times = Histogram::default();
        (1..=1000).for_each(|us| times.add(Duration::from_micros(us)));
        let spread = times.spread();
        assert_eq!((spread.count, spread.min_us, spread.max_us), (1000, 1.0, 1000.0));
        assert!((500.0..520.0).contains(&spread.p50_us), "{spread:?}");
        assert!((990.0..=1000.0).contains(&spread.p99_us), "{spread:?}");
        assert_eq!(Histogram::default().spread(), Spread::default());
    }
}
