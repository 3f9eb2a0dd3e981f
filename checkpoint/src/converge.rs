//! When rounds of pre-copy have done what they can: pure functions of what was measured.
//!
//! The prediction: what is left after a round is what is left to be sent when the program stands still
//! (it changes no more while that is sent), at the rate that rounds have shown, and the standstill
//! costs a little beside pages. If that fits the goal, now is the moment, unless another round makes it
//! a good deal shorter (`gain`). If it does not fit, another round
//! shrinks it as long as rounds send faster than the program writes; when they do not, no number of
//! rounds will. Then it may be held back, step by step, where that was asked for; and then what is left
//! may follow after the hand-over, where that was asked for; else the program stays, and is told why
//! in numbers.

use std::fmt;
use std::time::Duration;

use pages::{ByteCount, PageCount};

use crate::gain;
use crate::pace::Pace;

/// One round, as it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Pages sent.
    pub pages: PageCount,
    /// From its first page read to its last page in place.
    pub took: Duration,
    /// Pages that were over there, and changed meanwhile.
    pub dirty: PageCount,
    /// Pages to be sent now: those, and what no round has had yet.
    pub left: PageCount,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long the program may stand still.
    pub max_downtime: Duration,
    /// How many rounds may be tried.
    pub max_rounds: u32,
    /// How long rounds may be tried.
    pub deadline: Option<Duration>,
    /// How long a standstill takes beside its pages.
    pub overhead: Duration,
    /// A round trip: a round takes no less.
    pub rtt: Duration,
    /// True if what is left may follow after the hand-over.
    pub may_owe: bool,
    /// How much it is held back now; `None` if it must not be.
    pub throttle: Option<Percent>,
}

/// A part of a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

/// What to do after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// One more, of at most so many pages.
    Again(PageCount),
    /// Hold it back for this part of the time, then one more, of at most so many pages.
    Throttle(Percent, PageCount),
    /// What is left fits the goal, as far as one can tell: this long.
    Freeze(Duration),
    /// More rounds would not help, so what is left shall follow after the hand-over.
    SwitchOver(Hopeless),
    /// More rounds would not help; nothing was stopped.
    GiveUp(Hopeless),
}

/// Why more rounds would not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hopeless {
    /// What has come to an end.
    pub end: End,
    /// Rounds that were tried.
    pub rounds: usize,
    /// Bytes that are left.
    pub left: ByteCount,
    /// How fast the program changes memory, in bytes per second.
    pub dirty_rate: u64,
    /// How fast rounds send, in bytes per second.
    pub rate: u64,
    /// The standstill that would follow.
    pub predicted: Duration,
    /// The goal.
    pub goal: Duration,
}

/// What has come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Rounds make no less of it: it changes as fast as they send.
    Progress,
    /// As many rounds as were allowed.
    Rounds,
    /// The time that was allowed.
    Time(Duration),
}

/// Rounds in a row that may fail to make less of what is left.
const PATIENCE: usize = 3;
/// The same where what is left may follow: another round in vain costs more than it is worth.
const LITTLE_PATIENCE: usize = 1;
/// How much a program is held back, one step after the other.
const STEPS: [Percent; 5] = [Percent(20), Percent(40), Percent(60), Percent(80), Percent(95)];
/// With a deadline the first round is this small, to learn how fast rounds are: 16 MiB.
const PROBE: PageCount = PageCount(4096);

/// Judges the rounds so far, which began `spent` ago; the last one is the latest. Without any,
/// another is due.
pub fn decide(rounds: &[Round], spent: Duration, limits: &Limits) -> Decision {
    let most = most(rounds, spent, limits);
    let Some(last) = rounds.last() else { return Decision::Again(most) };
    let predicted = predict(rounds, limits);
    if predicted <= limits.max_downtime {
        return match gain::pays(rounds, spent, limits) {
            true => Decision::Again(most),
            false => Decision::Freeze(predicted),
        };
    }
    // What a round leaves is what the next one sends; less than a tenth off is no progress.
    let stuck = |round: &&Round| round.dirty.0.saturating_mul(10) > round.pages.0.saturating_mul(9);
    let in_vain = rounds.iter().rev().take_while(stuck).count();
    let patience = if limits.may_owe { LITTLE_PATIENCE } else { PATIENCE };
    let step = limits.throttle.and_then(|now| STEPS.into_iter().find(|step| *step > now));
    let end = if let Some(time) = limits.deadline.filter(|time| spent >= *time) {
        End::Time(time)
    } else if rounds.len() >= limits.max_rounds as usize {
        End::Rounds
    } else if let Some(step) = step.filter(|_| in_vain > 0) {
        return Decision::Throttle(step, most);
    } else if in_vain >= patience {
        End::Progress
    } else {
        return Decision::Again(most);
    };
    let pace = Pace::of(rounds, limits.rtt);
    let hopeless = Hopeless {
        end,
        rounds: rounds.len(),
        left: last.left.bytes(),
        dirty_rate: bytes_per_second(pace.dirty_rate),
        rate: bytes_per_second(pace.rate),
        predicted,
        goal: limits.max_downtime,
    };
    if limits.may_owe { Decision::SwitchOver(hopeless) } else { Decision::GiveUp(hopeless) }
}

