//! `make bench`: qmig beside a stock CRIU, in one run, on two hosts made of namespaces.
//!
//! Prints a report in Markdown and writes it into BENCHMARKS.md of the current directory, below the
//! marker; what is above the marker is kept.

#![forbid(unsafe_code)]

mod cost;
mod image_copy;
mod machine;
mod memory;
mod quiet;
mod report;
mod statistics;
mod whole;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use netns_tests::{Criu, qmig_binary};

/// Where the report goes.
const FILE: &str = "BENCHMARKS.md";
const USAGE: &str = "usage: qmig-bench            (root; takes about five minutes)
       qmig-bench whole|cost|memory   one part only, and nothing is written";

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [] => everything(),
        [part @ ("whole" | "cost" | "memory")] => one(part).map(|text| println!("{text}")),
        ["receive-images", folder] => image_copy::receive(Path::new(folder)),
        ["send-images", folder, address] => image_copy::send(Path::new(folder), address),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qmig-bench: failed to {error}");
            ExitCode::FAILURE
        }
    }
}

fn everything() -> Outcome<()> {
    let started = Instant::now();
    let machine = machine::describe()?;
    let parts = [one("whole")?, one("cost")?, one("memory")?];
    let text = format!("{machine}\n{}\n{}", report::disturbance(), parts.join("\n"));
    println!("{text}");
    report::write(Path::new(FILE), &text)?;
    eprintln!("written into {FILE} after {} s", started.elapsed().as_secs());
    Ok(())
}

fn one(part: &str) -> Outcome<String> {
    qmig_binary()?;
    match part {
        "whole" => {
            let criu = Criu::installed();
            if criu.is_none() {
                eprintln!("no CRIU to compare with: netns-tests/install-criu.sh /opt/qmig-criu");
            }
            Ok(report::whole(&whole::measure(criu.as_ref())?, criu.as_ref())?)
        }
        "cost" => Ok(report::cost(&cost::measure()?)),
        _ => Ok(report::memory(&memory::measure()?)),
    }
}
