//! How long a process that keeps writing stands still: by its own heart.

use std::fmt::Write as _;

use netns_tests::experiment::{Load, Record, Trial, Way};
use netns_tests::{Criu, Link};

use crate::Outcome;
use crate::post_copy::said;
use crate::statistics::median;

pub(crate) fn measure(quick: bool) -> Outcome<String> {
    let (gib, rounds) = if quick { (1, 1) } else { (4, 5) };
    let mut rows = vec![
        (Way::PRE_COPY, Load::writer(256 * gib, 50)),
        (Way::STOP, Load::writer(256 * gib, 50)),
    ];
    if Criu::installed().is_some() {
        rows.extend([false, true].map(|tls| (Way::CriuStop { tls }, Load::writer(256 * gib, 50))));
    }
    rows.push((Way::PRE_COPY, Load::idle(256 * gib)));
    if !quick {
        rows.push((Way::PRE_COPY, Load::writer(4096, 50)));
    }
    let mut text = format!(
        "## Standstill of a process that writes\n\n\
         Random pages are rewritten at 50 MiB/s (or none are); the process beats its heart each \
         millisecond, and its longest gap is what is shown. No emulated delay. {rounds} round(s) each, of CRIU at most 3. \
         Meanwhile the machine itself (a thread of SCHED_FIFO on each CPU) stood still for as long as the last column says.\n\n\
         | way | memory | median | longest | by the tool's own report | rounds | whole migration | the machine, median and longest |\n\
         |---|---|---:|---:|---:|---:|---:|---:|\n"
    );
    for (way, load) in rows {
        // The slow ones less often: the whole shall take four minutes.
        let qmig = matches!(way, Way::Qmig { .. });
        let rounds = if qmig { rounds } else { rounds.min(3) };
        let records = records(&format!("pre-copy: {way}"), rounds, |round| {
            Ok(Trial::new(way, load.clone()).watched().repetition(round))
        })?;
        writeln!(text, "| {way} | {} |{}", load.words(), columns(&records))?;
    }
    Ok(text)
}

/// The same dirty set in little and in much memory, and what crosses of memory that compresses.
pub(crate) fn size(quick: bool) -> Outcome<String> {
    let (sizes, times) = if quick { ([64, 256], 1) } else { ([256, 4096], 5) };
    let mut text = "## Standstill by the size of memory\n\n\
         Of memory of either size the same few MiB are rewritten at 800 MiB/s, in turn and without end, so that \
         all of them are left at the end; no emulated delay. Freeze to running, by the report of qmig, and the part \
         of it in which the tree is read, for which the kernel walks all memory. The last column is how long the \
         machine itself stood still in each migration at most.\n\n\
         | rewritten | memory | times | median | longest | reading | pages left, median | of the smallest | the machine, median and longest |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for hot in [1, 4] {
        // In turn, so that what else the machine does falls on both.
        let mut all = sizes.map(|_| Vec::new());
        for round in 0..times {
            for (mib, all) in sizes.iter().zip(&mut all) {
                let load = Load::writer(*mib, 800).arg("hot_mib", hot);
                let trial = Trial::new(Way::PRE_COPY, load).watched().repetition(round);
                let record = crate::records::of(&trial)?;
                eprintln!("{hot} of {mib} MiB, round {}: {}", round + 1, said(&record));
                all.extend(Some(record).filter(|record| record.error.is_none()));
            }
        }
        let mut smallest = None;
        for (mib, good) in sizes.iter().zip(&all) {
            let standstill = median(good.iter().map(|record| record.downtime_us)) / 1e3;
            let longest = good.iter().map(|record| record.downtime_us).max().unwrap_or(0);
            let reading = |record: &Record| record.parts.get("collect").copied();
            writeln!(
                text,
                "| {hot} MiB | {mib} MiB | {} | {standstill:.1} ms | {:.1} ms | {:.1} ms | {:.0} | {:.2} × | {} |",
                good.len(),
                micros_to_ms(longest),
                median(good.iter().filter_map(reading)) / 1e3,
                median(good.iter().map(|record| record.frozen_pages)),
                standstill / *smallest.get_or_insert(standstill),
                of_the_machine(good.iter()),
            )?;
        }
    }
    let link: Link = "rate=1Gbit rtt=1ms queue=20ms gso".parse()?;
    let mib = if quick { 64 } else { 512 };
    let load = Load::idle(mib).arg("random", 37).arg("zero", 20);
    let all = records("bytes", times.min(3), |round| {
        Ok(Trial::new(Way::PRE_COPY, load.clone()).over("1Gbit", link.clone()).repetition(round))
    })?;
    let good = all.iter().filter(|record| record.error.is_none());
    let bytes = median(good.map(|record| record.up.bytes));
    writeln!(
        text,
        "\nOn the wire, of {mib} MiB of which 20 % is zeros, 50 % text and 30 % incompressible, over \
         1 Gbit/s, with all headers: {:.1} % of its memory.",
        bytes * 100.0 / f64::from(mib) / f64::from(1 << 20),
    )?;
    Ok(text)
}

pub(crate) fn records(
    what: &str,
    rounds: u32,
    trial: impl Fn(u32) -> Outcome<Trial>,
) -> Outcome<Vec<Record>> {
    (0..rounds)
        .map(|round| {
            let record = crate::records::of(&trial(round)?)?;
            eprintln!("{what}, round {}: {}", round + 1, said(&record));
            Ok(record)
        })
        .collect()
}

fn columns(records: &[Record]) -> String {
    let good: Vec<&Record> = records.iter().filter(|record| record.error.is_none()).collect();
    if good.is_empty() {
        let why = records.first().and_then(|record| record.error.as_deref()).unwrap_or_default();
        return format!(
            " failed: {} | | | | | |",
            why.lines().next().unwrap_or_default().replace('|', "/")
        );
    }
    let ms = |of: fn(&Record) -> u64| median(good.iter().map(|record| of(record))) / 1e3;
    let longest = good.iter().map(|record| record.felt_us).max().unwrap_or(0);
    let own = ms(|record| record.downtime_us);
    format!(
        " {:.1} ms | {:.1} ms | {} | {:.0} | {:.2} s | {} |",
        ms(|record| record.felt_us),
        micros_to_ms(longest),
        if own > 0.0 { format!("{own:.1} ms") } else { String::new() },
        median(good.iter().map(|record| record.rounds.len() as u64)),
        ms(|record| record.total_us) / 1e3,
        of_the_machine(good.iter().copied()),
    )
}

/// How long the machine itself stood still, where that could be seen.
fn of_the_machine<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    let stalls: Vec<u64> = records.filter_map(|record| record.stalled_us).collect();
    let told = stalls.iter().max().map(|longest| {
        let median = median(stalls.iter().copied()) / 1e3;
        format!("{median:.1} and {:.1} ms", micros_to_ms(*longest))
    });
    told.unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn micros_to_ms(us: u64) -> f64 {
    us as f64 / 1e3
}
