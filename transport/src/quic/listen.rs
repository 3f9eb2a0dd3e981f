//! The destination's door: who knocks, and whether they may come in.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, SystemTime};

use quinn::{Connection, Endpoint, Incoming as Knock, ServerConfig};
use tokio::sync::{Mutex, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::close::CloseCode;
use super::destination::DestinationLink;
use super::dial::peer_key;
use super::identity::{IdentityError, KeyFingerprint};
use super::lanes::Lane;
use super::link::{
    ControlReceiver, Core, Known, LinkError, Peer, close_now, misbehaved, read_error, write_error,
};
use super::peers::AuthorizedPeers;
use super::second::Taking;
use super::ticket::{Ticket, TicketBook};
use super::trust::{DestinationTrust, Purpose, TrustError};
use super::tuning::{LinkOptions, Side};
use super::wires::Remedies;
use crate::PeerMisbehaved;
use crate::probe;
use crate::session::destination::Answering;
use crate::wire::{Control, SessionId, Version};

/// Handshakes that may be under way at a time; whoever knocks meanwhile is turned away.
const MAX_HANDSHAKES: usize = 32;
/// From this many on, a peer must show that it receives at the address it sends from.
const RETRY_FROM: usize = 8;
/// Links that may wait for [`Listener::accept`].
const MAX_WAITING: usize = 8;
/// Sessions whose keys are remembered.
const MAX_SESSIONS: usize = 1024;

/// Listens on one UDP socket. Handshakes go on in the background, as tasks of the runtime that it
/// was made in; dropped, it takes no more, but links that were accepted live on.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    door: Arc<Door>,
    accepted: Mutex<mpsc::Receiver<Result<DestinationLink, Rejected>>>,
    pump: AbortHandle,
}

/// A listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The socket could not be bound or used.
    #[error("listen on {address}")]
    Bind {
        /// Where.
        address: String,
        /// Why it did not work.
        source: io::Error,
    },
    /// Our keys could not be used.
    #[error("set up our keys")]
    Trust(#[from] TrustError),
}

/// No link from this call.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Somebody knocked and was turned away. Go on accepting.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The listener has ended.
    #[error("the listener has ended")]
    Ended,
}

/// Somebody was turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("turned away {peer}: {why}")]
pub struct Rejected {
    /// Where they knocked from.
    pub peer: SocketAddr,
    /// Why they may not come in.
    pub why: RejectReason,
}

/// Why somebody was turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// The handshake failed: an unknown key, another protocol, or no answer.
    #[error("handshake: {0}")]
    Handshake(LinkError),
    /// Their key is known, but may not do what they want.
    #[error("{0}")]
    NotAllowed(CloseCode),
    /// They said nothing for too long.
    #[error("no hello in time")]
    Stalled,
    /// Too many others were at the door.
    #[error("too many handshakes at a time")]
    Crowded,
}

impl Listener {
    /// Listens on `address`: `HOST:PORT`, where port 0 lets the system choose. If `options` hold a
    /// socket, that one is used, and `address` only names it in errors.
    pub async fn bind(
        address: &str,
        trust: DestinationTrust,
        options: &LinkOptions,
    ) -> Result<Self, ListenError> {
        let fail = |source| ListenError::Bind { address: address.to_owned(), source };
        let socket = match &options.socket {
            Some(socket) => socket.try_clone().map_err(fail)?,
            None => {
                let found: Vec<_> = tokio::net::lookup_host(address).await.map_err(fail)?.collect();
                UdpSocket::bind(&found[..]).map_err(fail)?
            }
        };
        let tickets = Arc::new(TicketBook::default());
        let tls = trust.tls(Arc::clone(&tickets), options.remedies)?;
        let endpoint = options.endpoint(socket).map_err(fail)?;
        let mut config = ServerConfig::with_crypto(tls.config);
        config.transport_config(options.transport(Side::Destination));
        endpoint.set_server_config(Some(config));
        let door = Arc::new(Door {
            tickets,
            fingerprint: tls.fingerprint,
            peers: tls.peers,
            has_authority: tls.has_authority,
            sessions: StdMutex::default(),
            hello_timeout: options.hello_timeout,
            remedies: options.remedies,
            taking: Taking::default(),
            answering: watch::Sender::new(None),
            one_probe: Semaphore::new(1),
        });
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let pump = tokio::spawn(pump(endpoint.clone(), Arc::clone(&door), sender)).abort_handle();
        Ok(Self { endpoint, door, accepted: Mutex::new(receiver), pump })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The key sources will see.
    pub fn fingerprint(&self) -> KeyFingerprint {
        self.door.fingerprint
    }

    /// A new ticket, good for one migration that says hello within `valid_for`.
    pub fn ticket(&self, valid_for: Duration) -> Result<Ticket, IdentityError> {
        let now = SystemTime::now();
        let expires = now.checked_add(valid_for).unwrap_or(now);
        let ticket = Ticket::issue(self.door.fingerprint, expires)?;
        self.door.tickets.add(ticket.client()?.fingerprint(), expires);
        Ok(ticket)
    }

    /// Makes the ticket of `session` usable again, after a migration that was refused or aborted.
    /// False if the session used no ticket.
    pub fn renew(&self, session: SessionId, valid_for: Duration) -> bool {
        let now = SystemTime::now();
        self.door.tickets.renew(session, now.checked_add(valid_for).unwrap_or(now))
    }

    /// The next source that may come in: its key is proven, and its first message, a `Hello` or a
    /// `Resume`, is the first that [`DestinationLink::recv`] yields. A `Resume` was checked to come
    /// from the key that said the session's hello. May be given up and taken up again.
    ///
    /// The caller should go on accepting while a migration is under way: its source may come back
    /// here, and others should be told that it is [`CloseCode::BUSY`].
    pub async fn accept(&self) -> Result<DestinationLink, AcceptError> {
        match self.accepted.lock().await.recv().await {
            Some(result) => Ok(result?),
            None => Err(AcceptError::Ended),
        }
    }

    /// From now on probes are answered so, beside [`Listener::accept`], by a task of the runtime that
    /// the listener was made in. To be dropped when a migration begins.
    pub fn answer_probes(&self, answering: Answering) -> AnswersProbes {
        self.door.answering.send_replace(Some(answering));
        AnswersProbes(Arc::clone(&self.door))
    }

    /// Waits until every peer can have heard that its link was closed.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.pump.abort();
        self.endpoint.set_server_config(None);
    }
}

