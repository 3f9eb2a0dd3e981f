//! What a migration over a measured path would take.

use std::time::Duration;

use pages::ByteCount;

use super::Findings;

/// What is not memory crosses too: images of a small tree.
const IMAGES: u64 = 64 << 10;
/// To stop a small tree, read its state, and build it there.
const WORK: Duration = Duration::from_millis(15);

/// What a migration would take, if memory cannot be compressed and nobody else uses the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// How long the tree would stand still if all of it crosses then.
    pub stopped: Duration,
    /// How long if its pages follow.
    pub followed: Duration,
    /// Until every page is there, either way.
    pub complete: Duration,
}

impl Forecast {
    /// For a tree with so much memory.
    pub fn of(memory: ByteCount, found: &Findings) -> Self {
        Self::over(memory, found.round_trip.percentile(50), found.rate)
    }

    /// While a tree stands still its last word goes there, the answer comes back, and the hand-over goes
    /// there: a round trip and a half. Before that come the handshake, the hello and the plan: a round trip
    /// each, and one until the link is full.
    fn over(memory: ByteCount, round_trip: Duration, rate: ByteCount) -> Self {
        let crossing = |bytes: u64| {
            let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.0.max(1));
            Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
        };
        let (handed, agreed) = (round_trip * 3 / 2 + WORK, round_trip * 4);
        let stopped = handed.saturating_add(crossing(memory.0.saturating_add(IMAGES)));
        Self {
            stopped,
            followed: handed.saturating_add(crossing(IMAGES)),
            complete: stopped.saturating_add(agreed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_takes_time_and_so_do_words() {
        let ms = Duration::from_millis;
        // MiB of memory, round trip, MB/s: stopped, followed, complete.
        let rows = [
            (0, 0, 12, 20, 20, 20),
            (64, 0, 12, 5612, 20, 5612),
            (64, 100, 12, 5762, 170, 6162),
            (64, 100, 120, 724, 165, 1124),
            (1024, 600, 2, 537_818, 947, 540_218),
        ];
        for (mib, rtt, mega, stopped, followed, complete) in rows {
            let told = Forecast::over(ByteCount(mib << 20), ms(rtt), ByteCount(mega * 1_000_000));
            let told = [told.stopped, told.followed, told.complete].map(|time| time.as_millis());
            assert_eq!(told, [stopped, followed, complete], "{mib} MiB, {rtt} ms, {mega} MB/s");
        }
        let never = Forecast::over(ByteCount(u64::MAX), ms(1), ByteCount(0));
        assert!(never.complete > Duration::from_secs(u64::from(u32::MAX)));
    }
}
