//! When rounds of pre-copy have done what they can: a pure function of what was measured.
//!
//! The prediction: what changed during the last round is what is left to be sent when the program
//! stands still (it changes no more while that is sent), at the best rate a round has shown, and the
//! standstill costs a little beside pages. If that fits the goal, now is the moment. If not, another
//! round shrinks it as long as rounds send faster than the program writes; when they do not, no
//! number of rounds will.

use std::fmt;
use std::time::Duration;

use pages::{ByteCount, PageCount};

/// One round, as it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Pages sent.
    pub pages: PageCount,
    /// From its first page read to its last page in place.
    pub took: Duration,
    /// Pages that changed meanwhile.
    pub dirty: PageCount,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long the program may stand still.
    pub max_downtime: Duration,
    /// How many rounds may be tried.
    pub max_rounds: u32,
    /// How long a standstill takes beside its pages.
    pub overhead: Duration,
}

/// What to do after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// One more.
    Again,
    /// What is left fits the goal, as far as one can tell: this long.
    Freeze(Duration),
    /// More rounds would not help.
    GiveUp(Hopeless),
}

/// Why more rounds would not help; nothing was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hopeless {
    /// Rounds that were tried.
    pub rounds: usize,
    /// Bytes that changed during the last.
    pub dirty: ByteCount,
    /// How fast the program changes memory, in bytes per second.
    pub dirty_rate: u64,
    /// How fast rounds send, in bytes per second.
    pub rate: u64,
    /// The standstill that would follow.
    pub predicted: Duration,
    /// The goal.
    pub goal: Duration,
}

/// Rounds in a row that may fail to make less of what is left.
const PATIENCE: usize = 3;

/// Judges the rounds so far; the last one is the latest. Without any, another is due.
pub fn decide(rounds: &[Round], limits: &Limits) -> Decision {
    let Some(last) = rounds.last() else { return Decision::Again };
    let predicted = predict(rounds, limits);
    if predicted <= limits.max_downtime {
        return Decision::Freeze(predicted);
    }
    // What a round leaves is what the next one sends; less than a tenth off is no progress.
    let stuck = |round: &&Round| round.dirty.0.saturating_mul(10) > round.pages.0.saturating_mul(9);
    let in_vain = rounds.iter().rev().take_while(stuck).count();
    if in_vain < PATIENCE && rounds.len() < limits.max_rounds as usize {
        return Decision::Again;
    }
    Decision::GiveUp(Hopeless {
        rounds: rounds.len(),
        dirty: last.dirty.bytes(),
        dirty_rate: per_second(last.dirty, last.took),
        rate: best_rate(rounds),
        predicted,
        goal: limits.max_downtime,
    })
}

/// How long the program would stand still if it were stopped after these rounds.
pub fn predict(rounds: &[Round], limits: &Limits) -> Duration {
    let left = rounds.last().map_or(0, |last| last.dirty.bytes().0);
    let seconds = left as f64 / (best_rate(rounds).max(1)) as f64;
    // Beyond a day all is the same.
    limits.overhead + Duration::from_secs_f64(seconds.min(86_400.0))
}

/// Short rounds are mostly latency, so the best tells what the way can carry.
fn best_rate(rounds: &[Round]) -> u64 {
    rounds.iter().map(|round| per_second(round.pages, round.took)).max().unwrap_or(0)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
fn per_second(pages: PageCount, took: Duration) -> u64 {
    (pages.bytes().0 as f64 / took.as_secs_f64().max(1e-6)) as u64
}

impl fmt::Display for Hopeless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "after {} rounds it still changes {}/s and {}/s can be sent: it would stand still for \
             {} ms (goal {} ms)",
            self.rounds,
            ByteCount(self.dirty_rate),
            ByteCount(self.rate),
            self.predicted.as_millis(),
            self.goal.as_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_downtime: Duration::from_millis(300),
        max_rounds: 8,
        overhead: Duration::from_millis(20),
    };

    /// 100 MiB/s are 25 600 pages in a second.
    fn round(pages: u64, millis: u64, dirty: u64) -> Round {
        let took = Duration::from_millis(millis);
        Round { pages: PageCount(pages), took, dirty: PageCount(dirty) }
    }

    fn word(decision: Decision) -> &'static str {
        match decision {
            Decision::Again => "again",
            Decision::Freeze(_) => "freeze",
            Decision::GiveUp(_) => "give up",
        }
    }

    #[test]
    fn decisions_follow_from_the_numbers() {
        let whole = round(256_000, 10_000, 12_800); // 1 GiB at 100 MiB/s, 50 MiB changed
        let table: [(&str, &[Round], &str); 9] = [
            ("nothing was sent yet", &[], "again"),
            ("500 ms of pages are left", &[whole], "again"),
            ("an idle program", &[round(256_000, 10_000, 0)], "freeze"),
            ("100 ms are left", &[whole, round(12_800, 500, 2560)], "freeze"),
            ("280 ms would do, 281 not", &[round(25_600, 1000, 7169)], "again"),
            ("280 ms", &[round(25_600, 1000, 7168)], "freeze"),
            ("a short round is slow only by its latency", &[whole, round(10, 40, 100)], "freeze"),
            (
                "it writes as fast as the way carries",
                &[
                    whole,
                    round(12_800, 500, 12_800),
                    round(12_800, 500, 12_700),
                    round(12_700, 500, 12_900),
                ],
                "give up",
            ),
            (
                "two bad rounds, and then a good one",
                &[
                    whole,
                    round(12_800, 500, 12_800),
                    round(12_800, 500, 12_700),
                    round(12_700, 500, 9_000),
                ],
                "again",
            ),
        ];
        for (what, rounds, expected) in table {
            assert_eq!(word(decide(rounds, &LIMITS)), expected, "{what}");
        }
    }

    #[test]
    fn rounds_end() {
        // It shrinks, but too slowly.
        let rounds: Vec<_> = (0..8).map(|_| round(25_600, 1000, 20_000)).collect();
        assert_eq!(word(decide(&rounds[..7], &LIMITS)), "again");
        let Decision::GiveUp(why) = decide(&rounds, &LIMITS) else { panic!("no end") };
        assert_eq!(
            why.to_string(),
            "after 8 rounds it still changes 78.1 MiB/s and 100.0 MiB/s can be sent: it would stand \
             still for 801 ms (goal 300 ms)"
        );
    }

    #[test]
    fn no_time_at_all_is_no_division_by_zero() {
        assert_eq!(word(decide(&[round(0, 0, 0)], &LIMITS)), "freeze");
        assert_eq!(word(decide(&[round(0, 0, 1)], &LIMITS)), "again");
    }
}
