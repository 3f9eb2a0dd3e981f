//! What a migration costs whatever the size: a small process, and the parts of its standstill.

use std::collections::BTreeMap;
use std::time::Duration;

use netns_tests::experiment::{Load, Trial, Way};

use crate::statistics::Sample;
use crate::{Outcome, records};

/// The size of the process.
pub(crate) const MIB: u32 = 2;
/// Its threads, the first included.
pub(crate) const THREADS: u32 = 5;
/// How often, and how often quickly.
const ROUNDS: [u32; 2] = [20, 3];

/// The standstill.
#[derive(Debug)]
pub(crate) struct Cost {
    /// From the last instruction there to the first one here, by the report of qmig.
    pub(crate) whole: Sample,
    /// Its parts, in order.
    pub(crate) parts: Vec<(String, Sample)>,
    /// What the process itself felt: its longest time between two heartbeats, each one millisecond.
    pub(crate) felt: Sample,
    /// From the start of the dump to its end.
    pub(crate) total: Sample,
}

pub(crate) fn measure(quick: bool) -> Outcome<Cost> {
    let (mut whole, mut felt, mut total) = (Vec::new(), Vec::new(), Vec::new());
    let mut parts: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    let load = Load::idle(MIB).arg("threads", THREADS - 1);
    for round in 0..ROUNDS[usize::from(quick)] {
        let record = records::of(&Trial::new(Way::AUTO, load.clone()).repetition(round))?;
        if let Some(error) = record.error {
            return Err(format!("move a small process: {error}").into());
        }
        whole.push(Duration::from_micros(record.downtime_us));
        total.push(Duration::from_micros(record.total_us));
        felt.push(Duration::from_micros(record.felt_us));
        for (name, us) in record.parts {
            parts.entry(name).or_default().push(Duration::from_micros(us));
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
