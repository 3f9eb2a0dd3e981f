//! What all streams of a link share: how they are ordered, what they have carried, and the credit of
//! bulk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use pages::ByteCount;
use quinn::SendStream;
use tokio::sync::{Mutex, Notify, OnceCell};

use super::batch::Batch;
use super::credit::Credit;
use super::lanes::Lane;
use super::pace::{ByteRate, Pace};
use crate::stats::LaneStats;
use crate::wire::Features;

/// What makes pages that somebody waits for overtake the others. All that is ours, unless it is to be
/// seen what each is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remedies {
    /// Lanes have priorities.
    pub priorities: bool,
    /// Bulk on its way is bounded.
    pub credit: bool,
    /// Each lane has streams of its own; else all pages share one.
    pub streams: bool,
    /// Sockets have larger buffers than the kernel gives them.
    pub socket_buffer: bool,
    /// Faults have a connection of their own. Not ours: it is what others do instead.
    pub second: bool,
}

impl Default for Remedies {
    fn default() -> Self {
        let (priorities, credit, streams, socket_buffer) = (true, true, true, true);
        Self { priorities, credit, streams, socket_buffer, second: false }
    }
}

/// Shared by the streams of one link.
#[derive(Debug)]
pub(super) struct Wires {
    remedies: Remedies,
    /// What both ends have, as far as streams of pages care.
    agreed: AtomicU64,
    sent: [AtomicU64; Lane::ALL.len()],
    received: [AtomicU64; Lane::ALL.len()],
    sent_frames: [AtomicU64; Lane::ALL.len()],
    received_frames: [AtomicU64; Lane::ALL.len()],
    credit: Credit,
    /// How fast bulk may leave, if that is bounded.
    pace: OnceLock<Pace>,
    /// Bytes of runs that were taken from the bulk lane.
    consumed: AtomicU64,
    consumed_more: Notify,
    /// The one stream of all pages, if there is only one.
    only: OnceCell<Arc<Mutex<Batch>>>,
}

impl Wires {
    pub(super) fn new(remedies: Remedies) -> Arc<Self> {
        Arc::new(Self {
            remedies,
            agreed: AtomicU64::new(Features::NONE.0),
            sent: Default::default(),
            received: Default::default(),
            sent_frames: Default::default(),
            received_frames: Default::default(),
            credit: Credit::default(),
            pace: OnceLock::new(),
            consumed: AtomicU64::new(0),
            consumed_more: Notify::new(),
            only: OnceCell::new(),
        })
    }

    pub(super) fn prioritise(&self, lane: Lane, stream: &SendStream) {
        if self.remedies.priorities {
            lane.prioritise(stream);
        }
    }

    pub(super) fn agree(&self, features: Features) {
        self.agreed.store(features.0, Ordering::Relaxed);
    }

    pub(super) fn agreed(&self) -> Features {
        Features(self.agreed.load(Ordering::Relaxed))
    }

    /// The account of bulk, if it is kept.
    pub(super) fn credit(&self) -> Option<&Credit> {
        self.remedies.credit.then_some(&self.credit)
    }

    /// From now on bulk leaves no faster than this.
    pub(super) fn limit(&self, rate: ByteRate) {
        let _ = self.pace.set(Pace::new(rate)); // the first word counts
    }

    /// How fast bulk may leave, if that is bounded.
    pub(super) fn pace(&self) -> Option<&Pace> {
        self.pace.get()
    }

    /// Where the only stream of pages is kept, if there is to be only one.
    pub(super) fn only(&self) -> Option<&OnceCell<Arc<Mutex<Batch>>>> {
        (!self.remedies.streams).then_some(&self.only)
    }

    pub(super) fn consume(&self, bytes: usize) {
        self.consumed.fetch_add(bytes as u64, Ordering::Relaxed);
        self.consumed_more.notify_waiters();
    }

    pub(super) fn consumed(&self) -> ByteCount {
        ByteCount(self.consumed.load(Ordering::Relaxed))
    }

    /// Waits until so much was consumed.
    pub(super) async fn consumed_as_much(&self, as_much: ByteCount) {
        loop {
            let more = self.consumed_more.notified();
            if self.consumed() >= as_much {
                return;
            }
            more.await;
        }
    }

    pub(super) fn sent(&self, lane: Lane, bytes: usize) {
        self.sent[lane.index()].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, lane: Lane, bytes: usize) {
        self.received[lane.index()].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A message, a wish, a run or a blob begins its way.
    pub(super) fn sent_frame(&self, lane: Lane) {
        self.sent_frames[lane.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// One has come.
    pub(super) fn received_frame(&self, lane: Lane) {
        self.received_frames[lane.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> [LaneStats; Lane::ALL.len()] {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Lane::ALL.map(|lane| LaneStats {
            lane,
            sent: ByteCount(load(&self.sent[lane.index()])),
            received: ByteCount(load(&self.received[lane.index()])),
            sent_frames: load(&self.sent_frames[lane.index()]),
            received_frames: load(&self.received_frames[lane.index()]),
        })
    }
}
