//! How fast pages come.

use std::time::{Duration, Instant};

use pages::PAGE_SIZE;

/// Bytes over time, measured from one turn to the next.
pub(crate) struct Rate {
    since: Instant,
    bytes: u64,
    per_second: u64,
}

impl Rate {
    /// Nothing has come yet.
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), bytes: 0, per_second: 0 }
    }

    /// These have come.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Begins to measure anew; what was measured counts until the next turn.
    pub(crate) fn turn(&mut self) {
        let now = Instant::now();
        let millis = u64::try_from((now - self.since).as_millis()).unwrap_or(u64::MAX).max(1);
        self.per_second = self.bytes.saturating_mul(1000) / millis;
        (self.since, self.bytes) = (now, 0);
    }

    /// How many whole pages come in that time.
    pub(crate) fn pages_in(&self, time: Duration) -> u64 {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.per_second.saturating_mul(micros) / 1_000_000 / PAGE_SIZE as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_from_bytes() {
        let mut rate = Rate::new();
        assert_eq!(rate.pages_in(Duration::from_secs(1)), 0);
        rate.per_second = 800 << 20;
        assert_eq!(rate.pages_in(Duration::from_micros(100)), 20);
        rate.per_second = 12_500_000;
        assert_eq!(rate.pages_in(Duration::from_micros(100)), 0);
        rate.add(5);
        rate.turn();
        assert_eq!(rate.bytes, 0);
    }
}
