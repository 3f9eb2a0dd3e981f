//! The source as a store of pages: wishes are answered at once, the rest is sent in the background.
//!
//! Everything here runs on the thread of the driver, between its messages: a wish that had to be
//! handed to another thread would wait longer for that thread than for its page. Pages are read in
//! pieces that are small enough not to be felt.
//!
//! A wish for a page that is already under way is answered again: only the destination knows what it
//! has, and it takes each page once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use pages::{PageCount, PageRange, PageSet, SpaceId};
use tokio::task::JoinSet;
use tracee::Memory;
use transport::encode;
use transport::quic::credit::Waiting;
use transport::quic::{FaultReceiver, LinkError, PageSender, SourceLink};
use transport::wire::{Missing, PageRun};

use crate::lazy::Owed;
use crate::pending::Pending;
use crate::pump::ReadPages;

/// Pages sent in the background at a time.
const PIECE: PageCount = PageCount(64);

/// Serves the owed pages of a stopped tree over one link after the other. Dropped, it stops.
pub(crate) struct Server {
    store: Arc<Store>,
    /// What runs over the newest link.
    tasks: JoinSet<()>,
    link: Option<SourceLink>,
    /// What had not been sent when the link was lost, until the destination has told what is missing.
    lost_with: Option<PageCount>,
}

struct Store {
    kept: HashMap<SpaceId, Kept>,
    pending: Mutex<Pending>,
    sent: AtomicU64,
}

/// One stopped address space.
struct Kept {
    memory: Memory,
    /// Every page that may be asked for.
    owed: PageSet,
}

impl Server {
    /// Over no link yet.
    pub(crate) fn new(owed: &[Owed]) -> Result<Self, ReadPages> {
        let mut kept = HashMap::new();
        let mut pending = Pending::default();
        for space in owed {
            let memory = Memory::open(space.process)
                .map_err(|error| ReadPages::of(space.space, None, error))?;
            kept.insert(space.space, Kept { memory, owed: space.pages.clone() });
            pending.owe(space.space, &space.pages, &space.hot);
        }
        let store = Store { kept, pending: Mutex::new(pending), sent: 0.into() };
        Ok(Self { store: Arc::new(store), tasks: JoinSet::new(), link: None, lost_with: None })
    }

    /// Answers wishes over `link`, and over no other any more. Bulk yields to those who wait.
    pub(crate) fn answer(&mut self, link: &SourceLink, waiting: Waiting) {
        link.yield_bulk(waiting);
        self.tasks = JoinSet::new();
        self.link = Some(link.clone());
        self.tasks.spawn(accept(link.clone(), Arc::clone(&self.store)));
    }

    /// Sends what is pending on `bulk`, until nothing is.
    pub(crate) fn push(&mut self, bulk: PageSender) {
        self.tasks.spawn(push(bulk, Arc::clone(&self.store)));
    }

    /// The link was lost: what was under way may be lost with it.
    pub(crate) fn link_lost(&mut self) {
        self.lost_with = Some(self.left());
        self.tasks = JoinSet::new();
        self.link = None;
        self.store.pending().clear();
    }

    /// The destination tells what has not come; with the last of it, sending begins again.
    pub(crate) async fn missing(&mut self, missing: Missing) -> Result<(), LinkError> {
        let Some(kept) = self.store.kept.get(&missing.space) else { return Ok(()) };
        let told: PageSet = missing.ranges.into_iter().collect();
        self.store.pending().owe(missing.space, &told.intersect(&kept.owed), &PageSet::new());
        if missing.last {
            self.lost_with = None;
        }
        if let (true, Some(link)) = (missing.last, &self.link) {
            let bulk = link.bulk().await?;
            self.push(bulk);
        }
        Ok(())
    }

    /// How many pages were not sent yet, as far as that is known.
    pub(crate) fn left(&self) -> PageCount {
        self.lost_with.unwrap_or_else(|| self.store.pending().left())
    }

    /// How many pages were sent, a page sent twice counted twice.
    pub(crate) fn sent(&self) -> PageCount {
        PageCount(self.store.sent.load(Ordering::Relaxed))
    }
}

impl Store {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads owed pages. What is not owed is not read, whoever asks.
    fn read(&self, space: SpaceId, range: PageRange) -> Option<Result<Bytes, ReadPages>> {
        let kept = self.kept.get(&space)?;
        let after = kept.owed.ranges().partition_point(|have| have.end() <= range.start());
        if !kept.owed.ranges().get(after)?.covers(range) {
            return None;
        }
        let length = usize::try_from(range.bytes().0).ok()?;
        let mut bytes = BytesMut::zeroed(length);
        let read = kept.memory.read(range.start_addr(), &mut bytes);
        self.sent.fetch_add(range.count().0, Ordering::Relaxed);
        Some(
            read.map(|()| bytes.freeze()).map_err(|error| ReadPages::of(space, Some(range), error)),
        )
    }
}

/// Takes every stream of wishes that the destination opens, and answers it.
async fn accept(link: SourceLink, store: Arc<Store>) {
    let mut streams = JoinSet::new();
    while let Ok((wishes, pages)) = link.next_faults().await {
        streams.spawn(answer(wishes, pages, Arc::clone(&store)));
    }
}

/// Answers one stream of wishes. It ends with the stream; a link that is lost is noticed elsewhere.
async fn answer(mut wishes: FaultReceiver, mut pages: PageSender, store: Arc<Store>) {
    while let Ok(Some(wanted)) = wishes.next().await {
        let (space, range) = (wanted.space(), wanted.range());
        let Some(read) = store.read(space, range) else {
            tracing::warn!(%space, ?range, "the destination wants pages that are not owed");
            return;
        };
        store.pending().wanted(space, range);
        if send(&mut pages, space, range, read).await.is_err() {
            return;
        }
    }
}

/// Sends what is pending, until nothing is.
async fn push(mut bulk: PageSender, store: Arc<Store>) {
    loop {
        let next = store.pending().next(PIECE);
        let Some((space, range)) = next else {
            let _ = bulk.finish().await;
            return;
        };
        let Some(read) = store.read(space, range) else { continue };
        if send(&mut bulk, space, range, read).await.is_err() || bulk.flush().await.is_err() {
            return;
        }
    }
}

/// A page that cannot be read is not sent, and its stream breaks off: the destination asks again.
async fn send(
    pages: &mut PageSender,
    space: SpaceId,
    range: PageRange,
    read: Result<Bytes, ReadPages>,
) -> Result<(), ()> {
    let bytes = read.map_err(|error| tracing::error!(%error, "owed pages are lost"))?;
    let runs: Vec<(PageRun, Bytes)> = encode::runs(space, range, bytes).collect();
    for (run, bytes) in runs {
        pages.run(run, bytes).await.map_err(drop)?;
    }
    Ok(())
}
