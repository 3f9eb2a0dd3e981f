//! The destination's story: check, build, fill, run.
//!
//! [`migrate_in`] takes a tree from another host, [`restore_from`] one from a directory of images.

#![forbid(unsafe_code)]

mod askers;
pub mod build;
pub mod check;
mod destination;
mod directory;
pub mod engine;
pub mod error;
mod failure;
mod faults;
mod files;
mod fill;
mod gather;
mod handoff;
mod inflow;
mod inherit;
mod ledger;
mod meter;
mod offspring;
mod rate;
mod rounds;
pub mod skeleton;
mod takeover;

pub use build::{Built, Grown, Ready, Roaming, Running, Sink, Trunk};
pub use check::host_report;
pub use destination::{Host, migrate_in};
pub use directory::restore_from;
pub use error::{Error, Result};
pub use failure::{Cause, Failure};
pub use files::Files;
pub use handoff::Farewell;
pub use offspring::{Ended, Offspring};
pub use skeleton::{BuildOptions, Skeleton};
