//! Everything that arrives as pages, from the first stream to the last missing page.
//!
//! A task of its own beside the driver, on the same thread: it accepts the streams of pages, gives
//! what cannot wait to the [`Fill`](crate::fill), and from [`Inflow::open`] on installs what can. Then
//! it is the fault path: an address space tells of a fault, the wish goes out, the answer is
//! installed. No queue and no other thread lies between: a hop to another thread costs more than
//! everything else that is done here for a page.
//!
//! It outlives links. [`Inflow::relink`] tells the new one what is missing, and says every wish again
//! that was not answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pages::{ByteCount, PageCount, PageRange, PageSet, SpaceId};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use transport::encode;
use transport::quic::credit::Waiting;
use transport::quic::{DestinationLink, Incoming, LinkError, PageReceiver};
use transport::wire::limits::MAX_MISSING_RANGES;
use transport::wire::{Control, FaultTotals, Missing, PageRun, Progress, Wanted};

use crate::askers::Askers;
use crate::faults::Faults;
use crate::fill::{FillDoor, FillError, HANDFUL};
use crate::rate::Rate;

/// Handfuls of runs, or answers, that may wait to be installed.
pub(crate) const WAITING: usize = 16;
/// How often the source is told how far it is, when little comes.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// A wish is for as many pages as take this long to come.
const REACH: Duration = Duration::from_micros(100);
/// And for no more than so many.
const MOST_REACH: u64 = 16;
/// How long after a failure to install pages it is tried again: memory may be short for a while.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// How far it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Pages that came after the others, and are in place.
    pub(crate) arrived: PageCount,
    /// True once nothing is missing any more, and nothing is watched.
    pub(crate) complete: bool,
    /// How long the program waited for pages.
    pub(crate) faults: FaultTotals,
    /// How often the source sent what cannot be, and what it was last. The link is not listened to
    /// any more then.
    pub(crate) failures: u64,
    pub(crate) failed: Option<Arc<FillError>>,
}

/// The driver's hold on the task; dropped, the task ends and whatever it held is let go.
pub(crate) struct Inflow {
    orders: mpsc::UnboundedSender<Order>,
    state: watch::Receiver<State>,
    task: AbortHandle,
}

enum Order {
    /// Pages may wait now.
    Open(Box<Faults>),
    /// Over this link now.
    Link(DestinationLink),
    /// The link was lost.
    Unlink,
}

impl Inflow {
    /// Begins to accept pages over `link`; `bulk` is a stream that began before. Pages of `owed` wait
    /// until [`Inflow::open`]; all others go through `door`, which `filled` counts behind.
    pub(crate) fn start(
        link: DestinationLink,
        bulk: Option<PageReceiver>,
        owed: HashMap<SpaceId, PageSet>,
        door: FillDoor,
        filled: Arc<AtomicU64>,
    ) -> Self {
        let (orders, heard) = mpsc::unbounded_channel();
        let complete = owed.is_empty();
        let (tell, state) = watch::channel(State { complete, ..State::default() });
        let (pour, handfuls) = mpsc::channel(WAITING);
        let mut task = Task {
            link: Some(link),
            streams: JoinSet::new(),
            pour,
            owed,
            door: Some(door),
            filled,
            faults: None,
            askers: Askers::new(),
            told: ByteCount(0),
            rate: Rate::new(),
            tell,
        };
        if let Some(bulk) = bulk {
            task.accept(bulk);
        }
        let task = tokio::spawn(task.run(heard, handfuls)).abort_handle();
        Self { orders, state, task }
    }

    /// From now on pages may be waited for.
    pub(crate) fn open(&self, faults: Faults) {
        let _ = self.orders.send(Order::Open(Box::new(faults)));
    }

    /// A new link to the same source.
    pub(crate) fn relink(&self, link: DestinationLink) {
        let _ = self.orders.send(Order::Link(link));
    }

    /// The link was lost.
    pub(crate) fn unlink(&self) {
        let _ = self.orders.send(Order::Unlink);
    }

    /// How far it is now.
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until something has changed. May be given up and taken up again.
    pub(crate) async fn changed(&mut self) -> State {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.state.borrow_and_update().clone()
    }
}

impl Drop for Inflow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    link: Option<DestinationLink>,
    /// Readers of the streams of the newest link.
    streams: JoinSet<()>,
    pour: mpsc::Sender<Vec<(PageRun, Bytes)>>,
    owed: HashMap<SpaceId, PageSet>,
    /// Until every page that cannot wait is there.
    door: Option<FillDoor>,
    filled: Arc<AtomicU64>,
    faults: Option<AsyncFd<Faults>>,
    askers: Askers,
    /// What the source was told, over this link, to be consumed.
    told: ByteCount,
    rate: Rate,
    tell: watch::Sender<State>,
}

/// What wakes the task.
enum Woken {
    Order(Option<Order>),
    Faults,
    Reply((PageRun, Bytes)),
    Handful(Vec<(PageRun, Bytes)>),
    Lane(Result<Incoming, LinkError>),
    Tick,
}

