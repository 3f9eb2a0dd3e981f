//! The record of every trial that a table is made of, beside the tables: in the form of `qmig lab`, whose
//! page and comparison they are for.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use netns_tests::experiment::{Record, Trial};

use crate::{Outcome, quiet};

static FOLDER: OnceLock<PathBuf> = OnceLock::new();
static TABLE: Mutex<&str> = Mutex::new("");

/// From now on records are kept there.
pub(crate) fn into(folder: &Path) -> Outcome<()> {
    std::fs::create_dir_all(folder)?;
    FOLDER.set(folder.to_owned()).map_err(|_| "name one folder for records".into())
}

/// What comes is of this table; what an earlier making of it had left is gone.
pub(crate) fn begin(table: &'static str) -> Outcome<()> {
    *TABLE.lock().unwrap_or_else(PoisonError::into_inner) = table;
    let Some(file) = file() else { return Ok(()) };
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    let other = before.lines().filter(|line| {
        serde_json::from_str(line).is_ok_and(|record: Record| record.table != table)
    });
    let left: String = other.flat_map(|line| [line, "\n"]).collect();
    std::fs::write(file, left).map_err(Into::into)
}

/// Do it when the machine is quiet, and keep what it shows.
pub(crate) fn of(trial: &Trial) -> Outcome<Record> {
    quiet::wait()?;
    let mut record = trial.run();
    (*TABLE.lock().unwrap_or_else(PoisonError::into_inner)).clone_into(&mut record.table);
    if let Some(file) = file() {
        let mut file = OpenOptions::new().create(true).append(true).open(file)?;
        writeln!(file, "{}", serde_json::to_string(&record)?)?;
    }
    Ok(record)
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

fn file() -> Option<PathBuf> {
    FOLDER.get().map(|folder| folder.join("records.ndjson"))
}
