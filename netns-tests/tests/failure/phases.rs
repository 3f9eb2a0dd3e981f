//! Each phase, on each side: qmig crashes, fails, is interrupted, or loses its link there.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use netns_tests::chaos::{Action, Fault, Runs, who_runs};
use netns_tests::{Criu, Lab, LabError, Migration, Moving, Side, Started, Subject, requirements};
use nix::sys::signal::Signal;

use crate::end::{self, End, SETTLE};
use crate::{Outcome, SOON, missing, table};
use End::{Aborted, Killed, Moved, Parent, Refused, Stranded, Waits};
use Event::{Cut, DestinationDies, Fail, Interrupt, Kill, Unplug};
use Heal::{AtOnce, InTime, Never, TooLate};
use Runs::{Destination, Source};

/// What happens when the qmig of a side gets to a phase.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// SIGKILL: it crashes.
    Kill,
    /// Its next step fails.
    Fail,
    /// Somebody presses Ctrl-C, or sends SIGTERM.
    Interrupt(Signal),
    /// Packets vanish both ways.
    Cut(Heal),
    /// The cable is pulled, and stays out.
    Unplug,
    /// The qmig of the destination crashes.
    DestinationDies,
}

/// When the link comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heal {
    Never,
    /// After a second: before anybody gives it up.
    AtOnce,
    /// When the source has given the link up, and the destination is still within its grace time.
    InTime,
    /// When the destination has given up, and destroyed what it had.
    TooLate,
}

/// A row: what happens where, and how both sides may end then.
#[derive(Clone, Debug)]
struct Row {
    at: &'static str,
    event: Event,
    /// What a person sends to the dump when it says that it lost the link and looks for it.
    person: Option<Signal>,
    dump: &'static [End],
    restore: &'static [End],
    /// Who must run; without it, who runs by the exit code of the dump.
    runs: Option<Runs>,
    /// What moves.
    subject: &'static str,
    /// A stock CRIU is the engine of both.
    criu: bool,
}

const fn row(at: &'static str, event: Event, dump: &'static [End], restore: &'static [End]) -> Row {
    Row { at, event, person: None, dump, restore, runs: None, subject: "heartbeat", criu: false }
}

impl Row {
    const fn moves(mut self, subject: &'static str) -> Self {
        self.subject = subject;
        self
    }

    const fn by_criu(mut self) -> Self {
        self.criu = true;
        self
    }

    const fn runs(mut self, who: Runs) -> Self {
        self.runs = Some(who);
        self
    }

    const fn person(mut self, sends: Signal) -> Self {
        self.person = Some(sends);
        self
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.at, self.event)
    }
}

#[test]
fn qmig_crashes() -> Outcome {
    // Before the hand-over the kernel lets the source's tree run on, or the source resumes it. In
    // the same step as the hand-over that turns round.
    try_all(&[
        row("source:surveyed", Kill, &[Killed], &[Waits]).runs(Source),
        row("source:agreed", Kill, &[Killed], &[Aborted]).runs(Source),
        row("source:frozen", Kill, &[Killed], &[Aborted]).runs(Source),
        row("source:images", Kill, &[Killed], &[Aborted]).runs(Source),
        row("source:pages", Kill, &[Killed], &[Aborted]).runs(Source),
        row("source:staged", Kill, &[Killed], &[Aborted]).runs(Source),
        row("source:committed", Kill, &[Killed], &[Parent]).runs(Destination),
        row("source:running", Kill, &[Killed], &[Parent]).runs(Destination),
        row("destination:answering", Kill, &[Refused], &[Killed]),
        row("destination:checked", Kill, &[Refused, Aborted], &[Killed]),
        row("destination:images", Kill, &[Aborted], &[Killed]),
        row("destination:building", Kill, &[Aborted], &[Killed]),
        row("destination:pages", Kill, &[Aborted], &[Killed]),
        row("destination:staged", Kill, &[Aborted], &[Killed]),
        // Nobody can tell the source: it asks until somebody ends it, and its copy with it.
        row("destination:running", Kill, &[Stranded], &[Killed])
            .person(Signal::SIGTERM)
            .runs(Destination),
        // The hand-over goes to a host that is no more. Only a person can know that, and says so.
        row("source:staged", DestinationDies, &[Aborted], &[Killed]).person(Signal::SIGUSR1),
        // It has let its locks on files go by then, and has them again.
        row("source:staged", DestinationDies, &[Aborted], &[Killed])
            .person(Signal::SIGUSR1)
            .moves("locks"),
    ])
}

