//! Whether somebody was on the path before us, and how much of it is held beside them.

use std::time::Duration;

/// After so many epochs the shortest round trip is the path's, unless somebody's queue was in all of
/// them.
const SETTLED_EPOCHS: u32 = 5;
/// The part of the link, as it was when undisputed, that is held beside a flow that came after us; and
/// of what we had at first beside one that was there before, which always had its part of that.
const FAIR: f64 = 0.4;
const NEWCOMER_FAIR: f64 = 0.85;
/// How many overflows a newcomer lives through: each takes three tenths of what the flow before us has.
const NEWCOMER_LOSSES: u32 = 2;

/// What is known of others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rival {
    epochs: u32,
    /// The longest base since it was settled.
    longest_base: Duration,
    /// Somebody was there before us, and has most of the link.
    first: bool,
    /// So many overflows more make room for us.
    overflows: u32,
}

impl Rival {
    /// An epoch is over. True once: the base has become so much shorter that it was no base: somebody's
    /// queue was in it, and yielded to a loss. `doubt` is how far it may fall for other reasons.
    pub(super) fn epoch(&mut self, base: Duration, doubt: Duration) -> bool {
        self.epochs += 1;
        if self.epochs >= SETTLED_EPOCHS {
            self.longest_base = self.longest_base.max(base);
        }
        if self.first || self.longest_base <= base + doubt {
            return false;
        }
        self.longest_base = base;
        self.was_first();
        true
    }

    /// It was there before us.
    pub(super) const fn was_first(&mut self) {
        (self.first, self.overflows) = (true, NEWCOMER_LOSSES);
    }

    /// Nobody takes what we leave.
    pub(super) const fn gone(&mut self) {
        (self.first, self.overflows) = (false, 0);
    }

    /// The queue overflowed while we contested it.
    pub(super) const fn overflowed(&mut self) {
        self.overflows = self.overflows.saturating_sub(1);
    }

    /// True as long as room must be made for us.
    pub(super) const fn has_all(&self) -> bool {
        self.overflows > 0
    }

    /// The part of the undisputed rate that is held.
    pub(super) const fn fair(&self) -> f64 {
        if self.first { NEWCOMER_FAIR } else { FAIR }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOUBT: Duration = Duration::from_millis(3);

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_base_that_falls_late_was_somebodys_queue() {
        let mut rival = Rival::default();
        assert!(!rival.epoch(ms(60), DOUBT) && !rival.epoch(ms(40), DOUBT), "not settled");
        assert!((0..10).all(|_| !rival.epoch(ms(40), DOUBT)));
        assert!(!rival.epoch(ms(38), DOUBT), "that may be our own");
        assert!(rival.epoch(ms(36), DOUBT) && rival.has_all());
        assert!(!rival.epoch(ms(20), DOUBT), "it is known");
        rival.overflowed();
        rival.overflowed();
        assert!(!rival.has_all() && rival.fair() > FAIR);
        rival.gone();
        assert_eq!(rival.fair(), FAIR);
    }
}
