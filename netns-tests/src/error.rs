//! What the lab could not do.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// The result of everything in this crate.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// Messages read after "failed to".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A program could not be started.
    #[error("start {program}: {source}")]
    Spawn {
        /// What was to run.
        program: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A program was run to its end and did not succeed.
    #[error("run {line}: {status}\n{output}")]
    Command {
        /// The command line.
        line: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        output: String,
    },
    /// Namespaces could not be made or entered.
    #[error("{act}: {source}")]
    Namespace {
        /// What was attempted.
        act: &'static str,
        /// The kernel's answer.
        source: nix::errno::Errno,
    },
    /// A file of the lab could not be read or made.
    #[error("{act} {}: {source}", path.display())]
    File {
        /// What was attempted.
        act: &'static str,
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The host's init gave an unexpected answer, or none.
    #[error("ask the init of host {host} to {request}: it said {answer:?}")]
    Init {
        /// Which host.
        host: String,
        /// What was asked.
        request: String,
        /// What came back.
        answer: String,
    },
    /// Something did not happen in time.
    #[error("see {what} within {within:?}\n{logs}")]
    Deadline {
        /// What was awaited.
        what: String,
        /// How long.
        within: Duration,
        /// Everything written until then.
        logs: String,
    },
    /// Something ended that should have gone on.
    #[error("see {what}: {ended}\n{logs}")]
    Ended {
        /// What was awaited.
        what: String,
        /// What ended, and how.
        ended: String,
        /// Everything written until then.
        logs: String,
    },
    /// The lab misses something on this machine.
    #[error("find {what}: {hint}")]
    Missing {
        /// What is not there.
        what: String,
        /// What to do about it.
        hint: String,
    },
}

impl LabError {
    pub(crate) fn file(
        act: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { act, path, source }
    }

    pub(crate) fn namespace(act: &'static str) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |source| Self::Namespace { act, source }
    }
}