/// The same promises, kept by a stock CRIU and what is around it.
#[test]
fn with_criu_as_the_engine() -> Outcome {
    if Criu::installed().is_none() {
        let _ = requirements::skip("no CRIU here (netns-tests/install-criu.sh /opt/qmig-criu)");
        return Ok(());
    }
    try_all(&[
        // The slow ones first: they wait for a silent link to be given up.
        row("source:staged", Cut(TooLate), &[Aborted], &[Aborted]).by_criu(),
        row("source:staged", Kill, &[Killed], &[Aborted]).by_criu().runs(Source),
        row("source:pages", Kill, &[Killed], &[Aborted]).by_criu().runs(Source),
        row("destination:staged", Kill, &[Aborted], &[Killed]).by_criu(),
        row("source:staged", DestinationDies, &[Aborted], &[Killed])
            .by_criu()
            .person(Signal::SIGUSR1),
        row("source:committed", Kill, &[Killed], &[Parent]).by_criu().runs(Destination),
        row("source:running", Kill, &[Killed], &[Parent]).by_criu().runs(Destination),
        row("source:frozen", Fail, &[Aborted], &[Aborted]).by_criu(),
        row("source:staged", Fail, &[Aborted], &[Aborted]).by_criu(),
        row("destination:staged", Fail, &[Aborted], &[Aborted]).by_criu(),
        row("source:pages", Interrupt(Signal::SIGINT), &[Aborted], &[Aborted]).by_criu(),
    ])
}

#[test]
fn a_step_fails() -> Outcome {
    try_all(&[
        row("source:surveyed", Fail, &[Refused], &[Waits]),
        row("source:agreed", Fail, &[Refused], &[Aborted]),
        row("source:frozen", Fail, &[Aborted], &[Aborted]),
        row("source:images", Fail, &[Aborted], &[Aborted]),
        row("source:pages", Fail, &[Aborted], &[Aborted]),
        row("source:staged", Fail, &[Aborted], &[Aborted]),
        row("source:committed", Fail, &[Moved], &[Parent]),
        row("source:running", Fail, &[Moved], &[Parent]),
        row("destination:answering", Fail, &[Refused], &[Refused]),
        row("destination:checked", Fail, &[Aborted], &[Aborted]),
        row("destination:images", Fail, &[Aborted], &[Aborted]),
        row("destination:building", Fail, &[Aborted], &[Aborted]),
        row("destination:pages", Fail, &[Aborted], &[Aborted]),
        row("destination:staged", Fail, &[Aborted], &[Aborted]),
        row("destination:running", Fail, &[Moved], &[Parent]),
    ])
}

#[test]
fn somebody_interrupts() -> Outcome {
    const INT: Event = Interrupt(Signal::SIGINT);
    const TERM: Event = Interrupt(Signal::SIGTERM);
    try_all(&[
        row("source:surveyed", INT, &[Refused], &[Waits, Refused, Aborted]),
        row("source:agreed", TERM, &[Refused, Aborted], &[Aborted]),
        row("source:frozen", INT, &[Aborted], &[Aborted]),
        row("source:images", TERM, &[Aborted], &[Aborted]),
        row("source:pages", INT, &[Aborted], &[Aborted]),
        // From here on the destination may be faster.
        row("source:staged", TERM, &[Aborted, Moved], &[Aborted, Parent]),
        row("source:committed", INT, &[Aborted, Moved], &[Aborted, Parent]),
        row("source:running", TERM, &[Moved], &[Parent]),
        row("destination:answering", INT, &[Refused, Aborted], &[Refused, Aborted]),
        row("destination:checked", TERM, &[Aborted], &[Aborted]),
        row("destination:images", INT, &[Aborted], &[Aborted]),
        row("destination:building", TERM, &[Aborted], &[Aborted]),
        row("destination:pages", INT, &[Aborted], &[Aborted]),
        row("destination:staged", TERM, &[Aborted], &[Aborted]),
    ])
}

