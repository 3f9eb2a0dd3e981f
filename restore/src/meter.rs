//! What has come lately, for whoever watches.

use std::time::{Duration, Instant};

use pages::PageCount;
use transport::Arrival;

/// Shorter times say little.
const TURN: Duration = Duration::from_millis(500);
/// How long nothing is told when nobody waits.
const SILENCE: Duration = Duration::from_secs(1);

/// Counts from one turn to the next.
pub(crate) struct Meter {
    began: (Instant, PageCount),
    turned: (Instant, u64, PageCount),
    lately: Arrival,
    told: (Instant, u64, PageCount),
}

impl Meter {
    /// The tree begins to run; so many pages had come.
    pub(crate) fn new(now: Instant, arrived: PageCount) -> Self {
        let start = (now, 0, arrived);
        Self { began: (now, arrived), turned: start, lately: Arrival::default(), told: start }
    }

    /// What came lately, if there is news: so many waits have ended, so many pages have come in all.
    pub(crate) fn news(
        &mut self,
        now: Instant,
        faults: u64,
        arrived: PageCount,
    ) -> Option<Arrival> {
        let since = Arrival {
            faults: faults.saturating_sub(self.turned.1),
            pages: PageCount(arrived.0.saturating_sub(self.turned.2.0)),
            time: now.saturating_duration_since(self.turned.0),
        };
        // The first turn is told as far as it has come.
        if since.time >= TURN {
            (self.lately, self.turned) = (since, (now, faults, arrived));
        } else if self.turned.0 == self.began.0 {
            self.lately = since;
        }
        let (told, known_faults, known) = self.told;
        let quiet = now.saturating_duration_since(told) >= SILENCE && known != arrived;
        (known_faults != faults || quiet).then(|| {
            self.told = (now, faults, arrived);
            self.lately
        })
    }

    /// Everything since it began.
    pub(crate) fn all(&self, now: Instant, faults: u64, arrived: PageCount) -> Arrival {
        let pages = PageCount(arrived.0.saturating_sub(self.began.1.0));
        Arrival { faults, pages, time: now.saturating_duration_since(self.began.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_at_once_and_pages_each_second() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut meter = Meter::new(start, PageCount(100));
        let first = meter.news(at(100), 2, PageCount(150)).expect("somebody waited");
        assert_eq!((first.faults, first.pages, first.time.as_millis()), (2, PageCount(50), 100));
        assert_eq!(meter.news(at(600), 2, PageCount(400)), None, "nobody waits");
        let later = meter.news(at(1200), 2, PageCount(1000)).expect("a second has passed");
        assert_eq!((later.faults, later.pages, later.time.as_millis()), (0, PageCount(600), 600));
        assert_eq!(meter.news(at(2500), 2, PageCount(1000)), None, "nothing has come");
        let all = meter.all(at(3000), 2, PageCount(1000));
        assert_eq!((all.faults, all.pages, all.time.as_millis()), (2, PageCount(900), 3000));
    }
}
