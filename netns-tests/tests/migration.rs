//! The harness itself, with a pretender in place of qmig: it starts, listens, interferes and asks.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use netns_tests::chaos::{Action, Fault, Runs, who_runs};
use netns_tests::{Lab, LabError, Migration, Side, Subject, requirements};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(20);

fn pretended(lab: &Lab) -> Migration<'_> {
    let pretender = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pretender.py");
    Migration::with_binary(lab, PathBuf::from(pretender))
}

fn missing() -> bool {
    requirements::missing(&["python3"])
}

#[test]
fn moves_and_asks() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    let moved = pretended(&lab).run(started.pid())?;
    moved.succeeded()?;
    started.running().wait(SOON)?;
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Destination);
    let names = |side| moved.events(side).iter().map(|e| e.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(Side::Source), ["report"]);
    assert_eq!(names(Side::Destination), ["listening", "running"]);
    let running = moved.event(Side::Destination, "running").ok_or("it does not run")?;
    assert_eq!(running.field("pid"), started.pid());
    let verdict = moved.ask(&lab, &started)?;
    assert!(verdict.passed(), "{verdict}");
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(())
}

#[test]
fn a_bad_verdict_crosses_over() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").sabotaged().start(&lab, lab.src())?;
    let moved = pretended(&lab).run(started.pid())?;
    let verdict = moved.ask(&lab, &started)?;
    assert!(!verdict.passed(), "{verdict}");
    Ok(())
}

#[test]
fn a_killed_dump_leaves_the_source_running() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    for action in [Action::Kill, Action::Fail] {
        let fault = Fault::new(Side::Source, "handoff", action);
        let moved = pretended(&lab).fault(fault).run(started.pid())?;
        assert!(!moved.dumped().success(), "{}", moved.logs());
        assert!(matches!(moved.succeeded(), Err(LabError::Ended { .. })));
        let runs = who_runs(&lab, started.pid(), SOON);
        assert!(runs == Runs::Source && runs.exactly_one(), "{runs:?}");
    }
    assert!(started.ask(lab.src())?.passed());
    Ok(())
}

/// The stop lets the test cut the link at an exact phase, and mend it.
#[test]
fn a_cut_at_a_phase() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    let fault = Fault::new(Side::Source, "handoff", Action::Stop);
    let moving = pretended(&lab).fault(fault).listen()?.dump(started.pid())?;
    moving.qmig(Side::Source).wait_stopped(SOON)?;
    lab.cut()?;
    moving.qmig(Side::Source).signal(Signal::SIGCONT)?;
    let late = moving.qmig(Side::Source).wait(Duration::from_millis(300));
    assert!(matches!(late, Err(LabError::Deadline { .. })), "{late:?}");
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    lab.heal()?;
    moving.wait_event(Side::Source, "report")?;
    let moved = moving.finish()?;
    assert!(moved.ask(&lab, &started)?.passed());
    Ok(())
}

#[test]
fn a_destination_that_dies_is_told_with_its_logs() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    let fault = Fault::new(Side::Destination, "listening", Action::Kill);
    let moved = pretended(&lab).fault(fault).run(started.pid())?;
    let error = moved.ask(&lab, &started).err().ok_or("it cannot have moved")?.to_string();
    assert!(error.contains("listening") && error.contains("SIGKILL"), "{error}");
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    Ok(())
}
