//! How a dump ends when it does not end well: what failed, whose fault, what to do, who runs now.

use std::fmt;

use image::DirectoryError;
use image::plan::Refusal;
use pages::{SharedId, TaskId};
use transport::PeerMisbehaved;
use transport::quic::{DialError, IdentityError, LinkError};
use transport::session::{Outcome, RunsOn};
use transport::wire::Abort;

use crate::error::{CollectError, SurveyError};
use crate::pump::ReadPages;

/// A dump that did not move the tree.
#[derive(Debug)]
pub struct Failure {
    /// How it ended.
    pub outcome: Outcome,
    /// Why.
    pub cause: Box<Cause>,
}

/// Why a dump ended. Messages read after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// This host's tree cannot be carried.
    #[error("take the tree: it cannot be carried")]
    CannotTake(Vec<Refusal>),
    /// The tree could not even be looked at.
    #[error("look at the tree: {0}")]
    Survey(SurveyError),
    /// There is no destination.
    #[error("reach the destination: {0}")]
    Dial(#[from] DialError),
    /// No random number for the session.
    #[error("begin a session: {0}")]
    Session(#[from] IdentityError),
    /// The destination's host cannot carry the plan.
    #[error("move the tree: the destination refuses it")]
    Refused(Vec<String>),
    /// The destination stopped.
    #[error("move the tree: the destination stopped: {0}")]
    PeerAborted(Abort),
    /// The link was lost or closed.
    #[error("talk to the destination: {0}")]
    Link(#[from] LinkError),
    /// The destination said something out of turn.
    #[error("understand the destination: it {0}")]
    PeerMisbehaved(#[from] PeerMisbehaved),
    /// The tree could not be stopped.
    #[error("stop the tree: {0}")]
    Freeze(tracee::Error),
    /// What it writes could not be watched.
    #[error("watch what the tree writes: {0}")]
    Watch(tracee::Error),
    /// Its shared memory could not be compared with what was sent of it.
    #[error("compare its shared memory with what was sent: {0}")]
    Compare(std::io::Error),
    /// It writes faster than pages can be sent.
    #[error("move the tree while it runs: {0}")]
    Hopeless(crate::converge::Hopeless),
    /// Its state could not be read.
    #[error("read the state of the tree: {0}")]
    Collect(#[from] CollectError),
    /// The engine has no such way.
    #[error("move the tree: {0}")]
    Unable(&'static str),
    /// Devices write to its memory, and nobody can tell what.
    #[error("move the tree while it runs: {0}, which lets devices write to memory unseen")]
    Unseen(String),
    /// CRIU did not do its part.
    #[error("have the tree taken: {0}")]
    Criu(#[from] criu::Error),
    /// A process that is not there.
    #[error("read memory: CRIU tells of process {0}, and the tree has none such")]
    OtherNumber(TaskId),
    /// CRIU was told to leave pages to somebody else.
    #[error("read memory: {0} says that pages are elsewhere; they are to be in the stream")]
    Elsewhere(String),
    /// What belongs to a container could not be read.
    #[error("read {}: {source}", path.display())]
    Papers {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Files that go along could not be read.
    #[error("send files: {0}")]
    Files(#[from] rootfs::Error),
    /// An object of shared memory could not be opened.
    #[error("read memory: open shared object {}: {source}", id.0)]
    Shared {
        /// Which.
        id: SharedId,
        /// Why.
        source: std::io::Error,
    },
    /// CRIU ended while it held the tree.
    #[error("hold the tree: CRIU let it go")]
    LetGo,
    /// Nobody to end the stopped tree should we die.
    #[error("set a guard over the stopped tree: {0}")]
    Guard(std::io::Error),
    /// CRIU's images cannot be read.
    #[error("read CRIU's images: {0}")]
    CriuImages(DirectoryError),
    /// Its pages could not be read.
    #[error("read memory: {0}")]
    Pages(#[from] ReadPages),
    /// More than one migration may have.
    #[error("describe the tree: {0}")]
    TooMuch(String),
    /// A plain checkpoint could not be written.
    #[error("write the checkpoint: {0}")]
    Directory(#[from] DirectoryError),
    /// Somebody pressed Ctrl-C or sent SIGTERM.
    #[error("finish: it was interrupted")]
    Interrupted,
    /// After the hand-over, nobody could be asked any more.
    #[error("learn what became of the hand-over: the destination does not answer")]
    Stranded,
    /// After the hand-over, a person ended it before the destination said that it has every page.
    #[error(
        "send the rest of the memory: it was ended before the destination said that nothing is missing; \
         {left} pages had not been sent"
    )]
    Abandoned {
        /// How many were never sent, or not again since a link was lost.
        left: u64,
        /// True if the destination could be reached, so that it is known to run there.
        reached: bool,
    },
    /// After the hand-over, the destination could not let the tree run, and gave the right back.
    #[error("move the tree: the destination gave it back")]
    GivenBack,
    /// After the hand-over, a person decided that the copy here is the only one.
    #[error("move the tree: it was taken back by hand")]
    TakenBackByHand,
    /// A test told it to fail.
    #[error("finish: {0}")]
    ToldToFail(#[from] tracee::chaos::ToldToFail),
}

impl Failure {
    /// Nothing was touched.
    pub fn refused(cause: impl Into<Cause>) -> Self {
        Self { outcome: Outcome::Refused, cause: Box::new(cause.into()) }
    }

    /// The tree runs on.
    pub fn aborted(cause: impl Into<Cause>) -> Self {
        Self { outcome: Outcome::Aborted, cause: Box::new(cause.into()) }
    }

    /// The right to run had left, and came back.
    pub(crate) fn taken_back(cause: Cause) -> Self {
        Self { outcome: Outcome::TakenBack, cause: Box::new(cause) }
    }

    /// Nobody can tell who runs.
    pub(crate) fn stranded() -> Self {
        Self { outcome: Outcome::Stranded, cause: Box::new(Cause::Stranded) }
    }

    /// The tree runs on the destination and will miss pages.
    pub(crate) fn abandoned(left: pages::PageCount, reached: bool) -> Self {
        let cause = Box::new(Cause::Abandoned { left: left.0, reached });
        Self { outcome: Outcome::Stranded, cause }
    }

    /// Who runs now.
    pub fn runs_on(&self) -> RunsOn {
        if let Cause::Abandoned { reached: true, .. } = *self.cause {
            return RunsOn::Destination;
        }
        self.outcome.runs_on()
    }

    /// Whose fault it is.
    pub fn whose(&self) -> &'static str {
        match &*self.cause {
            Cause::CannotTake(_)
            | Cause::Session(_)
            | Cause::Survey(_)
            | Cause::Freeze(_)
            | Cause::Watch(_)
            | Cause::Compare(_)
            | Cause::Hopeless(_)
            | Cause::Collect(_)
            | Cause::Pages(_)
            | Cause::Unable(_)
            | Cause::Unseen(_)
            | Cause::Criu(_)
            | Cause::CriuImages(_)
            | Cause::OtherNumber(_)
            | Cause::Papers { .. }
            | Cause::Files(_)
            | Cause::Elsewhere(_)
            | Cause::Shared { .. }
            | Cause::LetGo
            | Cause::Guard(_)
            | Cause::TooMuch(_)
            | Cause::Directory(_) => "the source",
            Cause::Refused(_) | Cause::PeerAborted(_) | Cause::PeerMisbehaved(_) => {
                "the destination"
            }
            Cause::GivenBack | Cause::Link(LinkError::ClosedByPeer { .. }) => "the destination",
            Cause::Dial(_) | Cause::Link(_) | Cause::Stranded => "the link or the destination",
            Cause::Interrupted
            | Cause::TakenBackByHand
            | Cause::Abandoned { .. }
            | Cause::ToldToFail(_) => "whoever stopped qmig",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match &*self.cause {
            Cause::Dial(error) => error.hint().map(str::to_owned),
            Cause::Refused(_) => Some("change the destination as it says, then try again".into()),
            Cause::Link(LinkError::ClosedByPeer { code, .. }) => code.hint().map(str::to_owned),
            Cause::Link(LinkError::Lost(_)) => {
                Some("see that UDP passes both ways between the hosts, then try again".into())
            }
            Cause::Watch(tracee::Error::Untrackable { .. }) => {
                Some("--mode post-copy moves it on this kernel".into())
            }
            Cause::Unseen(_) => Some("--mode post-copy or auto moves it".into()),
            Cause::Hopeless(_) => Some(
                "--mode post-copy moves it whatever it writes; a longer --max-downtime or a faster \
                 link lets --mode pre-copy do it"
                    .into(),
            ),
            Cause::Stranded if self.outcome == Outcome::Aborted => {
                Some("look on the destination whether the copy runs there".into())
            }
            Cause::Stranded => Some(
                "look on the destination whether the tree runs there; the stopped copy here was \
                 ended, because two copies must never run"
                    .into(),
            ),
            Cause::Abandoned { reached, .. } => {
                let look = if *reached { "" } else { "look there whether the tree still runs; " };
                let hint = "what needs a missing page on the destination waits for it in vain: end \
                            the tree there and start it anew";
                Some(format!("{look}{hint}"))
            }
            _ => None,
        }
    }

    /// If it is a refusal, every reason.
    pub fn reasons(&self) -> Vec<String> {
        match &*self.cause {
            Cause::CannotTake(refusals) => refusals.iter().map(ToString::to_string).collect(),
            Cause::Refused(reasons) => reasons.clone(),
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

impl Cause {
    /// The destination's reasons.
    pub(crate) fn refused(reasons: &[transport::wire::Refusal]) -> Self {
        Self::Refused(reasons.iter().map(ToString::to_string).collect())
    }
}

impl From<SurveyError> for Cause {
    fn from(error: SurveyError) -> Self {
        match error {
            SurveyError::Refused(refusals) => Self::CannotTake(refusals),
            other => Self::Survey(other),
        }
    }
}
