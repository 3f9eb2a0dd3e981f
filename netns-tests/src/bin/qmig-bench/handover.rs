//! How long a process stands still until it runs on the other host in post-copy, by its size and the
//! link: what is missing follows later, so the size should not matter.

use std::fmt::Write as _;
use std::time::Duration;

use netns_tests::Link;
use netns_tests::experiment::{Load, Trial, Way};

use crate::report::millis;
use crate::statistics::Sample;
use crate::{Outcome, records};

/// Its threads, the first included.
const THREADS: u32 = 8;

pub(crate) fn measure(quick: bool) -> Outcome<String> {
    let (sizes, rounds): (&[u32], u32) = if quick { (&[64], 1) } else { (&[256, 4096], 5) };
    let mut text = format!(
        "## Hand-over in post-copy: a process with {THREADS} threads\n\nFreeze to running, by the report \
         of qmig, {rounds} time(s). It is ended when it runs.\nGoal: ≤ 30 ms + 2 RTT for 4096 MiB.\n\n\
         | link | size | median | p90 | min | max |\n|---|---:|---:|---:|---:|---:|\n"
    );
    for link in
        [("veth", None), ("1 Gbit/s, RTT 20 ms", Some("rate=1Gbit rtt=20ms queue=1bdp gso"))]
    {
        for mib in sizes {
            let times: Vec<_> =
                (0..rounds).map(|round| standstill(round, *mib, link)).collect::<Outcome<_>>()?;
            let sample = Sample::new(times).ok_or("measure anything")?;
            let row = [sample.median(), sample.p90(), sample.min(), sample.max()].map(millis);
            let _ = writeln!(text, "| {} | {mib} MiB | {} |", link.0, row.join(" | "));
        }
    }
    Ok(text)
}

fn standstill(round: u32, mib: u32, (name, words): (&str, Option<&str>)) -> Outcome<Duration> {
    let load = Load::idle(mib).arg("threads", THREADS - 1);
    let mut trial = Trial::new(Way::POST_COPY, load);
    if let Some(words) = words {
        trial = trial.over(name, words.parse::<Link>()?);
    }
    trial.until_running = true;
    let record = records::of(&trial.repetition(round))?;
    if let Some(error) = record.error {
        return Err(format!("hand over {mib} MiB: {error}").into());
    }
    eprintln!("hand-over of {mib} MiB: {} µs", record.downtime_us);
    Ok(Duration::from_micros(record.downtime_us))
}
