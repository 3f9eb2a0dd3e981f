//! What the command line says, run as a user runs it.

use std::process::{Command, Output};

use serde_json::Value;

fn qmig(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qmig")).args(words).output().expect("qmig runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn events(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
}

#[test]
fn words_that_make_no_sense_are_a_usage_error() {
    for words in [
        &["dump"][..],
        &["dump", "--tree", "1"],
        &["dump", "--tree", "1", "--to", "h:1", "--ticket", "a", "--ticket-file", "b"],
        &["restore"],
        &["restore", "--listen", "not an address"],
        &["frobnicate"],
    ] {
        assert_eq!(qmig(words).status.code(), Some(2), "{words:?}");
    }
    let mistyped = qmig(&["dump", "--tree", "1", "--to", "localhost:1", "--ticket", "qmig1oops"]);
    assert_eq!(mistyped.status.code(), Some(2));
    assert!(stderr(&mistyped).contains("hint: copy the whole line"), "{}", stderr(&mistyped));
}

/// `qmig-lab` is another program: built beside qmig, or the message tells how.
#[test]
fn the_lab_is_a_program_of_its_own() {
    let output = qmig(&["lab", "--help"]);
    let said = stderr(&output);
    assert!(said.contains("usage: qmig lab") || said.contains("start qmig-lab"), "{said}");
    assert_ne!(output.status.code(), Some(0));
}

#[test]
fn errors_name_whose_fault_it_is_and_who_runs() {
    let output = qmig(&["dump", "--json", "--tree", "999999999", "--images-dir", "/nonexistent/x"]);
    assert_eq!(output.status.code(), Some(121), "{}", stderr(&output));
    let events = events(&output);
    let error = events.last().expect("an event");
    assert_eq!(error["event"], "error");
    assert_eq!(error["code"], 121);
    assert_eq!(error["runs_on"], "source");
    assert!(error["what"].as_str().is_some_and(|what| what.contains("999999999")), "{error}");
    assert!(stderr(&output).contains("nothing was touched"), "{}", stderr(&output));
}

#[test]
fn an_identity_is_made_once_and_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path().join("qmig");
    let home_text = home.to_str().expect("a path");
    let first = qmig(&["identity", "--home", home_text]);
    let second = qmig(&["identity", "--home", home_text]);
    assert!(first.status.success(), "{}", stderr(&first));
    assert_eq!(first.stdout, second.stdout);
    assert!(first.stdout.starts_with(b"qmig-key:"));
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path).expect("it was made").permissions().mode() & 0o777
    };
    assert_eq!(mode(&home.join("identity")), 0o600);
    assert_eq!(mode(&home), 0o700);
}

#[test]
fn pages_and_completions_are_generated_for_every_command() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("a path");
    assert!(qmig(&["generate", "man", path]).status.success());
    assert!(qmig(&["generate", "completions", path]).status.success());
    for name in ["qmig.1", "qmig-dump.1", "qmig-restore.1", "qmig-check.1", "qmig.bash", "_qmig"] {
        assert!(dir.path().join(name).is_file(), "{name}");
    }
}

#[test]
fn help_documents_the_exit_codes_and_every_command() {
    let help = String::from_utf8(qmig(&["--help"]).stdout).expect("text");
    for word in ["121", "122", "123", "dump", "restore", "check", "identity", "inspect", "demo"] {
        assert!(help.contains(word), "{word} is missing in\n{help}");
    }
}
