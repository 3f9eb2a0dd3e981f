//! Words typed that make no sense: exit code 2, and nothing happens.

use std::process::Command;

use netns_tests::chaos::{Runs, who_runs};
use netns_tests::{Lab, Subject, qmig_binary};

use crate::{Outcome, SOON, missing};

/// PID stands for a process that could be moved.
const NONSENSE: &[&[&str]] = &[
    &[],
    &["fly"],
    &["dump"],
    &["dump", "--tree", "PID"],
    &["dump", "--tree", "redis", "--to", "10.77.0.2:4433"],
    &["dump", "--tree", "-1", "--to", "10.77.0.2:4433"],
    &["dump", "--to", "10.77.0.2:4433"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--images-dir", "/tmp"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--leave-running", "--mode", "hybrid"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--leave-running", "--tcp-established"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--limit-rate", "fast"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--max-rounds", "none"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--connect-timeout", "soon"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--ghost-limit", "lots"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--mode", "magic"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--ticket", "a", "--ticket-file", "b"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--cert", "c.pem"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--peer", "not a key"],
    &["dump", "--tree", "PID", "--to", "10.77.0.2:4433", "--socket-fd", "99", "--ticket", "TICKET"],
    &["restore"],
    &["restore", "--listen", "here"],
    &["restore", "--listen", "[::]:4433", "--images-dir", "/tmp"],
    &["restore", "--listen", "[::]:4433", "--grace", "-1s"],
    &["restore", "--socket-fd", "99"],
    &["inspect"],
    &["inspect", "/nowhere"],
    &["check", "--tree", "PID", "--all-processes"],
];

#[test]
fn nonsense_is_usage() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    let pid = started.pid().to_string();
    let mut wrong = Vec::new();
    for words in NONSENSE {
        let mut qmig = Command::new(qmig_binary()?);
        qmig.arg("--json").args(words.iter().map(|word| if *word == "PID" { &pid } else { *word }));
        let output = lab.src().spawn(qmig)?.output(SOON)?;
        if output.status.code() != Some(2) || output.stderr.is_empty() {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            wrong.push(format!("{words:?}: {} {told}", output.status));
        }
    }
    assert_eq!(wrong, [] as [String; 0]);
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    assert!(started.ask(lab.src())?.passed());
    Ok(())
}
