//! The source's story: look, freeze, collect, send.
//!
//! [`migrate_out`] moves a tree to another host, [`dump_to`] writes it into a directory; both begin
//! with a [`survey`](survey()) that stops nothing and refuses by name whatever cannot be carried.

#![forbid(unsafe_code)]

mod asks;
mod cargo;
pub mod collect;
pub mod converge;
mod directory;
mod doomed;
mod downtime;
pub mod engine;
mod error;
mod failure;
mod files;
mod fill;
mod fingerprints;
mod gain;
mod handoff;
mod heritage;
mod lazy;
mod networks;
mod objects;
mod pace;
mod pending;
mod precopy;
mod pump;
mod rounds;
mod serve;
mod source;
mod stays;
pub mod survey;
mod switch;
mod throttle;

pub use asks::{Ask, Asks, Made};
pub use directory::{Afterwards, Checkpointing, dump_to};
pub use error::{CollectError, SurveyError};
pub use failure::{Cause, Failure};
pub use files::{Files, Which};
pub use precopy::MAX_ROUNDS;
pub use source::{Job, migrate_out};
pub use survey::{SurveyOptions, TcpPolicy, survey};
pub use switch::Mode;
