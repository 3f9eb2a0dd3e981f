//! Small pieces joined, large ones passed on as they are.
//!
//! Each piece handed to a QUIC stream is a segment of its send buffer, which is searched linearly
//! for every packet: thousands of small segments would cost more than copying them once.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::SendStream;

use super::lanes::Lane;
use super::link::{LinkError, write_error};
use super::wires::Wires;
use crate::wire::PageRun;

/// Pieces up to this size are copied.
const SMALL: usize = 16 << 10;
/// What may wait to be joined.
const FULL: usize = 128 << 10;
/// Room for that, and for the last that is joined: a buffer that grew to it would be copied each time.
const ROOM: usize = FULL + 2 * SMALL;

/// A stream that is written in pieces. Dropped before [`Batch::finish`] it is reset, so that half a
/// stream is never taken for a whole one.
#[derive(Debug)]
pub(super) struct Batch {
    stream: SendStream,
    waiting: BytesMut,
    lane: Lane,
    wires: Arc<Wires>,
    finished: bool,
}

impl Batch {
    pub(super) fn new(stream: SendStream, lane: Lane, wires: &Arc<Wires>) -> Self {
        let mut batch = Self::answering(stream, lane, wires);
        batch.waiting.extend_from_slice(&[lane.tag()]);
        batch
    }

    /// For a stream whose lane was said by the peer.
    pub(super) fn answering(stream: SendStream, lane: Lane, wires: &Arc<Wires>) -> Self {
        wires.prioritise(lane, &stream);
        let wires = Arc::clone(wires);
        Self { stream, waiting: BytesMut::new(), lane, wires, finished: false }
    }

    pub(super) async fn head_and_body(
        &mut self,
        head: &[u8],
        body: Bytes,
    ) -> Result<(), LinkError> {
        self.wires.sent_frame(self.lane);
        self.waiting.extend_from_slice(head);
        self.body(body).await
    }

    /// One run of pages; at once, or when enough is collected.
    pub(super) async fn run(
        &mut self,
        run: PageRun,
        bytes: Bytes,
        at_once: bool,
    ) -> Result<(), LinkError> {
        let joined = PageRun::HEADER_BYTES + bytes.len();
        if bytes.len() <= SMALL && self.waiting.capacity() - self.waiting.len() < joined {
            self.waiting.reserve(ROOM);
        }
        self.head_and_body(&run.encode(), bytes).await?;
        if at_once { self.flush().await } else { Ok(()) }
    }

    pub(super) async fn body(&mut self, body: Bytes) -> Result<(), LinkError> {
        if body.len() <= SMALL {
            self.waiting.extend_from_slice(&body);
            return if self.waiting.len() >= FULL { self.flush().await } else { Ok(()) };
        }
        let waiting = self.waiting.split().freeze();
        match waiting.is_empty() {
            true => self.write(&mut [body]).await,
            false => self.write(&mut [waiting, body]).await,
        }
    }

    pub(super) async fn flush(&mut self) -> Result<(), LinkError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = self.waiting.split().freeze();
        self.write(&mut [waiting]).await
    }

    pub(super) async fn finish(mut self) -> Result<(), LinkError> {
        self.end().await
    }

    /// The same, for one that is shared.
    pub(super) async fn end(&mut self) -> Result<(), LinkError> {
        self.flush().await?;
        self.finished = true;
        self.stream.finish().map_err(|_| LinkError::ClosedHere)
    }

    async fn write(&mut self, pieces: &mut [Bytes]) -> Result<(), LinkError> {
        self.wires.sent(self.lane, pieces.iter().map(Bytes::len).sum());
        let written = self.stream.write_all_chunks(pieces).await;
        written.map_err(|error| write_error(error, self.lane))
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.reset(0_u8.into());
        }
    }
}
