//! How long a running process waits for pages that are still on the other host, and how fast the
//! rest arrives meanwhile: by the process's own clock, whatever the tool.

use std::fmt::Write as _;
use std::time::Duration;

use netns_tests::experiment::{Load, Record, Trial, Way};
use netns_tests::{Criu, Link};

use crate::statistics::{median, middle};
use crate::{Outcome, records};

/// One row of a table: a way over a link.
struct Cell {
    name: String,
    /// `None` for a veth pair without any delay.
    words: Option<String>,
    way: Way,
    mib: u32,
    rounds: u32,
}

impl Cell {
    fn new(name: &str, words: Option<&str>, way: Way, mib: u32, rounds: u32) -> Self {
        Self { name: name.to_owned(), words: words.map(str::to_owned), way, mib, rounds }
    }

    fn trial(&self, round: u32) -> Outcome<Trial> {
        let mut trial = Trial::new(self.way, Load::toucher(self.mib, 2));
        if let Some(words) = &self.words {
            trial = trial.over(&self.name, words.parse::<Link>()?);
        }
        trial.deadline = Duration::from_secs(240);
        Ok(trial.repetition(round))
    }
}

/// No emulated delay, all tools beside each other.
pub(crate) fn near(quick: bool) -> Outcome<String> {
    let (mib, rounds) = if quick { (64, 1) } else { (512, 5) };
    let mut ways = vec![Way::POST_COPY];
    if Criu::installed().is_some() {
        ways.extend([Way::CriuLazy { tls: false }, Way::CriuLazy { tls: true }]);
    }
    let mut cells: Vec<_> =
        ways.into_iter().map(|way| Cell::new("veth", None, way, mib, rounds)).collect();
    // Small, for its pages come one by one, by being waited for.
    cells.push(Cell::new("veth, 8 MiB", None, Way::POST_COPY_IDLE, 8, rounds));
    let goal = "Goal: p50 ≤ 0.25 ms and p99 ≤ 1.5 ms while the rest arrives at full speed, 0.15 and 1 \
                ms on an idle link.\n";
    table(&format!("Post-copy without emulated delay, {mib} MiB"), goal, cells)
}

/// 100 Mbit/s, or 1 Gbit/s: each round trip with a short and a long queue at the bottleneck.
pub(crate) fn far(rate: &str, quick: bool) -> Outcome<String> {
    let (mib, rounds) = match (rate, quick) {
        ("100Mbit", false) => (128, 5),
        (_, false) => (768, 5),
        (_, true) => (16, 1),
    };
    let mut cells = Vec::new();
    for rtt in if quick { &[20][..] } else { &[20, 50, 100] } {
        for queue in ["1bdp", "200ms"] {
            // Ten times the packets would take a core for the emulator alone.
            let whole = if rate == "1Gbit" { " gso" } else { "" };
            let words = format!("rate={rate} rtt={rtt}ms queue={queue}{whole}");
            let name = format!("{rate}, RTT {rtt} ms, queue {queue}");
            cells.push(Cell::new(&name, Some(&words), Way::POST_COPY, mib, rounds));
        }
    }
    let goal = "Goal: p50 ≤ RTT + 4 ms, p99 ≤ RTT + 8 ms, while the fill has ≥ 92 % of the link.\n";
    table(&format!("Post-copy over {rate}/s, {mib} MiB incompressible"), goal, cells)
}

/// What loss, jitter, and a change of rate do.
pub(crate) fn rough(quick: bool) -> Outcome<String> {
    let (mib, rounds) = if quick { (16, 1) } else { (96, 5) };
    let mut cells = Vec::new();
    for (name, more) in [
        ("loss 0.1 %", "loss=0.1%"),
        ("loss 1 %", "loss=1%"),
        ("loss 1 % in bursts of 8", "loss=1%x8"),
        ("jitter ± 5 ms", "jitter=5ms"),
        ("reordering 1 % by 2 ms", "reorder=1%"),
    ] {
        let words = format!("rate=100Mbit rtt=20ms queue=1bdp {more}");
        let name = format!("100Mbit, RTT 20 ms, {name}");
        cells.push(Cell::new(&name, Some(&words), Way::POST_COPY, mib, rounds));
    }
    let goal = "Goal: p99 ≤ 1.6 × RTT at 0.1 % of loss; ≤ 3 × RTT at 1 % with the fill at ≥ 85 % of \
                the link; ≤ 2 × RTT with jitter.\n";
    table(&format!("Post-copy over rough links, {mib} MiB incompressible"), goal, cells)
}

/// CRIU asks for one range at a time: its fill falls with the round trip.
pub(crate) fn beside_criu(quick: bool) -> Outcome<String> {
    if Criu::installed().is_none() {
        return Ok("No CRIU was there to compare with.\n".to_owned());
    }
    let (mib, rounds) = if quick { (2, 1) } else { (4, 1) };
    let mut cells = Vec::new();
    for rtt in if quick { &[20][..] } else { &[20, 50, 100] } {
        let words = format!("rate=100Mbit rtt={rtt}ms queue=1bdp");
        let name = format!("100Mbit, RTT {rtt} ms");
        for way in [Way::POST_COPY, Way::CriuLazy { tls: false }, Way::CriuLazy { tls: true }] {
            cells.push(Cell::new(&name, Some(&words), way, mib, rounds));
        }
    }
    table(&format!("Post-copy beside CRIU's lazy-pages, {mib} MiB incompressible"), "", cells)
}

