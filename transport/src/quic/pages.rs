//! Page runs on their streams, and the wishes for them.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pages::PageCount;
use quinn::{Connection, RecvStream};
use tokio::sync::Mutex;

use super::batch::Batch;
use super::lanes::Lane;
use super::link::{LinkError, misbehaved, read_error};
use super::wires::Wires;
use crate::PeerMisbehaved;
use crate::wire::{Encoding, PageRun, Wanted};

/// Packets' worth of bytes taken from a stream at a time.
const CHUNKS: usize = 64;
/// Runs shorter than this share an allocation.
const SHARED_BUFFER: usize = 64 << 10;
/// Bulk runs are no longer than this while they are paced: 32 KiB.
const PACED_PIECE: PageCount = PageCount(8);

/// Writes page runs. Dropped before [`PageSender::finish`], the stream breaks off.
#[derive(Debug)]
pub struct PageSender {
    out: Out,
    lane: Lane,
    wires: Arc<Wires>,
}

#[derive(Debug)]
enum Out {
    Own(Batch),
    /// All pages over one stream.
    Shared(Arc<Mutex<Batch>>),
}

impl PageSender {
    pub(super) fn new(batch: Batch, lane: Lane, wires: &Arc<Wires>) -> Self {
        Self { out: Out::Own(batch), lane, wires: Arc::clone(wires) }
    }

    pub(super) fn shared(batch: Arc<Mutex<Batch>>, lane: Lane, wires: &Arc<Wires>) -> Self {
        Self { out: Out::Shared(batch), lane, wires: Arc::clone(wires) }
    }

    /// One run and its bytes, which are taken without a copy if they are many. On the bulk lane
    /// short runs are collected: what was written is on its way for sure only after
    /// [`PageSender::flush`] or [`PageSender::finish`]. And there it waits until the destination has
    /// taken enough of what was sent before: its [`Progress`](crate::wire::Progress) must be heard
    /// meanwhile, with [`SourceLink::recv`](super::SourceLink::recv).
    ///
    /// # Panics
    ///
    /// If `bytes` is not as long as the run says.
    pub async fn run(&mut self, run: PageRun, mut bytes: Bytes) -> Result<(), LinkError> {
        assert_eq!(bytes.len(), run.byte_len(), "the bytes of {run:?}");
        if self.lane != Lane::Bulk {
            return self.write(run, bytes).await;
        }
        let wires = Arc::clone(&self.wires);
        let paced = wires.pace().map(|_| PACED_PIECE);
        let waited_for = wires.credit().and_then(|credit| credit.waiting().piece());
        let shortest = [paced, waited_for].into_iter().flatten().min();
        let Some(piece) = shortest.filter(|_| run.encoding() == Encoding::Raw) else {
            self.pay(&wires, run).await?;
            return self.write(run, bytes).await;
        };
        for piece in run.range().pieces(piece) {
            let run = PageRun::raw(run.space(), piece).expect("a part of a run is a run");
            self.pay(&wires, run).await?;
            self.write(run, bytes.split_to(run.byte_len())).await?;
        }
        Ok(())
    }

    /// Waits until it may leave; what was collected must be under way before, or credit would never
    /// come back.
    async fn pay(&mut self, wires: &Wires, run: PageRun) -> Result<(), LinkError> {
        let bytes = (PageRun::HEADER_BYTES + run.byte_len()) as u64;
        let wait = wires.pace().map_or(Duration::ZERO, |pace| pace.take(bytes));
        if !wait.is_zero() {
            self.flush().await?;
            tokio::time::sleep(wait).await;
        }
        let Some(credit) = wires.credit() else { return Ok(()) };
        if !credit.try_take(bytes) {
            self.flush().await?;
            credit.take(bytes).await;
        }
        Ok(())
    }

    async fn write(&mut self, run: PageRun, bytes: Bytes) -> Result<(), LinkError> {
        let at_once = matches!(self.lane, Lane::Faults | Lane::Urgent);
        match &mut self.out {
            Out::Own(batch) => batch.run(run, bytes, at_once).await,
            Out::Shared(batch) => batch.lock().await.run(run, bytes, at_once).await,
        }
    }

    /// Sends what was collected.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        match &mut self.out {
            Out::Own(batch) => batch.flush().await,
            Out::Shared(batch) => batch.lock().await.flush().await,
        }
    }

    /// Ends the stream.
    pub async fn finish(self) -> Result<(), LinkError> {
        match self.out {
            Out::Own(batch) => batch.finish().await,
            // The others may still have something to say.
            Out::Shared(batch) => batch.lock().await.flush().await,
        }
    }
}

/// Reads page runs.
#[derive(Debug)]
pub struct PageReceiver {
    reader: Reader,
    /// The header that was read, while its bytes are still coming.
    run: Option<PageRun>,
}

impl PageReceiver {
    pub(super) fn new(
        connection: Connection,
        stream: RecvStream,
        lane: Lane,
        wires: &Arc<Wires>,
    ) -> Self {
        Self { reader: Reader::new(connection, stream, lane, wires), run: None }
    }

    /// The next run and its bytes, `None` at the end. The bytes are exactly as long as the run
    /// says, and were copied once. May be given up and taken up again.
    pub async fn next(&mut self) -> Result<Option<(PageRun, Bytes)>, LinkError> {
        let run = match self.run {
            Some(run) => run,
            None => {
                let Some(header) = self.reader.array("a header").await? else {
                    return Ok(None);
                };
                let run =
                    PageRun::decode(&header).map_err(|error| self.reader.blame(error.into()))?;
                if !self.reader.wires.agreed().contains(run.encoding().feature()) {
                    let (space, encoding) = (run.space(), run.encoding());
                    let error = PeerMisbehaved::EncodingNotAgreed { space, encoding };
                    return Err(self.reader.blame(error));
                }
                self.reader.wires.received_frame(self.reader.lane);
                *self.run.insert(run)
            }
        };
        let bytes = self.reader.bytes(run.byte_len()).await?;
        self.run = None;
        if self.reader.lane == Lane::Bulk {
            self.reader.wires.consume(PageRun::HEADER_BYTES + run.byte_len());
        }
        Ok(Some((run, bytes)))
    }