/// What is known at the door.
#[derive(Debug)]
struct Door {
    tickets: Arc<TicketBook>,
    fingerprint: KeyFingerprint,
    peers: AuthorizedPeers,
    has_authority: bool,
    /// Which key said the hello of which session, oldest first.
    sessions: StdMutex<VecDeque<(SessionId, KeyFingerprint)>>,
    hello_timeout: Duration,
    remedies: Remedies,
    /// Links that wait for a connection beside the first.
    taking: Taking,
    /// What probes are told; none while they are not answered.
    answering: watch::Sender<Option<Answering>>,
    /// Two at a time would measure each other.
    one_probe: Semaphore,
}

/// While this lives, probes are answered. Dropped, one that is under way ends, and others are told
/// that it is [`CloseCode::BUSY`].
#[derive(Debug)]
#[must_use = "probes are answered as long as this lives"]
pub struct AnswersProbes(Arc<Door>);

impl Drop for AnswersProbes {
    fn drop(&mut self) {
        self.0.answering.send_replace(None);
    }
}

/// Who came in, and what for.
enum Came {
    ToMigrate(DestinationLink),
    ToProbe(DestinationLink),
    BesideALink,
}

/// Runs handshakes, many at a time, so that a slow peer keeps nobody waiting.
async fn pump(
    endpoint: Endpoint,
    door: Arc<Door>,
    accepted: mpsc::Sender<Result<DestinationLink, Rejected>>,
) {
    let mut handshakes = JoinSet::new();
    while let Some(knock) = endpoint.accept().await {
        while handshakes.try_join_next().is_some() {}
        let peer = knock.remote_address();
        if handshakes.len() >= MAX_HANDSHAKES {
            tracing::warn!(%peer, "turned away: too many handshakes at a time");
            knock.refuse();
            let _ = accepted.try_send(Err(Rejected { peer, why: RejectReason::Crowded }));
            continue;
        }
        if handshakes.len() >= RETRY_FROM && knock.may_retry() && !knock.remote_address_validated()
        {
            let _ = knock.retry();
            continue;
        }
        let (endpoint, door, accepted) = (endpoint.clone(), Arc::clone(&door), accepted.clone());
        handshakes.spawn(async move {
            let result = match door.welcome(knock, endpoint).await {
                Ok(Came::ToMigrate(link)) => Ok(link),
                Ok(Came::ToProbe(link)) => return door.probe(&link).await,
                Ok(Came::BesideALink) => return,
                Err(why) => Err(Rejected { peer, why }),
            };
            if let Err(rejected) = &result {
                tracing::warn!("{rejected}");
            }
            let _ = accepted.send(result).await;
        });
    }
}

impl Door {
    /// One peer, from its first packet to its first message.
    async fn welcome(&self, knock: Knock, endpoint: Endpoint) -> Result<Came, RejectReason> {
        let mut handshaken = None;
        let welcome = async {
            let connecting = knock.accept().map_err(LinkError::from)?;
            let connection = connecting.await.map_err(LinkError::from)?;
            self.hear(handshaken.insert(connection), endpoint).await
        };
        match timeout(self.hello_timeout, welcome).await {
            Ok(result) => result,
            Err(_) => {
                if let Some(connection) = handshaken {
                    close_now(&connection, CloseCode::TIMED_OUT, "no hello in time");
                }
                Err(RejectReason::Stalled)
            }
        }
    }

