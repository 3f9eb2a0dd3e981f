//! Faults over a connection of their own, and who may make one; and sockets as the kernel makes them.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::socket::{getsockopt, sockopt};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, SpaceId, TaskId};
use transport::quic::{
    AuthorizedPeers, CloseCode, DestinationLink, LinkError, LinkOptions, Listener, RejectReason,
    Remedies, SourceLink, SourceTrust, dial,
};
use transport::wire::{Control, PageRun, SessionId, Wanted};

use crate::support::{
    RawPeer, hello, listener, listener_with, options, pair, pair_with, soon, target, ticket,
    turned_away,
};

const SPACE: SpaceId = SpaceId::Process(TaskId(1));
const FAULTS: &[u8] = b"qmig-faults/1";

fn with_second() -> LinkOptions {
    let remedies = Remedies { second: true, ..Remedies::default() };
    LinkOptions { remedies, ..options() }
}

/// The destination's first word, upon which a source makes its second connection.
async fn first_word(source: &SourceLink, destination: &DestinationLink) {
    destination.send(&Control::Ready).await.expect("sent");
    assert_eq!(soon(source.recv()).await, Ok(Control::Ready));
}

/// One wish, and 64 pages for it.
async fn fault(source: &SourceLink, destination: &DestinationLink) {
    let range = PageRange::new(PageIndex(7), PageCount(64)).expect("a range");
    let wanted = Wanted::new(SPACE, range).expect("a wish");
    let asking = async {
        let (mut wishes, mut answers) = destination.faults().await.expect("a stream");
        wishes.ask(wanted).await.expect("asked");
        answers.next().await.expect("an answer").expect("one")
    };
    let answering = async {
        let (mut asked, mut answers) = source.next_faults().await.expect("a stream");
        assert_eq!(asked.next().await, Ok(Some(wanted)));
        let run = PageRun::raw(SPACE, range).expect("a run");
        answers.run(run, Bytes::from(vec![9; run.byte_len()])).await.expect("answered");
        answers
    };
    let ((run, bytes), _answers) = soon(async { tokio::join!(asking, answering) }).await;
    assert!(run.range() == range && bytes.iter().all(|byte| *byte == 9), "{run:?}");
}

#[tokio::test]
async fn faults_have_a_connection_of_their_own() {
    let listener = listener_with(AuthorizedPeers::new(), &with_second()).await;
    let (source, destination) = pair_with(&listener, &ticket(&listener), &with_second()).await;
    first_word(&source, &destination).await;
    fault(&source, &destination).await;
    let stats = source.stats();
    let over_it = stats.second_sent.expect("a second connection").0;
    assert!(over_it > 64 * PAGE_SIZE as u64, "{stats:?}");
    assert!(stats.sent.0 - over_it < 32 * PAGE_SIZE as u64, "{stats:?}");
    assert!(destination.stats().second_sent.is_some_and(|sent| sent.0 > 0));
    // Closed with the first: nobody has anything to wait for.
    source.close(CloseCode::DONE, "").await;
    let told = soon(destination.recv()).await;
    assert!(matches!(told, Err(LinkError::ClosedByPeer { code: CloseCode::DONE, .. })), "{told:?}");
    drop(destination);
    soon(listener.wait_idle()).await;
}

/// A link that was lost makes it again when it resumes.
#[tokio::test]
async fn a_link_that_resumes_has_another() {
    let listener = listener_with(AuthorizedPeers::new(), &with_second()).await;
    let (trust, session) = (ticket(&listener), SessionId([5; 16]));
    for word in [hello(session), Control::Resume(session)] {
        let source = dial(&target(&listener), &trust, &with_second()).await.expect("dialled");
        source.send(&word).await.expect("sent");
        let destination = soon(listener.accept()).await.expect("accepted");
        assert_eq!(soon(destination.recv()).await, Ok(word));
        first_word(&source, &destination).await;
        fault(&source, &destination).await;
        let over_it = source.stats().second_sent.expect("a second connection").0;
        assert!(over_it > 64 * PAGE_SIZE as u64);
        drop(source);
        assert!(soon(destination.recv()).await.is_err_and(|error| error.is_lost()));
    }
}

#[tokio::test]
async fn others_have_one_connection() {
    let listener = listener().await;
    let (source, destination) = pair(&listener, &ticket(&listener)).await;
    first_word(&source, &destination).await;
    fault(&source, &destination).await;
    assert_eq!((source.stats().second_sent, destination.stats().second_sent), (None, None));
}

