//! What both ends of a link share: the control stream, its end, and its numbers.

use std::fmt;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pages::ByteCount;
use quinn::{
    Connection, ConnectionError, ConnectionStats, Endpoint, ReadError, RecvStream, SendStream,
    VarInt, WriteError,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::close::CloseCode;
use super::congestion::path_seen;
use super::identity::KeyFingerprint;
use super::lanes::Lane;
use super::second::Second;
use super::wires::{Remedies, Wires};
use crate::PeerMisbehaved;
use crate::stats::LinkStats;
use crate::wire::{Control, limits, take_frame};

/// How long closing waits for the peer to have taken the last message.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// Bytes taken from the control stream at a time.
const CONTROL_CHUNK: usize = 64 << 10;

/// A link is of no further use, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nothing was decided: the same session may resume over a new link.
    #[error("the link was lost: {0}")]
    Lost(Lost),
    /// The peer closed it.
    #[error("closed by the peer: {}", code.with(reason))]
    ClosedByPeer {
        /// Why, for programs.
        code: CloseCode,
        /// Why, for people.
        reason: String,
    },
    /// The peer broke the protocol. The link was closed for it.
    #[error("the peer {0}")]
    PeerMisbehaved(#[from] PeerMisbehaved),
    /// The peer gave up on one stream.
    #[error("the peer gave up on a {lane:?} stream")]
    StreamGivenUp {
        /// What the stream was for.
        lane: Lane,
    },
    /// This end closed it before.
    #[error("closed here before")]
    ClosedHere,
}

/// How a link was lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Nothing was heard for the idle time.
    #[error("nothing was heard for too long")]
    TimedOut,
    /// The peer's host does not know the link any more.
    #[error("the peer's host does not know it any more")]
    Reset,
    /// The peer went away without a word.
    #[error("the peer went away without a word")]
    LetGo,
    /// QUIC itself failed.
    #[error("{0}")]
    Quic(ConnectionError),
}

impl LinkError {
    /// True if the same session may resume over a new link.
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}

impl From<ConnectionError> for LinkError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self::Lost(Lost::TimedOut),
            ConnectionError::Reset => Self::Lost(Lost::Reset),
            ConnectionError::LocallyClosed => Self::ClosedHere,
            ConnectionError::ApplicationClosed(close) if close.error_code == 0_u8.into() => {
                Self::Lost(Lost::LetGo)
            }
            ConnectionError::ApplicationClosed(close) => {
                let code = u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX);
                Self::ClosedByPeer { code: CloseCode(code), reason: printable(&close.reason) }
            }
            ConnectionError::ConnectionClosed(close) if is_denial(close.error_code.into()) => {
                // Our own verifier's alert says it all; an authority's reason is worth repeating.
                let plain = u64::from(close.error_code) == ACCESS_DENIED;
                let reason = if plain { String::new() } else { printable(&close.reason) };
                Self::ClosedByPeer { code: CloseCode::UNKNOWN_KEY, reason }
            }
            other => Self::Lost(Lost::Quic(other)),
        }
    }
}

/// The alert by which our verifier denies a key: RFC 8446, section 6.2, in the range that RFC 9001,
/// section 4.8 gives to TLS alerts.
const ACCESS_DENIED: u64 = 0x100 + 49;

/// True for the TLS alerts by which a peer says that it does not believe our certificate: all that
/// are about certificates, and `decrypt_error`, which is about signatures.
const fn is_denial(code: u64) -> bool {
    const ALERTS: u64 = 0x100;
    const BAD_CERTIFICATE: u64 = ALERTS + 42;
    const CERTIFICATE_UNKNOWN: u64 = ALERTS + 46;
    const UNKNOWN_CA: u64 = ALERTS + 48;
    const DECRYPT_ERROR: u64 = ALERTS + 51;
    const CERTIFICATE_REQUIRED: u64 = ALERTS + 116;
    matches!(
        code,
        // 42 to 46: bad, unsupported, revoked, expired, unknown certificate.
        BAD_CERTIFICATE
            ..=CERTIFICATE_UNKNOWN
                | UNKNOWN_CA
                | ACCESS_DENIED
                | DECRYPT_ERROR
                | CERTIFICATE_REQUIRED
    )
}

