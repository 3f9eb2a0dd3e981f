//! How long a process that keeps writing stands still: by its own heart.

use std::fmt::Write as _;
use std::time::Duration;

use netns_tests::experiment::{Load, Record, Trial, Way};
use netns_tests::{Criu, Link};

use crate::post_copy::said;
use crate::statistics::median;
use crate::{Outcome, quiet};

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
         millisecond, and its longest gap is what is shown. No emulated delay. {rounds} round(s) each, of CRIU and of 4 GiB at most 3.\n\n\
         | way | memory | median | longest | by the tool's own report | rounds | whole migration |\n\
         |---|---|---:|---:|---:|---:|---:|\n"
    );
    for (way, load) in rows {
        // The slow ones less often: the whole shall take four minutes.
        let qmig = matches!(way, Way::Qmig { .. });
        let rounds = if load.mib > 1024 || !qmig { rounds.min(3) } else { rounds };
        let records = records(&format!("pre-copy: {way}"), rounds, |round| {
            Ok(Trial::new(way, load.clone()).repetition(round))
        })?;
        writeln!(text, "| {way} | {} |{}", load.words(), columns(&records))?;
    }
    Ok(text)
}

/// The goal that was given, and whether it was met.
pub(crate) fn goal(quick: bool) -> Outcome<String> {
    let rounds = if quick { 2 } else { 12 };
    let goal = Duration::from_millis(300);
    let link: Link = "rate=1Gbit rtt=20ms queue=1bdp".parse()?;
    let load = Load::writer(if quick { 128 } else { 1024 }, 20);
    let records = records("a goal of 300 ms", rounds, |round| {
        let mut trial =
            Trial::new(Way::PRE_COPY, load.clone()).over("1Gbit, RTT 20 ms", link.clone());
        trial.dump_args = ["--max-downtime", "300ms"].map(str::to_owned).to_vec();
        Ok(trial.repetition(round))
    })?;
    let good = records.iter().filter(|record| record.error.is_none());
    let met = good.clone().filter(|record| u128::from(record.felt_us) <= goal.as_micros()).count();
    let close = good
        .filter(|record| {
            let last = record.rounds.last().map(|round| &round["predicted_downtime_us"]);
            let predicted = last.and_then(serde_json::Value::as_f64).unwrap_or(0.0);
            #[expect(clippy::cast_precision_loss, reason = "a ratio")]
            let ratio = record.downtime_us as f64 / predicted;
            (1.0 / 1.5..=1.5).contains(&ratio)
        })
        .count();
    Ok(format!(
        "## A goal for the standstill: {} over 1 Gbit/s, RTT 20 ms, `--max-downtime 300ms`\n\n\
         | | of {rounds} |\n|---|---:|\n| the process stood still no longer than the goal | {met} |\n\
         | the last prediction is within a factor 1.5 of what qmig reports | {close} |\n",
        load.words(),
    ))
}

fn records(what: &str, rounds: u32, trial: impl Fn(u32) -> Outcome<Trial>) -> Outcome<Vec<Record>> {
    (0..rounds)
        .map(|round| {
            let trial = trial(round)?;
            quiet::wait()?;
            let record = trial.run();
            crate::keep(&record)?;
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
            " failed: {} | | | | |",
            why.lines().next().unwrap_or_default().replace('|', "/")
        );
    }
    let ms = |of: fn(&Record) -> u64| median(good.iter().map(|record| of(record))) / 1e3;
    let longest = good.iter().map(|record| record.felt_us).max().unwrap_or(0);
    let own = ms(|record| record.downtime_us);
    format!(
        " {:.1} ms | {:.1} ms | {} | {:.0} | {:.2} s |",
        ms(|record| record.felt_us),
        micros_to_ms(longest),
        if own > 0.0 { format!("{own:.1} ms") } else { String::new() },
        median(good.iter().map(|record| record.rounds.len() as u64)),
        ms(|record| record.total_us) / 1e3,
    )
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn micros_to_ms(us: u64) -> f64 {
    us as f64 / 1e3
}
