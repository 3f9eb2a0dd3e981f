//! Pre-copy: programs that write all the time are moved while they run, and lose nothing.

use std::error::Error;
use std::time::Duration;

use netns_tests::chaos::{Action, Fault, Runs, who_runs};
use netns_tests::{Lab, Migration, Moved, Side, Subject, requirements};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);

fn missing() -> bool {
    requirements::missing(&["cc"])
}

fn precopy(lab: &Lab) -> Result<Migration<'_>, Box<dyn Error>> {
    // A goal that a busy machine meets too: what is judged here is what arrives.
    let migration = Migration::new(lab)?.dump_arg("--mode").dump_arg("pre-copy");
    Ok(migration.dump_arg("--max-downtime").dump_arg("5s"))
}

fn pages(moved: &Moved, event: &str) -> Vec<u64> {
    let events = moved.events(Side::Source).into_iter().filter(|it| it.name() == event);
    events.filter_map(|event| event.field("pages").as_u64()).collect()
}

fn moves(subject: &Subject) -> Result<Moved, Box<dyn Error>> {
    let lab = Lab::two_hosts()?;
    let started = subject.start(&lab, lab.src())?;
    let moved = precopy(&lab)?.run(started.pid())?;
    moved.succeeded()?;
    started.running().wait(SOON)?;
    let verdict = moved.ask(&lab, &started)?;
    assert!(verdict.passed(), "{verdict}\n{}", moved.logs());
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(moved)
}

#[test]
fn a_writer_arrives_with_every_byte() -> Outcome {
    if missing() {
        return Ok(());
    }
    let subject = Subject::new("writer").arg("mib").arg(64).arg("rate").arg(10);
    let moved = moves(&subject)?;
    let rounds = pages(&moved, "round");
    assert!(moved.event(Side::Source, "watched").is_some() && !rounds.is_empty());
    assert!(rounds[0] >= 64 << 8, "the first round has everything: {rounds:?}");
    let last = pages(&moved, "frozen");
    assert!(last[0] < rounds[0] / 2, "what was sent is not sent again: {last:?} after {rounds:?}");
    Ok(())
}

#[test]
fn memory_that_changes_its_shape_arrives() -> Outcome {
    if missing() {
        return Ok(());
    }
    for seed in 1..=3 {
        let subject = Subject::new("churn").arg("seed").arg(seed);
        moves(&subject)?;
    }
    Ok(())
}

#[test]
fn trees_of_many_kinds_arrive() -> Outcome {
    if missing() {
        return Ok(());
    }
    for name in ["forks", "threads", "memory", "files", "waits", "zombie"] {
        moves(&Subject::new(name)).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

/// Whatever breaks before the hand-over: the source runs on, and is as it was.
#[test]
fn an_abort_in_any_round_leaves_the_source_untouched() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let subject = Subject::new("writer").arg("mib").arg(16).arg("rate").arg(10);
    let started = subject.start(&lab, lab.src())?;
    for (side, phase, action) in [
        (Side::Source, "outlined", Action::Fail),
        (Side::Source, "round", Action::Fail),
        (Side::Source, "round", Action::Kill),
        (Side::Source, "images", Action::Kill),
        (Side::Destination, "outlined", Action::Fail),
        (Side::Destination, "round", Action::Fail),
        (Side::Destination, "round", Action::Kill),
        (Side::Destination, "building", Action::Fail),
    ] {
        let fault = Fault::new(side, phase, action);
        let moved = precopy(&lab)?.fault(fault).run(started.pid())?;
        assert!(!moved.dumped().success(), "{phase}: {}", moved.logs());
        let runs = who_runs(&lab, started.pid(), SOON);
        assert!(runs == Runs::Source && runs.exactly_one(), "{phase}: {runs:?}");
    }
    // And can be moved after all that.
    let moved = precopy(&lab)?.run(started.pid())?;
    moved.succeeded()?;
    let verdict = moved.ask(&lab, &started)?;
    assert!(verdict.passed(), "{verdict}");
    Ok(())
}

#[test]
fn a_goal_that_cannot_be_met_is_given_up_with_numbers() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("writer").arg("rate").arg(0).start(&lab, lab.src())?;
    let migration = Migration::new(&lab)?.dump_arg("--mode").dump_arg("pre-copy");
    let moved = migration.dump_arg("--max-downtime").dump_arg("1ms").run(started.pid())?;
    assert!(!moved.dumped().success(), "{}", moved.logs());
    assert!(moved.logs().contains("it still changes"), "{}", moved.logs());
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    let verdict = started.ask(lab.src())?;
    assert!(verdict.passed(), "{verdict}");
    Ok(())
}
