//! One command a file. Each turns what was typed into a call of `checkpoint` or `restore`, and the
//! answer into words.

mod cache;
mod check;
mod demo;
mod dump;
mod generate;
mod identity;
mod inspect;
mod lab;
mod probe;
mod proxy;
mod restore;
mod session;
mod wishes;

use crate::args::Command;
use crate::exit::Exit;
use crate::progress::{Failure, Progress};

/// Runs what was typed.
pub(crate) fn run(command: Command, progress: &mut Progress) -> Result<Exit, Failure> {
    match command {
        Command::Dump(args) => dump::run(args, progress),
        Command::Restore(args) => restore::run(args, progress),
        Command::Probe(args) => probe::run(&args, progress),
        Command::Proxy(args) => proxy::run(&args, progress),
        Command::Cache(args) => cache::run(&args, progress),
        Command::Check(args) => check::run(&args, progress),
        Command::Identity(args) => identity::run(&args, progress),
        Command::Inspect(args) => inspect::run(&args, progress),
        Command::Lab(args) => lab::run(args),
        Command::Demo(args) => demo::run(&args, progress),
        Command::Generate(args) => generate::run(&args, progress),
        Command::DemoPart(args) => Ok(Exit::Tree(demo::part(args))),
    }
}

/// The runtime of a migration: one thread, the one that traces.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::here(format!("start the network: {error}")))
}

/// An error and everything below it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !line.ends_with(&said) {
            line = format!("{line}: {said}");
        }
        cause = error.source();
    }
    line
}
