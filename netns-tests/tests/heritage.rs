//! Memory that processes share copy on write since a fork is not multiplied, whichever way it moves, and
//! each process finds what it wrote, also if it goes on writing meanwhile.

use std::error::Error;
use std::time::Duration;

use netns_tests::{Lab, Migration, Subject, Verdict, qmig_binary, requirements, rounds};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

fn missing() -> bool {
    qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
}

/// Start, move, ask.
fn moves(lab: &Lab, subject: &Subject, mode: &str) -> Result<Verdict, Box<dyn Error>> {
    let started = subject.start(lab, lab.src())?;
    let mut migration = Migration::new(lab)?.dump_arg("--mode").dump_arg(mode);
    if mode == "pre-copy" {
        // A goal that a busy machine meets too: what is judged here is what arrives.
        migration = migration.dump_arg("--max-downtime").dump_arg("10s");
    }
    let moved = migration.run(started.pid())?;
    moved.succeeded()?;
    started.running().wait(SOON)?;
    let verdict = moved.ask(lab, &started)?;
    println!("{mode}: {verdict}");
    if !verdict.passed() {
        return Err(format!("{mode}: {verdict}\n{}", moved.logs()).into());
    }
    Ok(verdict)
}

const MODES: [&str; 5] = ["stop", "pre-copy", "hybrid", "post-copy", "auto"];

/// The subject judges itself: its content, and that it takes no more memory than before.
#[test]
fn it_stays_shared() -> Outcome {
    if missing() {
        return Ok(());
    }
    let subject = Subject::new("inherited").arg("keep").arg(1).arg("mib").arg(32);
    MODES.iter().try_for_each(|mode| rounds(|lab| moves(lab, &subject, mode).map(drop)))
}

/// All of them write, give back and map anew all the time; what nobody writes stays shared.
#[test]
fn it_stays_shared_beside_what_all_write() -> Outcome {
    if missing() {
        return Ok(());
    }
    let subject = Subject::new("heirs").arg("keep").arg(1).arg("quiet").arg(16).arg("busy").arg(4);
    MODES.iter().try_for_each(|mode| rounds(|lab| moves(lab, &subject, mode).map(drop)))
}

/// Workers of a pool go on answering from the table they were born with.
#[test]
fn a_pool_of_python() -> Outcome {
    if missing() || requirements::missing(&["/usr/bin/python3"]) {
        return Ok(());
    }
    let subject = Subject::python("pool");
    MODES.iter().try_for_each(|mode| rounds(|lab| moves(lab, &subject, mode).map(drop)))
}

/// All is sent again at the end, for it is another tree by then. It stays shared all the same.
#[test]
fn it_stays_shared_while_others_come_and_go() -> Outcome {
    if missing() {
        return Ok(());
    }
    let subject = Subject::new("heirs").arg("keep").arg(1).arg("quiet").arg(16).arg("busy").arg(2);
    let subject = subject.arg("passing").arg(1);
    ["stop", "pre-copy"]
        .iter()
        .try_for_each(|mode| rounds(|lab| moves(lab, &subject, mode).map(drop)))
}