/// A peer's reason as text: bounded, and unable to talk to a terminal.
fn printable(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(limits::MAX_REASON_BYTES)];
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The key it has proven.
    pub key: KeyFingerprint,
    /// Why it is believed.
    pub known: Known,
    /// Where it was when the link was made.
    pub address: SocketAddr,
}

/// Why a peer's key is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// By a ticket.
    Ticket,
    /// By a file of known keys, which may name it.
    File(String),
    /// By a certificate authority.
    Authority,
    /// Not yet: a destination seen for the first time.
    FirstUse,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, known, address } = self;
        match known {
            Known::Ticket => write!(f, "{address}, by ticket"),
            Known::File(name) => write!(f, "{address}, known as {name}"),
            Known::Authority => write!(f, "{address}, by certificate, {key}"),
            Known::FirstUse => write!(f, "{address}, not known before, {key}"),
        }
    }
}

/// The common part of both links.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) connection: Connection,
    pub(super) endpoint: Endpoint,
    pub(super) peer: Peer,
    pub(super) wires: Arc<Wires>,
    /// Faults have it for themselves, if they are to.
    pub(super) second: Option<Arc<Second>>,
    sender: Mutex<SendStream>,
    receiver: Mutex<ControlReceiver>,
}

impl Core {
    pub(super) fn new(
        connection: Connection,
        endpoint: Endpoint,
        peer: Peer,
        sender: SendStream,
        receiver: ControlReceiver,
        remedies: Remedies,
    ) -> Self {
        let wires = Wires::new(remedies);
        wires.prioritise(Lane::Control, &sender);
        let (sender, receiver) = (Mutex::new(sender), Mutex::new(receiver));
        Self { connection, endpoint, peer, wires, second: None, sender, receiver }
    }

    pub(super) async fn send(&self, message: &Control) -> Result<(), LinkError> {
        let frame = message.encode();
        self.wires.sent(Lane::Control, frame.len());
        self.wires.sent_frame(Lane::Control);
        let mut sender = self.sender.lock().await;
        sender.write_chunk(frame).await.map_err(|error| write_error(error, Lane::Control))
    }

    pub(super) async fn recv(&self) -> Result<Control, LinkError> {
        tokio::select! {
            biased;
            received = self.recv_by_first() => received,
            lost = self.second_lost() => Err(lost),
        }
    }

    async fn recv_by_first(&self) -> Result<Control, LinkError> {
        let (received, taken) = {
            let mut receiver = self.receiver.lock().await;
            (receiver.next().await?, std::mem::take(&mut receiver.taken))
        };
        match received {
            Some(message) => {
                self.wires.received(Lane::Control, taken);
                self.wires.received_frame(Lane::Control);
                Ok(message)
            }
            None => {
                // The peer closes after its last message; why is a moment behind.
                match timeout(CLOSE_GRACE, self.connection.closed()).await {
                    Ok(error) => Err(error.into()),
                    Err(_) => Err(misbehaved(
                        &self.connection,
                        PeerMisbehaved::EndedWithin { lane: "control", within: "a session" },
                    )),
                }
            }
        }
    }

    pub(super) async fn close(&self, code: CloseCode, reason: &str) {
        let drained = async {
            let stopped = {
                let mut sender = self.sender.lock().await;
                let _ = sender.finish();
                sender.stopped()
            };
            let _ = stopped.await;
        };
        let _ = timeout(CLOSE_GRACE, drained).await;
        close_now(&self.connection, code, reason);
        if let Some(second) = self.second.as_ref().and_then(|second| second.connection()) {
            close_now(&second, code, reason);
        }
    }

    pub(super) async fn closed(&self) -> LinkError {
        tokio::select! {
            error = self.connection.closed() => error.into(),
            lost = self.second_lost() => lost,
        }
    }