impl Task {
    async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<Order>,
        mut handfuls: mpsc::Receiver<Vec<(PageRun, Bytes)>>,
    ) {
        let mut tick = tokio::time::interval(TELL_EVERY);
        // Pages that may wait, and came before anybody can.
        let mut early: Vec<(PageRun, Bytes)> = Vec::new();
        // True once the source was told that nothing is missing.
        let mut ended = false;
        loop {
            let woken = tokio::select! {
                biased;
                order = orders.recv() => Woken::Order(order),
                () = readable(self.faults.as_ref()) => Woken::Faults,
                reply = self.askers.next_reply() => Woken::Reply(reply),
                lane = next_lane(self.link.as_ref()) => Woken::Lane(lane),
                _ = tick.tick() => Woken::Tick,
                Some(handful) = handfuls.recv(), if early.is_empty() => Woken::Handful(handful),
            };
            let done = match woken {
                Woken::Order(None) => return,
                Woken::Order(Some(Order::Open(faults))) => {
                    self.open(*faults);
                    self.take(std::mem::take(&mut early), &mut early).await
                }
                Woken::Order(Some(order)) => {
                    self.obey(order).await;
                    Ok(())
                }
                Woken::Faults => self.serve().await,
                Woken::Reply(run) => self.install(run).await,
                Woken::Lane(lane) => self.lane(lane),
                Woken::Handful(handful) => self.take(handful, &mut early).await,
                Woken::Tick => {
                    self.report(true).await;
                    Ok(())
                }
            };
            if let Err(error) = done {
                self.obey(Order::Unlink).await;
                self.tell.send_modify(|state| {
                    state.failures += 1;
                    state.failed = Some(Arc::new(error));
                });
            }
            // The source sends what is owed against credit, and may wait to hear that all is here.
            let complete = self.tell.borrow().complete && !std::mem::replace(&mut ended, true);
            let waiting = if self.faults.is_some() { Waiting::Now } else { Waiting::Soon };
            let due = complete || self.consumed().0 >= self.told.0 + waiting.tell_after().0;
            if due && !self.owed.is_empty() {
                self.report(false).await;
            }
        }
    }

    fn open(&mut self, faults: Faults) {
        self.door = None;
        // What was deprecated is a descriptor that might change under it: this one is owned, and stays.
        #[allow(deprecated)]
        let registered = AsyncFd::new(faults);
        match registered {
            Ok(faults) => self.faults = Some(faults),
            Err(error) => tracing::error!(%error, "faults cannot be waited for"),
        }
        self.note();
    }

    async fn obey(&mut self, order: Order) {
        self.streams = JoinSet::new();
        self.askers.clear();
        (self.link, self.told) = (None, ByteCount(0));
        if let Order::Link(link) = order {
            // What was lost with the old link: the source begins again with what is missing.
            if self.say_missing(&link).await.is_ok() {
                self.link = Some(link);
                let again = self.faults.as_ref().map(|faults| faults.get_ref().unanswered());
                self.ask(again.unwrap_or_default()).await;
            }
        }
    }

    async fn say_missing(&self, link: &DestinationLink) -> Result<(), LinkError> {
        let Some(faults) = &self.faults else { return Ok(()) };
        let all = faults.get_ref().still_missing();
        let messages: Vec<(SpaceId, Vec<PageRange>)> = all
            .iter()
            .flat_map(|(space, pages)| {
                let chunks = pages.ranges().chunks(MAX_MISSING_RANGES);
                chunks.map(|ranges| (*space, ranges.to_vec()))
            })
            .collect();
        let count = messages.len();
        for (at, (space, ranges)) in messages.into_iter().enumerate() {
            let missing = Missing { space, ranges, last: at + 1 == count };
            link.send(&Control::Missing(missing)).await?;
        }
        Ok(())
    }

    /// A stream that the source has opened.
    fn lane(&mut self, lane: Result<Incoming, LinkError>) -> Result<(), FillError> {
        match lane {
            Ok(Incoming::Bulk(pages) | Incoming::Urgent(pages)) => {
                self.accept(pages);
                Ok(())
            }
            Ok(Incoming::Blob(_)) => Err(FillError::UnexpectedBlob),
            // Whoever listens for messages notices too, and says what follows.
            Err(_) => {
                self.link = None;
                Ok(())
            }
        }
    }

    /// Where pages may wait, they are taken one run at a time: a fault goes before each.
    fn accept(&mut self, mut pages: PageReceiver) {
        let pour = self.pour.clone();
        let most = if self.owed.is_empty() { HANDFUL } else { PageCount(1) };
        self.streams.spawn(async move {
            while let Ok(handful) = pages.next_handful(most).await {
                if handful.is_empty() || pour.send(handful).await.is_err() {
                    return;
                }
            }
        });
    }

    fn may_wait(&self, run: PageRun) -> bool {
        let Some(owed) = self.owed.get(&run.space()) else { return false };
        let range = run.range();
        let after = owed.ranges().partition_point(|have| have.end() <= range.start());
        owed.ranges().get(after).is_some_and(|have| have.covers(range))
    }

    /// What was taken from the bulk lane of this link.
    fn consumed(&self) -> ByteCount {
        self.link.as_ref().map_or(ByteCount(0), DestinationLink::consumed)
    }

    fn count(&mut self, run: PageRun) {
        let bytes = (PageRun::HEADER_BYTES + run.byte_len()) as u64;
        self.rate.add(bytes);
    }

    /// Gives on what cannot wait, and puts what may in its place, or with those that are `early`.
    async fn take(
        &mut self,
        handful: Vec<(PageRun, Bytes)>,
        early: &mut Vec<(PageRun, Bytes)>,
    ) -> Result<(), FillError> {
        if self.owed.is_empty() {
            return self.give(handful).await;
        }
        for (run, bytes) in handful {
            match self.may_wait(run) {
                true if self.faults.is_none() => early.push((run, bytes)),
                true => {
                    self.count(run);
                    self.install((run, bytes)).await?;
                }
                false => {
                    self.count(run);
                    self.give(vec![(run, bytes)]).await?;
                }
            }
        }
        Ok(())
    }

    async fn give(&self, handful: Vec<(PageRun, Bytes)>) -> Result<(), FillError> {
        match (&self.door, handful.first()) {
            // A door that nothing goes through any more: the fill says why.
            (Some(door), _) => drop(door.give(handful).await),
            (None, Some((run, _))) => return Err(FillError::UnknownSpace(run.space())),
            (None, None) => {}
        }
        Ok(())
    }

    /// Puts pages where they are missing.
    async fn install(&mut self, (run, bytes): (PageRun, Bytes)) -> Result<(), FillError> {
        if !self.may_wait(run) {
            return Err(FillError::UnknownSpace(run.space()));
        }
        let content = encode::decode(run, bytes)?;
        loop {
            let Some(faults) = &mut self.faults else { return Ok(()) };
            match faults.get_mut().arrive(run.space(), run.range(), &content) {
                Ok(wishes) => {
                    self.note();
                    self.ask(wishes).await;
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(%error, ?run, "trying again");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    /// Reads what the address spaces tell, and asks for what they want.
    async fn serve(&mut self) -> Result<(), FillError> {
        let reach = self.rate.pages_in(REACH).clamp(1, MOST_REACH);
        let Some(faults) = &mut self.faults else { return Ok(()) };
        faults.get_mut().set_reach(PageCount(reach));
        match faults.get_mut().poll() {
            Ok(wishes) => {
                self.note();
                self.ask(wishes).await;
            }
            Err(error) => {
                tracing::warn!(%error, "trying again");
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
        Ok(())
    }

    /// Asks the source; without a link it is said again over the next one.
    async fn ask(&mut self, wishes: Vec<Wanted>) {
        if let Some(link) = &self.link {
            self.askers.ask(link, wishes).await;
        }
    }

    /// Tells the source how far it is, and the driver.
    async fn report(&mut self, tick: bool) {
        if tick {
            self.rate.turn();
            if let Some(faults) = &mut self.faults {
                faults.get_mut().bury();
            }
            self.note_faults();
        }
        self.note();
        let installed = self.filled.load(Ordering::Relaxed) + self.tell.borrow().arrived.0;
        self.told = self.consumed();
        if let Some(link) = &self.link {
            let pages = PageCount(installed);
            let progress = Progress { pages, bytes: self.told };
            let _ = link.send(&Control::Progress(progress)).await; // a lost link is noticed elsewhere
        }
    }

    /// Keeps the state true; wakes the driver only for the end.
    fn note(&self) {
        let Some(faults) = &self.faults else { return };
        let faults = faults.get_ref();
        if self.tell.borrow().complete {
            return;
        }
        if faults.is_complete() {
            self.note_faults();
        }
        self.tell.send_if_modified(|state| {
            (state.complete, state.arrived) = (faults.is_complete(), faults.arrived());
            state.complete
        });
    }

    fn note_faults(&self) {
        let Some(faults) = &self.faults else { return };
        let latencies = faults.get_ref().latencies();
        self.tell.send_if_modified(|state| {
            let news = state.faults.count != latencies.count();
            if news {
                state.faults = latencies.totals();
            }
            news
        });
    }
}

/// Waits for an address space that has something to tell.
async fn readable(faults: Option<&AsyncFd<Faults>>) {
    let Some(faults) = faults else { return std::future::pending().await };
    match faults.readable().await {
        // Before they are read: what comes meanwhile is told again.
        Ok(mut ready) => ready.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}

async fn next_lane(link: Option<&DestinationLink>) -> Result<Incoming, LinkError> {
    match link {
        Some(link) => link.next_lane().await,
        None => std::future::pending().await,
    }
}
