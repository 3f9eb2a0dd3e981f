//! Runs what is left of an experiment, and writes down each trial as soon as it is over.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netns_tests::experiment::{Pair, PairWords, Record};

use crate::Outcome;
use crate::plan::Plan;

/// Where an experiment keeps what it finds.
#[derive(Debug)]
pub(crate) struct Results {
    folder: PathBuf,
}

impl Results {
    pub(crate) fn in_folder(folder: &Path) -> Outcome<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Every record so far. A last line that was cut off is no record.
    pub(crate) fn records(&self) -> Outcome<Vec<Record>> {
        let path = self.path("records.ndjson");
        if !path.exists() {
            return Ok(Vec::new());
        }
        let lines = BufReader::new(File::open(path)?).lines();
        Ok(lines.map_while(Result::ok).filter_map(|it| serde_json::from_str(&it).ok()).collect())
    }

    fn add(&self, record: &Record) -> Outcome<()> {
        let path = self.path("records.ndjson");
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(writeln!(file, "{}", serde_json::to_string(record)?)?)
    }
}

/// Do every trial that has no good record yet, between two real hosts if there are any; how many were
/// done.
pub(crate) fn run(plan: &Plan, results: &Results, pair: Option<&PairWords>) -> Outcome<usize> {
    let before: Vec<Record> =
        results.records()?.into_iter().filter(|record| record.error.is_none()).collect();
    let left: Vec<_> =
        plan.trials.iter().filter(|trial| !before.iter().any(|it| it.is_of(trial))).collect();
    eprintln!("{}: {} trials, {} of them are left", plan.name, plan.trials.len(), left.len());
    plan.left_out.iter().for_each(|why| eprintln!("left out: {why}"));
    let loads: Vec<_> = left.iter().map(|trial| &trial.load).collect();
    let pair =
        pair.filter(|_| !left.is_empty()).map(|words| Pair::meet(words, &loads)).transpose()?;
    let since = Instant::now();
    for (number, trial) in left.iter().enumerate() {
        let record = pair.as_ref().map_or_else(|| trial.run(), |pair| pair.run(trial));
        results.add(&record)?;
        let word = record.error.as_deref().map_or_else(
            || {
                format!(
                    "complete after {:.2} s, stood still {:.1} ms",
                    Duration::from_micros(record.total_us).as_secs_f64(),
                    Duration::from_micros(record.felt_us).as_secs_f64() * 1e3
                )
            },
            |error| format!("FAILED: {}", error.lines().next().unwrap_or_default()),
        );
        let done = u32::try_from(number + 1)?;
        let rest = since.elapsed() / done * (u32::try_from(left.len())? - done);
        eprintln!(
            "[{done}/{}, {} left] {} over {}: {word}",
            left.len(),
            minutes(rest),
            trial.way,
            trial.link_name
        );
    }
    Ok(left.len())
}

fn minutes(time: Duration) -> String {
    format!("{}:{:02} min", time.as_secs() / 60, time.as_secs() % 60)
}