    /// The next run, and those behind it that have come as well, until there are `most` pages or more;
    /// none at the end. For whoever hands them to another thread: to wake it for each of many single
    /// pages would cost more than to take them. May be given up and taken up again.
    pub async fn next_handful(
        &mut self,
        most: PageCount,
    ) -> Result<Vec<(PageRun, Bytes)>, LinkError> {
        let mut handful: Vec<_> = self.next().await?.into_iter().collect();
        let mut pages: PageCount = handful.iter().map(|(run, _)| run.range().count()).sum();
        while !handful.is_empty() && pages < most {
            let more = tokio::select! {
                biased;
                more = self.next() => more?,
                () = std::future::ready(()) => None,
            };
            let Some(more) = more else { break };
            pages = pages + more.0.range().count();
            handful.push(more);
        }
        Ok(handful)
    }
}

/// Writes wishes for pages.
#[derive(Debug)]
pub struct FaultSender(Batch);

impl FaultSender {
    pub(super) const fn new(batch: Batch) -> Self {
        Self(batch)
    }

    /// Asks for pages, at once.
    pub async fn ask(&mut self, wanted: Wanted) -> Result<(), LinkError> {
        self.0.head_and_body(&wanted.encode(), Bytes::new()).await?;
        self.0.flush().await
    }

    /// No more wishes.
    pub async fn finish(self) -> Result<(), LinkError> {
        self.0.finish().await
    }
}

/// Reads wishes for pages.
#[derive(Debug)]
pub struct FaultReceiver(Reader);

impl FaultReceiver {
    pub(super) fn new(connection: Connection, stream: RecvStream, wires: &Arc<Wires>) -> Self {
        Self(Reader::new(connection, stream, Lane::Faults, wires))
    }

    /// The next wish, `None` at the end. May be given up and taken up again.
    pub async fn next(&mut self) -> Result<Option<Wanted>, LinkError> {
        let Some(bytes) = self.0.array("a wish").await? else {
            return Ok(None);
        };
        let wanted = Wanted::decode(&bytes).map_err(|error| self.0.blame(error.into()))?;
        self.0.wires.received_frame(Lane::Faults);
        Ok(Some(wanted))
    }
}

/// Collects exact numbers of bytes from a stream that comes in packets.
#[derive(Debug)]
struct Reader {
    connection: Connection,
    stream: RecvStream,
    lane: Lane,
    wires: Arc<Wires>,
    /// Packets' contents not used yet: those from `next` on.
    chunks: Vec<Bytes>,
    next: usize,
    buffer: BytesMut,
}

impl Reader {
    fn new(connection: Connection, stream: RecvStream, lane: Lane, wires: &Arc<Wires>) -> Self {
        let (chunks, wires) = (vec![Bytes::new(); CHUNKS], Arc::clone(wires));
        Self { connection, stream, lane, wires, chunks, next: CHUNKS, buffer: BytesMut::new() }
    }

    /// Fills the buffer to exactly `length`; false if the stream ends before.
    async fn fill(&mut self, length: usize) -> Result<bool, LinkError> {
        self.buffer.reserve(length.saturating_sub(self.buffer.len()));
        loop {
            while self.buffer.len() < length {
                let Some(chunk) = self.chunks.get_mut(self.next) else {
                    break;
                };
                let count = chunk.len().min(length - self.buffer.len());
                self.buffer.extend_from_slice(&chunk[..count]);
                chunk.advance(count);
                if chunk.is_empty() {
                    *chunk = Bytes::new();
                    self.next += 1;
                }
            }
            if self.buffer.len() >= length {
                return Ok(true);
            }
            self.chunks.resize(CHUNKS, Bytes::new());
            self.next = CHUNKS;
            let read = self.stream.read_chunks(&mut self.chunks).await;
            match read.map_err(|error| read_error(error, self.lane))? {
                Some(count) => {
                    self.chunks.truncate(count);
                    self.wires.received(self.lane, self.chunks.iter().map(Bytes::len).sum());
                    self.next = 0;
                }
                None => return Ok(false),
            }
        }
    }

    /// A header of fixed size; `None` if the stream ends just before it.
    async fn array<const N: usize>(
        &mut self,
        within: &'static str,
    ) -> Result<Option<[u8; N]>, LinkError> {
        if self.fill(N).await? {
            let header = self.buffer.first_chunk().copied();
            self.buffer.clear();
            return Ok(header);
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        Err(self.blame(PeerMisbehaved::EndedWithin { lane: self.lane.name(), within }))
    }

    /// The bytes of a run.
    async fn bytes(&mut self, length: usize) -> Result<Bytes, LinkError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        if self.buffer.is_empty() {
            self.buffer.reserve(length.max(SHARED_BUFFER));
        }
        if self.fill(length).await? {
            return Ok(self.buffer.split().freeze());
        }
        let within = "the bytes of a run";
        Err(self.blame(PeerMisbehaved::EndedWithin { lane: self.lane.name(), within }))
    }

    fn blame(&self, error: PeerMisbehaved) -> LinkError {
        misbehaved(&self.connection, error)
    }
}
