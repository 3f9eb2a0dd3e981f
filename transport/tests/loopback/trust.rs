//! Who may come in, and what the others are told.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use transport::quic::{
    AuthorizedPeers, CaFiles, CloseCode, DestinationTrust, DialError, FirstUse, Identity, Known,
    LinkError, LinkOptions, Listener, Pins, RejectReason, SourceTrust, Ticket, dial,
};
use transport::wire::{Control, SessionId};

use crate::support::{
    RawPeer, hello, listener, listener_with, options, pair, soon, target, ticket, turned_away,
};

/// Dials with a key that is accepted, says something, and is told why it may not stay.
async fn told(listener: &Listener, trust: &SourceTrust, first: &Control) -> (CloseCode, String) {
    let link = dial(&target(listener), trust, &options()).await.expect("dialled");
    link.send(first).await.expect("sent");
    match soon(link.recv()).await {
        Err(LinkError::ClosedByPeer { code, reason }) => (code, reason),
        other => panic!("not told: {other:?}"),
    }
}

#[tokio::test]
async fn a_ticket_of_another_destination_finds_the_wrong_key() {
    let (here, there) = (listener().await, listener().await);
    let error = dial(&target(&here), &ticket(&there), &options()).await.expect_err("wrong key");
    let DialError::WrongKey { expected, got, .. } = error else { panic!("{error}") };
    assert_eq!((expected, got), (there.fingerprint(), here.fingerprint()));
    assert!(matches!(turned_away(&here).await.why, RejectReason::Handshake(_)));
}

#[tokio::test]
async fn a_ticket_that_was_never_issued_here_is_an_unknown_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("identity");
    let again = || Identity::load_or_create(&path).expect("an identity");
    let bind = |identity| async {
        let trust = DestinationTrust::new(identity);
        Listener::bind("127.0.0.1:0", trust, &options()).await.expect("a listener")
    };
    let old = ticket(&bind(again()).await);
    let restarted = bind(again()).await;
    let error = dial(&target(&restarted), &old, &options()).await.expect_err("unknown");
    assert!(matches!(error, DialError::Refused { code: CloseCode::UNKNOWN_KEY, .. }), "{error:?}");
    assert!(error.to_string().ends_with("unknown key"), "{error}");
    assert!(error.hint().expect("a hint").contains("earlier"));
    assert!(matches!(turned_away(&restarted).await.why, RejectReason::Handshake(_)));
}

#[tokio::test]
async fn an_expired_ticket_is_told_so() {
    let listener = listener().await;
    let expired = SourceTrust::Ticket(listener.ticket(Duration::ZERO).expect("a ticket"));
    let (code, reason) = told(&listener, &expired, &hello(SessionId([1; 16]))).await;
    assert_eq!((code, reason.as_str()), (CloseCode::TICKET_EXPIRED, "ticket expired"));
    assert!(code.hint().expect("a hint").contains("new ticket"));
    assert_eq!(
        turned_away(&listener).await.why,
        RejectReason::NotAllowed(CloseCode::TICKET_EXPIRED)
    );
    // One that has not expired works on the same listener.
    pair(&listener, &ticket(&listener)).await;
}

#[tokio::test]
async fn a_ticket_works_once() {
    let listener = listener().await;
    let issued = listener.ticket(Duration::from_secs(60)).expect("a ticket");
    let text = issued.to_string();
    let trust = || SourceTrust::Ticket(text.parse::<Ticket>().expect("a ticket"));
    let (_source, destination) = pair(&listener, &trust()).await;
    let (code, _) = told(&listener, &trust(), &hello(SessionId([2; 16]))).await;
    assert_eq!(code, CloseCode::TICKET_USED);
    assert_eq!(turned_away(&listener).await.why, RejectReason::NotAllowed(CloseCode::TICKET_USED));
    // Nor can it claim to be a session that it is not.
    let (code, _) = told(&listener, &trust(), &Control::Resume(SessionId([3; 16]))).await;
    assert_eq!(code, CloseCode::UNKNOWN_SESSION);
    drop(destination);
}

#[tokio::test]
async fn a_ticket_can_be_renewed_after_a_failure() {
    let listener = listener().await;
    let trust = ticket(&listener);
    let session = SessionId([4; 16]);
    let link = dial(&target(&listener), &trust, &options()).await.expect("dialled");
    link.send(&hello(session)).await.expect("hello");
    soon(listener.accept()).await.expect("accepted");
    assert!(listener.renew(session, Duration::from_secs(60)));
    assert!(!listener.renew(session, Duration::from_secs(60)), "only once");
    pair(&listener, &trust).await;
}

