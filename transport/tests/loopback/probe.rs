//! A probe measures, and leaves nothing behind.

use std::sync::Arc;
use std::time::Duration;

use pages::ByteCount;
use transport::probe::{Bounds, Findings, ProbeError, measure};
use transport::quic::{
    AuthorizedPeers, CloseCode, DialError, LinkError, Listener, SourceTrust, dial,
};
use transport::session::destination::Answering;
use transport::wire::{Control, Features, SessionId};

use crate::support::{
    RawPeer, hello, listener, listener_with, options, pair, soon, target, ticket,
};

fn answering() -> Answering {
    Answering::new(Features::POST_COPY, "the test")
}

async fn probe(listener: &Listener, trust: &SourceTrust) -> Result<Findings, ProbeError> {
    let bounds = Bounds::new(ByteCount(4 << 20), Duration::from_secs(5)).expect("modest");
    soon(measure(&target(listener), trust, &options(), bounds, "test")).await
}

fn code(probed: Result<Findings, ProbeError>) -> CloseCode {
    match probed.expect_err("told no") {
        ProbeError::Link(LinkError::ClosedByPeer { code, .. })
        | ProbeError::Dial(DialError::Refused { code, .. }) => code,
        other => panic!("ended otherwise: {other:?}"),
    }
}

#[tokio::test]
async fn a_ticket_is_good_for_probes_and_then_for_a_migration() {
    let listener = listener().await;
    let ticket = ticket(&listener);
    let answers = listener.answer_probes(answering());
    for _ in 0..2 {
        let found = probe(&listener, &ticket).await.expect("probed");
        assert_eq!((found.software.as_str(), found.features), ("the test", Features::POST_COPY));
        assert_eq!((found.round_trip.count(), found.idle.count()), (16, 32));
        assert!(found.round_trip.percentile(50) > Duration::ZERO, "{found:?}");
        assert!(found.idle.percentile(0) > Duration::ZERO, "{found:?}");
        let sent = 127 * (24 + 32_768);
        assert!(found.bytes == ByteCount(sent) && found.rate.0 > 1 << 20, "{found:?}");
        assert!(found.packets > 500 && found.mtu >= 1200, "{found:?}");
    }
    drop(answers);
    pair(&listener, &ticket).await;
    let _answers = listener.answer_probes(answering());
    assert_eq!(code(probe(&listener, &ticket).await), CloseCode::TICKET_USED);
    let expired = SourceTrust::Ticket(listener.ticket(Duration::ZERO).expect("a ticket"));
    assert_eq!(code(probe(&listener, &expired).await), CloseCode::TICKET_EXPIRED);
}

#[tokio::test]
async fn during_a_migration_nobody_probes() {
    let listener = Arc::new(listener().await);
    let ticket = ticket(&listener);
    assert_eq!(code(probe(&listener, &ticket).await), CloseCode::BUSY);
    // One that is under way ends.
    let answers = listener.answer_probes(answering());
    let bounds = Bounds::new(ByteCount(1 << 30), Duration::from_secs(60)).expect("borne");
    let (at, options) = (target(&listener), options());
    let probing = measure(&at, &ticket, &options, bounds, "test");
    let begin = async {
        // By now it is under way: another is told so.
        while code(probe(&listener, &ticket).await) != CloseCode::BUSY {}
        drop(answers);
    };
    let (probed, ()) = soon(async { tokio::join!(probing, begin) }).await;
    assert_eq!(code(probed), CloseCode::BUSY);
    pair(&listener, &ticket).await;
}

#[tokio::test]
async fn a_destination_that_is_older_than_probes_is_named() {
    // Such a one knows the protocol of migrations only.
    let key = rcgen::generate_simple_self_signed(vec!["old".to_owned()]).expect("a key");
    let secret = rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], secret.into())
        .expect("a certificate");
    tls.alpn_protocols = vec![b"qmig/1".to_vec()];
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).expect("a configuration");
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let old = quinn::Endpoint::server(config, "127.0.0.1:0".parse().expect("an address"));
    let old = old.expect("an endpoint");
    let knocked = tokio::spawn({
        let old = old.clone();
        async move { old.accept().await.expect("somebody").await.map(drop) }
    });
    let listener = listener().await;
    let bounds = Bounds::new(ByteCount(1 << 20), Duration::from_secs(1)).expect("modest");
    let at = old.local_addr().expect("an address").to_string();
    let probed = soon(measure(&at, &ticket(&listener), &options(), bounds, "test")).await;
    let error = probed.expect_err("it cannot");
    assert!(error.to_string().ends_with("older than probes; it was left as it was"), "{error}");
    let ProbeError::Dial(error) = error else { panic!("{error}") };
    assert!(error.hint().expect("a hint").contains("the same release"));
    assert!(soon(knocked).await.expect("ran").is_err(), "no link came of it");
}

#[tokio::test]
async fn only_a_probe_may_be_said_in_one() {
    let peer = RawPeer::new();
    let listener = listener_with(AuthorizedPeers::new().with(peer.key, "raw"), &options()).await;
    let _answers = listener.answer_probes(answering());
    let mut first = true;
    for words in [vec![Control::Freezing], vec![hello(SessionId([0; 16])), Control::Handoff]] {
        let connection =
            peer.connect_as(&listener, true, b"qmig-probe/1").await.expect("connected");
        let (mut control, _answers) = soon(connection.open_bi()).await.expect("a stream");
        control.write_all(&[1]).await.expect("the lane");
        for word in words {
            control.write_all(&word.encode()).await.expect("said");
        }
        let closed = soon(connection.closed()).await;
        let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
        assert_eq!(close.error_code, quinn::VarInt::from_u32(CloseCode::MISBEHAVED.0));
        let reason = String::from_utf8_lossy(&close.reason);
        assert!(first || reason.contains("expected Probe, got Handoff"), "{reason}");
        first = false;
    }
    // Nor may it be said elsewhere.
    let trust = ticket(&listener);
    let link = dial(&target(&listener), &trust, &options()).await.expect("dialled");
    let probe = Control::Probe(transport::wire::Probe { wish: true });
    link.send(&probe).await.expect("sent");
    let told = soon(link.recv()).await;
    assert!(
        matches!(told, Err(LinkError::ClosedByPeer { code: CloseCode::MISBEHAVED, .. })),
        "{told:?}"
    );
}
