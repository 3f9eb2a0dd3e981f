//! Holding a share beside flows that only loss holds back.

use std::time::Duration;

/// RFC 9438, section 4.1: packets a second cubed.
const C: f64 = 0.4;
/// RFC 9438, section 4.6: what a loss leaves of the window.
const BETA: f64 = 0.7;
/// RFC 9438, section 4.3: packets a round trip of a Reno flow with this [`BETA`].
const RENO: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The window of Cubic, in packets.
#[derive(Debug, Clone)]
pub(super) struct Contest {
    since: Duration,
    /// The window at `since`, and the one to which it wants back.
    start: f64,
    aim: f64,
    /// The longest round trip seen: a loss beside a short one was not for the queue's sake.
    longest: Duration,
    /// The shortest and the longest round trip since it began.
    span: Option<(Duration, Duration)>,
}

impl Contest {
    pub(super) fn new(now: Duration, window: f64) -> Self {
        Self { since: now, start: window, aim: window, longest: Duration::ZERO, span: None }
    }

    /// An epoch had this round trip.
    pub(super) fn saw(&mut self, rtt: Duration) {
        let (least, most) = self.span.unwrap_or((rtt, rtt));
        self.span = Some((least.min(rtt), most.max(rtt)));
    }

    /// The round trip, if it was the same all the time: nobody's queue is that steady.
    pub(super) fn steady(&self, within: Duration) -> Option<Duration> {
        self.span.filter(|(least, most)| *most <= *least + within).map(|(least, _)| least)
    }

    /// The window at the end of an epoch.
    pub(super) fn window(&mut self, now: Duration, rtt: Duration) -> f64 {
        self.longest = self.longest.max(rtt);
        let time = now.saturating_sub(self.since).as_secs_f64();
        let back = ((self.aim - self.start) / C).cbrt();
        let cubic = C * (time - back).powi(3) + self.aim;
        let reno = self.start + RENO * time / rtt.as_secs_f64().max(1e-4);
        cubic.max(reno).max(self.start)
    }

    /// Packets were lost in an epoch; the window that remains. Chance takes packets whatever the
    /// queue is; an overflow takes them when it is long. `base` is the round trip without a queue.
    pub(super) fn lost(
        &mut self,
        now: Duration,
        window: f64,
        rtt: Duration,
        base: Duration,
    ) -> f64 {
        let again = now.saturating_sub(self.since) < rtt * 2 && self.start < self.aim;
        let longest = self.longest.max(rtt).saturating_sub(base);
        if again || rtt < base + longest * 7 / 10 {
            return window;
        }
        self.longest = base + longest * 15 / 16;
        let aim = if window < self.aim { window * (1.0 + BETA) / 2.0 } else { window };
        let left = window * BETA;
        (self.since, self.start, self.aim) = (now, left, aim);
        left
    }

    /// True if the queue is much shorter than it was: somebody may have left.
    pub(super) fn is_deserted(&self, rtt: Duration, base: Duration) -> bool {
        rtt.saturating_sub(base) < self.longest.saturating_sub(base) / 4
    }

    /// Goes on from `window` after a pause.
    pub(super) fn resume(&mut self, now: Duration, window: f64) {
        (self.since, self.start, self.aim) = (now, window, self.aim.max(window));
        self.span = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(20);
    const RTT: Duration = Duration::from_millis(40);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_falls_by_three_tenths_and_comes_back() {
        let mut contest = Contest::new(at(0), 1000.0);
        contest.window(at(0), RTT);
        let left = contest.lost(at(1), 1000.0, RTT, BASE);
        assert!((left - 700.0).abs() < 1.0);
        let back = contest.window(at(1) + Duration::from_millis(9086), RTT);
        assert!((990.0..1010.0).contains(&back), "{back}");
        assert!(contest.window(at(30), RTT) > 2000.0);
    }

    #[test]
    fn small_windows_grow_like_reno() {
        let mut contest = Contest::new(at(0), 10.0);
        let grown = contest.window(at(4), RTT);
        assert!(grown > 10.0 + 50.0, "{grown}");
    }

    #[test]
    fn loss_beside_a_short_queue_is_chance() {
        let mut contest = Contest::new(at(0), 100.0);
        contest.window(at(1), RTT);
        assert_eq!(contest.lost(at(1), 100.0, BASE * 5 / 4, BASE), 100.0);
        assert!(contest.lost(at(1), 100.0, RTT, BASE) < 100.0);
    }
}
