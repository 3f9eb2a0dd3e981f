//! After a pause the window is let out at the rate of the path, and no faster.
//!
//! quinn's pacer sends a window in four fifths of a round trip. As long as acknowledgements come back
//! that is moot: they say when. A window that begins from nothing would stand in the queue, with the
//! fifth that the path has not carried meanwhile, in front of every page.

use std::time::Duration;

/// What of the window is told meanwhile: the pacer makes a whole one of it.
const LET_OUT: f64 = 0.8;
/// Beyond that, so much more than is in flight, so that it never stops.
const AHEAD: f64 = 32.0 * 1024.0;
/// With a smaller part of the window in flight there is a pause.
const PAUSE: f64 = 0.25;

/// Where between a pause and the full window a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Resume {
    in_flight: f64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// Acknowledgements come back for as much as may be in flight.
    #[default]
    Flows,
    /// Next to nothing was in flight.
    Paused,
    /// It was seen to flow again then.
    Began(Duration),
}

impl Resume {
    pub(super) const fn in_flight(&self) -> f64 {
        self.in_flight
    }

    /// So much more is in flight.
    pub(super) fn sent(&mut self, bytes: f64) {
        self.in_flight += bytes;
    }

    /// Acknowledgements have come, and so much is in flight still.
    pub(super) fn saw(&mut self, now: Duration, in_flight: f64, window: f64) {
        self.in_flight = in_flight;
        self.stage = match self.stage {
            _ if in_flight < PAUSE * window => Stage::Paused,
            Stage::Paused => Stage::Began(now),
            stage => stage,
        };
    }

    /// A packet came through that was sent then.
    pub(super) fn acked(&mut self, sent: Duration) {
        if matches!(self.stage, Stage::Began(at) if sent >= at) {
            self.stage = Stage::Flows;
        }
    }

    /// What of the window may be told.
    pub(super) fn window(&self, window: f64) -> f64 {
        match self.stage {
            Stage::Flows => window,
            Stage::Paused | Stage::Began(_) => {
                (self.in_flight + AHEAD).clamp(LET_OUT * window, window)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: f64 = 1e6;

    #[test]
    fn a_round_trip_after_a_pause_it_flows_again() {
        let ms = Duration::from_millis;
        let mut resume = Resume::default();
        resume.saw(ms(0), 0.9 * W, W);
        resume.acked(ms(0));
        assert_eq!(resume.window(W), W);
        resume.saw(ms(10), 0.0, W);
        resume.acked(ms(5));
        assert_eq!(resume.window(W), 0.8 * W);
        resume.sent(0.6 * W);
        assert_eq!(resume.window(W), 0.8 * W);
        resume.sent(0.3 * W);
        assert_eq!(resume.window(W), 0.9 * W + AHEAD);
        resume.sent(0.1 * W);
        assert_eq!(resume.window(W), W);
        resume.saw(ms(30), 0.6 * W, W);
        resume.acked(ms(29));
        assert_eq!(resume.window(W), 0.8 * W);
        resume.saw(ms(40), 0.8 * W, W);
        resume.acked(ms(30));
        assert_eq!(resume.window(W), W);
    }
}
