//! Peers with a key that is known, and bad manners.

use std::time::Duration;

use pages::{ByteCount, PageCount, PageIndex, PageRange, SpaceId, TaskId};
use quinn::{ConnectionError, VarInt};
use transport::PeerMisbehaved;
use transport::quic::{
    AuthorizedPeers, CloseCode, DestinationLink, Incoming, LinkError, LinkOptions, Listener,
    RejectReason,
};
use transport::session::destination;
use transport::wire::limits::{MAX_CONTROL_FRAME, MAX_UNI_STREAMS};
use transport::wire::{
    BlobName, Control, Encoding, Features, Hello, PageRun, SessionId, VersionNumber,
};

use crate::support::{RawPeer, listener_with, options, pair, soon, ticket, turned_away};

async fn stage() -> (RawPeer, Listener) {
    let peer = RawPeer::new();
    let listener = listener_with(AuthorizedPeers::new().with(peer.key, "raw"), &options()).await;
    (peer, listener)
}

/// The peer was told that it broke the protocol.
async fn told_off(connection: &quinn::Connection) {
    match soon(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code, VarInt::from_u32(CloseCode::MISBEHAVED.0));
            assert!(!close.reason.is_empty());
        }
        other => panic!("closed otherwise: {other}"),
    }
}

#[tokio::test]
async fn another_version_is_refused_with_both_lists() {
    let (peer, listener) = stage().await;
    let connection = peer.connect(&listener).await;
    let (mut control, _answers) = connection.open_bi().await.expect("a stream");
    let mut hello = Hello::new(SessionId([1; 16]), Features::NONE, "future");
    hello.versions = vec![VersionNumber(999), VersionNumber(998)];
    control.write_all(&[1]).await.expect("the lane");
    control.write_all(&Control::Hello(hello).encode()).await.expect("hello");
    let link = soon(listener.accept()).await.expect("accepted");
    let message = soon(link.recv()).await.expect("a hello");
    let answering = destination::Answering::new(Features::NONE, "test");
    let Ok(destination::AfterHello::Refused(refuse)) = answering.receive(message) else {
        panic!("not refused");
    };
    let Control::Refuse(reasons) = &refuse else { panic!("no reasons") };
    assert!(reasons[0].reason.contains("999, 998"), "{}", reasons[0]);
}

#[tokio::test]
async fn an_oversized_frame_ends_the_link_before_its_bytes_come() {
    let (peer, listener) = stage().await;
    let (connection, (mut control, _answers), link) = peer.introduced(&listener).await;
    let length = u32::try_from(MAX_CONTROL_FRAME + 1).expect("fits");
    control.write_all(&length.to_be_bytes()).await.expect("written");
    let error = soon(link.recv()).await.expect_err("too long");
    assert!(matches!(error, LinkError::PeerMisbehaved(PeerMisbehaved::Malformed(_))), "{error}");
    told_off(&connection).await;
}