#[test]
fn the_link_is_lost() -> Outcome {
    try_all(&[
        row("source:surveyed", Cut(Never), &[Refused], &[Waits]),
        row("source:agreed", Cut(Never), &[Aborted], &[Aborted]),
        row("source:frozen", Cut(Never), &[Aborted], &[Aborted]),
        row("source:images", Cut(Never), &[Aborted], &[Aborted]),
        row("source:pages", Cut(Never), &[Aborted], &[Aborted]),
        row("destination:answering", Cut(Never), &[Refused], &[Aborted]),
        row("destination:checked", Cut(Never), &[Refused, Aborted], &[Aborted]),
        row("destination:images", Cut(Never), &[Aborted], &[Aborted]),
        row("destination:building", Cut(Never), &[Aborted], &[Aborted]),
        row("destination:pages", Cut(Never), &[Aborted], &[Aborted]),
        row("destination:staged", Cut(Never), &[Aborted], &[Aborted]),
        row("source:images", Unplug, &[Aborted], &[Aborted]),
        // A short cut costs time and nothing else.
        row("source:agreed", Cut(AtOnce), &[Moved], &[Parent]),
        row("source:images", Cut(AtOnce), &[Moved], &[Parent]),
        row("destination:pages", Cut(AtOnce), &[Moved], &[Parent]),
        row("source:staged", Cut(AtOnce), &[Moved], &[Parent]),
        // The hand-over is lost with the link. The source asks when it is back…
        row("source:staged", Cut(InTime), &[Moved], &[Parent]),
        row("source:committed", Cut(InTime), &[Moved], &[Parent]),
        // …and if the destination has given up by then, it gives the right to run back.
        row("source:staged", Cut(TooLate), &[Aborted], &[Aborted]),
        // The link does not come back, and a person looks for himself.
        row("source:staged", Cut(Never), &[Aborted], &[Aborted]).person(Signal::SIGUSR1),
        // The hand-over arrived, and the news of it is lost.
        row("destination:running", Cut(InTime), &[Moved], &[Parent]),
        row("source:running", Cut(Never), &[Moved], &[Parent]),
    ])
}

fn try_all(rows: &[Row]) -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    table::run(rows, Row::to_string, one)
}

fn one(row: &Row) -> Result<(), Box<dyn Error>> {
    let lab = Lab::two_hosts()?;
    let started = Subject::new(row.subject).start(&lab, lab.src())?;
    // Who must not be too late gets all the time it needs.
    let grace = if matches!(row.event, Cut(InTime)) { "30s" } else { "2s" };
    let migration = Migration::new(&lab)?.deadline(SETTLE).fault(fault(row));
    let migration = migration.restore_arg("--grace").restore_arg(grace);
    let migration = migration.dump_arg("--connect-timeout").dump_arg("2s");
    let migration = match Criu::installed().filter(|_| row.criu) {
        // Nothing of it is missing over there after the hand-over.
        Some(criu) => {
            migration.criu(&criu).engines("criu", "criu").dump_arg("--mode").dump_arg("stop")
        }
        None => migration,
    };
    let moving = migration.listen()?.dump(started.pid())?;
    happen(row, &lab, &moving, started.pid())
        .and_then(|()| settle(row, &lab, &moving, &started))
        .map_err(|error| format!("{error}\n{}", moving.logs()).into())
}

