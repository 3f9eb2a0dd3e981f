//! The one door through which pages enter the tree that is being built.
//!
//! A thread of its own takes runs from a bounded channel, checks that each belongs to the tree and
//! that it comes once, and writes it. So "every page, once" is kept in this file, whether the pages
//! come over the wire or from a directory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use pages::{PageCount, SpaceId};
use tokio::sync::{mpsc, oneshot};
use transport::PeerMisbehaved;
use transport::encode::{self, Content};
use transport::wire::{PageRun, SpaceTotal};

use crate::build::Sink;

/// Handfuls of runs that may wait to be written.
const WAITING: usize = 16;
/// A handful is of that many pages: waking the thread for each of many single ones would cost more than
/// writing them.
pub(crate) const HANDFUL: PageCount = PageCount(16);

/// Pages could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// A page of a space that was not announced.
    #[error("pages of {0}, which the manifest does not have")]
    UnknownSpace(SpaceId),
    /// More pages than were announced.
    #[error("more pages of {space} than the {announced:?} announced")]
    TooMany {
        /// Whose.
        space: SpaceId,
        /// How many were announced.
        announced: PageCount,
    },
    /// A blob after all blobs.
    #[error("a blob where only pages were due")]
    UnexpectedBlob,
    /// It ended before every announced page had come.
    #[error("{missing:?} of {space} never came")]
    Missing {
        /// Whose.
        space: SpaceId,
        /// How many are missing.
        missing: PageCount,
    },
    /// A run that cannot be undone.
    #[error("the source {0}")]
    Encoding(#[from] PeerMisbehaved),
    /// The kernel did not take them.
    #[error("writing {run:?}: {source}")]
    Write {
        /// Which.
        run: PageRun,
        /// Why.
        source: crate::Error,
    },
}

impl FillError {
    /// True if the pages themselves were wrong, false if this host could not take them.
    pub const fn is_peers_fault(&self) -> bool {
        !matches!(self, Self::Write { .. })
    }
}

/// Takes runs; dropped, it says that there are no more.
#[derive(Clone)]
pub(crate) struct FillDoor(mpsc::Sender<Vec<(PageRun, Bytes)>>);

/// The thread behind the door.
pub(crate) struct Fill {
    done: oneshot::Receiver<Result<(), FillError>>,
    installed: Arc<AtomicU64>,
}

impl FillDoor {
    /// Hands runs over, waiting while too many are waiting already. False once nothing is taken
    /// any more: the [`Fill`] says why.
    pub(crate) async fn give(&self, handful: Vec<(PageRun, Bytes)>) -> bool {
        self.0.send(handful).await.is_ok()
    }

    /// The same for a thread that may block.
    pub(crate) fn give_blocking(&self, handful: Vec<(PageRun, Bytes)>) -> bool {
        self.0.blocking_send(handful).is_ok()
    }
}

impl Fill {
    /// Starts to fill spaces, each with what was announced for it.
    pub(crate) fn start(spaces: &[SpaceTotal], sinks: HashMap<SpaceId, Sink>) -> (FillDoor, Self) {
        let (sender, handfuls) = mpsc::channel(WAITING);
        let (tell, done) = oneshot::channel();
        let installed = Arc::new(AtomicU64::new(0));
        let mut writer = Writer {
            due: spaces.iter().map(|space| (space.space, (space.sent, space.sent))).collect(),
            sinks,
            installed: Arc::clone(&installed),
        };
        std::thread::spawn(move || {
            let _ = tell.send(writer.write_all(handfuls));
        });
        (FillDoor(sender), Self { done, installed })
    }

    /// Counts the pages written so far.
    pub(crate) fn installed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.installed)
    }

    /// Waits until every announced page is in place, or one cannot be. May be given up and taken up
    /// again.
    pub(crate) async fn finished(&mut self) -> Result<(), FillError> {
        (&mut self.done).await.expect("the writer always tells how it ended")
    }

    /// The same for a thread that may block.
    pub(crate) fn finished_blocking(self) -> Result<(), FillError> {
        self.done.blocking_recv().expect("the writer always tells how it ended")
    }
}

struct Writer {
    /// For each space: pages still due, pages announced.
    due: HashMap<SpaceId, (PageCount, PageCount)>,
    sinks: HashMap<SpaceId, Sink>,
    installed: Arc<AtomicU64>,
}

impl Writer {
    fn write_all(
        &mut self,
        mut handfuls: mpsc::Receiver<Vec<(PageRun, Bytes)>>,
    ) -> Result<(), FillError> {
        while !self.is_complete() {
            let Some(handful) = handfuls.blocking_recv() else { break };
            for (run, bytes) in handful {
                self.write(run, bytes)?;
            }
        }
        match self.due.iter().find(|(_, (due, _))| due.0 > 0) {
            Some((space, (missing, _))) => {
                Err(FillError::Missing { space: *space, missing: *missing })
            }
            None => Ok(()),
        }
    }

    fn is_complete(&self) -> bool {
        self.due.values().all(|(due, _)| due.0 == 0)
    }

    fn write(&mut self, run: PageRun, bytes: Bytes) -> Result<(), FillError> {
        let (space, range) = (run.space(), run.range());
        let (due, announced) = self.due.get_mut(&space).ok_or(FillError::UnknownSpace(space))?;
        let left = due.0.checked_sub(range.count().0);
        *due = PageCount(left.ok_or(FillError::TooMany { space, announced: *announced })?);
        let sink = self.sinks.get(&space).ok_or(FillError::UnknownSpace(space))?;
        let written = match encode::decode(run, bytes)? {
            Content::Zero => sink.zero(range),
            Content::Bytes(bytes) => sink.write(range, &bytes),
        };
        written.map_err(|source| FillError::Write { run, source })?;
        self.installed.fetch_add(range.count().0, Ordering::Relaxed);
        Ok(())
    }
}