    async fn second_lost(&self) -> LinkError {
        match &self.second {
            Some(second) => second.lost().await,
            None => pending().await,
        }
    }

    pub(super) fn stats(&self) -> LinkStats {
        let stats = self.connection.stats();
        let path = path_seen(&self.connection);
        let second = self.second.as_ref().and_then(|second| second.connection());
        let second = second.map(|second| second.stats());
        let both = |of: fn(&ConnectionStats) -> u64| of(&stats) + second.as_ref().map_or(0, of);
        LinkStats {
            sent: ByteCount(both(|stats| stats.udp_tx.bytes)),
            received: ByteCount(both(|stats| stats.udp_rx.bytes)),
            second_sent: second.as_ref().map(|second| ByteCount(second.udp_tx.bytes)),
            rtt: stats.path.rtt,
            min_rtt: path.map_or(stats.path.min_rtt, |path| path.base),
            rate: path.map(|path| ByteCount(path.rate)),
            sent_packets: both(|stats| stats.path.sent_packets),
            received_packets: both(|stats| stats.udp_rx.datagrams),
            lost_packets: both(|stats| stats.path.lost_packets),
            congestion_events: stats.path.congestion_events,
            congestion_window: ByteCount(stats.path.cwnd),
            mtu: stats.path.current_mtu,
            lanes: self.wires.stats(),
        }
    }
}

/// The receiving half of the control stream. Waiting may be given up and taken up again.
#[derive(Debug)]
pub(super) struct ControlReceiver {
    connection: Connection,
    stream: RecvStream,
    buffer: BytesMut,
    /// Bytes that came, and were not counted yet.
    taken: usize,
    /// A message that was looked at and put back.
    first: Option<Control>,
}

impl ControlReceiver {
    pub(super) fn new(connection: Connection, stream: RecvStream) -> Self {
        Self { connection, stream, buffer: BytesMut::new(), taken: 0, first: None }
    }

    pub(super) fn put_back(&mut self, message: Control) {
        self.first = Some(message);
    }

    /// The next message; `None` if the peer has said its last.
    pub(super) async fn next(&mut self) -> Result<Option<Control>, LinkError> {
        if let Some(message) = self.first.take() {
            return Ok(Some(message));
        }
        loop {
            match take_frame(&mut self.buffer) {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(error) => return Err(misbehaved(&self.connection, error.into())),
            }
            let chunk = self.stream.read_chunk(CONTROL_CHUNK, true).await;
            match chunk.map_err(|error| read_error(error, Lane::Control))? {
                Some(chunk) => {
                    self.taken += chunk.bytes.len();
                    self.buffer.extend_from_slice(&chunk.bytes);
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    let error =
                        PeerMisbehaved::EndedWithin { lane: "control", within: "a message" };
                    return Err(misbehaved(&self.connection, error));
                }
            }
        }
    }
}

/// Closes the link for a peer that broke the protocol, and tells it how.
pub(super) fn misbehaved(connection: &Connection, error: PeerMisbehaved) -> LinkError {
    close_now(connection, CloseCode::MISBEHAVED, &error.to_string());
    LinkError::PeerMisbehaved(error)
}

pub(super) fn close_now(connection: &Connection, code: CloseCode, reason: &str) {
    let mut end = reason.len().min(limits::MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    connection.close(VarInt::from_u32(code.0), &reason.as_bytes()[..end]);
}

pub(super) fn read_error(error: ReadError, lane: Lane) -> LinkError {
    match error {
        ReadError::ConnectionLost(error) => error.into(),
        ReadError::Reset(_) => LinkError::StreamGivenUp { lane },
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            LinkError::ClosedHere
        }
    }
}

pub(super) fn write_error(error: WriteError, lane: Lane) -> LinkError {
    match error {
        WriteError::ConnectionLost(error) => error.into(),
        WriteError::Stopped(_) => LinkError::StreamGivenUp { lane },
        WriteError::ClosedStream | WriteError::ZeroRttRejected => LinkError::ClosedHere,
    }
}
