//! Two ends, and a peer that speaks raw QUIC.

use std::future::Future;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use transport::quic::{
    AcceptError, AuthorizedPeers, DestinationLink, DestinationTrust, Identity, KeyFingerprint,
    LinkOptions, Listener, Rejected, SourceLink, SourceTrust, dial,
};
use transport::wire::{Control, Features, Hello, SessionId};

/// Waits for something that must happen.
pub(crate) async fn soon<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), event).await.expect("it happens in time")
}

pub(crate) fn options() -> LinkOptions {
    LinkOptions::default()
}

/// A listener that believes tickets only.
pub(crate) async fn listener() -> Listener {
    listener_with(AuthorizedPeers::new(), &options()).await
}

pub(crate) async fn listener_with(peers: AuthorizedPeers, options: &LinkOptions) -> Listener {
    let identity = Identity::generate().expect("an identity");
    let trust = DestinationTrust::new(identity).with_peers(peers);
    Listener::bind("127.0.0.1:0", trust, options).await.expect("a listener")
}

pub(crate) fn target(listener: &Listener) -> String {
    listener.local_addr().expect("an address").to_string()
}

pub(crate) fn ticket(listener: &Listener) -> SourceTrust {
    SourceTrust::Ticket(listener.ticket(Duration::from_secs(60)).expect("a ticket"))
}

pub(crate) fn hello(session: SessionId) -> Control {
    Control::Hello(Hello::new(session, Features::STOP_AND_COPY, "test"))
}

/// Dials and says hello, while the other end accepts.
pub(crate) async fn pair(
    listener: &Listener,
    trust: &SourceTrust,
) -> (SourceLink, DestinationLink) {
    pair_with(listener, trust, &options()).await
}

pub(crate) async fn pair_with(
    listener: &Listener,
    trust: &SourceTrust,
    options: &LinkOptions,
) -> (SourceLink, DestinationLink) {
    pair_at(&target(listener), listener, trust, options).await
}

/// The same, with the listener behind another address.
pub(crate) async fn pair_at(
    address: &str,
    listener: &Listener,
    trust: &SourceTrust,
    options: &LinkOptions,
) -> (SourceLink, DestinationLink) {
    let session = SessionId::random().expect("random bytes");
    let source = async {
        let link = dial(address, trust, options).await.expect("dialled");
        link.send(&hello(session)).await.expect("hello");
        link
    };
    let (source, destination) = soon(async { tokio::join!(source, listener.accept()) }).await;
    let destination = destination.expect("accepted");
    assert_eq!(soon(destination.recv()).await, Ok(hello(session)));
    (source, destination)
}

/// The next peer that was turned away.
pub(crate) async fn turned_away(listener: &Listener) -> Rejected {
    match soon(listener.accept()).await {
        Err(AcceptError::Rejected(rejected)) => rejected,
        other => panic!("nobody was turned away: {other:?}"),
    }
}

/// A peer with a key that is known, speaking raw QUIC.
pub(crate) struct RawPeer {
    pub(crate) key: KeyFingerprint,
    chain: Vec<CertificateDer<'static>>,
    secret: PrivatePkcs8KeyDer<'static>,
}

impl RawPeer {
    pub(crate) fn new() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let params = rcgen::CertificateParams::new(vec!["raw".to_owned()]).expect("parameters");
        let certificate = params.self_signed(&pair).expect("a certificate");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.write(true).create(true).mode(0o600).open(&path).expect("a file");
        file.write_all(pair.serialize_pem().as_bytes()).expect("written");
        Self {
            key: Identity::load(&path).expect("an identity").fingerprint(),
            chain: vec![certificate.der().clone()],
            secret: PrivatePkcs8KeyDer::from(pair.serialize_der()),
        }
    }

    /// Handshakes, with a certificate or without, under an ALPN name.
    pub(crate) async fn connect_as(
        &self,
        listener: &Listener,
        show_certificate: bool,
        alpn: &[u8],
    ) -> Result<quinn::Connection, quinn::ConnectionError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let mut config = if show_certificate {
            let secret = PrivateKeyDer::Pkcs8(self.secret.clone_key());
            builder.with_client_auth_cert(self.chain.clone(), secret).expect("a certificate")
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let config = QuicClientConfig::try_from(config).expect("a configuration");
        let config = quinn::ClientConfig::new(Arc::new(config));
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address"));
        let address = listener.local_addr().expect("an address");
        let endpoint = endpoint.expect("an endpoint");
        soon(endpoint.connect_with(config, address, "raw").expect("dials")).await
    }

    pub(crate) async fn connect(&self, listener: &Listener) -> quinn::Connection {
        self.connect_as(listener, true, b"qmig/1").await.expect("connected")
    }

    /// Connects and says hello properly, to misbehave afterwards.
    pub(crate) async fn introduced(
        &self,
        listener: &Listener,
    ) -> (quinn::Connection, (quinn::SendStream, quinn::RecvStream), DestinationLink) {
        let connection = self.connect(listener).await;
        let (mut control, answers) = soon(connection.open_bi()).await.expect("a stream");
        let session = SessionId::random().expect("random bytes");
        control.write_all(&[1]).await.expect("the lane");
        control.write_all(&hello(session).encode()).await.expect("hello");
        let link = soon(listener.accept()).await.expect("accepted");
        assert_eq!(soon(link.recv()).await, Ok(hello(session)));
        (connection, (control, answers), link)
    }
}

/// Believes anybody: it is the peer that misbehaves.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519, rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Polls what is waited for once and drops it, until it yields.
pub(crate) async fn impatient<T>(mut wait: impl AsyncFnMut() -> T) -> T {
    loop {
        let given_up = async {
            tokio::task::yield_now().await;
        };
        tokio::select! {
            biased;
            done = wait() => return done,
            () = given_up => {}
        }
    }
}
