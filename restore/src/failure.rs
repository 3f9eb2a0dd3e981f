//! How a restore ends when it does not end well.

use std::fmt;
use std::sync::Arc;

use image::plan::{BadPlan, Refusal};
use image::{BadImage, DirectoryError};
use pages::ByteCount;
use transport::PeerMisbehaved;
use transport::quic::{AcceptError, LinkError};
use transport::session::{Outcome, RunsOn};
use transport::wire::{Abort, SessionId};

use crate::fill::FillError;

/// A restore after which the tree does not run here.
#[derive(Debug)]
pub struct Failure {
    /// How it ended.
    pub outcome: Outcome,
    /// Why.
    pub cause: Box<Cause>,
    /// Of which session, if there was one.
    pub session: Option<SessionId>,
}

/// Why a restore ended. Messages read after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// Nobody can come any more.
    #[error("wait for a source: {0}")]
    Accept(#[from] AcceptError),
    /// This host cannot carry the plan.
    #[error("take the tree: this host cannot carry it")]
    CannotTake(Vec<Refusal>),
    /// No version of the protocol that both know.
    #[error("understand the source: it speaks no version of the protocol that this qmig knows")]
    NoCommonVersion,
    /// The plan cannot be read.
    #[error("read the plan: {0}")]
    Plan(#[from] BadPlan),
    /// The source stopped.
    #[error("take the tree: the source stopped: {0}")]
    PeerAborted(Abort),
    /// The source took its tree back, or never came back.
    #[error("take the tree: {0}")]
    NotEntrusted(&'static str),
    /// The source sent something else before the plan.
    #[error("understand the source: it sent something else before its plan")]
    PlanFirst,
    /// The source opened a stream that has no business now.
    #[error("understand the source: it opened a stream that has no business now")]
    UnexpectedLane,
    /// An image that is not what the manifest says.
    #[error("read the images: {image} was announced with {announced:?}, and came with {came:?}")]
    OtherThanAnnounced {
        /// Which.
        image: String,
        /// How long it should be.
        announced: ByteCount,
        /// How long it is, if it came.
        came: Option<ByteCount>,
    },
    /// A pagemap of owed pages that is not what the manifest says.
    #[error("read the images: {image} does not tell of the {announced} pages announced")]
    OwedOtherwise {
        /// Which.
        image: String,
        /// How many pages there should be.
        announced: u64,
    },
    /// Pages could not be taken.
    #[error("fill memory: {0}")]
    Inflow(Arc<FillError>),
    /// The outline of a round is wrong.
    #[error("follow the rounds: {0}")]
    Outline(#[from] image::outline::BadOutline),
    /// The link was lost or closed.
    #[error("talk to the source: {0}")]
    Link(#[from] LinkError),
    /// The source said something out of turn.
    #[error("understand the source: it {0}")]
    PeerMisbehaved(#[from] PeerMisbehaved),
    /// An image is wrong.
    #[error("read the images: {0}")]
    Image(#[from] BadImage),
    /// The images in a directory cannot be read.
    #[error("read the checkpoint: {0}")]
    Directory(#[from] DirectoryError),
    /// Files that come along could not be made.
    #[error("make files: {0}")]
    Files(#[from] rootfs::Error),
    /// Files come after the last.
    #[error("make files: more come after the last")]
    MoreFiles,
    /// The tree could not be built.
    #[error("build the tree: {0}")]
    Build(#[from] crate::Error),
    /// CRIU did not do its part.
    #[error("have the tree built: {0}")]
    Criu(#[from] criu::Error),
    /// The checkpoint was made on another kernel.
    #[error(
        "build the tree: its vdso is another kernel's; restore it where `uname -r` is the same"
    )]
    OtherVdso,
    /// Its memory could not be filled.
    #[error("fill memory: {0}")]
    Fill(#[from] FillError),
    /// Somebody pressed Ctrl-C or sent SIGTERM.
    #[error("finish: it was interrupted")]
    Interrupted,
    /// A test told it to fail.
    #[error("finish: {0}")]
    ToldToFail(#[from] tracee::chaos::ToldToFail),
}

impl Failure {
    /// Nothing was touched.
    pub fn refused(cause: impl Into<Cause>) -> Self {
        Self { outcome: Outcome::Refused, cause: Box::new(cause.into()), session: None }
    }

    /// The tree runs on at the source.
    pub fn aborted(cause: impl Into<Cause>) -> Self {
        Self { outcome: Outcome::Aborted, cause: Box::new(cause.into()), session: None }
    }

    /// The same, of a session.
    pub(crate) fn of(self, session: SessionId) -> Self {
        Self { session: Some(session), ..self }
    }

    /// True if listening on makes no sense.
    pub fn is_final(&self) -> bool {
        matches!(*self.cause, Cause::Accept(_) | Cause::Interrupted)
    }

    /// Who runs now, as far as this end can know.
    pub fn runs_on(&self) -> RunsOn {
        self.outcome.runs_on()
    }

    /// Whose fault it is.
    pub fn whose(&self) -> &'static str {
        match &*self.cause {
            Cause::Accept(_) | Cause::CannotTake(_) | Cause::Build(_) | Cause::Criu(_) => {
                "the destination"
            }
            Cause::Files(error) if !error.is_peers_fault() => "the destination",
            Cause::Fill(error) if !error.is_peers_fault() => "the destination",
            Cause::Inflow(error) if !error.is_peers_fault() => "the destination",
            Cause::NoCommonVersion
            | Cause::PlanFirst
            | Cause::UnexpectedLane
            | Cause::OtherThanAnnounced { .. }
            | Cause::OwedOtherwise { .. }
            | Cause::Outline(_)
            | Cause::Plan(_)
            | Cause::PeerAborted(_)
            | Cause::NotEntrusted(_)
            | Cause::PeerMisbehaved(_)
            | Cause::Image(_)
            | Cause::Files(_)
            | Cause::MoreFiles
            | Cause::Fill(_)
            | Cause::Inflow(_) => "the source",
            Cause::Directory(_) | Cause::OtherVdso => "the checkpoint",
            Cause::Link(_) => "the link or the source",
            Cause::Interrupted | Cause::ToldToFail(_) => "whoever stopped qmig",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match &*self.cause {
            Cause::NoCommonVersion => Some("run the same qmig on both hosts"),
            Cause::CannotTake(_) => Some("change this host as it says, then try again"),
            Cause::Files(rootfs::Error::Os { source, .. }) if is_full(source) => {
                Some("make room for the container's files here, then try again")
            }
            Cause::Link(LinkError::Lost(_)) => {
                Some("see that UDP passes both ways between the hosts, then try again")
            }
            _ => None,
        }
    }

    /// If it is a refusal, every reason.
    pub fn reasons(&self) -> Vec<String> {
        match &*self.cause {
            Cause::CannotTake(refusals) => refusals.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {}", self.cause)
    }
}

impl std::error::Error for Failure {}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}
