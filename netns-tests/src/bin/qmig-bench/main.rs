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
mod report;
mod shared;
mod statistics;
mod toll;
mod whole;

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use netns_tests::experiment::Record;
use netns_tests::{Criu, qmig_binary};

/// Where the report goes.
const FILE: &str = "BENCHMARKS.md";
/// The variable that names a file for every record of a trial, a line of JSON each.
const RECORDS: &str = "QMIG_BENCH_RECORDS";

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
        words => match asked(words) {
            Some((tables, quick)) => run(&tables, quick),
            None => {
                eprintln!("usage: qmig-bench [--quick] [TABLE…]   (root)\n");
                eprintln!("All tables without a name; what is measured goes into {FILE}, except");
                eprintln!("with --quick, which only shows that it runs.\n");
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

/// Which tables, and whether quickly; `None` for a word that is neither.
fn asked(words: &[&str]) -> Option<(Vec<&'static str>, bool)> {
    let quick = words.contains(&"--quick");
    let names = words.iter().filter(|word| **word != "--quick");
    let find = |word: &&str| TABLES.iter().find(|(name, _)| name == word).map(|(name, _)| *name);
    let asked: Vec<_> = names.map(find).collect::<Option<_>>()?;
    let all = || TABLES.iter().map(|(name, _)| *name).collect();
    Some((if asked.is_empty() { all() } else { asked }, quick))
}

fn run(tables: &[&'static str], quick: bool) -> Outcome<()> {
    qmig_binary()?;
    if Criu::installed().is_none() {
        eprintln!("no CRIU to compare with: netns-tests/install-criu.sh /opt/qmig-criu");
    }
    if quick {
        quiet::hurry();
    }
    for table in tables {
        let (started, machine) = (Instant::now(), machine::describe()?);
        let before = quiet::disturbed();
        let text = one(table, quick)?;
        let text = format!("{text}\n{machine}{}", report::disturbance(before));
        println!("{text}");
        if !quick {
            report::write(Path::new(FILE), table, &text)?;
        }
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

/// Keep a record for whoever asked for records.
fn keep(record: &Record) -> Outcome<()> {
    let Some(path) = std::env::var_os(RECORDS) else { return Ok(()) };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    Ok(writeln!(file, "{}", serde_json::to_string(record)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_asked_for_by_name() {
        assert_eq!(asked(&["cost", "--quick"]), Some((vec!["cost"], true)));
        assert_eq!(asked(&[]).map(|(tables, _)| tables.len()), Some(TABLES.len()));
        assert_eq!(asked(&["everything"]), None);
    }
}
