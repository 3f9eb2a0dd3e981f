//! What the acknowledgements say about the path: its shortest round trip, its rate, its noise.

use std::collections::VecDeque;
use std::time::Duration;

/// A round trip this old no longer says how short the path is: routes change.
const BASE_MEMORY: Duration = Duration::from_secs(10);
/// The same while another flow keeps the queue filled.
const CONTEST_MEMORY: Duration = Duration::from_secs(60);
/// Epochs whose best rate counts as the path's.
const RATE_MEMORY: usize = 5;
/// Noise below this is how acknowledgements and pacing always look.
const QUIET: Duration = Duration::from_micros(500);
/// More noise than this is not waited for.
const LOUDEST: Duration = Duration::from_millis(12);

/// The shortest round trip of the last [`BASE_MEMORY`], in two halves.
#[derive(Debug, Clone, Default)]
pub(super) struct BaseRtt {
    now: Option<Duration>,
    before: Option<Duration>,
    since: Duration,
}

impl BaseRtt {
    /// What is known of a route that has just become another.
    pub(super) const fn starting(now: Duration, rtt: Duration) -> Self {
        Self { now: Some(rtt), before: None, since: now }
    }

    pub(super) fn sample(&mut self, now: Duration, rtt: Duration, contested: bool) {
        let memory = if contested { CONTEST_MEMORY } else { BASE_MEMORY };
        if now.saturating_sub(self.since) >= memory / 2 {
            self.before = self.now.take();
            self.since = now;
        }
        self.now = Some(self.now.map_or(rtt, |least| least.min(rtt)));
    }

    pub(super) fn get(&self) -> Option<Duration> {
        match (self.now, self.before) {
            (Some(now), Some(before)) => Some(now.min(before)),
            (now, before) => now.or(before),
        }
    }

    /// True if the present half is about to end and nothing in it came near the shortest: what
    /// would be remembered afterwards has our own queue in it.
    pub(super) fn wants_refresh(&self, now: Duration, near: Duration) -> bool {
        let late = now.saturating_sub(self.since) >= BASE_MEMORY * 9 / 20;
        let fresh = match (self.now, self.get()) {
            (Some(now), Some(base)) => now <= base + near,
            _ => false,
        };
        late && !fresh
    }
}

/// Delivery rates in bytes a second, one an epoch.
#[derive(Debug, Clone, Default)]
pub(super) struct Rates(VecDeque<f64>);

impl Rates {
    /// A rate that the application held back only says that the path can do at least that.
    pub(super) fn push(&mut self, rate: f64, held_back: bool) {
        if held_back && rate <= self.best() {
            return;
        }
        if self.0.len() == RATE_MEMORY {
            self.0.pop_front();
        }
        self.0.push_back(rate);
    }

    pub(super) fn best(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }

    pub(super) fn last(&self) -> f64 {
        self.0.back().copied().unwrap_or_default()
    }
}

/// The most that we had of the path while nobody disputed it. Fades, in case the path is not what it
/// was.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Undisputed {
    pub(super) window: f64,
    pub(super) rate: f64,
}

impl Undisputed {
    /// What is left after an epoch.
    const FADES: f64 = 0.998;

    pub(super) fn sample(&mut self, window: f64, rate: f64) {
        self.window = window.max(self.window * Self::FADES);
        self.rate = rate.max(self.rate * Self::FADES);
    }
}

/// How much the round trips of epochs differ from one to the next beside any steady trend: a queue
/// that fills or drains is a trend, jitter is not.
#[derive(Debug, Clone, Default)]
pub(super) struct Noise {
    last: Option<f64>,
    slope: Option<f64>,
    level: f64,
}

impl Noise {
    pub(super) fn sample(&mut self, rtt: Duration) {
        let rtt = rtt.as_secs_f64();
        let slope = self.last.map(|last| rtt - last);
        if let (Some(slope), Some(before)) = (slope, self.slope) {
            // The mean of the second difference of independent samples is 1.7 times that of the
            // first. A single leap is not noise: what one epoch can add is bounded.
            let leap = (slope - before).abs() / 1.7;
            self.level += (leap.min(4.0 * self.level + 1e-3) - self.level) / 16.0;
        }
        self.slope = slope;
        self.last = Some(rtt);
    }

    /// How far the shortest of many epochs lies below the others for no reason.
    pub(super) fn allowance(&self) -> Duration {
        (Duration::from_secs_f64(self.level).saturating_sub(QUIET) * 3).min(LOUDEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_shortest_round_trip_is_forgotten_after_ten_seconds() {
        let mut base = BaseRtt::default();
        assert_eq!(base.get(), None);
        base.sample(ms(0), ms(20), false);
        for at in 1..500 {
            base.sample(ms(10 * at), ms(50), false);
        }
        assert_eq!(base.get(), Some(ms(20)));
        assert!(base.wants_refresh(ms(4990), ms(1)) == (base.now != Some(ms(20))));
        for at in 500..1100 {
            base.sample(ms(10 * at), ms(50), false);
        }
        assert_eq!(base.get(), Some(ms(50)));
    }

    #[test]
    fn a_refresh_is_due_when_nothing_came_near() {
        let mut base = BaseRtt::default();
        base.sample(ms(0), ms(20), false);
        base.sample(ms(5000), ms(22), false);
        assert!(!base.wants_refresh(ms(6000), ms(1)), "too early");
        assert!(base.wants_refresh(ms(9600), ms(1)));
        assert!(!base.wants_refresh(ms(9600), ms(2)), "near enough");
        base.sample(ms(9700), ms(20), false);
        assert!(!base.wants_refresh(ms(9800), ms(1)), "seen again");
    }

    #[test]
    fn held_back_rates_only_raise() {
        let mut rates = Rates::default();
        rates.push(100.0, false);
        rates.push(10.0, true);
        assert_eq!((rates.best(), rates.last()), (100.0, 100.0));
        rates.push(120.0, true);
        (0..8).for_each(|_| rates.push(50.0, false));
        assert_eq!(rates.best(), 50.0);
    }

    #[test]
    fn a_trend_is_no_noise() {
        let mut trend = Noise::default();
        (0..100).for_each(|at| trend.sample(ms(20 + 2 * at)));
        assert_eq!(trend.allowance(), Duration::ZERO);
        let mut noise = Noise::default();
        (0..100).for_each(|at| noise.sample(ms(20 + 10 * (at % 2))));
        assert!(noise.allowance() > ms(5), "{:?}", noise.allowance());
    }
}
