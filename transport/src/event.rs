//! What a migration tells whoever watches it, as it happens.

use std::time::Duration;

use crate::Arrival;
use crate::LinkStats;
use crate::session::Report;
use crate::wire::FaultTotals;

/// One thing that happened. People see it as progress, programs as a line of JSON.
#[derive(Clone, Debug)]
pub enum Event {
    /// The destination waits.
    Listening {
        /// Where.
        address: String,
        /// The one-time ticket, if one was made.
        ticket: Option<String>,
        /// The line to type on the source.
        command: String,
    },
    /// The two ends know each other.
    Connected {
        /// The other end.
        peer: String,
    },
    /// What is to travel.
    Plan {
        /// Root of the tree.
        root: u32,
        /// Its command name.
        command: String,
        /// Processes.
        processes: usize,
        /// Threads of all of them.
        threads: usize,
        /// Memory in use.
        resident_bytes: u64,
    },
    /// The path was learnt by padding, while the tree ran.
    Warmed {
        /// Bytes that it took.
        padding: u64,
        /// How long that took.
        took: Duration,
        /// The end of the path was found.
        found: bool,
    },
    /// What the tree writes is watched from now on; it runs.
    Watched {
        /// For how long it stood still to arrange that.
        stood: Duration,
    },
    /// A round of pages has crossed while the tree ran.
    Round {
        /// Counted from 1.
        number: usize,
        /// Pages it had.
        pages: u64,
        /// How long it took.
        took: Duration,
        /// Pages that were over there and changed meanwhile.
        dirty: u64,
        /// Pages that are to be sent now.
        left: u64,
        /// How long the tree would stand still if it were stopped now.
        predicted: Duration,
    },
    /// The tree writes too fast, and is held back.
    Throttled {
        /// For so many hundredths of the time.
        percent: u8,
    },
    /// Rounds would not end, so what is left follows after the hand-over.
    SwitchedOver {
        /// Why, with numbers.
        why: String,
    },
    /// The tree stands still.
    Frozen {
        /// Pages that have to travel.
        pages: u64,
    },
    /// Pages that have crossed so far.
    Pages {
        /// Of which.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// Files of a container have crossed.
    Files {
        /// How many so far; at the source, in this go.
        count: u64,
        /// Bytes of their content.
        bytes: u64,
    },
    /// The images have crossed.
    Images {
        /// How many.
        count: usize,
        /// How large.
        bytes: u64,
    },
    /// The destination has everything, and is one instruction from running.
    Staged,
    /// The right to run has left the source.
    Handoff,
    /// The tree runs on the destination.
    Running {
        /// Its root there, as the destination's host knows it.
        pid: i32,
    },
    /// The link was lost; the time says how long it will be looked for.
    LinkLost {
        /// Until this has passed; `None`: until somebody ends it.
        grace: Option<Duration>,
    },
    /// How long the tree has waited for pages so far, and what came lately (destination, post-copy).
    Faults(FaultTotals, Arrival),
    /// Every page has come, and how fast; the source is not needed any more (destination, post-copy).
    Drained(FaultTotals, Arrival),
    /// The source has said goodbye; this is what the link had carried (destination).
    Parted(Box<LinkStats>),
    /// Something is not carried exactly; the migration goes on.
    Warning {
        /// What, and why.
        text: String,
    },
    /// How it went.
    Report(Report),
}

/// Whoever watches.
pub trait Watch {
    /// Called in the order in which things happen, from one thread; must not block for long.
    fn event(&mut self, event: Event);
}
