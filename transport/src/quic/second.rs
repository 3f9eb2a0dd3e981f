//! Faults over a connection of their own beside the first, to see what that is worth.
//!
//! Only links whose both ends ask for it ([`Remedies::second`](super::Remedies::second)) have one: any
//! other listener ends such a handshake as it would one of an unknown protocol. The source makes it as
//! soon as its link is let in, and the destination takes it from the key of a link that lives, which no
//! ticket is needed for. It carries streams of faults and nothing else. Lost, the link is lost.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};
use std::time::Duration;

use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::close::CloseCode;
use super::dial::{client_config, peer_key, unknown_protocol};
use super::identity::KeyFingerprint;
use super::link::{Core, LinkError, Lost, close_now};
use super::trust::{Purpose, SourceTrust, TrustError};
use super::tuning::LinkOptions;

/// How long a destination waits for it before it does without.
const PATIENCE: Duration = Duration::from_secs(10);

/// The second connection of a link: expected, there, or not to be had.
#[derive(Debug)]
pub(super) struct Second {
    state: watch::Sender<Option<Result<Connection, LinkError>>>,
    /// Until it is dialled; none at a destination.
    dial: StdMutex<Option<Dial>>,
}

/// What it takes to make it.
#[derive(Debug)]
pub(super) struct Dial {
    endpoint: Endpoint,
    config: ClientConfig,
    address: SocketAddr,
    host: String,
    timeout: Duration,
}

impl Second {
    /// One that this end makes, if it is to, or takes.
    pub(super) fn new(dial: Option<Dial>) -> Arc<Self> {
        Arc::new(Self { state: watch::Sender::new(None), dial: StdMutex::new(dial) })
    }

    /// The destination, whose key this is, has let the link in: it is dialled, once.
    pub(super) fn begin(self: &Arc<Self>, key: KeyFingerprint) {
        let dial = self.dial.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(dial) = dial else { return };
        let second = Arc::clone(self);
        tokio::spawn(async move {
            let made = timeout(dial.timeout, dial.connect(key)).await;
            let made = made.unwrap_or(Err(LinkError::Lost(Lost::TimedOut)));
            if let Err(error) = &made {
                tracing::warn!("a second connection: {error}");
            }
            second.state.send_replace(Some(made));
        });
    }

    /// It, if it was made.
    pub(super) fn connection(&self) -> Option<Connection> {
        self.state.borrow().as_ref().and_then(|state| state.clone().ok())
    }

    /// Waits until it was made, or could not be.
    async fn made(&self) -> Result<Connection, LinkError> {
        let mut state = self.state.subscribe();
        let made = state.wait_for(Option::is_some).await.ok().and_then(|made| made.clone());
        match made {
            Some(made) => made,
            None => pending().await, // never: whoever would say so is here
        }
    }

    /// Waits until it was lost, or could not be made. That it was closed is told by the first.
    pub(super) async fn lost(&self) -> LinkError {
        let connection = match self.made().await {
            Ok(connection) => connection,
            Err(error) => return error,
        };
        let error = LinkError::from(connection.closed().await);
        if error.is_lost() { error } else { pending().await }
    }

    /// False if there was one.
    fn attach(&self, connection: Connection) -> bool {
        self.state.send_if_modified(|state| {
            let free = state.is_none();
            if free {
                *state = Some(Ok(connection));
            }
            free
        })
    }
}

impl Dial {
    /// From where the first comes to where that goes, with the same keys.
    pub(super) fn beside(
        first: &Core,
        (target, host): (&str, &str),
        trust: &SourceTrust,
        options: &LinkOptions,
    ) -> Result<Self, TrustError> {
        let address = first.peer.address;
        let config = client_config(&trust.tls(target, Purpose::Faults)?, address, options);
        let (endpoint, timeout) = (first.endpoint.clone(), options.connect_timeout);
        Ok(Self { endpoint, config, address, host: host.to_owned(), timeout })
    }

    async fn connect(&self, key: KeyFingerprint) -> Result<Connection, LinkError> {
        let config = self.config.clone();
        let connecting = self.endpoint.connect_with(config, self.address, &self.host);
        let connecting = connecting.map_err(|_| LinkError::ClosedHere)?;
        let connection = connecting.await.map_err(|error| match unknown_protocol(&error) {
            true => LinkError::ClosedByPeer {
                code: CloseCode::REFUSED,
                reason: "a second connection must be asked for on both sides".to_owned(),
            },
            false => error.into(),
        })?;
        if peer_key(&connection) == Some(key) {
            return Ok(connection);
        }
        close_now(&connection, CloseCode::UNKNOWN_KEY, CloseCode::UNKNOWN_KEY.words());
        Err(LinkError::ClosedHere)
    }
}

/// The links of a listener that take a second connection, oldest first, and whose they are.
#[derive(Debug, Default)]
pub(super) struct Taking(StdMutex<Vec<(KeyFingerprint, Weak<Second>)>>);

impl Taking {
    /// For a link of this key, which was let in.
    pub(super) fn add(&self, key: KeyFingerprint) -> Arc<Second> {
        let second = Second::new(None);
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|(_, link)| link.strong_count() > 0);
        links.push((key, Arc::downgrade(&second)));
        second
    }

    /// Gives it to the latest link of the key that has proven itself; without one, or if that has one
    /// already, it is told so.
    pub(super) fn attach(&self, connection: &Connection) -> Result<(), CloseCode> {
        let key = peer_key(connection).ok_or(CloseCode::UNKNOWN_KEY)?;
        let links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = links.iter().rev().filter(|(owner, _)| *owner == key);
        let latest = theirs.filter_map(|(_, link)| link.upgrade()).next();
        match latest.is_some_and(|link| link.attach(connection.clone())) {
            true => Ok(()),
            false => Err(CloseCode::UNKNOWN_SESSION),
        }
    }
}

impl Core {
    /// Where streams of wishes are opened.
    pub(super) async fn connection_of_faults(&self) -> Connection {
        let first = &self.connection;
        let Some(second) = &self.second else { return first.clone() };
        tokio::select! {
            _ = first.closed() => {}
            made = timeout(PATIENCE, second.made()) => match made {
                Ok(Ok(connection)) => return connection,
                _ => tracing::warn!("no second connection came: faults go over the first"),
            },
        }
        first.clone()
    }

    /// The next stream that the peer opens for wishes, and what it came over.
    pub(super) async fn accept_faults(
        &self,
    ) -> Result<(Connection, SendStream, RecvStream), LinkError> {
        let over = |connection: Connection| async {
            let (sender, receiver) = connection.accept_bi().await?;
            Ok((connection, sender, receiver))
        };
        let first = over(self.connection.clone());
        let Some(second) = &self.second else { return first.await };
        tokio::select! {
            stream = first => stream,
            stream = async { over(second.made().await?).await } => stream,
        }
    }
}
