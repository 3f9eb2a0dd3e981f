//! The report, in Markdown.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use netns_tests::Criu;
use netns_tests::experiment::Way;

use crate::cost::{self, Cost};
use crate::memory::Peaks;
use crate::statistics::{Sample, ratio};
use crate::tables::TABLES;
use crate::{Outcome, quiet, whole};

/// Below this line of the file is ours.
const ANY_TABLE: &str = "<!-- table ";
const MARKER: &str = "<!-- Written by `make bench`; do not edit below. -->";

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

pub(crate) fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

pub(crate) fn whole(times: &[(Way, Sample)], criu: Option<&Criu>, mtu: u32) -> Outcome<String> {
    let version = criu.map(Criu::version).transpose()?;
    let against = match version {
        Some(version) => format!("beside CRIU {version}, whose images never leave memory (tmpfs)"),
        None => "no CRIU was there to compare with".to_owned(),
    };
    let mut text = format!(
        "## Whole migration, {} MiB, half of it incompressible, frames of {mtu} bytes\n\n\
         From the start of the dump until the process runs on the other host and none is left on \
         the first; {against}. {} rounds, the ways in turn.\n\n\
         | way | median | min | max | of qmig's time |\n|---|---:|---:|---:|---:|\n",
        whole::MIB,
        whole::ROUNDS,
    );
    let qmig = times.iter().find(|(way, _)| *way == Way::STOP).map(|(_, sample)| sample);
    for (way, sample) in times {
        let factor = qmig.map_or(1.0, |qmig| ratio(sample, qmig));
        let [median, min, max] = [sample.median(), sample.min(), sample.max()].map(seconds);
        writeln!(text, "| {way} | {median} | {min} | {max} | {factor:.2} × |")?;
    }
    Ok(text)
}

/// Whether to believe a table, given the counts before it.
pub(crate) fn disturbance((disturbed_before, runs_before): (u32, u32)) -> String {
    let (disturbed, runs) = quiet::disturbed();
    format!(
        "{} of {} measurements had to begin while something else used more than a tenth of the \
         machine.\n",
        disturbed - disturbed_before,
        runs - runs_before,
    )
}

pub(crate) fn cost(cost: &Cost) -> String {
    let mut text = format!(
        "## Fixed cost: a process of {} MiB with {} threads\n\n\
         Freeze to running, by the report of qmig, {} times.\n\n\
         | | median | p90 | min | max |\n|---|---:|---:|---:|---:|\n",
        cost::MIB,
        cost::THREADS,
        cost.whole.count(),
    );
    let mut row = |name: &str, sample: &Sample| {
        let times = [sample.median(), sample.p90(), sample.min(), sample.max()].map(millis);
        let _ = writeln!(text, "| {name} | {} |", times.join(" | "));
    };
    row("**standstill**", &cost.whole);
    for (name, sample) in &cost.parts {
        row(name, sample);
    }
    row("as the process felt it (it beats each ms)", &cost.felt);
    row("whole migration, the start and the end of qmig included", &cost.total);
    text
}

pub(crate) fn memory(peaks: &Peaks) -> String {
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    format!(
        "## Memory of qmig itself, moving a process of {} MiB\n\n\
         Peak of resident memory (VmHWM), one run.\n\n\
         | side | peak |\n|---|---:|\n| source | {} |\n| destination | {} |\n",
        peaks.mib,
        mib(peaks.source),
        mib(peaks.destination),
    )
}

/// Put a table into `file`, in the place of the one of that name; the others stay.
pub(crate) fn write(file: &Path, table: &str, text: &str) -> Outcome<()> {
    let before = std::fs::read_to_string(file).unwrap_or_else(|_| "# Benchmarks\n\n".to_owned());
    std::fs::write(file, replaced(&before, table, text))?;
    Ok(())
}

fn replaced(before: &str, table: &str, text: &str) -> String {
    let (head, below) = before.split_once(MARKER).unwrap_or((before, ""));
    let mut after = format!("{}\n\n{MARKER}\n", head.trim_end());
    for name in TABLES.iter().map(|table| table.name) {
        let mark = format!("<!-- table {name} -->");
        let old =
            below.split_once(&mark).map(|(_, rest)| rest.split(ANY_TABLE).next().unwrap_or(""));
        if let Some(text) = if name == table { Some(text) } else { old } {
            after.push_str(&format!("\n{mark}\n\n{}\n", text.trim()));
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_its_like() {
        let one = replaced("# Head\n", "cost", "two ms");
        let two = replaced(&one, "whole", "two s");
        assert_eq!(
            two,
            format!(
                "# Head\n\n{MARKER}\n\n<!-- table whole -->\n\ntwo s\n\n<!-- table cost -->\n\ntwo ms\n"
            )
        );
        assert_eq!(replaced(&two, "cost", "two ms"), two);
        assert!(replaced(&two, "cost", "1 ms").contains("two s\n\n<!-- table cost -->\n\n1 ms\n"));
    }
}
