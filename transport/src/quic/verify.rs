//! How TLS decides: keys are pinned, names are not looked at, signatures always are.
//!
//! A certificate is public, so showing the right one proves nothing; holding its key does. Hence
//! both verifiers check the fingerprint in one method and the handshake signature, made with that
//! key, in the other, and refuse TLS 1.2.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::identity::KeyFingerprint;
use super::peers::AuthorizedPeers;
use super::ticket::TicketBook;

/// Which key the destination must prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// This one.
    Key(KeyFingerprint),
    /// Any, because a person will be shown it.
    Any,
    /// None is good enough: only learn which it is.
    Nothing,
}

/// The source's judgement of a destination.
pub(super) struct DestinationVerifier {
    expected: Expected,
    seen: Seen,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The key a peer has shown, for the error message.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Option<KeyFingerprint>>>);

impl Seen {
    pub(super) fn key(&self) -> Option<KeyFingerprint> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, key: KeyFingerprint) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }
}

impl DestinationVerifier {
    pub(super) fn new(expected: Expected, algorithms: WebPkiSupportedAlgorithms) -> (Self, Seen) {
        let seen = Seen::default();
        (Self { expected, seen: seen.clone(), algorithms }, seen)
    }
}

impl fmt::Debug for DestinationVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DestinationVerifier({:?})", self.expected)
    }
}

impl ServerCertVerifier for DestinationVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = KeyFingerprint::of_certificate(end_entity)?;
        self.seen.set(key);
        match self.expected {
            Expected::Key(expected) if expected == key => Ok(ServerCertVerified::assertion()),
            Expected::Any => Ok(ServerCertVerified::assertion()),
            Expected::Key(_) | Expected::Nothing => Err(not_trusted()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The destination's judgement of a source: a ticket, a known key, or a certificate of the
/// authority.
pub(super) struct SourceVerifier {
    pub(super) tickets: Arc<TicketBook>,
    pub(super) peers: AuthorizedPeers,
    pub(super) ca: Option<Arc<dyn ClientCertVerifier>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for SourceVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceVerifier")
    }
}

impl ClientCertVerifier for SourceVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let key = KeyFingerprint::of_certificate(end_entity)?;
        if self.tickets.knows(key) || self.peers.name(key).is_some() {
            return Ok(ClientCertVerified::assertion());
        }
        match &self.ca {
            Some(ca) => ca.verify_client_cert(end_entity, intermediates, now),
            None => Err(not_trusted()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Travels as the TLS alert `access_denied`.
const fn not_trusted() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

const fn not_tls12() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic)
}
