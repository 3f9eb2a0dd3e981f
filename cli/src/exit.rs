//! Exit codes: an interface, documented in `qmig --help` and README.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// The restored tree ended with this status.
    Tree(u8),
    /// The words typed make no sense together, or name nothing; nothing was touched.
    Usage,
    /// It cannot be carried, or a peer said no; nothing was touched.
    Refused,
    /// Something failed on the way; the source runs.
    Aborted,
    /// It failed after the hand-over.
    Stranded,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Tree(status) => status,
            Self::Usage => 2,
            Self::Refused => 121,
            Self::Aborted => 122,
            Self::Stranded => 123,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
