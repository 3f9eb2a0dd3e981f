//! What can go wrong between qmig and CRIU.

use std::io;
use std::path::PathBuf;

use crate::page_server::PageServerError;
use crate::rpc::Hook;

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A conversation with CRIU that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot be run.
    #[error("{} cannot be started: {source}", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program is something else.
    #[error("{} does not say that it is CRIU", program.display())]
    NotCriu {
        /// Which.
        program: PathBuf,
    },
    /// The kernel did not do what talking to CRIU takes.
    #[error("{act}: {source}")]
    Os {
        /// What was tried.
        act: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// CRIU ended in the middle.
    #[error("CRIU ended without an answer{}", because(log))]
    Ended {
        /// What its log says.
        log: Vec<String>,
    },
    /// CRIU said no.
    #[error("CRIU could not {what}{}{}", number(*errno), because(log))]
    Refused {
        /// What it was asked to do.
        what: &'static str,
        /// Its error number, if it gave one.
        errno: Option<i32>,
        /// What its log says.
        log: Vec<String>,
    },
    /// The runtime of a container failed.
    #[error("{runtime} could not {what}: {said}")]
    Runtime {
        /// Its name.
        runtime: String,
        /// What it was to do.
        what: &'static str,
        /// What it says.
        said: String,
    },
    /// CRIU said something that has no place here.
    #[error("CRIU said {said}, where {due} was due")]
    OutOfTurn {
        /// What it said.
        said: String,
        /// What should have come.
        due: &'static str,
    },
    /// Nobody waits for it any more.
    #[error("the wait for CRIU was ended")]
    Cancelled,
    /// Its pages could not be taken.
    #[error(transparent)]
    Pages(PageServerError),
    /// CRIU asked before a step that we did not ask for.
    #[error("CRIU wants to go on with {hook}, which was not asked for")]
    UnexpectedHook {
        /// Which.
        hook: Hook,
    },
}

impl Error {
    pub(crate) fn os(act: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Os { act, source }
    }

    pub(crate) fn errno(act: &'static str) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |errno| Self::Os { act, source: errno.into() }
    }

    pub(crate) fn rustix(act: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Os { act, source: errno.into() }
    }
}

fn because(log: &[String]) -> String {
    if log.is_empty() { String::new() } else { format!(": {}", log.join("; ")) }
}

fn number(errno: Option<i32>) -> String {
    errno.filter(|number| *number != 0).map_or_else(String::new, |number| {
        format!(" ({})", nix::errno::Errno::from_raw(number).desc())
    })
}
