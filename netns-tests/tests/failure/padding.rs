//! While the path is learnt by padding nothing is stopped yet: whatever happens then, the tree runs on
//! where it is, and was never touched.

use std::error::Error;
use std::time::{Duration, Instant};

use netns_tests::chaos::{Runs, who_runs};
use netns_tests::{Lab, Link, Migration, Moving, Side, Subject};
use nix::sys::signal::Signal;

use crate::end::{self, End, SETTLE};
use crate::{Outcome, SOON, missing, table};
use End::{Aborted, Killed};
use Happens::{Lost, Sent};

/// It takes the window of the beginning eight round trips to grow to what this carries.
const FAR: &str = "rate=100Mbit rtt=400ms queue=1bdp";
/// What is announced is less than a sixteenth of it, which those eight round trips do not use up.
const MIB: u32 = 128;
/// More than everything before padding.
const FLOWS: u64 = 200_000;

#[derive(Clone, Copy, Debug)]
enum Happens {
    /// The link is cut, and stays so.
    Lost,
    /// A signal to the qmig of this side.
    Sent(Side, Signal),
}

/// What happens, how both end, and words that the source says.
const ROWS: &[(Happens, End, End, &str)] = &[
    (Lost, Aborted, Aborted, "the link was lost"),
    (Sent(Side::Source, Signal::SIGINT), Aborted, Aborted, "it was interrupted"),
    (Sent(Side::Source, Signal::SIGKILL), Killed, Aborted, ""),
    (Sent(Side::Destination, Signal::SIGINT), Aborted, Aborted, "it was interrupted"),
    (Sent(Side::Destination, Signal::SIGKILL), Aborted, Killed, "the link was lost"),
];

#[test]
fn nothing_is_stopped_while_the_path_is_learnt() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    table::run(ROWS, |(happens, ..)| format!("{happens:?} in padding"), one)
}

fn one((happens, dump, restore, says): &(Happens, End, End, &str)) -> Result<(), Box<dyn Error>> {
    let lab = Lab::plan().link(FAR.parse::<Link>()?).build()?;
    let started = Subject::new("filler").arg("mib").arg(MIB).start(&lab, lab.src())?;
    let migration = Migration::new(&lab)?.deadline(SETTLE).dump_arg("--mode");
    let moving = migration.dump_arg("post-copy").listen()?.dump(started.pid())?;
    let judge = || -> Result<(), Box<dyn Error>> {
        padding_flows(&lab, &moving)?;
        match happens {
            Lost => lab.cut()?,
            Sent(side, signal) => moving.qmig(*side).signal(*signal)?,
        }
        end::of(moving.qmig(Side::Source), &[*dump]).map_err(|what| format!("source: {what}"))?;
        let words = end::words(moving.qmig(Side::Source));
        if !words.contains(says) {
            return Err(format!("{words:?} does not say {says:?}").into());
        }
        let said = moving.qmig(Side::Source).stdout().text();
        for event in ["frozen", "handoff", "warmed"] {
            if said.contains(&format!("\"event\":\"{event}\"")) {
                return Err(format!("it was {event}").into());
            }
        }
        let restored = end::of(moving.qmig(Side::Destination), &[*restore]);
        restored.map_err(|what| format!("destination: {what}"))?;
        let runs = who_runs(&lab, started.pid(), SOON);
        if runs != Runs::Source {
            return Err(format!("{runs:?} runs").into());
        }
        let verdict = started.ask(lab.src())?;
        if !verdict.passed() {
            return Err(verdict.to_string().into());
        }
        let left = lab.wait_empty(SETTLE);
        if left.is_empty() { Ok(()) } else { Err(format!("processes are left: {left:?}").into()) }
    };
    judge().map_err(|error| format!("{error}\n{}", moving.logs()).into())
}

/// Wait until padding arrives, long before it has taught what it is to teach.
fn padding_flows(lab: &Lab, moving: &Moving) -> Result<(), Box<dyn Error>> {
    moving.wait_event(Side::Source, "connected")?;
    let link = lab.emulator().ok_or("there is a link to look at")?;
    let end = Instant::now() + SOON;
    while link.tally(Side::Source)?.delivered_bytes < FLOWS {
        if Instant::now() >= end {
            return Err("no padding flows".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
