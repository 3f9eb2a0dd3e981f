//! `qmig lab`: becomes `qmig-lab`, a program of the netns-tests crate, so that this one stays lean.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::args::Lab;
use crate::exit::Exit;
use crate::progress::Failure;

const PROGRAM: &str = "qmig-lab";

pub(crate) fn run(args: Lab) -> Result<Exit, Failure> {
    let qmig = std::env::current_exe().unwrap_or_else(|_| "qmig".into());
    let beside = qmig.with_file_name(PROGRAM);
    let mut lab = Command::new(if beside.is_file() { beside } else { PROGRAM.into() });
    // What it measures is this qmig.
    if std::env::var_os("QMIG_BIN").is_none() {
        lab.env("QMIG_BIN", &qmig);
    }
    let error = lab.args(args.words).exec();
    Err(Failure::here(format!("start {PROGRAM}: {error}")).hint(
        "build it with `cargo build --release -p netns-tests --bins`, beside qmig or in PATH",
    ))
}
