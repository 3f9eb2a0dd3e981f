//! What was seen in about one round trip.

use std::time::Duration;

use super::control::float;

/// The shortest epoch: three time slices of a scheduler.
const SHORTEST: Duration = Duration::from_millis(10);
/// Batches of acknowledgements whose round trips are looked at.
const MOST_SAMPLES: usize = 4096;

/// Ends when a packet that was sent in it has been acknowledged.
#[derive(Debug, Clone, Default)]
pub(super) struct Epoch {
    start: Duration,
    acked: u64,
    held_back: u64,
    lost: u64,
    /// The most that was in flight.
    flown: f64,
    over: bool,
    /// The shortest of each batch of acknowledgements.
    rtts: Vec<Duration>,
}

impl Epoch {
    pub(super) fn starting(now: Duration) -> Self {
        Self { start: now, ..Self::default() }
    }

    /// So much is in flight.
    pub(super) const fn flies(&mut self, bytes: f64) {
        self.flown = self.flown.max(bytes);
    }

    pub(super) const fn acked(&mut self, bytes: u64, held_back: bool) {
        self.acked += bytes;
        if held_back {
            self.held_back += bytes;
        }
    }

    /// A packet that was sent then was acknowledged.
    pub(super) fn heard_of(&mut self, sent: Duration, now: Duration) {
        self.over |= sent >= self.start && now.saturating_sub(self.start) >= SHORTEST;
    }

    /// The shortest round trip of acknowledgements that came together.
    pub(super) fn took(&mut self, rtt: Duration) {
        if self.rtts.len() < MOST_SAMPLES {
            self.rtts.push(rtt);
        }
    }

    pub(super) const fn lost(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// The lower quartile: what the scheduler did to one of our two processes is not in it, and it does
    /// not depend on how many there were, as the shortest one would.
    pub(super) fn rtt(&mut self) -> Option<Duration> {
        let quartile = self.rtts.len() / 4;
        (!self.rtts.is_empty()).then(|| *self.rtts.select_nth_unstable(quartile).1)
    }

    /// Bytes a second. Acknowledgements that waited for something come in bursts; no path is that fast.
    pub(super) fn rate(&self, now: Duration, rtt: Duration) -> f64 {
        let time = now.saturating_sub(self.start).max(rtt.mul_f64(0.95));
        float(self.acked) / time.as_secs_f64()
    }

    /// There was nothing to send for most of it.
    pub(super) const fn held_back(&self) -> bool {
        self.held_back * 2 > self.acked
    }

    pub(super) const fn lost_bytes(&self) -> f64 {
        float(self.lost)
    }

    pub(super) fn lost_part(&self) -> f64 {
        float(self.lost) / float((self.lost + self.acked).max(1))
    }

    pub(super) const fn flown(&self) -> f64 {
        self.flown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_a_packet_of_its_own_and_not_too_soon() {
        let ms = Duration::from_millis;
        let mut epoch = Epoch::starting(ms(100));
        epoch.heard_of(ms(99), ms(130));
        epoch.heard_of(ms(100), ms(109));
        assert!(!epoch.is_over());
        epoch.heard_of(ms(100), ms(110));
        assert!(epoch.is_over());
    }

    #[test]
    fn its_round_trip_is_the_lower_quartile() {
        let mut epoch = Epoch::default();
        assert_eq!(epoch.rtt(), None);
        for rtt in [9, 1, 5, 3] {
            epoch.took(Duration::from_millis(rtt));
        }
        assert_eq!(epoch.rtt(), Some(Duration::from_millis(3)));
        epoch.acked(950, false);
        let (now, rtt) = (Duration::from_millis(1), Duration::from_millis(10));
        assert_eq!(epoch.rate(now, rtt), 100_000.0, "no faster than in a round trip");
    }
}
