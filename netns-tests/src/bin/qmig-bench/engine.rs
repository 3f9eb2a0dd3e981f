//! qmig with a stock CRIU as its engine, beside that CRIU by itself.

use std::fmt::Write as _;

use netns_tests::Criu;
use netns_tests::experiment::{Load, Record, Trial, Way};

use crate::statistics::median;
use crate::{Outcome, records};

/// In pairs: the first way of each, and what it is measured by.
const WAYS: [Way; 6] = [
    Way::CRIU_ENGINE_STOP,
    Way::CriuStop { tls: true },
    Way::CriuStop { tls: false },
    Way::CRIU_ENGINE_POST_COPY,
    Way::CriuLazy { tls: true },
    Way::CriuLazy { tls: false },
];

pub(crate) fn measure(quick: bool) -> Outcome<String> {
    let Some(criu) = Criu::installed() else {
        return Ok("No CRIU was there to be the engine.\n".to_owned());
    };
    let (mib, rounds) = if quick { (64, 1) } else { (512, 5) };
    let mut records: Vec<Vec<Record>> = vec![Vec::new(); WAYS.len()];
    for round in 0..rounds {
        for (way, records) in WAYS.iter().zip(&mut records) {
            let trial = Trial::new(*way, Load::toucher(mib, 2)).repetition(round);
            let record = records::of(&trial)?;
            if let Some(error) = &record.error {
                return Err(format!("move by {way}: {error}").into());
            }
            let seconds = median([record.total_us].into_iter()) / 1e6;
            eprintln!("engine, round {}: {way}: {seconds:.3} s", round + 1);
            records.push(record);
        }
    }
    let mut text = format!(
        "## qmig with CRIU as its engine, {mib} MiB\n\n\
         Both engines are CRIU {}; the same process as for post-copy, over a veth pair without \
         emulated delay. Wire bytes are those of frames from the source. {rounds} round(s), the ways \
         in turn; medians.\n\n\
         | way | whole migration | stood still | wire | waits, p50 | p99 |\n\
         |---|---:|---:|---:|---:|---:|\n",
        criu.version()?,
    );
    let mut ours = None;
    for (way, records) in WAYS.iter().zip(&records) {
        let of = |field: fn(&Record) -> u64| median(records.iter().map(field));
        let total = of(|record| record.total_us);
        let first = matches!(way, Way::QmigCriu { .. });
        if first {
            ours = Some(total);
        }
        let times = ours
            .filter(|_| !first)
            .map_or_else(String::new, |ours| format!(" ({:.2} ×)", total / ours));
        let waits = match way.is_lazy() {
            true => {
                let [p50, p99] =
                    [of(|record| record.waits.p50_us), of(|record| record.waits.p99_us)];
                format!("{:.2} ms | {:.2} ms", p50 / 1e3, p99 / 1e3)
            }
            false => " | ".to_owned(),
        };
        writeln!(
            text,
            "| {way} | {:.2} s{times} | {:.1} ms | {:.1} MiB | {waits} |",
            total / 1e6,
            of(|record| record.felt_us) / 1e3,
            of(|record| record.up.bytes) / f64::from(1 << 20),
        )?;
    }
    Ok(text)
}
