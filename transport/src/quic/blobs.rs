//! Named blobs on their streams.

use std::sync::Arc;

use bytes::Bytes;
use pages::ByteCount;
use quinn::{Connection, RecvStream};

use super::batch::Batch;
use super::lanes::Lane;
use super::link::{LinkError, misbehaved, read_error};
use super::wires::Wires;
use crate::PeerMisbehaved;
use crate::wire::BlobName;
use crate::wire::limits::MAX_BLOB_BYTES;

/// Bytes taken from a stream at a time.
const CHUNK: usize = 256 << 10;

/// Writes one blob. Dropped before [`BlobSender::finish`], the blob never was.
#[derive(Debug)]
pub struct BlobSender {
    batch: Batch,
    written: u64,
}

impl BlobSender {
    pub(super) async fn start(batch: Batch, name: &BlobName) -> Result<Self, LinkError> {
        let mut sender = Self { batch, written: 0 };
        sender.batch.head_and_body(&name.encode(), Bytes::new()).await?;
        Ok(sender)
    }

    /// The next bytes, taken without a copy if they are many.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        self.written += bytes.len() as u64;
        self.batch.body(bytes).await
    }

    /// Ends the blob; returns its length, for the manifest.
    pub async fn finish(self) -> Result<ByteCount, LinkError> {
        self.batch.finish().await?;
        Ok(ByteCount(self.written))
    }
}

/// Reads one blob.
#[derive(Debug)]
pub struct BlobReceiver {
    name: BlobName,
    connection: Connection,
    stream: RecvStream,
    wires: Arc<Wires>,
    most: ByteCount,
    read: u64,
}

impl BlobReceiver {
    pub(super) fn new(
        name: BlobName,
        connection: Connection,
        stream: RecvStream,
        wires: &Arc<Wires>,
    ) -> Self {
        let (most, wires) = (ByteCount(MAX_BLOB_BYTES), Arc::clone(wires));
        wires.received_frame(Lane::Blob);
        Self { name, connection, stream, wires, most, read: 0 }
    }

    /// Which blob.
    pub const fn name(&self) -> &BlobName {
        &self.name
    }

    /// Holds the blob to a smaller size than the protocol does.
    #[must_use]
    pub fn at_most(mut self, most: ByteCount) -> Self {
        self.most = self.most.min(most);
        self
    }

    /// How much was read so far.
    pub const fn received(&self) -> ByteCount {
        ByteCount(self.read)
    }

    /// The next bytes, `None` at the end. May be given up and taken up again.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, LinkError> {
        let chunk = self.stream.read_chunk(CHUNK, true).await;
        let Some(chunk) = chunk.map_err(|error| read_error(error, Lane::Blob))? else {
            return Ok(None);
        };
        self.read += chunk.bytes.len() as u64;
        self.wires.received(Lane::Blob, chunk.bytes.len());
        if self.read > self.most.0 {
            let error = PeerMisbehaved::BlobTooLong { name: self.name.clone(), most: self.most };
            return Err(misbehaved(&self.connection, error));
        }
        Ok(Some(chunk.bytes))
    }

    /// All the rest, at most `most` bytes in total.
    pub async fn read_all(self, most: ByteCount) -> Result<Vec<u8>, LinkError> {
        let mut receiver = self.at_most(most);
        let mut all = Vec::new();
        while let Some(chunk) = receiver.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}
