//! How fast missing pages come once the tree runs.

use std::fmt;
use std::time::Duration;

use pages::{ByteCount, PageCount};

/// What came in post-copy in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arrival {
    /// Waits of the program that ended.
    pub faults: u64,
    /// Pages, on demand or in the background.
    pub pages: PageCount,
    /// In this time.
    pub time: Duration,
}

impl Arrival {
    /// How many waits a second.
    pub fn faults_per_second(&self) -> u64 {
        self.per_second(self.faults)
    }

    /// How much memory a second.
    pub fn bytes_per_second(&self) -> ByteCount {
        ByteCount(self.per_second(self.pages.bytes().0))
    }

    fn per_second(&self, count: u64) -> u64 {
        let micros = self.time.as_micros().max(1);
        u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} faults/s, {}/s", self.faults_per_second(), self.bytes_per_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_from_counts() {
        let time = Duration::from_millis(500);
        let arrival = Arrival { faults: 40, pages: PageCount(1024), time };
        assert_eq!(arrival.to_string(), "80 faults/s, 8.0 MiB/s");
        assert_eq!(Arrival::default().to_string(), "0 faults/s, 0 B/s");
    }
}
