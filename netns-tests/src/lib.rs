//! Two hosts, one link, real processes.
//!
//! A test says one sentence: start, move, ask.
//!
//! ```no_run
//! use netns_tests::{Lab, Migration, Subject};
//!
//! # fn main() -> Result<(), netns_tests::LabError> {
//! let lab = Lab::two_hosts()?;
//! let subject = Subject::new("memory").start(&lab, lab.src())?;   // start
//! let moved = Migration::new(&lab)?.run(subject.pid())?;          // move
//! let verdict = moved.ask(&lab, &subject)?;                             // ask
//! assert!(verdict.passed(), "{verdict}");
//! # Ok(())
//! # }
//! ```
//!
//! * [`Lab`] builds two [`Host`]s from namespaces and one veth link between them. It needs root and
//!   iproute2, but neither cargo nor anything in `/run/netns`; `qmig demo` uses it as it is.
//! * [`Link`] is a link of a wide area network in place of the veth: `Lab::plan().link(…).build()`.
//! * [`Running`] is a program inside a host: its output, its pid in there, its end.
//! * [`Subject`] is a small C program (folder `subjects/`) that makes state, says it is ready, and
//!   on SIGUSR1 judges itself.
//! * [`Migration`] drives two real `qmig` processes, [`chaos`] breaks them at a named phase and
//!   tells who runs afterwards.
//! * [`Images`] does the same by way of a directory, and [`Criu`] is a stock CRIU beside it.
//! * [`experiment`] moves a subject over a link, by qmig or by CRIU, and records what was seen.
//! * [`programs`] are what people really run: redis-server, nginx, sqlite3, a shell pipeline.
//! * [`rounds()`] runs a test again and again and sees that nothing is left each time.
//! * A test that cannot run says why through [`requirements`]; it never passes in silence.
//!
//! Every wait has a deadline, and an expired deadline shows what was written so far.

#![forbid(unsafe_code)]

mod bundle;
pub mod chaos;
mod console;
mod container;
mod criu;
mod error;
pub mod experiment;
mod host;
mod huge;
mod image_copy;
mod images;
mod inherited;
mod init;
mod lab;
pub mod link;
mod log;
mod migration;
mod namespaces;
pub mod programs;
pub mod requirements;
mod rounds;
mod running;
mod subject;
mod swap;
mod terminal;
mod workshop;

pub use bundle::Bundle;
pub use console::{Console, ConsoleSocket};
pub use container::{Beat, Boxed, Runtime};
pub use criu::{Criu, TlsKeys};
pub use error::{LabError, Result};
pub use host::{Host, Process, in_session};
pub use huge::{HugePages, Skipped};
pub use image_copy::{receive_images, send_images};
pub use images::Images;
pub use init::{InitCommand, init_main};
pub use lab::{Footprint, Lab, LabPlan, Side};
pub use link::Link;
pub use log::Log;
pub use migration::{Listening, Migration, Moved, Moving, QmigEvent, qmig_binary};
pub use rounds::{REPEAT_VARIABLE, rounds, rounds_on};
pub use running::Running;
pub use subject::{Started, Subject, Verdict};
pub use swap::Swap;
pub use terminal::on_terminal;
