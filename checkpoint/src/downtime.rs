//! The time the tree stands still, in parts.

use std::time::{Duration, Instant};

use transport::session::Parts;

/// From the moment the first thread is told to stop; every lap belongs to one part.
pub struct Downtime {
    /// What has been measured.
    pub(crate) parts: Parts,
    since: Instant,
}

impl Downtime {
    pub(crate) fn starts() -> Self {
        Self { parts: Parts::new(), since: Instant::now() }
    }

    /// The first thread is about to be told to stop.
    pub(crate) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// How long it has stood still.
    pub(crate) fn so_far(&self) -> Duration {
        self.parts.total() + self.since.elapsed()
    }

    /// The first thread was told to stop then, by somebody else.
    pub(crate) fn began(&mut self, at: Instant) {
        self.since = at;
    }

    pub(crate) fn lap(&mut self, name: &'static str) {
        self.since = self.parts.lap(name, self.since, Instant::now());
    }

    /// A lap whose end was spent otherwise: the last `tail` of it belongs to `then`.
    pub(crate) fn lap_in_two(&mut self, name: &'static str, then: &'static str, tail: Duration) {
        let now = Instant::now();
        let turn = now.checked_sub(tail).unwrap_or(now).max(self.since);
        self.since = self.parts.lap(name, self.since, turn);
        self.since = self.parts.lap(then, self.since, now);
    }
}
