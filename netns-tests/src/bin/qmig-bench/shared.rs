//! Post-copy on a path that is not its own: beside a TCP flow, and while the rate changes.

use std::fmt::Write as _;
use std::time::Duration;

use netns_tests::Link;
use netns_tests::experiment::{Load, Record, Trial, Way};

use crate::post_copy::{late_p99, said};
use crate::statistics::{median, middle};
use crate::{Outcome, records};

/// The name of a row, the congestion control of a flow beside, and changes after so many seconds.
type Row = (&'static str, Option<&'static str>, &'static [(u64, &'static str)]);

const ROWS: [Row; 4] = [
    ("alone", None, &[]),
    ("beside one flow of TCP, Cubic", Some("cubic"), &[]),
    ("beside one flow of TCP, BBR", Some("bbr"), &[]),
    (
        "the rate halves after 1 s, doubles after 3",
        None,
        &[(1, "rate=50Mbit"), (3, "rate=100Mbit")],
    ),
];

pub(crate) fn measure(quick: bool) -> Outcome<String> {
    let (mib, rounds) = if quick { (16, 1) } else { (64, 5) };
    let link: Link = "rate=100Mbit rtt=20ms queue=2bdp".parse()?;
    let mut text = format!(
        "## Post-copy on a path that is not its own, {mib} MiB incompressible\n\n\
         100 Mbit/s, RTT 20 ms, a queue of two bandwidth-delay products; waits are those of the process. \
         {rounds} round(s) each; medians. Goal: ≥ 25 % of the link beside a Cubic flow, which is not \
         starved either; p99 ≤ 2 × RTT from 3 s on while the rate changes.\n\n\
         | | p50 | p99 | after 3 s | fill | of the link | the flow beside | until complete |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    for (name, rival, changes) in ROWS {
        let mut records = Vec::new();
        for round in 0..rounds {
            let mut trial =
                Trial::new(Way::POST_COPY, Load::toucher(mib, 2)).over(name, link.clone());
            trial.rival = rival.map(str::to_owned);
            let after = |(seconds, words): &(u64, &str)| {
                (Duration::from_secs(*seconds), (*words).to_owned())
            };
            trial.changes = changes.iter().map(after).collect();
            let record = records::of(&trial.repetition(round))?;
            eprintln!("shared, {name}, round {}: {}", round + 1, said(&record));
            records.push(record);
        }
        writeln!(text, "| {name} | {}", columns(&records))?;
    }
    Ok(text)
}

fn columns(records: &[Record]) -> String {
    let good: Vec<&Record> = records.iter().filter(|record| record.error.is_none()).collect();
    if good.is_empty() {
        let why = records.first().and_then(|record| record.error.as_deref()).unwrap_or_default();
        return format!(
            "failed: {} | | | | | | |",
            why.lines().next().unwrap_or_default().replace('|', "/")
        );
    }
    let ms = |of: fn(&Record) -> u64| median(good.iter().map(|record| of(record))) / 1e3;
    let of = |of: fn(&Record) -> f64| {
        middle(good.iter().map(|record| of(record)).collect()).unwrap_or(0.0)
    };
    format!(
        "{:.1} ms | {:.1} ms | {} | {:.1} Mbit/s | {:.1} % | {:.1} Mbit/s | {:.2} s |",
        ms(|record| record.waits.p50_us),
        ms(|record| record.waits.p99_us),
        late_p99(&good),
        of(|record| record.fill_bps) / 1e6,
        of(|record| record.fill_share.unwrap_or(0.0)) * 100.0,
        of(|record| record.rival_bps) / 1e6,
        ms(|record| record.total_us) / 1e3,
    )
}
