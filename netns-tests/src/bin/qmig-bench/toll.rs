//! What rounds cost the process that is copied: how many pages it writes before, meanwhile, after.

use std::fmt::Write as _;
use std::time::Duration;

use netns_tests::Link;
use netns_tests::experiment::{Load, Record, Trial, Way};

use crate::Outcome;
use crate::pre_copy::records;
use crate::statistics::middle;

/// For how long it is watched before and after.
const LINGER: Duration = Duration::from_millis(1500);

pub(crate) fn measure(quick: bool) -> Outcome<String> {
    let (mib, times) = if quick { (128, 1) } else { (1024, 5) };
    let link: Link = "rate=1Gbit rtt=1ms queue=20ms gso".parse()?;
    let rows = [
        (Way::PRE_COPY, Load::writer(mib, 50), Some(&link)),
        (Way::PRE_COPY, Load::writer(mib, 50), None),
        (Way::HYBRID, Load::writer(mib / 2, 0), Some(&link)),
    ];
    let mut text = format!(
        "## What rounds cost the process\n\n\
         Pages it writes in a tenth of a second, whole tenths only: in {:.1} s before, while rounds \
         are made, and in {:.1} s after it runs on the other host (with the first tenth left out). \
         Rate 0 is as fast as it can, where all programs of both hosts share the cores. {times} \
         round(s), medians.\n\n\
         | way | memory | link | before | in rounds | loss | after | loss |\n\
         |---|---|---|---:|---:|---:|---:|---:|\n",
        LINGER.as_secs_f64(),
        LINGER.as_secs_f64(),
    );
    for (way, load, link) in rows {
        let all = records(&format!("cost: {way}"), times, |round| {
            let mut trial = Trial::new(way, load.clone());
            if let Some(link) = link {
                trial = trial.over("1Gbit", link.clone());
            }
            trial.linger = LINGER;
            Ok(trial.repetition(round))
        })?;
        let link = if link.is_some() { "1 Gbit/s, RTT 1 ms" } else { "veth" };
        let of = |pick: fn(&Record) -> Option<f64>| middle(all.iter().filter_map(pick).collect());
        let [before, rounds, after] = [of(before), of(in_rounds), of(after)];
        let told =
            |rate: Option<f64>| rate.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.0}"));
        let loss = |rate: Option<f64>| match (before, rate) {
            (Some(before), Some(rate)) if before > 0.0 => {
                format!("{:.1} %", 100.0 - 100.0 * rate / before)
            }
            _ => "–".to_owned(),
        };
        writeln!(
            text,
            "| {way} | {} | {link} | {} | {} | {} | {} | {} |",
            load.words(),
            told(before),
            told(rounds),
            loss(rounds),
            told(after),
            loss(after),
        )?;
    }
    Ok(text)
}

fn before(record: &Record) -> Option<f64> {
    mean(record, -1400, 0)
}

fn in_rounds(record: &Record) -> Option<f64> {
    let (first, last) = (record.rounds.first()?, record.rounds.last()?);
    let at = |round: &serde_json::Value, field: &str| round[field].as_i64();
    let began = at(first, "at_us")? - at(first, "took_us")?;
    // The clock of the record begins a moment before that of the program.
    mean(record, began / 1000 + 50, at(last, "at_us")? / 1000)
}

fn after(record: &Record) -> Option<f64> {
    let running = i64::try_from(record.running_us.max(record.total_us) / 1000).ok()?;
    mean(record, running + 100, running + 1400)
}

/// Of the tenths that lie wholly between these, in milliseconds; `None` without any.
#[expect(clippy::cast_precision_loss, reason = "a mean")]
fn mean(record: &Record, from: i64, to: i64) -> Option<f64> {
    let within = record.written.iter().filter(|(at, _)| (from..=to - 100).contains(at));
    let pages: Vec<u64> = within.map(|(_, pages)| *pages).collect();
    (!pages.is_empty()).then(|| pages.iter().sum::<u64>() as f64 / pages.len() as f64)
}
