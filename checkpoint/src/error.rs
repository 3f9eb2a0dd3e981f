//! What failed on the source, where, and whose fault it is.

use std::io;

use image::plan::Refusal;
use tracee::HostPid;

/// Why there is no plan. Nothing was touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SurveyError {
    /// The root is not there (any more).
    #[error("survey process {0}: there is no such process")]
    NoSuchProcess(HostPid),
    /// Some of it cannot be carried; everything of that kind is listed.
    #[error("survey the tree: {}", listed(.0))]
    Refused(Vec<Refusal>),
    /// A process could not be looked at.
    #[error(transparent)]
    Tracee(#[from] tracee::Error),
    /// The runtime of a container does not tell about it.
    #[error(transparent)]
    Criu(#[from] criu::Error),
    /// The kernel refused to tell about this host.
    #[error("{act}: {source}")]
    Host {
        /// What was asked, as a verb with its object.
        act: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// Why the state of a held tree could not be read. The tree is as it was: letting it run on is safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// Since the survey, something came into the tree that cannot be carried.
    #[error("collect the state of the tree: {}", listed(.0))]
    Refused(Vec<Refusal>),
    /// A task could not be looked at, or would not work for us.
    #[error(transparent)]
    Tracee(#[from] tracee::Error),
    /// A file or descriptor of a task could not be read.
    #[error("{act} of process {pid}: {source}")]
    Io {
        /// What was done, as a verb with its object.
        act: &'static str,
        /// Whose.
        pid: HostPid,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The runtime of a container does not tell about it.
    #[error(transparent)]
    Criu(#[from] criu::Error),
    /// The kernel refused to tell about this host.
    #[error("{act}: {source}")]
    Host {
        /// What was asked, as a verb with its object.
        act: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// Packets of connections cannot be held back.
    #[error(transparent)]
    Lock(#[from] tracee::net::LockError),
    /// The kernel said something about a task that cannot be.
    #[error("understand {what} of process {pid}")]
    Nonsense {
        /// What it was about.
        what: &'static str,
        /// Whose.
        pid: HostPid,
    },
}

impl CollectError {
    /// For `map_err`: `act` on something of `pid` failed.
    pub(crate) fn io<E: Into<io::Error>>(act: &'static str, pid: HostPid) -> impl Fn(E) -> Self {
        move |source| Self::Io { act, pid, source: source.into() }
    }
}

fn listed(refusals: &[Refusal]) -> String {
    match refusals {
        [only] => only.to_string(),
        [first, rest @ ..] => {
            format!("{first}, and {} more things that cannot be carried", rest.len())
        }
        [] => "it cannot be carried".to_owned(),
    }
}