/// What each of the remedies against waiting behind bulk is worth.
pub(crate) fn ablation(quick: bool) -> Outcome<String> {
    let (mib, rounds) = if quick { (8, 1) } else { (32, 3) };
    let mut cells = Vec::new();
    for more in ["queue=200ms", "queue=1bdp loss=1%"] {
        let words = format!("rate=100Mbit rtt=20ms {more}");
        let name = format!("100Mbit, RTT 20 ms, {}", more.replace('=', " "));
        cells.extend(Way::ABLATIONS.map(|way| Cell::new(&name, Some(&words), way, mib, rounds)));
    }
    table(&format!("What each remedy is worth, {mib} MiB incompressible"), "", cells)
}

fn table(title: &str, note: &str, cells: Vec<Cell>) -> Outcome<String> {
    let rounds = cells.iter().map(|cell| cell.rounds).max().unwrap_or(0);
    let mut text = format!(
        "## {title}\n\nTwo threads look at a random page each millisecond and a third writes; waits are \
         those of the process for pages that were not there (\"after 3 s\" is the p99 of those that began so much later than it ran). \
         {rounds} round(s) each; medians.\n{note}\n\
         | link | way | waits | p50 | p99 | after 3 s | longest | fill | of the link | until complete | stood still |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let (mut late, mut first) = (0.0_f64, None);
    for cell in &cells {
        let mut records = Vec::new();
        for round in 0..cell.rounds {
            let record = records::of(&cell.trial(round)?)?;
            eprintln!(
                "{title}, {}: {}, round {}: {}",
                cell.name,
                cell.way,
                round + 1,
                said(&record)
            );
            late = late.max(record.up.lateness_us).max(record.down.lateness_us);
            records.push(record);
        }
        let row = row(cell, &records, &mut first);
        writeln!(text, "{row}")?;
    }
    if late > 0.0 {
        writeln!(text, "\nThe emulator handed over 99 % of packets at most {late:.0} µs late.")?;
    }
    Ok(text)
}

/// `first` is the time to completion of the first way on the same link, to compare with.
fn row(cell: &Cell, records: &[Record], first: &mut Option<(String, f64)>) -> String {
    let good: Vec<&Record> = records.iter().filter(|record| record.error.is_none()).collect();
    let failed = records.len() - good.len();
    if good.is_empty() {
        let why = records.first().and_then(|record| record.error.as_deref()).unwrap_or_default();
        let why = why.lines().next().unwrap_or_default().replace('|', "/");
        return format!("| {} | {} | failed: {why} | | | | | | | | |", cell.name, cell.way);
    }
    let ms = |of: fn(&Record) -> u64| median(good.iter().map(|record| of(record))) / 1e3;
    let total = ms(|record| record.total_us);
    let ratio = match first {
        Some((name, ours)) if *name == cell.name => format!(" ({:.1} ×)", total / *ours),
        _ => {
            *first = Some((cell.name.clone(), total));
            String::new()
        }
    };
    // Only an emulated link counts what it carries.
    let fills = good.iter().map(|record| record.fill_bps).filter(|fill| *fill > 0.0);
    let fill = middle(fills.collect());
    let share = middle(good.iter().filter_map(|record| record.fill_share).collect());
    format!(
        "| {} | {}{} | {:.0} | {:.2} ms | {:.2} ms | {} | {:.1} ms | {} | {} | {:.2} s{ratio} | {:.1} ms |",
        cell.name,
        cell.way,
        if failed > 0 { format!(" ({failed} of {} failed)", records.len()) } else { String::new() },
        median(good.iter().map(|record| record.waits.count)),
        ms(|record| record.waits.p50_us),
        ms(|record| record.waits.p99_us),
        late_p99(&good),
        ms(|record| record.waits.max_us),
        fill.map_or_else(String::new, |fill| format!("{:.1} Mbit/s", fill / 1e6)),
        share.map_or_else(String::new, |share| format!("{:.1} %", share * 100.0)),
        total / 1e3,
        ms(|record| record.felt_us),
    )
}

/// The median of the p99 of waits that began more than three seconds after it ran.
pub(crate) fn late_p99(records: &[&Record]) -> String {
    let late = |record: &&Record| {
        let running_ms = i64::try_from(record.running_us / 1000).ok()?;
        record.waits.p99_us_after(running_ms + 3000)
    };
    let late: Vec<u64> = records.iter().filter_map(late).collect();
    if late.is_empty() {
        String::new()
    } else {
        format!("{:.2} ms", median(late.into_iter()) / 1e3)
    }
}

/// One record, in a line.
pub(crate) fn said(record: &Record) -> String {
    if let Some(error) = &record.error {
        return format!("FAILED: {error}");
    }
    format!(
        "{} waits, p50 {} µs, p99 {} µs; running after {} ms, complete after {} ms, stood still {} ms",
        record.waits.count,
        record.waits.p50_us,
        record.waits.p99_us,
        record.running_us / 1000,
        record.total_us / 1000,
        record.felt_us / 1000,
    )
}
