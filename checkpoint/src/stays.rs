//! A tree of which only a copy leaves: it runs on here as soon as the copy may run over there.

use crate::engine::{Doom, Doomed, Hold, Still};
use crate::failure::Cause;

/// Nothing but a standstill: dropped, or once the hand-over is under way, the tree runs on.
struct Stays(Option<Still>);

/// The right that is handed over is the copy's; this tree keeps its own.
pub(crate) fn stays(still: Still) -> Doomed {
    Box::new(Stays(Some(still)))
}

impl Doom for Stays {
    fn unlock(&mut self) {
        drop(self.0.take()); // everybody runs on
    }

    fn reprieve(mut self: Box<Self>) -> Still {
        self.0.take().unwrap_or_else(|| Box::new(Runs))
    }

    fn kill(self: Box<Self>) -> Result<(), Cause> {
        Ok(())
    }
}

/// It runs already.
struct Runs;

impl Hold for Runs {
    fn doom(self: Box<Self>) -> Result<Doomed, (Still, Cause)> {
        Err((self, Cause::LetGo))
    }
}
