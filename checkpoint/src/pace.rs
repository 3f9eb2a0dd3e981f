//! How fast rounds are, and how fast the program writes: what the next round will be like.

use std::time::Duration;

use pages::{PAGE_SIZE, PageCount};

use crate::converge::Round;

/// In bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    /// At which pages cross.
    pub(crate) rate: f64,
    /// At which the program changes them.
    pub(crate) dirty_rate: f64,
    /// What a round takes however few its pages are.
    rtt: Duration,
}

/// A round of so many round trips tells a rate, a shorter one tells mostly latency.
const LONG: u32 = 4;
/// And one of less than this tells mostly of the machine.
const LONG_ENOUGH: Duration = Duration::from_millis(20);
/// Or of fewer pages: 1 MiB.
const MANY: PageCount = PageCount(256);
/// Beyond a day all is the same.
const A_DAY: f64 = 86_400.0;

impl Pace {
    /// The rate is that of the latest round that was long enough to have one: what is left is made of
    /// the same pages, while the first round was also of those that nobody writes to, which may be
    /// zeros. Without one, the best.
    pub(crate) fn of(rounds: &[Round], rtt: Duration) -> Self {
        let rates = || rounds.iter().map(|round| per_second(round.pages, round.took));
        let long = (LONG * rtt).max(LONG_ENOUGH);
        let latest = rounds.iter().rev().find(|round| round.took >= long && round.pages >= MANY);
        let rate = match latest {
            Some(round) => per_second(round.pages, round.took.saturating_sub(rtt)),
            None => rates().fold(0.0, f64::max),
        };
        let dirty_rate = rounds.last().map_or(0.0, |last| per_second(last.dirty, last.took));
        Self { rate: rate.max(1.0), dirty_rate, rtt }
    }

    /// How long pages take to cross.
    pub(crate) fn sending(&self, pages: PageCount) -> Duration {
        Duration::from_secs_f64((pages.bytes().0 as f64 / self.rate).min(A_DAY))
    }

    /// How long a round of them takes.
    pub(crate) fn round(&self, pages: PageCount) -> Duration {
        self.rtt + self.sending(pages)
    }

    /// What crosses in this time.
    pub(crate) fn sent_in(&self, time: Duration) -> PageCount {
        pages(self.rate, time)
    }

    /// What the program changes in this time.
    pub(crate) fn written_in(&self, time: Duration) -> PageCount {
        pages(self.dirty_rate, time)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn pages(rate: f64, time: Duration) -> PageCount {
    PageCount((rate * time.as_secs_f64() / PAGE_SIZE as f64) as u64)
}

fn per_second(pages: PageCount, took: Duration) -> f64 {
    pages.bytes().0 as f64 / took.as_secs_f64().max(1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates are told in pages of a second.
    #[test]
    fn the_latest_round_that_is_long_enough_tells_the_rate() {
        let round = |pages, millis, dirty| {
            let took = Duration::from_millis(millis);
            let [pages, dirty] = [pages, dirty].map(PageCount);
            Round { pages, took, dirty, left: dirty }
        };
        let ms = Duration::from_millis;
        let zeros = round(100_000, 1000, 1000);
        let table: [(&str, &[Round], u64, [u64; 2]); 6] = [
            ("none", &[], 0, [0, 0]),
            ("one", &[zeros], 0, [100_000, 1000]),
            ("a later one", &[zeros, round(5_000, 200, 100)], 0, [25_000, 500]),
            ("without its round trip", &[zeros, round(5_000, 200, 100)], 40, [31_250, 500]),
            (
                "a short one after it",
                &[zeros, round(5_000, 200, 100), round(500, 10, 40)],
                0,
                [25_000, 4000],
            ),
            ("only short ones", &[round(50, 10, 40), round(50, 5, 1)], 0, [10_000, 200]),
        ];
        for (what, rounds, rtt, [rate, dirty]) in table {
            let pace = Pace::of(rounds, ms(rtt));
            let near = |is: f64, wanted: u64| (is / 4096.0 - wanted as f64).abs() < 1.0;
            assert!(near(pace.rate, rate) && near(pace.dirty_rate, dirty), "{what}: {pace:?}");
        }
        let pace = Pace::of(&[round(25_600, 1000, 512)], ms(0));
        assert_eq!(pace.sending(PageCount(2560)), ms(100));
        assert_eq!(pace.written_in(ms(500)), PageCount(256));
        assert_eq!(Pace { rtt: ms(7), ..pace }.round(PageCount(256)), ms(17));
    }
}
