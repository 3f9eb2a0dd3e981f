//! Runs the rows of a table side by side and tells of all that failed, not only of the first.

use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::Outcome;

/// Rows at a time: most of them wait for a silent link to be given up.
const AT_A_TIME: usize = 6;

/// Run `row` for each of `rows` whose `name` is asked for by `QMIG_TEST_ROW`.
pub(crate) fn run<R: Sync>(
    rows: &[R],
    name: impl Fn(&R) -> String + Sync,
    row: impl Fn(&R) -> Result<(), Box<dyn Error>> + Sync,
) -> Outcome {
    let wanted = std::env::var("QMIG_TEST_ROW").unwrap_or_default();
    let chosen: Vec<&R> = rows.iter().filter(|one| name(one).contains(&wanted)).collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(one) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (name, since) = (name(one), Instant::now());
                    let outcome = row(one).map_err(|error| error.to_string());
                    let good = if outcome.is_ok() { "ok" } else { "FAILED" };
                    println!("{good:6} {name} ({:.1} s)", since.elapsed().as_secs_f32());
                    if let (Err(error), Ok(mut failures)) = (outcome, failures.lock()) {
                        failures.push(format!("{name}: {error}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner()?;
    if failures.is_empty() {
        return Ok(());
    }
    let (bad, all) = (failures.len(), chosen.len());
    panic!("{bad} of {all} rows failed\n\n{}", failures.join("\n\n"));
}
