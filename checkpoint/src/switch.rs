//! When the tree stops standing still for pages: a pure function.
//!
//! Between the freeze and the hand-over pages are pushed; what has not come by then follows after it,
//! on demand. Pushing longer makes the tree stand still longer and fault less.

use std::time::Duration;

use pages::PageCount;

/// How memory moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything before the hand-over.
    Stop,
    /// In rounds while the tree runs, and what changed last while it stands still.
    PreCopy,
    /// Everything that can wait, after it.
    PostCopy,
    /// What crosses in the time allowed before it, the rest after it.
    Hybrid,
    /// The whole before it if that is possible in the time allowed, else as little as possible.
    Auto,
}

impl Mode {
    /// True if pages may follow after the hand-over.
    pub const fn is_lazy(self) -> bool {
        !matches!(self, Self::Stop | Self::PreCopy)
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
        Mode::Hybrid => push.frozen >= goal,
        Mode::Auto => push.frozen >= goal || !would_end_in_time(push, goal),
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
    fn the_table() {
        let ms = Duration::from_millis;
        // frozen, pushing, arrived, left; stop, post-copy, hybrid, auto
        let table = [
            ((1, 0, 0, 1000), [false, true, false, false]),
            ((10, 9, 0, 1000), [false, true, false, false]),
            // A thousand pages in 50 ms: another five thousand would take 250 ms.
            ((60, 50, 1000, 5000), [false, true, false, true]),
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