/// Both sides must want it; a destination that alone does would only wait.
#[tokio::test]
async fn a_listener_that_was_not_told_knows_no_such_protocol() {
    let peer = RawPeer::new();
    let listener = listener_with(AuthorizedPeers::new().with(peer.key, "raw"), &options()).await;
    let (_connection, _control, _link) = peer.introduced(&listener).await;
    let refused = |alpn| peer.connect_as(&listener, true, alpn);
    let ours = refused(FAULTS).await.expect_err("not known").to_string();
    assert_eq!(ours, refused(b"h3").await.expect_err("not known").to_string());
    for _ in 0..2 {
        assert!(matches!(turned_away(&listener).await.why, RejectReason::Handshake(_)));
    }
    // A source that insists is told so, before anything is handed over.
    let (source, destination) = pair_with(&listener, &ticket(&listener), &with_second()).await;
    first_word(&source, &destination).await;
    let told = soon(source.recv()).await;
    assert!(
        matches!(told, Err(LinkError::ClosedByPeer { code: CloseCode::REFUSED, .. })),
        "{told:?}"
    );
}

/// How a raw peer is told that it may not attach itself.
async fn refused(peer: &RawPeer, listener: &Listener) {
    if let Ok(connection) = peer.connect_as(listener, true, FAULTS).await {
        let closed = soon(connection.closed()).await;
        let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
        assert_eq!(close.error_code, quinn::VarInt::from_u32(CloseCode::UNKNOWN_SESSION.0));
    }
    let unknown = RejectReason::NotAllowed(CloseCode::UNKNOWN_SESSION);
    assert_eq!(turned_away(listener).await.why, unknown);
}

#[tokio::test]
async fn only_the_key_of_a_link_attaches_itself_and_once() {
    let (peer, other, stranger) = (RawPeer::new(), RawPeer::new(), RawPeer::new());
    let peers = AuthorizedPeers::new().with(peer.key, "raw").with(other.key, "other");
    let listener = listener_with(peers, &with_second()).await;
    refused(&peer, &listener).await; // it has no link yet
    let (_first, _control, link) = peer.introduced(&listener).await;
    refused(&other, &listener).await;
    let unknown = stranger.connect_as(&listener, true, FAULTS).await;
    if let Ok(connection) = unknown {
        let closed = soon(connection.closed()).await;
        assert!(matches!(closed, quinn::ConnectionError::ConnectionClosed(_)), "{closed}");
    }
    assert!(matches!(turned_away(&listener).await.why, RejectReason::Handshake(_)));

    let second = peer.connect_as(&listener, true, FAULTS).await.expect("attached");
    let (wishes, stream) = soon(async { tokio::join!(link.faults(), second.accept_bi()) }).await;
    let (_wishes, mut stream) = (wishes.expect("a stream"), stream.expect("the same"));
    let mut tag = [0];
    soon(stream.1.read_exact(&mut tag)).await.expect("the lane");
    assert_eq!(tag, [2]);
    refused(&peer, &listener).await; // it has one
    // Let go of, the whole link is lost.
    second.close(0_u8.into(), b"");
    assert!(soon(link.recv()).await.is_err_and(|error| error.is_lost()));
    drop(link);
    refused(&peer, &listener).await; // nor is the link there any more
}

/// The ticket of a second connection is the one that its link has used, and stays so.
#[tokio::test]
async fn a_ticket_is_no_better_and_no_worse_for_it() {
    let listener = Arc::new(listener_with(AuthorizedPeers::new(), &with_second()).await);
    let issued = listener.ticket(Duration::from_secs(60)).expect("a ticket");
    let trust = || SourceTrust::Ticket(issued.clone());
    let (source, destination) = pair_with(&listener, &trust(), &with_second()).await;
    first_word(&source, &destination).await;
    fault(&source, &destination).await;
    let again = dial(&target(&listener), &trust(), &with_second()).await;
    let again = again.expect("dialled");
    again.send(&hello(SessionId([8; 16]))).await.expect("sent");
    let told = soon(again.recv()).await;
    assert!(
        matches!(told, Err(LinkError::ClosedByPeer { code: CloseCode::TICKET_USED, .. })),
        "{told:?}"
    );
}

#[tokio::test]
async fn sockets_may_keep_the_buffers_of_the_kernel() {
    for socket_buffer in [true, false] {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let sizes = |socket: &UdpSocket| {
            let received = getsockopt(socket, sockopt::RcvBuf).expect("a size");
            (received, getsockopt(socket, sockopt::SndBuf).expect("a size"))
        };
        let before = sizes(&socket);
        let remedies = Remedies { socket_buffer, ..Remedies::default() };
        let own = Some(socket.try_clone().expect("another"));
        let options = LinkOptions { socket: own, remedies, ..options() };
        let _listener = listener_with(AuthorizedPeers::new(), &options).await;
        assert_eq!(sizes(&socket) != before, socket_buffer);
    }
}
