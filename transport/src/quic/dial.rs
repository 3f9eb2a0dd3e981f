//! The source's end: find the destination, believe it, and open the lanes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use rustls::pki_types::CertificateDer;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::batch::Batch;
use super::blobs::BlobSender;
use super::close::CloseCode;
use super::credit::{SHORT, Waiting};
use super::identity::KeyFingerprint;
use super::lanes::Lane;
use super::link::{
    ControlReceiver, Core, Known, LinkError, Peer, misbehaved, read_error, write_error,
};
use super::pages::{FaultReceiver, PageSender};
use super::second::{Dial, Second};
use super::trust::{FirstUse, Purpose, SourceTls, SourceTrust, TrustError};
use super::tuning::{LinkOptions, SHORT_SEND_WINDOW, Side};
use super::wires::Remedies;
use crate::PeerMisbehaved;
use crate::stats::LinkStats;
use crate::wire::{BlobName, Control};

/// How long the last word may take to get out.
const GOODBYE: Duration = Duration::from_millis(500);

/// A destination could not be reached, or not be believed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name could not be looked up.
    #[error("look up {target}")]
    Resolve {
        /// What was asked for.
        target: String,
        /// Why it did not work.
        source: io::Error,
    },
    /// The name has no address, or none that the given socket can reach.
    #[error("{target} has no address that can be reached from here")]
    NoAddress {
        /// What was asked for.
        target: String,
    },
    /// No UDP socket could be had.
    #[error("open a UDP socket")]
    Socket(#[source] io::Error),
    /// Our keys could not be used.
    #[error("set up our keys")]
    Trust(#[from] TrustError),
    /// The address cannot be dialled at all.
    #[error("dial {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: quinn::ConnectError,
    },
    /// Nobody answered in time.
    #[error("no answer from {address} within {} s", after.as_secs_f32())]
    NoAnswer {
        /// Where, last.
        address: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// Somebody answered with another key than the one pinned or in the ticket.
    #[error("{address} has the key {got}, expected {expected}")]
    WrongKey {
        /// Where.
        address: SocketAddr,
        /// The key it should have.
        expected: KeyFingerprint,
        /// The key it has.
        got: KeyFingerprint,
    },
    /// The destination is not pinned, and first use is not accepted.
    #[error("{address} has the key {got}, which is not pinned")]
    NotPinned {
        /// Where.
        address: SocketAddr,
        /// The key it has.
        got: KeyFingerprint,
    },
    /// The destination does not want us.
    #[error("refused by destination {address}: {}", code.with(reason))]
    Refused {
        /// Where.
        address: SocketAddr,
        /// Why, for programs.
        code: CloseCode,
        /// Why, for people.
        reason: String,
    },
    /// The destination is older than probes.
    #[error("probe {address}: the qmig there is older than probes; it was left as it was")]
    NoProbes {
        /// Where.
        address: SocketAddr,
    },
    /// The link did not last until it was ready.
    #[error("link to {address}")]
    Link {
        /// Where.
        address: SocketAddr,
        /// What happened to it.
        source: LinkError,
    },
}

impl DialError {
    /// What a person can do about it.
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoAnswer { .. } => Some(
                "is `qmig restore --listen` running there, and does a firewall let UDP through?",
            ),
            Self::WrongKey { .. } => Some(
                "the ticket or pin is of another destination, or somebody is in between: \
                 compare with `qmig identity` on the destination",
            ),
            Self::NotPinned { .. } => {
                Some("compare it with `qmig identity` on the destination, then pin it")
            }
            Self::Refused { code, .. } => code.hint(),
            Self::NoProbes { .. } => Some(
                "install the same release of qmig on both hosts; migrations to it work as before, and \
                 its ticket is still good",
            ),
            _ => None,
        }
    }

    /// True if another address of the same name may do better.
    const fn try_next(&self) -> bool {
        matches!(self, Self::NoAnswer { .. } | Self::Connect { .. } | Self::Socket(_))
    }
}

