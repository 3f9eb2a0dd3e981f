//! Break a migration at a named phase, then ask who runs.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::lab::{Lab, Side};
use crate::running::GLANCE;

/// The variable qmig reads: `SIDE:PHASE:ACTION`.
pub const FAULT_VARIABLE: &str = "QMIG_FAULT";

/// How many beats make a copy count as running.
const BEATS: u64 = 20;

/// What shall happen to qmig itself when it gets to the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// SIGKILL: as if it crashed.
    Kill,
    /// SIGSTOP: the test interferes, then lets it go on. See [`crate::Running::wait_stopped`].
    Stop,
    /// The step fails with an error.
    Fail,
    /// It speaks a version of the protocol that nobody knows; at phase `hello`.
    Version,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Fail => "fail",
            Self::Version => "version",
        }
    }
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    side: Side,
    phase: String,
    action: Action,
}

impl Fault {
    /// `action` befalls the qmig of `side` when it enters `phase`.
    pub fn new(side: Side, phase: &str, action: Action) -> Self {
        Self { side, phase: phase.to_owned(), action }
    }

    /// Whose qmig.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Arrange for it in a qmig that is about to be started.
    pub fn set_on(&self, qmig: &mut Command) {
        qmig.env(FAULT_VARIABLE, self.to_string());
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.side.name(), self.phase, self.action.name())
    }
}

/// Which copy of a process makes progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// Only the one at the source.
    Source,
    /// Only the one at the destination.
    Destination,
    /// Both: the one thing that must never be.
    Both,
    /// None within the deadline.
    Neither,
}

impl Runs {
    /// Exactly one copy runs.
    pub fn exactly_one(self) -> bool {
        matches!(self, Self::Source | Self::Destination)
    }
}

/// Tell on which host the process `pid` makes progress, once one of them has clearly done so.
///
/// Progress is what the kernel counts for the process: the times it went to sleep or was scheduled
/// away, and its time on the CPU. A heart that beats each millisecond moves the first; a loop moves
/// the others. A stopped, frozen or dead copy moves none. Ask when the dust has settled: a copy that
/// is being built makes small steps of its own.
pub fn who_runs(lab: &Lab, pid: i32, deadline: Duration) -> Runs {
    let end = Instant::now() + deadline;
    let before = Side::BOTH.map(|side| progress(lab.host(side), pid));
    loop {
        let now = Side::BOTH.map(|side| progress(lab.host(side), pid));
        let steps = [0, 1].map(|i| advance(&before[i], &now[i]));
        // Give a second copy twice the time that the first one needed.
        if steps.iter().any(|&steps| steps >= 2 * BEATS) || Instant::now() >= end {
            return match steps.map(|steps| steps >= BEATS / 2) {
                [true, true] => Runs::Both,
                [true, false] => Runs::Source,
                [false, true] => Runs::Destination,
                [false, false] => Runs::Neither,
            };
        }
        std::thread::sleep(GLANCE);
    }
}

/// For each thread of the process: switches and clock ticks.
fn progress(host: &Host, pid: i32) -> BTreeMap<i32, u64> {
    let folder = host.path(format!("/proc/{pid}/task"));
    let tasks = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| {
            let tid = task.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
            let switches = status
                .lines()
                .filter(|line| line.contains("ctxt_switches:"))
                .filter_map(|line| line.rsplit('\t').next()?.parse::<u64>().ok());
            // Fields 14 and 15 of the whole line, 12 and 13 after the name.
            let fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).take(2);
            let ticks = fields.filter_map(|field| field.parse::<u64>().ok());
            Some((tid, switches.chain(ticks).sum()))
        })
        .collect()
}

/// How far the threads that are there now have come. A thread that is new counts from zero.
fn advance(before: &BTreeMap<i32, u64>, now: &BTreeMap<i32, u64>) -> u64 {
    now.iter().map(|(tid, steps)| steps.saturating_sub(before.get(tid).copied().unwrap_or(0))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spells_a_fault_as_qmig_reads_it() {
        let fault = Fault::new(Side::Destination, "staged", Action::Kill);
        assert_eq!(fault.to_string(), "destination:staged:kill");
    }

    #[test]
    fn counts_only_progress() {
        let at = |pairs: &[(i32, u64)]| pairs.iter().copied().collect::<BTreeMap<_, _>>();
        assert_eq!(advance(&at(&[(1, 5), (2, 7)]), &at(&[(1, 6), (3, 2)])), 3);
        assert_eq!(advance(&at(&[(1, 5)]), &at(&[])), 0);
    }
}
