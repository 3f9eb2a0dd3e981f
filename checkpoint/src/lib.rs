//! The source's story: look, freeze, collect, send.
//!
//! [`migrate_out`] moves a tree to another host, [`dump_to`] writes it into a directory; both begin
//! with a [`survey`](survey()) that stops nothing and refuses by name whatever cannot be carried.

#![forbid(unsafe_code)]

pub mod collect;
mod directory;
mod doomed;
mod downtime;
mod error;
mod failure;
mod handoff;
mod pump;
mod source;
pub mod survey;

pub use directory::{Afterwards, Checkpointing, dump_to};
pub use error::{CollectError, SurveyError};
pub use failure::{Cause, Failure};
pub use source::{Job, migrate_out};
pub use survey::{SurveyOptions, TcpPolicy, survey};
