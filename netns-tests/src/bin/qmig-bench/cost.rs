//! What a migration costs whatever the size: a small process, and the parts of its standstill.

use std::collections::BTreeMap;
use std::time::Duration;

use netns_tests::{Lab, Migration, Side, Subject};

use crate::statistics::Sample;
use crate::{Outcome, quiet};

/// The size of the process.
pub(crate) const MIB: u32 = 2;
/// Its threads, the first included.
pub(crate) const THREADS: u32 = 5;
/// How often.
pub(crate) const ROUNDS: usize = 20;

/// The standstill.
#[derive(Debug)]
pub(crate) struct Cost {
    /// From the last instruction there to the first one here, by the report of qmig.
    pub(crate) whole: Sample,
    /// Its parts, in order.
    pub(crate) parts: Vec<(String, Sample)>,
    /// What the process itself felt: its longest time between two heartbeats, each one millisecond.
    pub(crate) felt: Sample,
    /// From the first word to the last.
    pub(crate) total: Sample,
}

pub(crate) fn measure() -> Outcome<Cost> {
    let (mut whole, mut felt, mut total) = (Vec::new(), Vec::new(), Vec::new());
    let mut parts: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let lab = Lab::two_hosts()?;
        let subject = Subject::new("filler").arg("mib").arg(MIB).arg("threads").arg(THREADS - 1);
        let subject = subject.start(&lab, lab.src())?;
        quiet::wait()?;
        let moved = Migration::new(&lab)?.run(subject.pid())?;
        let verdict = moved.ask(&lab, &subject)?;
        if !verdict.passed() {
            return Err(format!("move a small process: {verdict}").into());
        }
        let report = moved.event(Side::Source, "report").ok_or("read the report")?;
        let time = |value: &serde_json::Value| Duration::from_micros(value.as_u64().unwrap_or(0));
        whole.push(time(report.field("downtime_us")));
        total.push(time(report.field("total_us")));
        felt.extend(verdict.longest_gap());
        for (name, value) in report.field("parts").as_object().ok_or("read the parts")? {
            parts.entry(name.clone()).or_default().push(time(value));
        }
    }
    // JSON objects have no order; this is the one in which they happen.
    const ORDER: [&str; 6] = ["freeze", "collect", "images", "pages", "restore", "commit"];
    let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    let mut parts: Vec<_> =
        parts.into_iter().filter_map(|(name, times)| Some((name, Sample::new(times)?))).collect();
    parts.sort_by_key(|(name, _)| place(name));
    let sample = |times| Sample::new(times).ok_or("measure anything");
    Ok(Cost { whole: sample(whole)?, parts, felt: sample(felt)?, total: sample(total)? })
}