#[tokio::test]
async fn garbage_on_the_control_stream_ends_the_link() {
    let (peer, listener) = stage().await;
    for garbage in [&[0, 0, 0, 2, 0x77, 0x77][..], &[0, 0, 0, 3, 0, 9, 1], &[0, 0, 0, 0]] {
        let (connection, (mut control, _answers), link) = peer.introduced(&listener).await;
        control.write_all(garbage).await.expect("written");
        let error = soon(link.recv()).await.expect_err("garbage");
        assert!(
            matches!(error, LinkError::PeerMisbehaved(PeerMisbehaved::Malformed(_))),
            "{error}"
        );
        told_off(&connection).await;
    }
    let (_connection, (mut control, _answers), link) = peer.introduced(&listener).await;
    control.write_all(&[0, 0]).await.expect("written");
    control.finish().expect("finished");
    let error = soon(link.recv()).await.expect_err("cut");
    assert!(
        matches!(error, LinkError::PeerMisbehaved(PeerMisbehaved::EndedWithin { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn the_first_word_must_be_a_hello() {
    let (peer, listener) = stage().await;
    let connection = peer.connect(&listener).await;
    let (mut control, _answers) = connection.open_bi().await.expect("a stream");
    control.write_all(&[1]).await.expect("the lane");
    control.write_all(&Control::Handoff.encode()).await.expect("written");
    told_off(&connection).await;
    assert_eq!(turned_away(&listener).await.why, RejectReason::NotAllowed(CloseCode::MISBEHAVED));
    let connection = peer.connect(&listener).await;
    let (mut control, _answers) = connection.open_bi().await.expect("a stream");
    control.write_all(b"GET / HTTP/1.1\r\n").await.expect("written");
    told_off(&connection).await;
    assert!(matches!(turned_away(&listener).await.why, RejectReason::Handshake(_)));
}

/// Opens a stream with these bytes and ends it; returns what reading all lanes comes to.
async fn fed(
    connection: &quinn::Connection,
    link: &DestinationLink,
    bytes: &[u8],
) -> Result<(), LinkError> {
    let mut stream = soon(connection.open_uni()).await.expect("a stream");
    stream.write_all(bytes).await.expect("written");
    stream.finish().expect("finished");
    match soon(link.next_lane()).await? {
        Incoming::Bulk(mut pages) | Incoming::Urgent(mut pages) => {
            while soon(pages.next()).await?.is_some() {}
            Ok(())
        }
        Incoming::Blob(blob) => soon(blob.read_all(ByteCount(100))).await.map(drop),
    }
}

#[tokio::test]
async fn garbage_streams_end_the_link() {
    let (peer, listener) = stage().await;
    let space = SpaceId::Process(TaskId(1));
    let range = PageRange::new(PageIndex(1), PageCount(1)).expect("a range");
    let raw = PageRun::raw(space, range).expect("a run").encode();
    let lz4 = PageRun::new(space, range, Encoding::Lz4, 10).expect("a run").encode();
    let mut huge = raw;
    huge[20..24].copy_from_slice(&u32::MAX.to_be_bytes());
    let bulk = |parts: &[&[u8]]| [&[5][..], &parts.concat()].concat();
    let long_blob = [&b"\x03\x04name"[..], &[0; 101]].concat();
    let good = [bulk(&[&raw, &[7; 4096]]), bulk(&[]), b"\x03\x04nameand bytes".to_vec()];
    let bad = [
        vec![],
        vec![0],
        vec![1],
        vec![2],
        b"GET /".to_vec(),
        b"\x03\x00".to_vec(),
        b"\x03\x05a/b/c".to_vec(),
        b"\x03\x03.ab".to_vec(),
        b"\x03\x41".iter().copied().chain([b'a'; 65]).collect(),
        b"\x03\x09short".to_vec(),
        long_blob,
        bulk(&[&raw[..23]]),
        bulk(&[&raw, &[7; 4095]]),
        bulk(&[&huge]),
        bulk(&[&lz4, &[7; 10]]),
        bulk(&[&[0xff; 24]]),
    ];
    let (connection, (_control, _answers), link) = peer.introduced(&listener).await;
    for bytes in good {
        assert_eq!(fed(&connection, &link, &bytes).await, Ok(()), "{bytes:?}");
    }
    for bytes in bad {
        let (connection, (_control, _answers), link) = peer.introduced(&listener).await;
        let error = fed(&connection, &link, &bytes).await.expect_err("garbage");
        assert!(matches!(error, LinkError::PeerMisbehaved(_)), "{bytes:?}: {error}");
        told_off(&connection).await;
    }
}

/// A stream given up before it says anything is nobody's fault.
#[tokio::test]
async fn a_stream_given_up_at_once_is_passed_over() {
    let (peer, listener) = stage().await;
    let (connection, (_control, _answers), link) = peer.introduced(&listener).await;
    let mut given_up = connection.open_uni().await.expect("a stream");
    given_up.write_all(&[3]).await.expect("written");
    given_up.reset(7_u8.into()).expect("reset");
    assert_eq!(fed(&connection, &link, b"\x03\x04name").await, Ok(()));
}

#[tokio::test]
async fn no_more_streams_than_the_limit_can_be_open() {
    let (peer, listener) = stage().await;
    let (connection, (mut control, _answers), link) = peer.introduced(&listener).await;
    let mut open = Vec::new();
    for _ in 0..MAX_UNI_STREAMS {
        let mut stream = soon(connection.open_uni()).await.expect("a stream");
        stream.write_all(&[5]).await.expect("written");
        open.push(stream);
    }
    let one_more = connection.open_uni();
    let second_control = connection.open_bi();
    let flood = async {
        tokio::select! {
            _ = one_more => "a unidirectional stream too many",
            _ = second_control => "a second control stream",
        }
    };
    let peaceful = async {
        control.write_all(&Control::Freezing.encode()).await.expect("written");
        assert_eq!(link.recv().await, Ok(Control::Freezing));
        for _ in 0..MAX_UNI_STREAMS {
            assert!(matches!(link.next_lane().await, Ok(Incoming::Bulk(_))));
        }
    };
    tokio::select! {
        biased;
        opened = flood => panic!("{opened}"),
        () = soon(peaceful) => {}
    }
}

/// One peer that says nothing keeps no other waiting, and is turned away in the end.
#[tokio::test]
async fn a_peer_that_stalls_is_turned_away_and_delays_nobody() {
    let peer = RawPeer::new();
    let hasty = LinkOptions { hello_timeout: Duration::from_millis(1500), ..options() };
    let listener = listener_with(AuthorizedPeers::new().with(peer.key, "raw"), &hasty).await;
    let silent = peer.connect(&listener).await;
    let half = peer.connect(&listener).await;
    let (mut control, _answers) = half.open_bi().await.expect("a stream");
    control.write_all(&[1, 0, 0, 0]).await.expect("half a word");
    // The first to come out of `accept` is the one that came last.
    pair(&listener, &ticket(&listener)).await;
    for _ in 0..2 {
        assert_eq!(turned_away(&listener).await.why, RejectReason::Stalled);
    }
    for connection in [silent, half] {
        let ConnectionError::ApplicationClosed(close) = soon(connection.closed()).await else {
            panic!("not told");
        };
        assert_eq!(close.error_code, VarInt::from_u32(CloseCode::TIMED_OUT.0));
    }
}

/// A crowd of peers that say nothing does not grow without bound, nor lock the door for good.
#[tokio::test]
async fn a_crowd_at_the_door_is_bounded() {
    let peer = RawPeer::new();
    let hasty = LinkOptions { hello_timeout: Duration::from_millis(1000), ..options() };
    let listener = listener_with(AuthorizedPeers::new().with(peer.key, "raw"), &hasty).await;
    let mut connections = Vec::new();
    let mut refused = 0;
    for _ in 0..48 {
        match peer.connect_as(&listener, true, b"qmig/1").await {
            Ok(connection) => connections.push(connection),
            Err(_) => refused += 1,
        }
    }
    assert!(connections.len() <= 48 && refused <= 48);
    let (mut stalled, mut crowded) = (0, 0);
    while stalled < connections.len() {
        match turned_away(&listener).await.why {
            RejectReason::Stalled => stalled += 1,
            RejectReason::Crowded => crowded += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((stalled, crowded <= refused), (connections.len(), true));
    pair(&listener, &ticket(&listener)).await;
}

/// A second session cannot be taken over by a key that is known for something else.
#[tokio::test]
async fn a_session_belongs_to_the_key_that_began_it() {
    let (first, second) = (RawPeer::new(), RawPeer::new());
    let peers = AuthorizedPeers::new().with(first.key, "a").with(second.key, "b");
    let listener = listener_with(peers, &options()).await;
    let session = SessionId([6; 16]);
    let say = async |peer: &RawPeer, message: Control| {
        let connection = peer.connect(&listener).await;
        let (mut control, answers) = connection.open_bi().await.expect("a stream");
        control.write_all(&[1]).await.expect("the lane");
        control.write_all(&message.encode()).await.expect("written");
        (connection, (control, answers), soon(listener.accept()).await)
    };
    let hello = Control::Hello(Hello::new(session, Features::NONE, "raw"));
    let (_kept, _control, accepted) = say(&first, hello.clone()).await;
    accepted.expect("the first");
    for message in [Control::Resume(session), hello] {
        let (connection, _control, accepted) = say(&second, message).await;
        accepted.expect_err("another key");
        let ConnectionError::ApplicationClosed(close) = soon(connection.closed()).await else {
            panic!("not told");
        };
        assert_eq!(close.error_code, VarInt::from_u32(CloseCode::UNKNOWN_SESSION.0));
    }
    let (_connection, _control, accepted) = say(&first, Control::Resume(session)).await;
    accepted.expect("the first again");
}

#[test]
fn names_of_blobs_are_checked_on_our_side_too() {
    assert!(BlobName::new("../etc/passwd").is_err());
}
