//! A bound on how fast bulk leaves, for the sake of others on the same network.
//!
//! Only bulk: a page that somebody waits for, images and messages go at once, and are not counted.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time that was not used counts for so much at most: what a late timer costs is made up for, and no
/// more.
const BURST: Duration = Duration::from_millis(10);

/// Bytes in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate(pub NonZeroU64);

impl ByteRate {
    /// How long so many bytes take.
    fn time_for(self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.0.get() as f64)
    }
}

/// When the next bytes may leave.
#[derive(Debug)]
pub(super) struct Pace {
    rate: ByteRate,
    /// By when all that has left would have, at this rate and no faster.
    due: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(rate: ByteRate) -> Self {
        Self { rate, due: Mutex::new(Instant::now()) }
    }

    /// Counts bytes that are about to leave; tells for how long they must wait.
    pub(super) fn take(&self, bytes: u64) -> Duration {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let (wait, next) = take(self.rate, *due, Instant::now(), bytes);
        *due = next;
        wait
    }
}

/// How long to wait now, and what is due then.
fn take(rate: ByteRate, due: Instant, now: Instant, bytes: u64) -> (Duration, Instant) {
    let due = now.checked_sub(BURST).map_or(due, |oldest| due.max(oldest));
    (due.saturating_duration_since(now), due + rate.time_for(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_leaves_than_the_rate_allows() {
        let rate = ByteRate(NonZeroU64::new(1_000_000).expect("not zero"));
        let ms = Duration::from_millis;
        let start = Instant::now();
        // After so long, so many bytes: they wait for so long.
        let table = [
            (ms(0), 100_000, ms(0)),
            (ms(0), 50_000, ms(100)),
            (ms(100), 0, ms(50)),
            (ms(160), 10_000, ms(0)), // 10 ms late, and made up for
            (ms(160), 10_000, ms(0)),
            (ms(160), 10_000, ms(10)),
            (ms(1000), 20_000, ms(0)), // what was not used for long is lost
            (ms(1000), 1, ms(10)),
        ];
        let mut due = start;
        for (at, bytes, expected) in table {
            let (wait, next) = take(rate, due, start + at, bytes);
            assert_eq!(wait, expected, "{at:?}");
            due = next;
        }
    }
}
