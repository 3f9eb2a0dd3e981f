//! The destination's end of a link.

use std::sync::Arc;

use pages::ByteCount;
use quinn::{ReadError, RecvStream};
use tokio::sync::Mutex;

use super::batch::Batch;
use super::blobs::BlobReceiver;
use super::close::CloseCode;
use super::lanes::Lane;
use super::link::{Core, LinkError, Peer, misbehaved, read_error};
use super::pages::{FaultSender, PageReceiver};
use super::warm::swallow;
use crate::PeerMisbehaved;
use crate::stats::LinkStats;
use crate::wire::limits::MAX_BLOB_NAME_BYTES;
use crate::wire::{BlobName, Control, Features};

/// A stream that the source has opened.
#[derive(Debug)]
pub enum Incoming {
    /// A named blob.
    Blob(BlobReceiver),
    /// Pages that are likely to be wanted soon.
    Urgent(PageReceiver),
    /// All other pages.
    Bulk(PageReceiver),
}

/// The destination's end of a link. Clones share it; the last one dropped lets go of it.
#[derive(Debug, Clone)]
pub struct DestinationLink {
    core: Arc<Core>,
    /// A stream whose first bytes are being read; kept here so that waiting may be given up.
    opening: Arc<Mutex<Option<Opening>>>,
}

#[derive(Debug)]
struct Opening {
    stream: RecvStream,
    head: Vec<u8>,
}

impl DestinationLink {
    pub(super) fn new(core: Core) -> Self {
        Self { core: Arc::new(core), opening: Arc::default() }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.core.peer
    }

    /// Both ends have these: from now on pages may come written so.
    pub fn agree(&self, features: Features) {
        self.core.wires.agree(features);
    }

    /// Sends a control message. Returns when it is under way, not when it has arrived.
    pub async fn send(&self, message: &Control) -> Result<(), LinkError> {
        self.core.send(message).await
    }

    /// The next control message. May be given up and taken up again.
    pub async fn recv(&self) -> Result<Control, LinkError> {
        self.core.recv().await
    }

    /// The next stream that the source opens. May be given up and taken up again. Streams must be
    /// read side by side: one that nobody reads holds up to 32 MiB of the 48 that all share.
    pub async fn next_lane(&self) -> Result<Incoming, LinkError> {
        let connection = &self.core.connection;
        let mut opening = self.opening.lock().await;
        loop {
            let pending = match opening.as_mut() {
                Some(pending) => pending,
                None => {
                    let stream = connection.accept_uni().await?;
                    opening.insert(Opening { stream, head: Vec::new() })
                }
            };
            let head = match pending.read_head().await {
                Ok(Some(head)) => head,
                // Given up before it said what it was for.
                Ok(None) => {
                    *opening = None;
                    continue;
                }
                Err(HeadError::Link(error)) => return Err(error),
                Err(HeadError::Misbehaved(error)) => return Err(misbehaved(connection, error)),
            };
            let Some(Opening { stream, .. }) = opening.take() else {
                continue;
            };
            let (connection, wires) = (connection.clone(), &self.core.wires);
            return Ok(match head {
                Head::Padding => {
                    tokio::spawn(swallow(stream, Arc::clone(wires)));
                    continue;
                }
                Head::Blob(name) => {
                    Incoming::Blob(BlobReceiver::new(name, connection, stream, wires))
                }
                Head::Urgent => {
                    Incoming::Urgent(PageReceiver::new(connection, stream, Lane::Urgent, wires))
                }
                Head::Bulk => {
                    Incoming::Bulk(PageReceiver::new(connection, stream, Lane::Bulk, wires))
                }
            });
        }
    }

    /// Bytes of page runs that were taken from the bulk lane of this link, for
    /// [`Progress`](crate::wire::Progress).
    pub fn consumed(&self) -> ByteCount {
        self.core.wires.consumed()
    }

    /// Waits until so much was consumed: then it should be told, or the source waits for credit.
    pub async fn consumed_as_much(&self, as_much: ByteCount) {
        self.core.wires.consumed_as_much(as_much).await;
    }

    /// Opens a stream for wishes, and the way back for the pages.
    pub async fn faults(&self) -> Result<(FaultSender, PageReceiver), LinkError> {
        let connection = self.core.connection_of_faults().await;
        let (sender, receiver) = connection.open_bi().await?;
        let wires = &self.core.wires;
        let mut batch = Batch::new(sender, Lane::Faults, wires);
        batch.flush().await?;
        let pages = PageReceiver::new(connection, receiver, Lane::Faults, wires);
        Ok((FaultSender::new(batch), pages))
    }

    /// Says goodbye: waits, for a short while, until the peer has taken the last message, then
    /// closes the link.
    pub async fn close(&self, code: CloseCode, reason: &str) {
        self.core.close(code, reason).await;
    }

    /// Waits until the link is closed or lost, and says how.
    pub async fn closed(&self) -> LinkError {
        self.core.closed().await
    }

    /// Waits until every peer of the listener can have heard of a close. Call it before the process
    /// exits.
    pub async fn wait_idle(&self) {
        self.core.endpoint.wait_idle().await;
    }

    /// What the link has carried.
    pub fn stats(&self) -> LinkStats {
        self.core.stats()
    }
}

/// What the first bytes of a stream say.
enum Head {
    Blob(BlobName),
    Urgent,
    Bulk,
    Padding,
}

enum HeadError {
    Link(LinkError),
    Misbehaved(PeerMisbehaved),
}

impl Opening {
    /// Reads the lane, and the name if it is a blob; `None` if the source gave the stream up.
    async fn read_head(&mut self) -> Result<Option<Head>, HeadError> {
        loop {
            let missing = match self.head[..] {
                [] => 1,
                [tag, ref rest @ ..] => match (Lane::from_tag(tag), rest) {
                    (Some(Lane::Bulk), _) => return Ok(Some(Head::Bulk)),
                    (Some(Lane::Urgent), _) => return Ok(Some(Head::Urgent)),
                    (Some(Lane::Padding), _) => return Ok(Some(Head::Padding)),
                    (Some(Lane::Blob), []) => 1,
                    (Some(Lane::Blob), [length, name @ ..]) => {
                        let length = usize::from(*length).min(MAX_BLOB_NAME_BYTES);
                        match length.saturating_sub(name.len()) {
                            0 => {
                                let name = BlobName::decode(rest)
                                    .map_err(|error| HeadError::Misbehaved(error.into()))?;
                                return Ok(Some(Head::Blob(name)));
                            }
                            missing => missing,
                        }
                    }
                    (Some(Lane::Control | Lane::Faults) | None, _) => {
                        let expected = "blob, urgent or bulk";
                        let error = PeerMisbehaved::UnknownLane { expected, got: tag };
                        return Err(HeadError::Misbehaved(error));
                    }
                },
            };
            match self.stream.read_chunk(missing, true).await {
                Ok(Some(chunk)) => self.head.extend_from_slice(&chunk.bytes),
                Ok(None) => {
                    let (lane, within) = ("unknown", "its header");
                    let error = PeerMisbehaved::EndedWithin { lane, within };
                    return Err(HeadError::Misbehaved(error));
                }
                Err(ReadError::Reset(_)) => return Ok(None),
                Err(error) => return Err(HeadError::Link(read_error(error, Lane::Blob))),
            }
        }
    }
}