fn fault(row: &Row) -> Fault {
    let (side, phase) = row.at.split_once(':').unwrap_or_default();
    let side = if side == "source" { Side::Source } else { Side::Destination };
    let action = match row.event {
        Kill => Action::Kill,
        Fail => Action::Fail,
        Interrupt(_) | Cut(_) | Unplug | DestinationDies => Action::Stop,
    };
    Fault::new(side, phase, action)
}

/// Let it happen, as far as qmig does not do it to itself.
fn happen(row: &Row, lab: &Lab, moving: &Moving, pid: i32) -> Result<(), Box<dyn Error>> {
    let qmig = moving.qmig(fault(row).side());
    if !matches!(row.event, Kill | Fail) {
        qmig.wait_stopped(SOON)?;
    }
    match row.event {
        Kill | Fail => {}
        Interrupt(signal) => qmig.signal(signal)?,
        Cut(_) => lab.cut()?,
        Unplug => lab.unplug()?,
        DestinationDies => drop(moving.qmig(Side::Destination).kill()?),
    }
    qmig.signal(Signal::SIGCONT)?;
    match row.event {
        Cut(AtOnce) => {
            std::thread::sleep(Duration::from_secs(1)); // this long is the cut
            lab.heal()?;
        }
        Cut(InTime) => {
            match moving.wait_event(Side::Source, "link_lost") {
                // What it still waited for had come before the cut.
                Ok(_) | Err(LabError::Ended { .. }) => lab.heal()?,
                Err(late) => return Err(late.into()),
            }
        }
        Cut(TooLate) => {
            gone(lab, Side::Destination, pid)?;
            lab.heal()?;
        }
        _ => {}
    }
    if let Some(signal) = row.person {
        moving.wait_event(Side::Source, "link_lost")?;
        if signal == Signal::SIGUSR1 {
            // Whoever says that it does not run over there has looked.
            gone(lab, Side::Destination, pid)?;
        }
        moving.qmig(Side::Source).signal(signal)?;
    }
    Ok(())
}

/// See how both ended, that exactly the right copy runs, and that it is sound; then nothing but it
/// may be left.
fn settle(row: &Row, lab: &Lab, moving: &Moving, started: &Started) -> Result<(), Box<dyn Error>> {
    let [dump, restore] = Side::BOTH.map(|side| moving.qmig(side));
    let dump = end::of(dump, row.dump).map_err(|what| format!("source: {what}"))?;
    let restored = end::of(restore, row.restore).map_err(|what| format!("destination: {what}"))?;
    let wanted = row.runs.or_else(|| dump.who_runs()).ok_or("the row does not say who runs")?;
    let (here, other) = match wanted {
        Destination => (lab.dst(), Side::Source),
        _ => (lab.src(), Side::Destination),
    };
    let runs = who_runs(lab, started.pid(), SOON);
    if runs != wanted {
        return Err(format!("{runs:?} runs, and {wanted:?} should").into());
    }
    gone(lab, other, started.pid())?;
    if wanted == Destination {
        started.running().wait(SOON)?; // dead, and ours to bury
    }
    let verdict = match wanted {
        Destination if restored == Parent => started.ask_at(here, restore)?,
        Destination => started.ask_orphan(here, started.pid())?,
        _ => started.ask(here)?,
    };
    if !verdict.passed() {
        return Err(verdict.to_string().into());
    }
    let left = lab.wait_empty(SETTLE);
    if left.is_empty() { Ok(()) } else { Err(format!("processes are left: {left:?}").into()) }
}

/// Wait until `side` has no such process, except a dead one that the test has not buried.
fn gone(lab: &Lab, side: Side, pid: i32) -> Result<(), Box<dyn Error>> {
    let end = Instant::now() + SETTLE;
    while lab.host(side).process(pid).is_some_and(|process| process.state != 'Z') {
        if Instant::now() >= end {
            return Err(format!("the copy on the {} is still there", side.name()).into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
