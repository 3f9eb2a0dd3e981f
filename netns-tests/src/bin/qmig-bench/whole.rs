//! A whole migration of a large process: from the first command to the last, by each way in turn.

use std::time::Duration;

use netns_tests::Criu;
use netns_tests::experiment::{Load, Trial, Way};

use crate::statistics::Sample;
use crate::{Outcome, records, report};

/// The size of the process.
pub(crate) const MIB: u32 = 1024;
/// How often each way is tried.
pub(crate) const ROUNDS: u32 = 5;
/// The size of Ethernet frames.
pub(crate) const ETHERNET: u32 = 1500;
/// The usual size of jumbo frames.
pub(crate) const JUMBO: u32 = 9000;

/// All ways side by side, over a veth pair with frames of this size.
pub(crate) fn table(mtu: u32, quick: bool) -> Outcome<String> {
    let criu = Criu::installed();
    report::whole(&measure(criu.is_some(), mtu, quick)?, criu.as_ref(), mtu)
}

/// The times of each way, from the start of the dump until all is there and nothing is left here.
fn measure(beside_criu: bool, mtu: u32, quick: bool) -> Outcome<Vec<(Way, Sample)>> {
    let all = [Way::STOP, Way::CriuStop { tls: false }, Way::CriuStop { tls: true }];
    let ways = if beside_criu { &all[..] } else { &all[..1] };
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..if quick { 1 } else { ROUNDS } {
        for (way, times) in ways.iter().zip(&mut times) {
            let mib = if quick { MIB / 8 } else { MIB };
            let trial = Trial::new(*way, Load::idle(mib)).frames(mtu).repetition(round);
            let record = records::of(&trial)?;
            if let Some(error) = record.error {
                return Err(format!("move by {way}: {error}").into());
            }
            let time = Duration::from_micros(record.total_us);
            eprintln!("whole, round {}: {way}: {:.3} s", round + 1, time.as_secs_f64());
            times.push(time);
        }
    }
    Ok(ways.iter().copied().zip(times.into_iter().filter_map(Sample::new)).collect())
}
