//! A goal for the standstill: how often it is met, and how good the prediction is; and what becomes of
//! a process for which no rounds are enough.

use std::fmt::Write as _;
use std::time::Duration;

use netns_tests::Link;
use netns_tests::experiment::{Load, Record, Trial, Way};

use crate::Outcome;
use crate::pre_copy::{micros_to_ms, records};
use crate::statistics::{median, middle};

const GOAL: Duration = Duration::from_millis(300);
/// A prediction within this is good.
const FACTOR: f64 = 1.5;

/// The goal that was given, and whether it was met.
pub(crate) fn measure(quick: bool) -> Outcome<String> {
    let times = if quick { 2 } else { 40 };
    let link: Link = "rate=1Gbit rtt=20ms queue=1bdp gso".parse()?;
    let load = Load::writer(if quick { 128 } else { 1024 }, 20);
    let all = records("a goal of 300 ms", times, |round| {
        let mut trial =
            Trial::new(Way::PRE_COPY, load.clone()).over("1Gbit, RTT 20 ms", link.clone());
        trial.dump_args = ["--max-downtime", "300ms"].map(str::to_owned).to_vec();
        Ok(trial.repetition(round))
    })?;
    let good = || all.iter().filter(|record| record.error.is_none());
    let met = good().filter(|it| u128::from(it.downtime_us.max(it.felt_us)) <= GOAL.as_micros());
    let ratios: Vec<f64> = good().filter_map(measured_by_predicted).collect();
    let close = ratios.iter().filter(|ratio| (1.0 / FACTOR..=FACTOR).contains(*ratio)).count();
    let longest = |of: fn(&Record) -> u64| micros_to_ms(good().map(of).max().unwrap_or(0));
    let middle_of = |of: fn(&Record) -> u64| median(good().map(of)) / 1e3;
    let extreme = |pick: fn(f64, f64) -> f64| ratios.iter().copied().reduce(pick).unwrap_or(0.0);
    let mut text = format!(
        "## A goal for the standstill: {} over 1 Gbit/s, RTT 20 ms, `--max-downtime 300ms`\n\n\
         | | of {times} |\n|---|---:|\n\
         | stood still no longer than the goal, by itself and by qmig's report | {} |\n\
         | the last prediction is within a factor {FACTOR} of what qmig reports | {close} |\n",
        load.words(),
        met.count(),
    );
    writeln!(
        text,
        "\nStandstill, median and longest: {:.1} and {:.1} ms as the process felt it, {:.1} and {:.1} \
         ms by the report. Measured by predicted: {:.2} (median), {:.2} to {:.2}. Rounds: {:.0} \
         (median).",
        middle_of(|record| record.felt_us),
        longest(|record| record.felt_us),
        middle_of(|record| record.downtime_us),
        longest(|record| record.downtime_us),
        middle(ratios.clone()).unwrap_or(0.0),
        extreme(f64::min),
        extreme(f64::max),
        median(good().map(|record| record.rounds.len() as u64)),
    )?;
    Ok(text)
}

#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn measured_by_predicted(record: &Record) -> Option<f64> {
    let predicted = record.rounds.last()?["predicted_downtime_us"].as_f64()?;
    Some(record.downtime_us as f64 / predicted)
}

/// It rewrites all of its memory again and again: rounds end, and what is left follows.
pub(crate) fn faster_than_the_link(quick: bool) -> Outcome<String> {
    let (mib, times) = if quick { (64, 1) } else { (256, 6) };
    let mut text = format!(
        "## Faster than the link: hybrid, {mib} MiB rewritten as fast as it can\n\n\
         | link | times | longest standstill, by the report | as felt | 100 ms + 2 RTT | longest \
         migration | rounds |\n|---|---:|---:|---:|---:|---:|---:|\n"
    );
    for (words, rtt) in
        [("rate=400Mbit rtt=20ms queue=1bdp", 20), ("rate=1Gbit rtt=1ms queue=20ms gso", 1)]
    {
        let link: Link = words.parse()?;
        let load = Load::writer(mib, 0);
        let all = records(words, times, |round| {
            Ok(Trial::new(Way::HYBRID, load.clone()).over(words, link.clone()).repetition(round))
        })?;
        let good = || all.iter().filter(|record| record.error.is_none());
        let longest = |of: fn(&Record) -> u64| micros_to_ms(good().map(of).max().unwrap_or(0));
        writeln!(
            text,
            "| {words} | {} | {:.1} ms | {:.1} ms | {} ms | {:.2} s | {:.0} |",
            good().count(),
            longest(|record| record.downtime_us),
            longest(|record| record.felt_us),
            100 + 2 * rtt,
            longest(|record| record.total_us) / 1e3,
            median(good().map(|record| record.rounds.len() as u64)),
        )?;
    }
    Ok(text)
}
