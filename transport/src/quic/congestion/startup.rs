//! How the end of the path is looked for: the window grows fast until a queue stands.

use std::time::Duration;

use super::control::float;

/// A window that is doubled each round trip finds the end of the path with a queue as long as the path
/// itself, and every page waits in it. Beyond what a first round trip may well need it grows by half.
const BRISK: f64 = 262_144.0;
const CALM: f64 = 0.5;
/// Epochs in which the rate did not grow by a quarter.
const STALE_EPOCHS: u32 = 3;
/// How long a queue must stand, and half a round trip at least. One that is gone sooner may be a peer
/// that was busy, with next to nothing sent yet.
const STANDING: Duration = Duration::from_millis(20);

/// What was seen since the window began to grow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Startup {
    best: f64,
    stale: u32,
    standing: Option<Standing>,
}

/// A queue that every batch of acknowledgements meets: since when, and what was acknowledged in the
/// meantime. While there is one, that is what the path carries.
#[derive(Debug, Clone, Copy)]
struct Standing {
    since: Duration,
    acked: u64,
}

/// Why it ends with an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// More in flight gives no more.
    Stale,
    /// The queue overflowed: somebody was there before.
    Overflow,
}

impl Startup {
    /// Bytes were acknowledged; by how much the window grows if no queue delayed them.
    pub(super) fn acked(&mut self, window: f64, bytes: u64) -> f64 {
        if let Some(standing) = &mut self.standing {
            standing.acked += bytes;
        }
        if window < BRISK { float(bytes) } else { CALM * float(bytes) }
    }

    /// Acknowledgements came that met no queue, or lost packets: then somebody else may fill the queue,
    /// and the epochs tell.
    pub(super) const fn no_queue(&mut self) {
        self.standing = None;
    }

    /// Acknowledgements came that met a queue; the rate of the path if it has stood for long enough.
    pub(super) fn queue(&mut self, now: Duration, base: Duration) -> Option<f64> {
        let new = Standing { since: now, acked: 0 };
        let Standing { since, acked } = *self.standing.get_or_insert(new);
        let time = now.saturating_sub(since);
        (time >= STANDING.max(base / 2)).then(|| float(acked) / time.as_secs_f64())
    }

    /// An epoch is over: the best rate, the part of it that was lost, and the same lately.
    pub(super) fn epoch(&mut self, rate: f64, lost: f64, lately: f64) -> Option<End> {
        let grew = rate > self.best * 1.25;
        (self.best, self.stale) = if grew { (rate, 0) } else { (self.best, self.stale + 1) };
        if lost > 0.05 && lately > 0.0125 {
            return Some(End::Overflow);
        }
        (self.stale >= STALE_EPOCHS).then_some(End::Stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(60);

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_queue_that_stands_tells_the_rate() {
        let mut startup = Startup::default();
        assert_eq!(startup.queue(ms(100), BASE), None);
        startup.acked(1e5, 10_000);
        assert_eq!(startup.queue(ms(120), BASE), None, "not yet half a round trip");
        startup.acked(1e5, 5_000);
        assert_eq!(startup.queue(ms(130), BASE), Some(500_000.0));
    }

    #[test]
    fn a_queue_that_goes_was_none() {
        let mut startup = Startup::default();
        startup.queue(ms(100), BASE);
        startup.no_queue();
        assert_eq!(startup.queue(ms(140), BASE), None);
    }

    #[test]
    fn epochs_end_it() {
        let mut startup = Startup::default();
        let rates = [10.0, 20.0, 21.0, 22.0, 23.0];
        let ends = rates.map(|rate| startup.epoch(rate, 0.0, 0.0));
        assert_eq!(ends, [None, None, None, None, Some(End::Stale)]);
        assert_eq!(Startup::default().epoch(1.0, 0.1, 0.025), Some(End::Overflow));
    }

    #[test]
    fn it_grows_by_half_once_it_is_large() {
        let mut startup = Startup::default();
        assert_eq!(startup.acked(1e5, 1000), 1000.0);
        assert_eq!(startup.acked(1e6, 1000), 500.0);
    }
}
