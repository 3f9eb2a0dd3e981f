//! What happens to one migration of the tests.

use crate::wire::SessionId;

pub(super) const SESSION: SessionId = SessionId([5; 16]);
/// Milliseconds one way.
pub(super) const LATENCY: u64 = 5;
/// Milliseconds until a silent link counts as lost.
pub(super) const IDLE: u64 = 40;
/// Milliseconds a staged tree waits for a lost source.
pub(super) const GRACE: u64 = 100;
/// Milliseconds between two dials.
pub(super) const REDIAL: u64 = 15;
/// When all must be decided, if the network is there.
pub(super) const END: u64 = 3000;

/// What happens to the message with a number, counted over both directions and all links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It and all that is under way is lost, and both ends notice after a while.
    Cut,
    /// It arrives, but nothing after it; both ends notice after a while.
    CutAfter,
    /// It is held up for so long that both ends give the link up, and then still arrives: between
    /// the messages of the next link, or after all is over.
    Delay(u64),
    /// It arrives twice.
    Repeat,
}

pub(super) const FAULTS: [Fault; 7] = [
    Fault::Cut,
    Fault::CutAfter,
    // Just before the release that follows the next link's first answer, just after it, and late.
    Fault::Delay(IDLE + REDIAL + LATENCY - 1),
    Fault::Delay(IDLE + REDIAL + LATENCY),
    Fault::Delay(2 * IDLE),
    Fault::Delay(6 * IDLE),
    Fault::Repeat,
];

/// What the source does when it learns that the hand-off did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Again,
    TakeBack,
    /// One, then the other.
    Waver,
    /// What nobody may do: resume because nothing is heard. The checks must notice.
    Reckless,
}

/// One migration's fate.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) faults: Vec<(usize, Fault)>,
    /// How long nobody can dial after a link was lost; `None` for ever.
    pub(super) outage: Option<u64>,
    pub(super) policy: Policy,
    /// The tree cannot be let run.
    pub(super) launch_fails: bool,
    /// When somebody presses Ctrl-C on the source, on the destination.
    pub(super) cancel: [Option<u64>; 2],
    pub(super) rounds: u32,
}

impl Script {
    pub(super) fn calm() -> Self {
        Self {
            faults: Vec::new(),
            outage: Some(0),
            policy: Policy::Again,
            launch_fails: false,
            cancel: [None, None],
            rounds: 1,
        }
    }
}
