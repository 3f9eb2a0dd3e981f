//! A link of a wide area network, emulated: rate, delay, jitter, loss, reordering, duplication, a
//! queue of finite length, cuts, and a rival for the bottleneck.
//!
//! Many kernels have no netem, so the link is a process of its own, `qmig-link`. Each host's `eth0`
//! is then a TAP device that it holds, and it is the switch between them. No offload is enabled on
//! these devices, so the kernel cuts what TSO and UDP GSO made of a write into frames of the MTU
//! before the switch sees them: loss and queues act on packets, as on a real path. Where a link has
//! only rate, delay and a queue, the word `gso` leaves such writes in one piece, at a tenth of the cost.
//!
//! | file | what |
//! |---|---|
//! | [`path`](Path) | what one direction does to its packets, and the words for it |
//! | [`plan`](Link) | both directions and the seed; the presets |
//! | `dice` | every decision, from the seed alone |
//! | `frame` | what is read and written at once, and what that is on the link |
//! | `pipe` | one direction at work, on a clock that is handed in |
//! | `histogram` | how long things took |
//! | [`tally`](Tally) | what a direction really did |
//! | `switch` | the process: devices, addresses learnt, the loop |
//! | `unthrottled` | all of a processor, if it takes that |
//! | [`emulator`](Emulator) | the lab's handle on that process |
//!
//! Tests assert what was measured ([`Tally`]), not what was asked ([`Path`]).

mod dice;
mod emulator;
mod frame;
mod histogram;
mod path;
mod pipe;
mod plan;
mod switch;
mod tally;
mod unthrottled;

pub use emulator::Emulator;
pub(crate) use histogram::Histogram;
pub use path::{Loss, Path, QueueLimit, Rate};
pub use plan::{Link, PRESETS};
pub use switch::link_main;
pub use tally::{Spread, Tally};

/// What is wrong with a word that describes a link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("understand {word:?}: {wanted}")]
pub struct BadWord {
    /// The word.
    pub word: String,
    /// What would have been understood.
    pub wanted: &'static str,
}

impl BadWord {
    fn new(word: &str, wanted: &'static str) -> Self {
        Self { word: word.to_owned(), wanted }
    }
}
