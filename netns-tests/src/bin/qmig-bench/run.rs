//! A run of tables. One that was stopped goes on where it was; a table that fails costs no other, and keeps
//! the figures that it had.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use netns_tests::qmig_binary;
use serde::{Deserialize, Serialize};

use crate::schedule::{Schedule, about};
use crate::tables::Table;
use crate::{Asked, FILE, Outcome, machine, quiet, records, report};

/// What a folder of records knows of the runs that led to it.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// What was measured, and how: figures of something else do not go on.
    of: String,
    /// Asked for, and not made yet; of each whether it was begun.
    left: BTreeMap<String, bool>,
    /// How many seconds each took when it was last made as a whole, by the name of its run.
    took_s: BTreeMap<String, u64>,
}

impl Kept {
    /// The names of those `asked` for that are to be made, and whether that goes on with what was stopped:
    /// all of them, unless some were not made when they were asked for before.
    fn plan(&mut self, of: &str, asked: &[&'static Table]) -> (Vec<&'static Table>, bool) {
        if self.of != of {
            (self.of, self.left) = (of.to_owned(), BTreeMap::new());
        }
        let is_left = |table: &&&Table| self.left.contains_key(table.name);
        let left: Vec<_> = asked.iter().filter(is_left).copied().collect();
        if !left.is_empty() {
            return (left, true);
        }
        self.left.extend(asked.iter().map(|table| (table.name.to_owned(), false)));
        (asked.to_vec(), false)
    }

    fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn write(&self, file: Option<&Path>) -> Outcome<()> {
        let Some(file) = file else { return Ok(()) };
        records::replace(file, &serde_json::to_string_pretty(self)?)
    }
}

/// Make every table that was asked for and is not made yet; an error names those that failed.
pub(crate) fn run(asked: &Asked) -> Outcome<()> {
    if let Some(folder) = &asked.out {
        records::into(folder)?;
    }
    let file = asked.out.as_ref().map(|folder| folder.join("run.json"));
    let file = file.as_deref();
    let mut kept = file.map(Kept::read).unwrap_or_default();
    let (tables, goes_on) = kept.plan(&subject(asked.quick)?, &asked.tables);
    let usual = |table: &&Table| match kept.took_s.get(&in_run(table, asked.quick)) {
        Some(seconds) => Duration::from_secs(*seconds),
        None => table.expected(asked.quick),
    };
    let mut schedule = Schedule::new(tables.iter().map(usual).collect());
    let time = about(schedule.left(Duration::ZERO));
    match goes_on {
        true => eprintln!("going on with what was stopped: {} table(s), {time}", tables.len()),
        false => eprintln!("{} table(s), {time} in all", tables.len()),
    }
    let mut failed = BTreeSet::new();
    for (number, table) in tables.iter().enumerate() {
        let again = kept.left.insert(table.name.to_owned(), true) == Some(true);
        kept.write(file)?;
        let since = Instant::now();
        let place = format!("{}, table {} of {}", table.name, number + 1, tables.len());
        records::begin(table.name, again && goes_on, (place, schedule.clone()))?;
        let made = make(table, asked.quick);
        let took = since.elapsed();
        let whole = made.is_ok() && records::kept() == 0;
        schedule.over(whole.then_some(took));
        if whole {
            kept.took_s.insert(in_run(table, asked.quick), took.as_secs());
        }
        match made {
            Ok(()) => {
                eprintln!("{}: {} s", table.name, took.as_secs());
                kept.left.remove(table.name);
            }
            Err(error) => {
                eprintln!(
                    "{}: FAILED, and keeps the figures it had: failed to {error}",
                    table.name
                );
                failed.insert(table.name);
            }
        }
        kept.write(file)?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    let names = failed.into_iter().collect::<Vec<_>>().join(", ");
    let again = if file.is_some() { "; the same command again makes what is left" } else { "" };
    Err(format!("make every table; without {names}{again}").into())
}

/// Measure, and publish what was found.
fn make(table: &Table, quick: bool) -> Outcome<()> {
    let (machine, before) = (machine::describe()?, quiet::disturbed());
    let made = (table.make)(quick);
    // Whatever it came to, its records are there to look at.
    records::page()?;
    let (text, spoiled) = (made?, records::spoiled()?);
    let text = format!("{text}\n{machine}{}{spoiled}", report::disturbance(before));
    println!("{text}");
    if quick { Ok(()) } else { report::write(Path::new(FILE), table.name, &text) }
}

fn in_run(table: &Table, quick: bool) -> String {
    format!("{}{}", table.name, if quick { ", quick" } else { "" })
}

/// The qmig that is measured, and whether quickly.
fn subject(quick: bool) -> Outcome<String> {
    let path: PathBuf = qmig_binary()?;
    let built = std::fs::metadata(&path)?.modified()?.duration_since(SystemTime::UNIX_EPOCH)?;
    let how = if quick { "quick" } else { "whole" };
    Ok(format!("{how}, {} of {}", path.display(), built.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::named;

    #[test]
    fn what_was_stopped_goes_on_and_what_was_made_is_made_anew() {
        let tables =
            |names: &[&str]| -> Vec<_> { names.iter().filter_map(|it| named(it)).collect() };
        let names = |it: (Vec<&'static Table>, bool)| {
            (it.0.iter().map(|table| table.name).collect::<Vec<_>>(), it.1)
        };
        let all = tables(&["whole", "cost", "memory"]);
        let mut kept = Kept::default();
        assert_eq!(names(kept.plan("a", &all)), (vec!["whole", "cost", "memory"], false));
        kept.left.remove("whole");
        assert_eq!(names(kept.plan("a", &all)), (vec!["cost", "memory"], true));
        // What was made may be asked for, and what is left stays so.
        assert_eq!(names(kept.plan("a", &tables(&["whole"]))), (vec!["whole"], false));
        kept.left.remove("whole");
        assert_eq!(names(kept.plan("a", &all)), (vec!["cost", "memory"], true));
        // Another qmig: nothing of it is there.
        assert_eq!(names(kept.plan("b", &all)), (vec!["whole", "cost", "memory"], false));
        kept.left.clear();
        assert_eq!(names(kept.plan("b", &all)).0.len(), 3);
    }
}
