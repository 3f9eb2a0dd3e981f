//! Page runs on their streams, and the wishes for them.

use bytes::{Buf, Bytes, BytesMut};
use quinn::{Connection, RecvStream};

use super::batch::Batch;
use super::lanes::Lane;
use super::link::{LinkError, misbehaved, read_error};
use crate::PeerMisbehaved;
use crate::wire::{PageRun, Wanted};

/// Packets' worth of bytes taken from a stream at a time.
const CHUNKS: usize = 64;
/// Runs shorter than this share an allocation.
const SHARED_BUFFER: usize = 64 << 10;

/// Writes page runs. Dropped before [`PageSender::finish`], the stream breaks off.
#[derive(Debug)]
pub struct PageSender {
    batch: Batch,
    /// Whether each run is worth a packet of its own.
    at_once: bool,
}

impl PageSender {
    pub(super) fn new(batch: Batch, lane: Lane) -> Self {
        Self { batch, at_once: matches!(lane, Lane::Faults | Lane::Urgent) }
    }

    /// One run and its bytes, which are taken without a copy if they are many. On the bulk lane
    /// short runs are collected: what was written is on its way for sure only after
    /// [`PageSender::flush`] or [`PageSender::finish`].
    ///
    /// # Panics
    ///
    /// If `bytes` is not as long as the run says.
    pub async fn run(&mut self, run: PageRun, bytes: Bytes) -> Result<(), LinkError> {
        assert_eq!(bytes.len(), run.byte_len(), "the bytes of {run:?}");
        self.batch.head_and_body(&run.encode(), bytes).await?;
        if self.at_once { self.batch.flush().await } else { Ok(()) }
    }

    /// Sends what was collected.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        self.batch.flush().await
    }

    /// Ends the stream.
    pub async fn finish(self) -> Result<(), LinkError> {
        self.batch.finish().await
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
    pub(super) fn new(connection: Connection, stream: RecvStream, lane: Lane) -> Self {
        Self { reader: Reader::new(connection, stream, lane), run: None }
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
                if !run.encoding().is_decoded() {
                    let (space, encoding) = (run.space(), run.encoding());
                    let error = PeerMisbehaved::EncodingNotAgreed { space, encoding };
                    return Err(self.reader.blame(error));
                }
                *self.run.insert(run)
            }
        };
        let bytes = self.reader.bytes(run.byte_len()).await?;
        self.run = None;
        Ok(Some((run, bytes)))
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
    pub(super) fn new(connection: Connection, stream: RecvStream) -> Self {
        Self(Reader::new(connection, stream, Lane::Faults))
    }

    /// The next wish, `None` at the end. May be given up and taken up again.
    pub async fn next(&mut self) -> Result<Option<Wanted>, LinkError> {
        let Some(bytes) = self.0.array("a wish").await? else {
            return Ok(None);
        };
        Wanted::decode(&bytes).map(Some).map_err(|error| self.0.blame(error.into()))
    }
}

/// Collects exact numbers of bytes from a stream that comes in packets.
#[derive(Debug)]
struct Reader {
    connection: Connection,
    stream: RecvStream,
    lane: Lane,
    /// Packets' contents not used yet: those from `next` on.
    chunks: Vec<Bytes>,
    next: usize,
    buffer: BytesMut,
}

impl Reader {
    fn new(connection: Connection, stream: RecvStream, lane: Lane) -> Self {
        let chunks = vec![Bytes::new(); CHUNKS];
        Self { connection, stream, lane, chunks, next: CHUNKS, buffer: BytesMut::new() }
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