#[tokio::test]
async fn known_peers_are_let_in_by_name_and_others_are_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("identity");
    let us = || Identity::load_or_create(&path).expect("an identity");
    let peers = AuthorizedPeers::new().with(us().fingerprint(), "build host");
    let listener = listener_with(peers, &options()).await;
    let target = target(&listener);
    let pins = || Pins::new().with(&target, listener.fingerprint());
    let known = |identity, pins, first_use| SourceTrust::Known { identity, pins, first_use };

    let trust = known(us(), pins(), FirstUse::Refuse);
    let (source, destination) = pair(&listener, &trust).await;
    assert_eq!(destination.peer().known, Known::File("build host".to_owned()));
    assert_eq!(source.peer().known, Known::File(target.clone()));

    let stranger = Identity::generate().expect("an identity");
    let error = dial(&target, &known(stranger, pins(), FirstUse::Refuse), &options()).await;
    let error = error.expect_err("a stranger");
    assert!(matches!(error, DialError::Refused { code: CloseCode::UNKNOWN_KEY, .. }), "{error:?}");
    assert!(matches!(turned_away(&listener).await.why, RejectReason::Handshake(_)));

    let error = dial(&target, &known(us(), Pins::new(), FirstUse::Refuse), &options()).await;
    let error = error.expect_err("not pinned");
    let DialError::NotPinned { got, .. } = error else { panic!("{error:?}") };
    assert_eq!(got, listener.fingerprint());
    assert!(matches!(turned_away(&listener).await.why, RejectReason::Handshake(_)));

    let wrong = Pins::new().with(&target, us().fingerprint());
    let error = dial(&target, &known(us(), wrong, FirstUse::Accept), &options()).await;
    assert!(matches!(error, Err(DialError::WrongKey { .. })), "a pin beats first use: {error:?}");
    assert!(matches!(turned_away(&listener).await.why, RejectReason::Handshake(_)));

    let trust = known(us(), Pins::new(), FirstUse::Accept);
    let (source, _) = pair(&listener, &trust).await;
    assert_eq!(source.peer().known, Known::FirstUse);
    assert_eq!(source.peer().key, listener.fingerprint());
}

/// A peer may show somebody else's certificate, but not prove its key.
#[tokio::test]
async fn nobody_comes_in_without_a_key() {
    let peer = RawPeer::new();
    let listener = listener_with(AuthorizedPeers::new().with(peer.key, "raw"), &options()).await;
    if let Ok(connection) = peer.connect_as(&listener, false, b"qmig/1").await {
        soon(connection.closed()).await;
    }
    assert!(matches!(turned_away(&listener).await.why, RejectReason::Handshake(_)));
    let other = peer.connect_as(&listener, true, b"h3").await;
    assert!(other.is_err(), "another protocol");
    assert!(matches!(turned_away(&listener).await.why, RejectReason::Handshake(_)));
    peer.introduced(&listener).await;
}

/// Writes a certificate of `issuer` for `name`, and its key.
fn issue(directory: &Path, file: &str, name: &str, issuer: &rcgen::Issuer<'_, rcgen::KeyPair>) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    std::fs::write(directory.join(format!("{file}.pem")), certificate.pem()).expect("written");
    std::fs::write(directory.join(format!("{file}.key")), key.serialize_pem()).expect("written");
}

/// Writes an authority.
fn authority(directory: &Path, file: &str) -> rcgen::Issuer<'static, rcgen::KeyPair> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("a certificate");
    std::fs::write(directory.join(format!("{file}.pem")), certificate.pem()).expect("written");
    rcgen::Issuer::new(params, key)
}

#[tokio::test]
async fn a_fleet_trusts_its_authority() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let (ours, theirs) = (authority(path, "ca"), authority(path, "other-ca"));
    issue(path, "destination", "127.0.0.1", &ours);
    issue(path, "elsewhere", "192.0.2.1", &ours);
    issue(path, "source", "source", &ours);
    issue(path, "foreign", "127.0.0.1", &theirs);
    let files = |ca: &str, name: &str| {
        let file = |name: &str, end: &str| path.join(format!("{name}.{end}"));
        CaFiles::load(&file(ca, "pem"), &file(name, "pem"), &file(name, "key")).expect("files")
    };
    let listen = |name| {
        let trust = DestinationTrust::with_ca(files("ca", name));
        async { Listener::bind("127.0.0.1:0", trust, &options()).await.expect("a listener") }
    };
    let listener = listen("destination").await;
    let trust = SourceTrust::Ca(files("ca", "source"));
    let (_source, destination) = pair(&listener, &trust).await;
    assert_eq!(destination.peer().known, Known::Authority);
    // A ticket works beside it.
    pair(&listener, &ticket(&listener)).await;

    let foreign = SourceTrust::Ca(files("ca", "foreign"));
    let error = dial(&target(&listener), &foreign, &options()).await.expect_err("foreign");
    assert!(matches!(error, DialError::Refused { code: CloseCode::UNKNOWN_KEY, .. }), "{error:?}");

    let suspicious = SourceTrust::Ca(files("other-ca", "source"));
    let error = dial(&target(&listener), &suspicious, &options()).await.expect_err("foreign");
    assert!(matches!(error, DialError::Link { .. }), "{error:?}");

    let elsewhere = listen("elsewhere").await;
    let error = dial(&target(&elsewhere), &trust, &options()).await.expect_err("another name");
    assert!(matches!(error, DialError::Link { .. }), "{error:?}");
}

#[test]
fn missing_pem_files_are_named() {
    let nowhere = Path::new("/nonexistent/ca.pem");
    let error = CaFiles::load(nowhere, nowhere, nowhere).expect_err("missing");
    assert_eq!(error.to_string(), "read authority from /nonexistent/ca.pem");
}

#[tokio::test]
async fn nobody_there_is_said_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = silent.local_addr().expect("an address").to_string();
    let brief = LinkOptions { connect_timeout: Duration::from_millis(200), ..options() };
    let listener = listener().await;
    let error = soon(dial(&address, &ticket(&listener), &brief)).await.expect_err("silence");
    assert!(matches!(error, DialError::NoAnswer { .. }), "{error:?}");
    assert!(error.hint().is_some());
    let error = soon(dial("no port here", &ticket(&listener), &brief)).await.expect_err("no name");
    assert!(matches!(error, DialError::Resolve { .. }), "{error:?}");
}