/// Dials `HOST:PORT`, each of its addresses in turn until one answers, and then those of the ticket:
/// a destination that is dialled again may have moved. Returns once both ends have proven their keys.
pub async fn dial(
    target: &str,
    trust: &SourceTrust,
    options: &LinkOptions,
) -> Result<SourceLink, DialError> {
    dial_for(Purpose::Migration, target, trust, options).await
}

/// The same, to do something else there.
pub(crate) async fn dial_for(
    purpose: Purpose,
    target: &str,
    trust: &SourceTrust,
    options: &LinkOptions,
) -> Result<SourceLink, DialError> {
    let resolve = |source| DialError::Resolve { target: target.to_owned(), source };
    let found = timeout(options.connect_timeout, tokio::net::lookup_host(target)).await;
    let found = match found {
        Ok(found) => found.map(Vec::from_iter).map_err(resolve),
        Err(_) => Err(resolve(io::ErrorKind::TimedOut.into())),
    };
    let told = match trust {
        SourceTrust::Ticket(ticket) => ticket.addresses(),
        _ => &[],
    };
    let mut addresses = match found {
        Ok(found) => found,
        Err(error) if told.is_empty() => return Err(error),
        Err(_) => Vec::new(),
    };
    let more: Vec<_> = told.iter().filter(|told| !addresses.contains(told)).copied().collect();
    addresses.extend(more);
    let family = options.socket.as_ref().and_then(|socket| socket.local_addr().ok());
    let mut last = DialError::NoAddress { target: target.to_owned() };
    // Names in certificates have no port; names pinned do.
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    for address in addresses {
        if family.is_some_and(|family| family.is_ipv4() != address.is_ipv4()) {
            continue;
        }
        match dial_address(purpose, address, (target, host), trust, options).await {
            Ok(link) => return Ok(link),
            Err(error) if error.try_next() => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

async fn dial_address(
    purpose: Purpose,
    address: SocketAddr,
    (target, host): (&str, &str),
    trust: &SourceTrust,
    options: &LinkOptions,
) -> Result<SourceLink, DialError> {
    let tls = trust.tls(target, purpose)?;
    let endpoint = options.endpoint_near(address).map_err(DialError::Socket)?;
    let config = client_config(&tls, address, options);
    let connecting = endpoint
        .connect_with(config, address, host)
        .map_err(|source| DialError::Connect { address, source })?;
    let connected = async {
        let connection = connecting.await.map_err(|error| match unknown_protocol(&error) {
            true if purpose == Purpose::Probe => DialError::NoProbes { address },
            _ => judge(error, address, trust, &tls, options),
        })?;
        open(connection, endpoint, address, trust, options.remedies).await.map_err(|error| {
            match error {
                LinkError::ClosedByPeer { code, reason } => {
                    DialError::Refused { address, code, reason }
                }
                source => DialError::Link { address, source },
            }
        })
    };
    let connected = timeout(options.connect_timeout, connected).await;
    let mut core = connected
        .map_err(|_| DialError::NoAnswer { address, after: options.connect_timeout })??;
    options.bulk_rate.into_iter().for_each(|rate| core.wires.limit(rate));
    if options.remedies.second && purpose == Purpose::Migration {
        core.second = Some(Second::new(Some(Dial::beside(&core, (target, host), trust, options)?)));
    }
    Ok(SourceLink { core: Arc::new(core) })
}

pub(super) fn client_config(
    tls: &SourceTls,
    address: SocketAddr,
    options: &LinkOptions,
) -> ClientConfig {
    let mut config = ClientConfig::new(tls.config.clone());
    config.transport_config(options.transport(Side::Source(address)));
    config
}

/// True if the peer does not speak what we want to: `no_application_protocol` of RFC 7301, section 3.2,
/// in the range that RFC 9001, section 4.8 gives to TLS alerts.
pub(super) fn unknown_protocol(error: &ConnectionError) -> bool {
    const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
    matches!(error, ConnectionError::ConnectionClosed(close)
        if u64::from(close.error_code) == NO_APPLICATION_PROTOCOL)
}

/// Says why a handshake failed: our verifier knows more than the error does.
fn judge(
    error: ConnectionError,
    address: SocketAddr,
    trust: &SourceTrust,
    tls: &SourceTls,
    options: &LinkOptions,
) -> DialError {
    if let (ConnectionError::TransportError(_), Some(got)) = (&error, tls.seen.key()) {
        match (tls.expected, trust) {
            (Some(expected), _) if expected != got => {
                return DialError::WrongKey { address, expected, got };
            }
            (None, SourceTrust::Known { first_use: FirstUse::Refuse, .. }) => {
                return DialError::NotPinned { address, got };
            }
            _ => {}
        }
    }
    match LinkError::from(error) {
        LinkError::Lost(super::Lost::TimedOut) => {
            DialError::NoAnswer { address, after: options.connect_timeout }
        }
        LinkError::ClosedByPeer { code, reason } => DialError::Refused { address, code, reason },
        source => DialError::Link { address, source },
    }
}

/// Opens the control stream and waits for the destination's welcome: before it, a TLS 1.3 client
/// does not know whether its key was accepted.
async fn open(
    connection: Connection,
    endpoint: Endpoint,
    address: SocketAddr,
    trust: &SourceTrust,
    remedies: Remedies,
) -> Result<Core, LinkError> {
    let key = peer_key(&connection).ok_or(LinkError::ClosedHere)?;
    let known = match trust {
        SourceTrust::Ticket(_) => Known::Ticket,
        SourceTrust::Known { pins, .. } if pins.names(key).is_none() => Known::FirstUse,
        SourceTrust::Known { pins, .. } => {
            Known::File(pins.names(key).unwrap_or_default().to_owned())
        }
        SourceTrust::Ca(_) => Known::Authority,
    };
    let peer = Peer { key, known, address };
    let (mut sender, mut receiver) = connection.open_bi().await?;
    let tag = [Lane::Control.tag()];
    sender.write_all(&tag).await.map_err(|error| write_error(error, Lane::Control))?;
    let welcome = receiver.read_chunk(1, true).await;
    match welcome.map_err(|error| read_error(error, Lane::Control))? {
        Some(chunk) if *chunk.bytes == tag => {}
        Some(chunk) => {
            let got = chunk.bytes.first().copied().unwrap_or_default();
            let error = PeerMisbehaved::UnknownLane { expected: "control", got };
            return Err(misbehaved(&connection, error));
        }
        None => {
            let error = PeerMisbehaved::EndedWithin { lane: "control", within: "the welcome" };
            return Err(misbehaved(&connection, error));
        }
    }
    let receiver = ControlReceiver::new(connection.clone(), receiver);
    Ok(Core::new(connection, endpoint, peer, sender, receiver, remedies))
}

/// The fingerprint of the key that the peer has proven.
pub(super) fn peer_key(connection: &Connection) -> Option<KeyFingerprint> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    KeyFingerprint::of_certificate(chain.first()?).ok()
}

/// The source's end of a link. Clones share it; the last one dropped lets go of it.
#[derive(Debug, Clone)]
pub struct SourceLink {
    pub(super) core: Arc<Core>,
}

impl SourceLink {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.core.peer
    }

    /// Sends a control message. Returns when it is under way, not when it has arrived.
    pub async fn send(&self, message: &Control) -> Result<(), LinkError> {
        self.core.send(message).await
    }

    /// The next control message. May be given up and taken up again.
    pub async fn recv(&self) -> Result<Control, LinkError> {
        let message = self.core.recv().await?;
        // Whatever it says first, it has let the link in.
        if let Some(second) = &self.core.second {
            second.begin(self.core.peer.key);
        }
        if let (Control::Progress(progress), Some(credit)) = (&message, self.core.wires.credit()) {
            credit.acknowledged(progress.bytes, || {
                let stats = self.core.stats();
                (stats.min_rtt, stats.congestion_window.0)
            });
        }
        Ok(message)
    }

    /// From now on somebody may wait for pages, or will: bulk keeps the link full and no more.
    pub fn yield_bulk(&self, waiting: Waiting) {
        if let Some(credit) = self.core.wires.credit() {
            credit.expect(waiting);
        }
    }

    /// Opens a stream for one blob.
    pub async fn blob(&self, name: &BlobName) -> Result<BlobSender, LinkError> {
        BlobSender::start(self.lane(Lane::Blob).await?, name).await
    }

    /// Opens a stream for pages in bulk. One is enough: more bring nothing.
    pub async fn bulk(&self) -> Result<PageSender, LinkError> {
        if self.stats().min_rtt < SHORT {
            self.core.connection.set_send_window(SHORT_SEND_WINDOW);
        }
        self.pages(Lane::Bulk).await
    }

    /// Opens a stream for pages that are likely to be wanted soon.
    pub async fn urgent(&self) -> Result<PageSender, LinkError> {
        self.pages(Lane::Urgent).await
    }

    /// The next stream of wishes that the destination opens, and the way back for the pages.
    pub async fn next_faults(&self) -> Result<(FaultReceiver, PageSender), LinkError> {
        let (connection, sender, mut receiver) = self.core.accept_faults().await?;
        let tag = receiver.read_chunk(1, true).await;
        let tag = tag.map_err(|error| read_error(error, Lane::Faults))?;
        let got = tag.and_then(|chunk| chunk.bytes.first().copied());
        match got.map(|got| (got, Lane::from_tag(got))) {
            Some((_, Some(Lane::Faults))) => {}
            Some((got, _)) => {
                let error = PeerMisbehaved::UnknownLane { expected: "faults", got };
                return Err(misbehaved(&connection, error));
            }
            None => {
                let error = PeerMisbehaved::EndedWithin { lane: "unknown", within: "its lane" };
                return Err(misbehaved(&connection, error));
            }
        }
        let wires = &self.core.wires;
        let wishes = FaultReceiver::new(connection, receiver, wires);
        if let Some(only) = self.only().await? {
            return Ok((wishes, PageSender::shared(only, Lane::Faults, wires)));
        }
        let answers = Batch::answering(sender, Lane::Faults, wires);
        Ok((wishes, PageSender::new(answers, Lane::Faults, wires)))
    }

    /// Says goodbye: waits, for a short while, until the peer has taken the last message, then
    /// closes the link, and lets the word out before whoever called may exit.
    pub async fn close(&self, code: CloseCode, reason: &str) {
        self.core.close(code, reason).await;
        let _ = timeout(GOODBYE, self.core.endpoint.wait_idle()).await;
    }

    /// Waits until the link is closed or lost, and says how.
    pub async fn closed(&self) -> LinkError {
        self.core.closed().await
    }

    /// What the link has carried.
    pub fn stats(&self) -> LinkStats {
        self.core.stats()
    }

    async fn lane(&self, lane: Lane) -> Result<Batch, LinkError> {
        Ok(Batch::new(self.core.connection.open_uni().await?, lane, &self.core.wires))
    }

    async fn pages(&self, lane: Lane) -> Result<PageSender, LinkError> {
        let wires = &self.core.wires;
        Ok(match self.only().await? {
            Some(only) => PageSender::shared(only, lane, wires),
            None => PageSender::new(self.lane(lane).await?, lane, wires),
        })
    }

    /// The one stream of all pages, if there is to be only one.
    async fn only(&self) -> Result<Option<Arc<Mutex<Batch>>>, LinkError> {
        let Some(only) = self.core.wires.only() else { return Ok(None) };
        let open = async { Ok(Arc::new(Mutex::new(self.lane(Lane::Bulk).await?))) };
        only.get_or_try_init(|| open).await.map(|only| Some(Arc::clone(only)))
    }
}
