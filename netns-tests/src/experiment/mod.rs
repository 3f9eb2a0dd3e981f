//! Migrations as measurements: one [`Trial`] moves one subject by one [`Way`] over one link, and
//! yields one [`Record`] that says everything about it. Benchmarks and `qmig-lab` are made of these.
//!
//! What is compared between tools is what the moved process itself saw: its longest gap between two
//! heartbeats, and how long it waited for each page that was not there.

mod clients;
mod clock;
mod criu;
mod flow;
mod load;
mod meter;
mod pair;
mod phases;
mod record;
mod remote;
mod samples;
mod service;
mod stalls;
mod timeline;
mod trial;
mod way;

pub use clients::ask_server;
pub use flow::{give_flow, take_flow};
pub use load::Load;
pub use pair::{Pair, PairWords};
pub use record::{LaneUse, LinkUse, Machine, Phase, Process, Record, Requests, Waits};
pub use trial::Trial;
pub use way::{WAYS, Way};

use crate::LabError;

/// Milliseconds and so on are told since the machine started, on the clock that programs on both
/// hosts read too (CLOCK_MONOTONIC).
fn monotonic_us() -> i64 {
    use nix::sys::time::TimeValLike as _;
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.num_microseconds())
}

fn failed(what: &str, ended: impl ToString, logs: String) -> LabError {
    LabError::Ended { what: what.to_owned(), ended: ended.to_string(), logs }
}
