//! `make bench`: qmig beside a stock CRIU, in one run, on two hosts made of namespaces.
//!
//! Prints a report in Markdown and writes it into BENCHMARKS.md of the current directory, below the
//! marker; what is above the marker is kept.

#![forbid(unsafe_code)]

mod cost;
mod engine;
mod goal;
mod handover;
mod machine;
mod memory;
mod post_copy;
mod pre_copy;
mod quiet;
mod records;
mod report;
mod run;
mod schedule;
mod shared;
mod statistics;
mod tables;
mod toll;
mod whole;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use netns_tests::Criu;
use tables::{TABLES, Table};

/// Where the report goes.
const FILE: &str = "BENCHMARKS.md";

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["receive-images", folder] => netns_tests::receive_images(Path::new(folder)),
        ["send-images", folder, address] => netns_tests::send_images(Path::new(folder), address),
        ["take-flow"] => netns_tests::experiment::take_flow().map_err(Into::into),
        ["give-flow", address, control] => {
            netns_tests::experiment::give_flow(address, control).map_err(Into::into)
        }
        ["ask-server", words @ ..] => netns_tests::experiment::ask_server(words),
        words => match asked(words) {
            Some(asked) => run(&asked),
            None => {
                eprintln!("usage: qmig-bench [--quick] [--out DIR] [TABLE…]   (root)\n");
                eprintln!("All tables without a name; what is measured goes into {FILE}, except");
                eprintln!(
                    "with --quick, which only shows that it runs. The record of each trial goes into DIR,"
                );
                eprintln!(
                    "with the page of `qmig lab` for them; what was stopped there goes on.\n"
                );
                TABLES.iter().for_each(|table| eprintln!("  {:16} {}", table.name, table.shows));
                return ExitCode::from(2);
            }
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qmig-bench: failed to {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the words ask for.
#[derive(Debug)]
struct Asked {
    tables: Vec<&'static Table>,
    quick: bool,
    out: Option<PathBuf>,
}

/// `None` for a word that means nothing.
fn asked(words: &[&str]) -> Option<Asked> {
    let (mut tables, mut quick, mut out) = (Vec::new(), false, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--quick" => quick = true,
            "--out" => out = Some(PathBuf::from(words.next()?)),
            word => tables.push(tables::named(word)?),
        }
    }
    if tables.is_empty() {
        tables = TABLES.iter().collect();
    }
    Some(Asked { tables, quick, out })
}

fn run(asked: &Asked) -> Outcome<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err("build hosts out of namespaces without root".into());
    }
    if Criu::installed().is_none() {
        eprintln!("no CRIU to compare with: netns-tests/install-criu.sh /opt/qmig-criu");
    }
    if asked.quick {
        quiet::hurry();
    }
    run::run(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_asked_for_by_name() {
        let cost = asked(&["cost", "--out", "d", "--quick"]).expect("a table");
        assert_eq!((cost.tables[0].name, cost.tables.len(), cost.quick), ("cost", 1, true));
        assert_eq!(cost.out, Some(PathBuf::from("d")));
        assert_eq!(asked(&[]).map(|asked| asked.tables.len()), Some(TABLES.len()));
        for wrong in [&["--out"][..], &["cost", "whale"], &["everything"]] {
            assert!(asked(wrong).is_none(), "{wrong:?}");
        }
    }
}
