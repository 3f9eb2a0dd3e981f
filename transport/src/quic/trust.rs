//! Whom each end believes, turned into TLS configuration.
//!
//! TLS 1.3 only, client certificates always, no resumption and no 0-RTT: every link proves both
//! keys afresh.

use std::fmt;
use std::sync::Arc;

use quinn::Connection;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::ca::CaFiles;
use super::identity::{Credentials, Identity, IdentityError, KeyFingerprint};
use super::peers::{AuthorizedPeers, Pins};
use super::ticket::{Ticket, TicketBook};
use super::verify::{DestinationVerifier, Expected, Seen, SourceVerifier};
use super::wires::Remedies;

/// What a link is for, by the name of its protocol in the handshake. A destination that does not know
/// the name ends the handshake, before anything else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A migration.
    Migration,
    /// To learn what the path is like.
    Probe,
    /// Faults of a migration whose link is there, see [`super::second`].
    Faults,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Migration, Self::Probe, Self::Faults];

    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Migration => b"qmig/1",
            Self::Probe => b"qmig-probe/1",
            Self::Faults => b"qmig-faults/1",
        }
    }

    /// The names that a listener knows.
    fn known(remedies: Remedies) -> Vec<Vec<u8>> {
        let known = |purpose: &Self| *purpose != Self::Faults || remedies.second;
        Self::ALL.into_iter().filter(known).map(|purpose| purpose.alpn().to_vec()).collect()
    }

    /// What both ends have agreed on.
    pub(super) fn of(connection: &Connection) -> Self {
        let data =
            connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let name = data.and_then(|data| data.protocol).unwrap_or_default();
        Self::ALL.into_iter().find(|purpose| name == purpose.alpn()).unwrap_or(Self::Migration)
    }
}

/// Whom the source believes, and how it proves itself.
#[derive(Debug)]
pub enum SourceTrust {
    /// A ticket holds both.
    Ticket(Ticket),
    /// Our long-lived key, and the keys destinations must prove.
    Known {
        /// Who we are.
        identity: Identity,
        /// The keys of destinations.
        pins: Pins,
        /// What to do with a destination that is not pinned.
        first_use: FirstUse,
    },
    /// Certificates of one authority; names are checked.
    Ca(CaFiles),
}

/// What to do with a destination seen for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstUse {
    /// Fail, and name its key, so that a person can compare and pin it.
    Refuse,
    /// Believe it; the caller pins the key of [`super::Peer`] afterwards.
    Accept,
}

/// Whom the destination believes, and how it proves itself. Tickets are always believed.
#[derive(Debug)]
pub struct DestinationTrust {
    own: Own,
    peers: AuthorizedPeers,
}

enum Own {
    Identity(Identity),
    Ca(CaFiles),
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(identity) => identity.fmt(f),
            Self::Ca(files) => files.fmt(f),
        }
    }
}

/// Trust could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The ticket's key could not be made.
    #[error("make a key")]
    Identity(#[from] IdentityError),
    /// TLS did not take the certificate or key.
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    /// The authorities could not be used.
    #[error("use the certificate authority: {0}")]
    Authority(rustls::server::VerifierBuilderError),
}

impl DestinationTrust {
    /// Tickets only, under this key.
    pub const fn new(identity: Identity) -> Self {
        Self { own: Own::Identity(identity), peers: AuthorizedPeers::new() }
    }

    /// Tickets, and every source with a certificate of the authority.
    pub const fn with_ca(files: CaFiles) -> Self {
        Self { own: Own::Ca(files), peers: AuthorizedPeers::new() }
    }

    /// These sources as well.
    #[must_use]
    pub fn with_peers(mut self, peers: AuthorizedPeers) -> Self {
        self.peers = peers;
        self
    }
}

/// What a dial needs of trust.
pub(super) struct SourceTls {
    pub(super) config: Arc<QuicClientConfig>,
    /// The key the destination showed.
    pub(super) seen: Seen,
    /// The key it should have shown, if one is pinned.
    pub(super) expected: Option<KeyFingerprint>,
}

impl SourceTrust {
    /// The TLS of one dial to `target`.
    pub(super) fn tls(&self, target: &str, purpose: Purpose) -> Result<SourceTls, TrustError> {
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let pin = match self {
            Self::Ticket(ticket) => Some(ticket.destination()),
            Self::Known { pins, .. } => pins.key(target),
            Self::Ca(_) => None,
        };
        let expected = match (pin, self) {
            (Some(key), _) => Expected::Key(key),
            (None, Self::Known { first_use: FirstUse::Accept, .. }) => Expected::Any,
            (None, _) => Expected::Nothing,
        };
        let (pinning, seen) = DestinationVerifier::new(expected, algorithms);
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = match self {
            Self::Ca(files) => builder.with_webpki_verifier(
                WebPkiServerVerifier::builder_with_provider(files.roots().clone(), provider)
                    .build()
                    .map_err(TrustError::Authority)?,
            ),
            Self::Ticket(_) | Self::Known { .. } => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(pinning))
            }
        };
        let Credentials { chain, key, .. } = match self {
            Self::Ticket(ticket) => ticket.client()?.credentials(),
            Self::Known { identity, .. } => identity.credentials(),
            Self::Ca(files) => files.credentials(),
        };
        let mut config = builder.with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![purpose.alpn().to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        let config = QuicClientConfig::try_from(config).expect("TLS 1.3 has the initial suite");
        Ok(SourceTls { config: Arc::new(config), seen, expected: pin })
    }
}

/// What a listener needs of trust.
pub(super) struct DestinationTls {
    pub(super) config: Arc<QuicServerConfig>,
    pub(super) fingerprint: KeyFingerprint,
    pub(super) peers: AuthorizedPeers,
    /// Whether certificates of an authority are believed too.
    pub(super) has_authority: bool,
}

impl DestinationTrust {
    pub(super) fn tls(
        self,
        tickets: Arc<TicketBook>,
        remedies: Remedies,
    ) -> Result<DestinationTls, TrustError> {
        let provider = provider();
        let (credentials, ca) = match &self.own {
            Own::Identity(identity) => (identity.credentials(), None),
            Own::Ca(files) => {
                let roots = files.roots().clone();
                let ca = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                    .build()
                    .map_err(TrustError::Authority)?;
                (files.credentials(), Some(ca))
            }
        };
        let verifier = SourceVerifier {
            tickets,
            peers: self.peers.clone(),
            ca,
            algorithms: provider.signature_verification_algorithms,
        };
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(credentials.chain, credentials.key)?;
        config.alpn_protocols = Purpose::known(remedies);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        let config = QuicServerConfig::try_from(config).expect("TLS 1.3 has the initial suite");
        Ok(DestinationTls {
            config: Arc::new(config),
            fingerprint: credentials.fingerprint,
            has_authority: matches!(self.own, Own::Ca(_)),
            peers: self.peers,
        })
    }
}

/// ring, named rather than installed for the process: its first handshake is the cheap one.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
