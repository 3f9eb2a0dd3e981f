//! What one more round would gain, once the goal is met: a pure function of what was measured.
//!
//! The goal is the longest standstill a person accepts, not the one they want. As long as a round
//! makes a good part less of what is left, it makes the standstill shorter by almost as much time as
//! it takes itself, which costs the program nothing. So rounds go on until they gain too little to
//! be felt. What they may cost is bounded by what is left when the goal is met: each round has to
//! leave a third less than the one before, so all of them take three times as long as the first, and
//! the first no longer than the goal.

use std::time::Duration;

use crate::converge::{Limits, Round, predict};
use crate::pace::Pace;

/// A gain below this is not worth a round.
const LEAST: Duration = Duration::from_millis(1);
/// The same as a part of the whole standstill: a twelfth.
const LEAST_PART: u32 = 12;

/// True if another round makes the standstill shorter by what is worth one. The goal is met already.
pub(crate) fn pays(rounds: &[Round], spent: Duration, limits: &Limits) -> bool {
    let Some((last, before)) = rounds.split_last() else { return true };
    // It was tried, and more changed meanwhile than should have.
    let in_vain = before.last().is_some_and(|before| {
        predict(&rounds[..rounds.len() - 1], limits) <= limits.max_downtime
            && !a_third_less(last.dirty.0, before.left.0)
    });
    if in_vain || rounds.len() >= limits.max_rounds as usize {
        return false;
    }
    let pace = Pace::of(rounds, limits.rtt);
    let takes = pace.round(last.left);
    if limits.deadline.is_some_and(|deadline| spent + takes > deadline) {
        return false;
    }
    let leaves = pace.written_in(takes);
    let gain = pace.sending(last.left).saturating_sub(pace.sending(leaves));
    a_third_less(leaves.0, last.left.0) && gain >= LEAST.max(predict(rounds, limits) / LEAST_PART)
}

fn a_third_less(now: u64, before: u64) -> bool {
    now.saturating_mul(3) <= before.saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use pages::PageCount;

    use super::*;

    const LIMITS: Limits = Limits {
        max_downtime: Duration::from_millis(300),
        max_rounds: 30,
        deadline: None,
        overhead: Duration::from_millis(20),
        rtt: Duration::from_millis(1),
        may_owe: false,
        throttle: None,
    };

    fn round(pages: u64, millis: u64, left: u64) -> Round {
        let [pages, left] = [pages, left].map(PageCount);
        Round { pages, took: Duration::from_millis(millis), dirty: left, left }
    }

    /// Rounds of a program that writes `rate` pages a second, at 25 600 pages a second, until
    /// another does not pay; what they leave.
    fn rounds(rate: u64, all: u64, limits: &Limits) -> Vec<u64> {
        let mut rounds = Vec::new();
        let mut left = all;
        while rounds.is_empty() || pays(&rounds, Duration::ZERO, limits) {
            let millis = left * 1000 / 25_600 + 1;
            let dirty = (rate * millis / 1000).min(all);
            rounds.push(round(left, millis, dirty));
            left = dirty;
        }
        rounds.iter().map(|round| round.left.0).collect()
    }

    #[test]
    fn rounds_go_on_while_they_gain() {
        // 5 000 of 25 600: a fifth is left each time, until it is less than 2 ms.
        assert_eq!(rounds(5_000, 25_600, &LIMITS), [5_005, 980, 195, 40]);
        // Nothing, or a page or two, changes.
        assert_eq!(rounds(0, 25_600, &LIMITS), [0]);
        assert_eq!(rounds(20, 25_600, &LIMITS), [20]);
        // Two thirds, and a little more, are left each time.
        assert_eq!(rounds(20_000, 5_000, &LIMITS), [3_920]);
        // A standstill that is long anyway is not much shorter without a few pages.
        let far = Limits { overhead: Duration::from_millis(250), ..LIMITS };
        assert_eq!(rounds(5_000, 25_600, &far), [5_005, 980, 195]);
    }

    #[test]
    fn what_was_in_vain_is_not_tried_again() {
        // It writes the same pages again and again, which a long round shows as a low rate.
        let hot = [round(25_600, 1000, 2_000), round(2_000, 80, 2_000)];
        assert!(pays(&hot[..1], Duration::ZERO, &LIMITS));
        assert!(!pays(&hot, Duration::ZERO, &LIMITS));
        // What was written while something else was read is not the fault of a round.
        let late = Round { left: PageCount(1_500), ..round(2_000, 80, 300) };
        assert!(pays(&[hot[0], late], Duration::ZERO, &LIMITS));
        // Before the goal was met it was another matter.
        let large = [round(25_600, 1000, 9_000), round(9_000, 360, 5_900)];
        assert!(pays(&large, Duration::ZERO, &LIMITS));
    }

    #[test]
    fn neither_rounds_nor_time_are_exceeded() {
        let first = [round(25_600, 1000, 5_000)];
        let ms = Duration::from_millis;
        let table =
            [(1, None, false), (2, None, true), (2, Some(1150), false), (2, Some(1300), true)];
        for (max_rounds, deadline, wanted) in table {
            let limits = Limits { max_rounds, deadline: deadline.map(ms), ..LIMITS };
            assert_eq!(pays(&first, ms(1000), &limits), wanted, "{max_rounds} {deadline:?}");
        }
    }
}
