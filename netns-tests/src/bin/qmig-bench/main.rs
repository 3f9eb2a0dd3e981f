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
mod shared;
mod statistics;
mod toll;
mod whole;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use netns_tests::{Criu, qmig_binary};

/// Where the report goes.
const FILE: &str = "BENCHMARKS.md";

/// Every table, in the order of the report, and what it shows.
const TABLES: [(&str, &str); 18] = [
    ("whole", "a whole migration beside CRIU"),
    ("whole-jumbo", "the same with jumbo frames"),
    ("cost", "what a small process costs"),
    ("memory", "memory of qmig itself"),
    ("hand-over", "standstill in post-copy, by size"),
    ("post-copy", "waits for missing pages without emulated delay, beside CRIU"),
    ("post-copy-100m", "the same over 100 Mbit/s, by round trip and queue"),
    ("post-copy-1g", "the same over 1 Gbit/s"),
    ("post-copy-rough", "the same with loss, jitter and reordering"),
    ("post-copy-shared", "beside a TCP flow, and over a link whose rate changes"),
    ("post-copy-criu", "fill times beside CRIU's, by round trip"),
    ("criu-engine", "with CRIU as the engine, beside CRIU by itself"),
    ("ablation", "post-copy without each of its remedies"),
    ("pre-copy", "standstill of a process that writes, beside CRIU"),
    ("pre-copy-goal", "how often a goal for the standstill is met, and predicted"),
    ("pre-copy-cost", "what rounds cost the process that is copied"),
    ("pre-copy-size", "standstill by the size of memory, and bytes on the wire"),
    ("pre-copy-fast", "standstill of a process that writes faster than the link carries"),
];

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
                eprintln!("with the page of `qmig lab` for them.\n");
                TABLES.iter().for_each(|(name, shows)| eprintln!("  {name:16} {shows}"));
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
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    tables: Vec<&'static str>,
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
            word => tables.push(TABLES.iter().find(|(name, _)| *name == word)?.0),
        }
    }
    if tables.is_empty() {
        tables = TABLES.iter().map(|(name, _)| *name).collect();
    }
    Some(Asked { tables, quick, out })
}

fn run(asked: &Asked) -> Outcome<()> {
    qmig_binary()?;
    if Criu::installed().is_none() {
        eprintln!("no CRIU to compare with: netns-tests/install-criu.sh /opt/qmig-criu");
    }
    if asked.quick {
        quiet::hurry();
    }
    if let Some(folder) = &asked.out {
        records::into(folder)?;
    }
    for table in &asked.tables {
        let (started, machine) = (Instant::now(), machine::describe()?);
        let before = quiet::disturbed();
        records::begin(table)?;
        let text = one(table, asked.quick)?;
        let text = format!("{text}\n{machine}{}", report::disturbance(before));
        println!("{text}");
        if !asked.quick {
            report::write(Path::new(FILE), table, &text)?;
        }
        records::page()?;
        eprintln!("{table}: {} s", started.elapsed().as_secs());
    }
    Ok(())
}

fn one(table: &str, quick: bool) -> Outcome<String> {
    match table {
        "whole" => whole::table(whole::ETHERNET, quick),
        "whole-jumbo" => whole::table(whole::JUMBO, quick),
        "cost" => Ok(report::cost(&cost::measure()?)),
        "memory" => Ok(report::memory(&memory::measure()?)),
        "hand-over" => handover::measure(quick),
        "post-copy" => post_copy::near(quick),
        "post-copy-100m" => post_copy::far("100Mbit", quick),
        "post-copy-1g" => post_copy::far("1Gbit", quick),
        "post-copy-rough" => post_copy::rough(quick),
        "post-copy-shared" => shared::measure(quick),
        "post-copy-criu" => post_copy::beside_criu(quick),
        "criu-engine" => engine::measure(quick),
        "ablation" => post_copy::ablation(quick),
        "pre-copy" => pre_copy::measure(quick),
        "pre-copy-cost" => toll::measure(quick),
        "pre-copy-size" => pre_copy::size(quick),
        "pre-copy-fast" => goal::faster_than_the_link(quick),
        _ => goal::measure(quick),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_asked_for_by_name() {
        let out = Some(PathBuf::from("d"));
        let cost = Asked { tables: vec!["cost"], quick: true, out };
        assert_eq!(asked(&["cost", "--out", "d", "--quick"]), Some(cost));
        assert_eq!(asked(&[]).map(|asked| asked.tables.len()), Some(TABLES.len()));
        assert_eq!((asked(&["--out"]), asked(&["cost", "whale"])), (None, None));
        assert_eq!(asked(&["everything"]), None);
    }
}