/// How long the program would stand still if it were stopped after these rounds.
pub fn predict(rounds: &[Round], limits: &Limits) -> Duration {
    let left = rounds.last().map_or(PageCount(0), |last| last.left);
    limits.overhead + Pace::of(rounds, limits.rtt).sending(left)
}

/// Pages of the next round: all there are, unless it would go on beyond the deadline.
fn most(rounds: &[Round], spent: Duration, limits: &Limits) -> PageCount {
    let Some(deadline) = limits.deadline else { return PageCount(u64::MAX) };
    if rounds.is_empty() {
        return PROBE;
    }
    let time = deadline.saturating_sub(spent);
    Pace::of(rounds, limits.rtt).sent_in(time).max(PageCount(1))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn bytes_per_second(rate: f64) -> u64 {
    rate as u64
}

impl fmt::Display for Hopeless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.rounds;
        match self.end {
            End::Progress => write!(f, "{rounds} rounds make no less of it: it still changes ")?,
            End::Rounds => {
                write!(f, "{rounds} rounds are all that was allowed: it still changes ")?
            }
            End::Time(time) => {
                let time = time.as_secs_f64();
                write!(f, "{time} s are all that was allowed: after {rounds} rounds it changes ")?;
            }
        }
        write!(
            f,
            "{}/s and {}/s can be sent; with {} left it would stand still for {} ms (goal {} ms)",
            ByteCount(self.dirty_rate),
            ByteCount(self.rate),
            self.left,
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
        deadline: None,
        overhead: Duration::from_millis(20),
        rtt: Duration::ZERO,
        may_owe: false,
        throttle: None,
    };

    /// 100 MiB/s are 25 600 pages in a second.
    fn round(pages: u64, millis: u64, dirty: u64) -> Round {
        part(pages, millis, dirty, dirty)
    }

    /// One that was not of all there was.
    fn part(pages: u64, millis: u64, dirty: u64, left: u64) -> Round {
        let took = Duration::from_millis(millis);
        let [pages, dirty, left] = [pages, dirty, left].map(PageCount);
        Round { pages, took, dirty, left }
    }

    fn word(rounds: &[Round], limits: &Limits) -> &'static str {
        match decide(rounds, rounds.iter().map(|round| round.took).sum(), limits) {
            Decision::Again(_) => "again",
            Decision::Throttle(..) => "throttle",
            Decision::Freeze(_) => "freeze",
            Decision::SwitchOver(_) => "switch over",
            Decision::GiveUp(_) => "give up",
        }
    }

    #[test]
    fn decisions_follow_from_the_numbers() {
        let whole = round(256_000, 10_000, 12_800); // 1 GiB at 100 MiB/s, 50 MiB changed
        let table: [(&str, &[Round], [&str; 2]); 11] = [
            ("nothing was sent yet", &[], ["again"; 2]),
            ("500 ms of pages are left", &[whole], ["again"; 2]),
            ("an idle program", &[round(256_000, 10_000, 0)], ["freeze"; 2]),
            ("100 ms would do, less is better", &[whole, round(12_800, 500, 2560)], ["again"; 2]),
            (
                "1 ms is left",
                &[whole, round(12_800, 500, 2560), round(2560, 100, 25)],
                ["freeze"; 2],
            ),
            ("280 ms would do, 281 not", &[round(25_600, 1000, 7169)], ["again"; 2]),
            ("280 ms, and no less", &[round(7_200, 281, 7168)], ["freeze"; 2]),
            (
                "a short round is slow only by its latency",
                &[whole, round(10, 40, 20)],
                ["freeze"; 2],
            ),
            (
                "it writes as fast as the way carries, perhaps",
                &[whole, round(12_800, 500, 12_800)],
                ["again", "switch over"],
            ),
            (
                "it writes as fast as the way carries",
                &[
                    whole,
                    round(12_800, 500, 12_800),
                    round(12_800, 500, 12_700),
                    round(12_700, 500, 12_900),
                ],
                ["give up", "switch over"],
            ),
            (
                "two bad rounds, and then a good one",
                &[
                    whole,
                    round(12_800, 500, 12_800),
                    round(12_800, 500, 12_700),
                    round(12_700, 500, 9_000),
                ],
                ["again"; 2],
            ),
        ];
        for (what, rounds, expected) in table {
            let said = [false, true].map(|may_owe| word(rounds, &Limits { may_owe, ..LIMITS }));
            assert_eq!(said, expected, "{what}");
        }
    }

    #[test]
    fn rounds_end() {
        // It shrinks, but too slowly.
        let rounds: Vec<_> = (0..8).map(|_| round(25_600, 1000, 20_000)).collect();
        assert_eq!(word(&rounds[..7], &LIMITS), "again");
        assert_eq!(word(&rounds, &Limits { may_owe: true, ..LIMITS }), "switch over");
        let Decision::GiveUp(why) = decide(&rounds, Duration::from_secs(8), &LIMITS) else {
            panic!("no end")
        };
        assert_eq!(
            why.to_string(),
            "8 rounds are all that was allowed: it still changes 78.1 MiB/s and 100.0 MiB/s can be \
             sent; with 78.1 MiB left it would stand still for 801 ms (goal 300 ms)"
        );
    }

    #[test]
    fn it_is_held_back_before_it_is_given_up() {
        let (whole, bad) = (round(256_000, 10_000, 12_800), round(12_800, 500, 12_800));
        let good = round(12_800, 500, 9_000);
        let table: [(&[Round], u8, &str); 6] = [
            (&[whole], 0, "again"),
            (&[whole, bad], 0, "throttle"),
            (&[whole, bad, bad], 80, "throttle"),
            (&[whole, bad, bad], 95, "again"),
            (&[whole, bad, bad, bad], 95, "give up"),
            (&[whole, bad, bad, good], 40, "again"),
        ];
        for (rounds, now, expected) in table {
            let limits = Limits { throttle: Some(Percent(now)), ..LIMITS };
            assert_eq!(word(rounds, &limits), expected, "{now} {rounds:?}");
        }
        let limits = Limits { throttle: Some(Percent(20)), may_owe: true, ..LIMITS };
        let said = decide(&[whole, bad], Duration::from_secs(11), &limits);
        assert_eq!(said, Decision::Throttle(Percent(40), PageCount(u64::MAX)));
    }

    #[test]
    fn a_deadline_bounds_each_round() {
        let limits = Limits { deadline: Some(Duration::from_secs(5)), ..LIMITS };
        let ms = Duration::from_millis;
        assert_eq!(decide(&[], ms(0), &limits), Decision::Again(PROBE));
        // 16 MiB in 160 ms: 484 MiB fit what is left of five seconds. What is left of the first
        // round was never sent, so that there is so much of it is nobody's lack of progress.
        let probe = part(4096, 160, 100, 256_000);
        assert_eq!(decide(&[probe], ms(160), &limits), Decision::Again(PageCount(123_904)));
        let late = [probe, part(123_904, 4840, 3000, 150_000)];
        let Decision::GiveUp(why) = decide(&late, ms(5000), &limits) else { panic!("no end") };
        assert_eq!(
            why.to_string(),
            "5 s are all that was allowed: after 2 rounds it changes 2.4 MiB/s and 100.0 MiB/s can \
             be sent; with 585.9 MiB left it would stand still for 5879 ms (goal 300 ms)"
        );
        let little = [probe, part(123_904, 4840, 3000, 3000)];
        assert_eq!(word(&little, &limits), "freeze", "it is never too late for the goal");
    }

    #[test]
    fn no_time_at_all_is_no_division_by_zero() {
        assert_eq!(word(&[round(0, 0, 0)], &LIMITS), "freeze");
        assert_eq!(word(&[round(0, 0, 1)], &LIMITS), "again");
    }
}
