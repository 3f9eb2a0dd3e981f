//! The record of every trial that a table is made of, beside the tables: in the form of `qmig lab`, whose
//! page and comparison they are for.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use netns_tests::experiment::{Record, Trial};

use crate::schedule::{Schedule, about};
use crate::{Outcome, quiet};

static FOLDER: OnceLock<PathBuf> = OnceLock::new();
static TABLE: Mutex<Option<UnderWay>> = Mutex::new(None);

/// The table that is made now.
struct UnderWay {
    name: &'static str,
    since: Instant,
    /// For people, and what is left of the whole run.
    told: (String, Schedule),
    /// Trials of it that were done before the run was stopped, in their order, as far as they may be good.
    before: VecDeque<Record>,
    /// How many of those were.
    kept: usize,
    done: usize,
    /// Why the first one failed of those that did, and how many.
    failed: Option<(String, usize)>,
}

/// From now on records are kept there.
pub(crate) fn into(folder: &Path) -> Outcome<()> {
    std::fs::create_dir_all(folder)?;
    FOLDER.set(folder.to_owned()).map_err(|_| "name one folder for records".into())
}

/// What comes is of this table. What an earlier making of it had left is gone, unless this one `goes_on`
/// with that.
pub(crate) fn begin(name: &'static str, goes_on: bool, told: (String, Schedule)) -> Outcome<()> {
    let (mut before, mut others) = (VecDeque::new(), String::new());
    if let Some(file) = file() {
        for line in std::fs::read_to_string(&file).unwrap_or_default().lines() {
            match serde_json::from_str::<Record>(line) {
                Ok(record) if record.table == name => before.push_back(record),
                Ok(_) => others.extend([line, "\n"]),
                // The run was stopped while it was written.
                Err(_) => {}
            }
        }
        replace(&file, &others)?;
    }
    if !goes_on {
        before.clear();
    }
    let since = Instant::now();
    *table() = Some(UnderWay { name, since, told, before, kept: 0, done: 0, failed: None });
    Ok(())
}

/// Do it when the machine is quiet, unless that was done before the run was stopped, and keep what it
/// shows.
pub(crate) fn of(trial: &Trial) -> Outcome<Record> {
    let before = table().as_mut().and_then(|table| {
        let record = table.before.pop_front()?;
        if !record.is_of(trial) || record.link_name != trial.link_name {
            table.before.clear(); // something else was measured then
            return None;
        }
        record.error.is_none().then_some(record)
    });
    let is_new = before.is_none();
    let mut record = match before {
        Some(record) => record,
        None => {
            quiet::wait()?;
            trial.run()
        }
    };
    let mut table = table();
    let Some(table) = table.as_mut() else { return Ok(record) };
    table.name.clone_into(&mut record.table);
    table.done += 1;
    table.kept += usize::from(!is_new);
    if let Some(error) = &record.error {
        table.failed.get_or_insert_with(|| (error.clone(), 0)).1 += 1;
    }
    if let Some(file) = file() {
        let mut file = OpenOptions::new().create(true).append(true).open(file)?;
        writeln!(file, "{}", serde_json::to_string(&record)?)?;
    }
    let (place, schedule) = &table.told;
    eprintln!(
        "[{place}, trial {}; {} left]",
        table.done,
        about(schedule.left(table.since.elapsed()))
    );
    Ok(record)
}

/// How many trials of the table were done before the run was stopped.
pub(crate) fn kept() -> usize {
    table().as_ref().map_or(0, |table| table.kept)
}

/// A line on trials that failed, if some did; an error if none succeeded.
pub(crate) fn spoiled() -> Outcome<String> {
    let table = table();
    let table = table.as_ref().and_then(|table| Some((table.done, table.failed.as_ref()?)));
    match table {
        None => Ok(String::new()),
        Some((done, (why, failed))) if *failed == done => {
            Err(format!("do one of its {done} trials: {why}").into())
        }
        Some((done, (_, failed))) => Ok(format!("{failed} of {done} trials failed.\n")),
    }
}

/// The page and the CSV of all that is there.
pub(crate) fn page() -> Outcome<()> {
    let Some(folder) = FOLDER.get() else { return Ok(()) };
    let lab = std::env::current_exe()?.with_file_name("qmig-lab");
    let made = Command::new(&lab).arg("page").arg(folder).status();
    let made = made.map_err(|error| format!("start {}: {error}", lab.display()))?;
    if made.success() {
        Ok(())
    } else {
        Err(format!("make the page of {}", folder.display()).into())
    }
}

/// Write a file so that it is as it was or as it shall be, whenever this is stopped.
pub(crate) fn replace(file: &Path, text: &str) -> Outcome<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, file)?;
    Ok(())
}

fn table() -> MutexGuard<'static, Option<UnderWay>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn file() -> Option<PathBuf> {
    FOLDER.get().map(|folder| folder.join("records.ndjson"))
}
