//! What a probe has found, and how it is worked out.

use std::time::{Duration, Instant};

use pages::ByteCount;

use crate::wire::Features;

/// What a path is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Who answered, and why it is believed.
    pub peer: String,
    /// Its release.
    pub software: String,
    /// What both ends can do.
    pub features: Features,
    /// There and back for a few bytes, on the idle link.
    pub round_trip: Times,
    /// What a program would wait for a page that it touches, on the idle link.
    pub idle: Times,
    /// The same while the link is full of other pages.
    pub behind_bulk: Times,
    /// Bytes of memory that arrive in a second.
    pub rate: ByteCount,
    /// Bytes that were sent to find that out.
    pub bytes: ByteCount,
    /// For how long.
    pub took: Duration,
    /// Packets that carried them, those sent again among them.
    pub packets: u64,
    /// How many of these were lost, going there.
    pub lost_packets: u64,
    /// The largest datagram the path carries.
    pub mtu: u16,
}

impl Findings {
    /// The share of packets that were lost.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub fn loss(&self) -> f64 {
        self.lost_packets as f64 / self.packets.max(1) as f64
    }
}

/// Times that were measured, the shortest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// These, in any order.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that `percent` of all did not exceed: 0 is the shortest, 100 the longest. Zero if there
    /// are none.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank.min(self.0.len()).wrapping_sub(1)).copied().unwrap_or_default()
    }
}

/// How much had arrived when.
#[derive(Debug)]
pub(super) struct Arrived {
    since: Instant,
    heard: Vec<(Duration, u64)>,
}

impl Arrived {
    pub(super) fn from_now() -> Self {
        Self { since: Instant::now(), heard: vec![(Duration::ZERO, 0)] }
    }

    /// So many in all, the destination says.
    pub(super) fn add(&mut self, bytes: ByteCount) {
        self.heard.push((self.since.elapsed(), bytes.0));
    }

    pub(super) fn bytes(&self) -> ByteCount {
        ByteCount(self.heard.last().map_or(0, |(_, bytes)| *bytes))
    }

    pub(super) fn took(&self) -> Duration {
        self.heard.last().map_or(Duration::ZERO, |(at, _)| *at)
    }

    pub(super) fn rate(&self) -> ByteCount {
        ByteCount(best_half(&self.heard))
    }
}

/// Bytes a second over that stretch of at least half of the time in which most arrived: the beginning,
/// in which the link fills, is not what a long transfer sees.
fn best_half(heard: &[(Duration, u64)]) -> u64 {
    let half = heard.last().map_or(Duration::ZERO, |(at, _)| *at / 2);
    let mut until = 0;
    let rates = heard.iter().map_while(|(from, had)| {
        let rest = heard.get(until..)?;
        until += rest.iter().position(|(to, _)| *to >= *from + half)?;
        let (to, has) = heard[until];
        let micros = (to - *from).as_micros().max(1);
        Some(u128::from(has.saturating_sub(*had)) * 1_000_000 / micros)
    });
    u64::try_from(rates.max().unwrap_or(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_better_half_is_the_rate() {
        // Two seconds in which it doubles, three of 1 MB/s, one with a hole.
        let mut heard = vec![(Duration::ZERO, 0), (1000 * MS, 100_000), (2000 * MS, 300_000)];
        heard.extend((1..=30_u64).map(|at| {
            (MS * 2000 + MS * 100 * u32::try_from(at).unwrap_or(0), 300_000 + at * 100_000)
        }));
        heard.push((6000 * MS, 3_300_000));
        assert_eq!(best_half(&heard), 1_000_000);
        assert_eq!(best_half(&[]), 0);
        assert_eq!(best_half(&[(Duration::ZERO, 0)]), 0);
        assert_eq!(best_half(&[(Duration::ZERO, 0), (100 * MS, 1000)]), 10_000);
    }

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let times = Times::of((1..=10).rev().map(|at| at * MS).collect());
        let at = |percent| times.percentile(percent).as_millis();
        assert_eq!([0, 10, 50, 90, 91, 100].map(at), [1, 1, 5, 9, 10, 10]);
        assert_eq!(Times::default().percentile(50), Duration::ZERO);
    }
}
