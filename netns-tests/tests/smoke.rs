//! Each subject moves from one host to the other and finds everything as it was.

use std::error::Error;
use std::time::Duration;

use netns_tests::chaos::{Runs, who_runs};
use netns_tests::{Lab, Migration, Side, Subject, qmig_binary, requirements};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(20);

fn missing() -> bool {
    requirements::missing(&[])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
}

/// Start, move, ask; then nothing but the verdict may be left.
fn moves(subject: &Subject, mode: &str) -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    if subject.name() == "ptys" {
        lab.part_terminals()?;
    }
    let started = subject.start(&lab, lab.src())?;
    let moved = Migration::new(&lab)?.dump_arg("--mode").dump_arg(mode).run(started.pid())?;
    moved.succeeded()?;
    assert!(moved.event(Side::Source, "report").is_some(), "no report\n{}", moved.logs());
    // The source's copy is dead, and is ours to bury.
    started.running().wait(SOON)?;
    let runs = who_runs(&lab, started.pid(), SOON);
    assert_eq!(runs, Runs::Destination, "{}", moved.logs());
    let verdict = moved.ask(&lab, &started)?;
    assert!(verdict.passed(), "{verdict}\n{}", moved.logs());
    assert_eq!(lab.wait_empty(SOON), [], "{}", moved.logs());
    println!("{verdict}");
    Ok(())
}

/// One test a subject and mode, so that they run side by side and fail by name.
macro_rules! smoke {
    ($($name:ident)*) => {
        mod stop {$(
            #[test]
            fn $name() -> super::Outcome {
                super::moves(&super::Subject::new(stringify!($name)), "stop")
            }
        )*}
        mod post_copy {$(
            #[test]
            fn $name() -> super::Outcome {
                super::moves(&super::Subject::new(stringify!($name)), "post-copy")
            }
        )*}
    };
}

smoke! {
    churn creds datagrams events fifos files filler forks heartbeat locks memory pipes places ptys registers
    rseq rules settings signals sockets sysv threads timers toucher waits watches writer zombie
}

#[test]
fn a_thousand_threads() -> Outcome {
    let subject = Subject::new("threads").arg("threads").arg(1000);
    ["stop", "post-copy"].iter().try_for_each(|mode| moves(&subject, mode))
}

#[test]
fn memory_that_keeps_changing() -> Outcome {
    let subject = Subject::new("filler").arg("mib").arg(256).arg("dirty").arg(64);
    ["stop", "post-copy", "hybrid", "auto"].iter().try_for_each(|mode| moves(&subject, mode))
}
