//! The peer's mistakes. Ours are panics.

use std::fmt;

use pages::{ByteCount, SpaceId};

use crate::wire::{BlobName, DecodeError, Encoding, Kind, SessionId};

/// The peer did what the protocol does not allow. The link is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerMisbehaved {
    /// Bytes that are no message.
    #[error("sent a malformed message: {0}")]
    Malformed(#[from] DecodeError),
    /// A message that may not be said now.
    #[error("spoke out of turn in state {state}: expected {expected}, got {got}")]
    OutOfTurn {
        /// Our state.
        state: &'static str,
        /// What may be said in it.
        expected: Kinds,
        /// What was said.
        got: Kind,
    },
    /// It claims to be in a phase it cannot be in.
    #[error("claims an impossible phase in state {state}: expected {expected}, got {got}")]
    ImpossiblePhase {
        /// Our state.
        state: &'static str,
        /// What it could have said.
        expected: &'static str,
        /// What it said.
        got: &'static str,
    },
    /// It speaks of another migration.
    #[error("speaks of another migration: expected {expected}, got {got}")]
    OtherSession {
        /// Ours.
        expected: SessionId,
        /// Its.
        got: SessionId,
    },
    /// A stream which starts with no lane that may be opened there.
    #[error("opened a stream on lane {got}: expected {expected}")]
    UnknownLane {
        /// The lanes that may be opened.
        expected: &'static str,
        /// The first byte of the stream.
        got: u8,
    },
    /// A stream that ended in the middle of something.
    #[error("ended a {lane} stream in the middle of {within}")]
    EndedWithin {
        /// On which lane.
        lane: &'static str,
        /// In the middle of what.
        within: &'static str,
    },
    /// A run encoded in a way that was not agreed.
    #[error("sent pages of {space} as {encoding:?}, which was not agreed")]
    EncodingNotAgreed {
        /// Whose pages.
        space: SpaceId,
        /// How they were written.
        encoding: Encoding,
    },
    /// A compressed run that does not give its pages.
    #[error("sent pages of {space} as {encoding:?}, which cannot be undone")]
    BrokenRun {
        /// Whose pages.
        space: SpaceId,
        /// How they were written.
        encoding: Encoding,
    },
    /// More in bulk than a probe may send.
    #[error("sent more than {most:?} to probe the path")]
    ProbeTooLong {
        /// How much it may be.
        most: ByteCount,
    },
    /// A blob beyond its limit.
    #[error("sent more than {most:?} of {name}")]
    BlobTooLong {
        /// Which blob.
        name: BlobName,
        /// How long it may be.
        most: ByteCount,
    },
}

/// The kinds of messages that were allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kinds(pub &'static [Kind]);

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, kind) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { " or " })?;
            fmt::Display::fmt(kind, f)?;
        }
        f.write_str(if self.0.is_empty() { "silence" } else { "" })
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
