//! What can go wrong, and what is true afterwards: one clear error with its documented exit code,
//! and exactly one copy that runs.
//!
//! `QMIG_TEST_ROW=source:staged` runs only the rows of the tables whose name contains that.

mod end;
mod hosts;
mod padding;
mod phases;
mod table;
mod trust;
mod words;

use std::error::Error;
use std::time::Duration;

use netns_tests::{qmig_binary, requirements};

type Outcome = Result<(), Box<dyn Error>>;

/// For what takes no longer than the machine does.
const SOON: Duration = Duration::from_secs(30);

/// Whether this test cannot run.
fn missing(programs: &[&str]) -> bool {
    requirements::missing(programs)
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
}
