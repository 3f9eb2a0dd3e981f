//! Which way memory moves, and when the tree stops standing still for pages: pure functions.
//!
//! Between the freeze and the hand-over pages are pushed; what has not come by then follows after it,
//! on demand. Pushing longer makes the tree stand still longer and fault less. Rounds ahead of the
//! freeze make less of what is left for both, and cost the running tree a little for as long as they
//! take.

use std::time::Duration;

use pages::{ByteCount, PageCount};

/// How memory moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything before the hand-over.
    Stop,
    /// In rounds while the tree runs, and what changed last while it stands still.
    PreCopy,
    /// Everything that can wait, after it.
    PostCopy,
    /// In rounds while the tree runs; what changed last while it stands still, if that is possible
    /// in the time allowed, else after it.
    Hybrid,
    /// As hybrid if rounds are worth it; else the whole while it stands still, if that is possible
    /// in the time allowed, else after it.
    Auto,
}

impl Mode {
    /// True if pages may follow after the hand-over.
    pub const fn is_lazy(self) -> bool {
        !matches!(self, Self::Stop | Self::PreCopy)
    }

    /// True if it is nothing without rounds.
    pub const fn wants_rounds(self) -> bool {
        matches!(self, Self::PreCopy | Self::Hybrid)
    }

    /// True if it is nothing without pages that follow.
    pub(crate) const fn wants_to_owe(self) -> bool {
        matches!(self, Self::PostCopy | Self::Hybrid)
    }
}

/// What is known before anything is stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    /// True if this host can tell what the tree writes.
    pub(crate) able: bool,
    /// The memory of the tree.
    pub(crate) resident: ByteCount,
    /// A round trip to the destination.
    pub(crate) rtt: Duration,
}

/// Round trips below this are those of a network of one's own.
const NEAR: Duration = Duration::from_millis(1);
/// Less than this mostly crosses in the time a tree may stand still, and what does not comes soon.
const SMALL_NEAR: ByteCount = ByteCount(64 << 20);
/// The same where every page that the tree waits for takes a long round trip.
const SMALL_FAR: ByteCount = ByteCount(8 << 20);

/// True if rounds come first.
pub(crate) fn begins_with_rounds(mode: Mode, beginning: &Beginning) -> bool {
    let Beginning { able, resident, rtt } = *beginning;
    match mode {
        Mode::Stop | Mode::PostCopy => false,
        Mode::PreCopy | Mode::Hybrid => true,
        Mode::Auto => able && resident >= if rtt < NEAR { SMALL_NEAR } else { SMALL_FAR },
    }
}

/// How it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Push {
    /// Since the freeze.
    pub(crate) frozen: Duration,
    /// Since the first page was sent.
    pub(crate) pushing: Duration,
    /// Pages that can wait and are in place.
    pub(crate) arrived: PageCount,
    /// Pages that can wait and are not.
    pub(crate) left: PageCount,
}

/// Measured for less than this, a rate is no rate.
const MEASURE: Duration = Duration::from_millis(20);

/// True if the hand-over should be now: the rest follows after it. `goal` is how long the tree may
/// stand still.
pub(crate) fn is_time(mode: Mode, push: &Push, goal: Duration) -> bool {
    if push.left.0 == 0 {
        return true;
    }
    match mode {
        Mode::Stop | Mode::PreCopy => false,
        Mode::PostCopy => true,
        Mode::Hybrid | Mode::Auto => push.frozen >= goal || !would_end_in_time(push, goal),
    }
}

/// False once the rate tells that the rest will not have come within the goal.
fn would_end_in_time(push: &Push, goal: Duration) -> bool {
    if push.pushing < MEASURE {
        return true;
    }
    let rate = push.arrived.0 as f64 / push.pushing.as_secs_f64();
    let rest = push.left.0 as f64 / rate.max(1.0);
    push.frozen.as_secs_f64() + rest <= goal.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_where_they_are_worth_it() {
        let table = [
            // able, MiB, round trip in µs; auto
            ((true, 1, 100), false),
            ((true, 63, 100), false),
            ((true, 64, 100), true),
            ((false, 64, 100), false),
            ((true, 7, 20_000), false),
            ((true, 8, 20_000), true),
        ];
        for ((able, mib, micros), wanted) in table {
            let (resident, rtt) = (ByteCount(mib << 20), Duration::from_micros(micros));
            let beginning = Beginning { able, resident, rtt };
            assert_eq!(begins_with_rounds(Mode::Auto, &beginning), wanted, "{beginning:?}");
            // The others are what they are called, and are refused where they cannot be.
            let modes = [Mode::Stop, Mode::PreCopy, Mode::PostCopy, Mode::Hybrid];
            let said = modes.map(|mode| begins_with_rounds(mode, &beginning));
            assert_eq!(said, [false, true, false, true]);
        }
    }

    #[test]
    fn the_table() {
        let ms = Duration::from_millis;
        // frozen, pushing, arrived, left; stop, post-copy, hybrid, auto
        let table = [
            ((1, 0, 0, 1000), [false, true, false, false]),
            ((10, 9, 0, 1000), [false, true, false, false]),
            // A thousand pages in 50 ms: another five thousand would take 250 ms.
            ((60, 50, 1000, 5000), [false, true, true, true]),
            ((60, 50, 1000, 4000), [false, true, false, false]),
            ((300, 290, 1000, 1), [false, true, true, true]),
            ((301, 290, 1000, 0), [true, true, true, true]),
        ];
        for ((frozen, pushing, arrived, left), wanted) in table {
            let push = Push {
                frozen: ms(frozen),
                pushing: ms(pushing),
                arrived: PageCount(arrived),
                left: PageCount(left),
            };
            let modes = [Mode::Stop, Mode::PostCopy, Mode::Hybrid, Mode::Auto];
            let said = modes.map(|mode| is_time(mode, &push, ms(300)));
            assert_eq!(said, wanted, "{push:?}");
        }
    }
}