    async fn hear(
        &self,
        connection: &Connection,
        endpoint: Endpoint,
    ) -> Result<Came, RejectReason> {
        let refuse = |code: CloseCode| {
            close_now(connection, code, code.words());
            RejectReason::NotAllowed(code)
        };
        let purpose = Purpose::of(connection);
        if purpose == Purpose::Faults {
            self.taking.attach(connection).map_err(refuse)?;
            tracing::info!("a second connection from {}", connection.remote_address());
            return Ok(Came::BesideALink);
        }
        let key = peer_key(connection).ok_or(RejectReason::NotAllowed(CloseCode::UNKNOWN_KEY))?;
        let known = match self.peers.name(key) {
            _ if self.tickets.knows(key) => Known::Ticket,
            Some(name) => Known::File(name.to_owned()),
            None if self.has_authority => Known::Authority,
            // Its ticket was forgotten since the handshake.
            None => return Err(RejectReason::NotAllowed(CloseCode::UNKNOWN_KEY)),
        };
        let peer = Peer { key, known, address: connection.remote_address() };
        let (mut sender, mut receiver) = connection.accept_bi().await.map_err(LinkError::from)?;
        let tag = receiver.read_chunk(1, true).await;
        let tag = tag.map_err(|error| read_error(error, Lane::Control))?;
        let got = tag.and_then(|chunk| chunk.bytes.first().copied()).unwrap_or_default();
        if got != Lane::Control.tag() {
            let error = PeerMisbehaved::UnknownLane { expected: "control", got };
            return Err(misbehaved(connection, error).into());
        }
        let welcome = sender.write_all(&[Lane::Control.tag()]).await;
        welcome.map_err(|error| write_error(error, Lane::Control))?;
        let mut control = ControlReceiver::new(connection.clone(), receiver);
        let Some(first) = control.next().await? else {
            let error = PeerMisbehaved::EndedWithin { lane: "control", within: "the first word" };
            return Err(misbehaved(connection, error).into());
        };
        self.admit(purpose, &peer, &first).map_err(refuse)?;
        control.put_back(first);
        let remedies = self.remedies;
        let mut core = Core::new(connection.clone(), endpoint, peer, sender, control, remedies);
        if purpose == Purpose::Probe {
            return Ok(Came::ToProbe(DestinationLink::new(core)));
        }
        core.second = remedies.second.then(|| self.taking.add(key));
        Ok(Came::ToMigrate(DestinationLink::new(core)))
    }

    /// Answers a probe to its end.
    async fn probe(&self, link: &DestinationLink) {
        let mut answers = self.answering.subscribe();
        let answering = answers.borrow_and_update().clone();
        let (Some(answering), Ok(_only)) = (answering, self.one_probe.try_acquire()) else {
            return link.close(CloseCode::BUSY, "a migration or another probe is under way").await;
        };
        tracing::info!("a probe from {}", link.peer());
        let over = async { answers.wait_for(Option::is_none).await.map(drop) };
        tokio::select! {
            () = probe::answer(link, answering) => {}
            _ = over => link.close(CloseCode::BUSY, "a migration begins").await,
        }
    }

    /// Whether this peer may say this first message.
    fn admit(&self, purpose: Purpose, peer: &Peer, first: &Control) -> Result<(), CloseCode> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let owner =
            |session| sessions.iter().find(|(known, _)| *known == session).map(|(_, owner)| *owner);
        match first {
            // It leaves no trace: neither of a session nor on the ticket.
            Control::Hello(_) if purpose == Purpose::Probe => match peer.known {
                Known::Ticket => self.tickets.is_good(peer.key, SystemTime::now()),
                _ => Ok(()),
            },
            _ if purpose == Purpose::Probe => Err(CloseCode::MISBEHAVED),
            Control::Hello(hello) => {
                let theirs = owner(hello.session);
                if peer.known == Known::Ticket && Version::choose(&hello.versions).is_some() {
                    self.tickets.consume(peer.key, hello.session, SystemTime::now())?;
                }
                match theirs {
                    Some(owner) if owner != peer.key => return Err(CloseCode::UNKNOWN_SESSION),
                    Some(_) => {}
                    None => {
                        if sessions.len() >= MAX_SESSIONS {
                            sessions.pop_front();
                        }
                        sessions.push_back((hello.session, peer.key));
                    }
                }
                Ok(())
            }
            Control::Resume(session) => {
                if peer.known == Known::Ticket {
                    self.tickets.resume(peer.key, *session)?;
                }
                match owner(*session) {
                    Some(owner) if owner != peer.key => Err(CloseCode::UNKNOWN_SESSION),
                    // A session from before this process: the driver answers that it is unknown.
                    _ => Ok(()),
                }
            }
            _ => Err(CloseCode::MISBEHAVED),
        }
    }
}

impl From<LinkError> for RejectReason {
    fn from(error: LinkError) -> Self {
        Self::Handshake(error)
    }
}
