//! How long faults took: a histogram of bounded size.

use std::time::Duration;

use crate::wire::FaultTotals;

/// Steps of one doubling: what is told as a percentile is at most 1/16 too much.
const STEPS: usize = 16;
/// From below a microsecond to above an hour.
const DOUBLINGS: usize = 33;

/// Latencies, counted by their logarithm.
#[derive(Clone, PartialEq, Eq)]
pub struct Latencies {
    counts: Box<[u64]>,
    count: u64,
    longest: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        let counts = vec![0; STEPS * DOUBLINGS].into();
        Self { counts, count: 0, longest: Duration::ZERO }
    }
}

impl Latencies {
    /// One more.
    pub fn add(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.counts[step(micros)] += 1;
        self.count += 1;
        self.longest = self.longest.max(latency);
    }

    /// All of it, to be told.
    pub fn totals(&self) -> FaultTotals {
        FaultTotals {
            count: self.count,
            p50: self.percentile(50),
            p99: self.percentile(99),
            longest: self.longest,
            buckets: self.buckets(),
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The latency that `percent` of all did not exceed; zero if there were none.
    pub fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        let upper = found.map_or(Duration::ZERO, |at| Duration::from_micros(upper(at)));
        upper.min(self.longest)
    }

    /// Bucket n counts those of at least 2ⁿ⁻¹ and less than 2ⁿ microseconds (the first: less than
    /// one); ends with the last that is not empty.
    pub fn buckets(&self) -> Vec<u64> {
        let mut buckets = vec![0; DOUBLINGS + 1];
        for (at, count) in self.counts.iter().enumerate() {
            let lower = if at == 0 { 0 } else { upper(at - 1) };
            let bucket = (u64::BITS - lower.leading_zeros()) as usize;
            buckets[bucket.min(DOUBLINGS)] += count;
        }
        let used = buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        buckets.truncate(used);
        buckets
    }
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p99] = [50, 99].map(|percent| self.percentile(percent));
        write!(f, "{} latencies, p50 {p50:?}, p99 {p99:?}", self.count)
    }
}

/// Which step a number of microseconds is counted in: exact below `STEPS`, then its first four bits
/// after the leading one.
fn step(micros: u64) -> usize {
    let linear = STEPS as u64;
    if micros < linear {
        return usize::try_from(micros).expect("below 16");
    }
    let doubling = (micros / linear).ilog2();
    let within = usize::try_from((micros >> doubling) - linear).expect("four bits");
    ((doubling as usize + 1) * STEPS + within).min(STEPS * DOUBLINGS - 1)
}

/// One more than the largest number of microseconds of a step.
fn upper(step: usize) -> u64 {
    let (doubling, within) = (step / STEPS, (step % STEPS) as u64);
    match doubling {
        0 => within + 1,
        doubling => (STEPS as u64 + within + 1) << (doubling - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_close_and_never_too_small() {
        let mut latencies = Latencies::default();
        (1..=1000_u64).for_each(|at| latencies.add(Duration::from_micros(at * 37)));
        for percent in [1, 50, 90, 99, 100] {
            let exact = Duration::from_micros(percent * 10 * 37);
            let told = latencies.percentile(percent);
            assert!(told >= exact && told <= exact + exact / 10, "{percent}: {told:?}");
        }
        assert_eq!(latencies.percentile(100), latencies.longest());
        assert_eq!(Latencies::default().percentile(99), Duration::ZERO);
    }

    #[test]
    fn buckets_are_powers_of_two() {
        let mut latencies = Latencies::default();
        for micros in [0, 1, 2, 3, 4, 15, 16, 31, 32, 100_000] {
            latencies.add(Duration::from_micros(micros));
        }
        let buckets = latencies.buckets();
        assert_eq!(buckets[..7], [1, 1, 2, 1, 1, 2, 1]);
        assert_eq!((buckets.len(), buckets.last()), (18, Some(&1)));
        assert_eq!(buckets.iter().sum::<u64>(), latencies.count());
    }

    #[test]
    fn every_step_holds_what_is_counted_in_it() {
        for micros in (0..5000).chain((5000..10_000_000).step_by(997)) {
            let at = step(micros);
            assert!(micros < upper(at) && (at == 0 || micros >= upper(at - 1)), "{micros}");
        }
        assert_eq!(step(u64::MAX), STEPS * DOUBLINGS - 1);
    }
}
