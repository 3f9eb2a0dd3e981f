//! The streams of one link on which missing pages are wished for, and come one by one.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use transport::quic::{DestinationLink, FaultSender, LinkError};
use transport::wire::limits::MAX_DESTINATION_BIDI_STREAMS;
use transport::wire::{PageRun, Wanted};

use crate::inflow::WAITING;

/// All of them, opened with the first wish.
pub(crate) struct Askers {
    askers: Vec<Asker>,
    /// Who reads what comes.
    readers: JoinSet<()>,
    replies: (mpsc::Sender<Reply>, mpsc::Receiver<Reply>),
}

/// A stream of wishes, and how many of its pages are still to come.
struct Asker {
    sender: FaultSender,
    open: u64,
}

/// On which of them, and what.
type Reply = (usize, PageRun, Bytes);

impl Askers {
    pub(crate) fn new() -> Self {
        Self { askers: Vec::new(), readers: JoinSet::new(), replies: mpsc::channel(WAITING) }
    }

    /// Their link is no more.
    pub(crate) fn clear(&mut self) {
        self.askers.clear();
        self.readers = JoinSet::new();
    }

    /// Says these wishes over `link`, each on the stream with the fewest pages to come: a packet that is
    /// lost holds up its own stream only. What a lost link keeps from being said is said again over
    /// the next one.
    pub(crate) async fn ask(&mut self, link: &DestinationLink, wishes: Vec<Wanted>) {
        if wishes.is_empty() || self.open(link).await.is_err() {
            return;
        }
        for wanted in wishes {
            let Some(asker) = self.askers.iter_mut().min_by_key(|asker| asker.open) else { return };
            asker.open += wanted.range().count().0;
            if asker.sender.ask(wanted).await.is_err() {
                return;
            }
        }
    }

    /// The next pages that were wished for. May be given up and taken up again.
    pub(crate) async fn next_reply(&mut self) -> (PageRun, Bytes) {
        let Some((asker, run, bytes)) = self.replies.1.recv().await else {
            return std::future::pending().await;
        };
        if let Some(asker) = self.askers.get_mut(asker) {
            asker.open = asker.open.saturating_sub(run.range().count().0);
        }
        (run, bytes)
    }

    /// Opens those of a new link.
    async fn open(&mut self, link: &DestinationLink) -> Result<(), LinkError> {
        if !self.askers.is_empty() {
            return Ok(());
        }
        for at in 0..MAX_DESTINATION_BIDI_STREAMS as usize {
            let (sender, mut pages) = link.faults().await?;
            self.askers.push(Asker { sender, open: 0 });
            let replies = self.replies.0.clone();
            self.readers.spawn(async move {
                while let Ok(Some((run, bytes))) = pages.next().await {
                    if replies.send((at, run, bytes)).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(())
    }
}
