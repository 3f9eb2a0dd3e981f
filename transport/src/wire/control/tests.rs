//! Every message there and back, and every way to lie about one.

use pages::{PageIndex, PageRange, SharedId, SpaceId, TaskId};

use super::*;
use crate::wire::limits::{MAX_BLOBS, MAX_REFUSALS, MAX_SPACES};
use crate::wire::{BlobName, BlobTotal, Features, SpaceTotal, Version, VersionNumber};

/// One of each kind, with every field filled.
pub(crate) fn one_of_each() -> Vec<Control> {
    let running = Running { task: TaskId(77), after: Duration::from_micros(1234) };
    let refusal = Refusal {
        object: "file descriptor 7".to_owned(),
        place: "process 3, /dev/fuse".to_owned(),
        reason: "cannot be carried".to_owned(),
        hint: "close it".to_owned(),
    };
    let blobs = vec![BlobTotal {
        name: BlobName::new("core-1.img").expect("a name"),
        bytes: ByteCount(99),
    }];
    let spaces = vec![
        SpaceTotal { space: SpaceId::Process(TaskId(1)), sent: PageCount(2), owed: PageCount(3) },
        SpaceTotal { space: SpaceId::Shared(SharedId(4)), sent: PageCount(5), owed: PageCount(0) },
    ];
    let range = |start, count| {
        PageRange::new(PageIndex(start), PageCount(count)).expect("pages inside a space")
    };
    let mut hello = Hello::new(SessionId([7; 16]), Features::STOP_AND_COPY, "qmig 0.1.0");
    hello.versions.push(VersionNumber(900));
    vec![
        Control::Hello(hello),
        Control::HelloReply(HelloReply {
            version: Version::V1,
            features: Features(u64::MAX),
            software: "qmig".to_owned(),
        }),
        Control::Refuse(vec![refusal.clone(), refusal]),
        Control::Ready,
        Control::RoundEnd(RoundEnd { round: 3, pages: PageCount(4), dirty: PageCount(1) }),
        Control::Freezing,
        Control::Manifest(Manifest::new(blobs, spaces).expect("a manifest")),
        Control::Staged(Staged { built_in: Duration::from_micros(9) }),
        Control::Handoff,
        Control::Running(running),
        Control::Drained(FaultTotals {
            count: 3,
            p50: Duration::from_micros(4),
            p99: Duration::from_micros(5),
            longest: Duration::from_micros(6),
            buckets: vec![0, 0, 0, 3],
        }),
        Control::Missing(Missing {
            space: SpaceId::Process(TaskId(3)),
            ranges: vec![range(1, 2), range(9, 1 << 30)],
            last: true,
        }),
        Control::Progress(Progress { pages: PageCount(8), bytes: ByteCount(9) }),
        Control::Abort(Abort::new(AbortCode(400), "out of patience")),
        Control::Resume(SessionId([9; 16])),
        Control::ResumeReply(PeerPhase::Drained(running)),
        Control::Release,
        Control::Released,
        Control::Probe(Probe { wish: true }),
        Control::Probed(Probed { waited: Duration::from_micros(20_100) }),
    ]
}

#[test]
fn every_message_comes_back_as_it_was() {
    let messages = one_of_each();
    assert_eq!(messages.len(), Kind::ALL.len(), "one of each kind");
    let mut buffer = BytesMut::new();
    for message in &messages {
        buffer.extend_from_slice(&message.encode());
    }
    for message in &messages {
        assert_eq!(take_frame(&mut buffer), Ok(Some(message.clone())));
    }
    assert_eq!(take_frame(&mut buffer), Ok(None));
    for phase in [PeerPhase::Filling, PeerPhase::Staged, PeerPhase::Entrusted, PeerPhase::Released]
    {
        let frame = Control::ResumeReply(phase).encode();
        assert_eq!(Control::decode(&frame[4..]), Ok(Control::ResumeReply(phase)));
    }
}

#[test]
fn a_message_cut_or_extended_anywhere_is_refused() {
    for message in one_of_each() {
        let frame = message.encode();
        for cut in 4..frame.len() {
            assert!(Control::decode(&frame[4..cut]).is_err(), "{message:?} cut at {cut}");
        }
        let mut longer = frame[4..].to_vec();
        longer.push(0);
        let error = Control::decode(&longer).expect_err("a byte too many");
        assert_eq!(error.got, Got::Surplus(1), "{message:?}");
    }
}

/// Flipping any bit never panics, and never yields the same message.
#[test]
fn no_flipped_bit_goes_unseen_or_panics() {
    for message in one_of_each() {
        let frame = message.encode();
        for bit in 0..(frame.len() - 4) * 8 {
            let mut flipped = frame[4..].to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = Control::decode(&flipped) {
                assert_ne!(other, message, "bit {bit}");
            }
        }
    }
}

#[test]
fn an_oversized_frame_is_refused_before_its_bytes_come() {
    let mut buffer = BytesMut::from(&[0, 0x10, 0, 1][..]);
    let error = take_frame(&mut buffer).expect_err("1 MiB and one byte");
    assert_eq!(error.got, Got::Length(0x10_0001));
    let mut buffer = BytesMut::from(&[0, 0x10, 0, 0][..]);
    assert_eq!(take_frame(&mut buffer), Ok(None), "exactly the limit may come");
}

#[test]
fn unknown_kinds_say_what_was_expected_and_what_came() {
    let error = Control::decode(&[0x12, 0x34]).expect_err("no such kind");
    assert_eq!(
        error.to_string(),
        "at byte 2 of control message: expected a kind of message from 1 to 20, got 4660"
    );
}

#[test]
fn a_peers_text_cannot_talk_to_the_terminal() {
    let abort = Control::Abort(Abort::new(AbortCode::FAILED, "\u{1b}[2Jgone\n"));
    let Ok(Control::Abort(abort)) = Control::decode(&abort.encode()[4..]) else {
        panic!("an abort");
    };
    assert_eq!(abort.reason, "\u{fffd}[2Jgone\u{fffd}");
}

#[test]
fn our_own_long_texts_are_cut_between_characters() {
    let abort = Control::Abort(Abort::new(AbortCode::FAILED, "é".repeat(400)));
    let Ok(Control::Abort(abort)) = Control::decode(&abort.encode()[4..]) else {
        panic!("an abort");
    };
    assert_eq!(abort.reason, "é".repeat(256));
}

#[test]
fn the_largest_messages_fit_a_frame() {
    let text = |bytes| "x".repeat(bytes);
    let refusal =
        Refusal { object: text(5000), place: text(5000), reason: text(5000), hint: text(5000) };
    let frame = Control::Refuse(vec![refusal; 300]).encode();
    let Ok(Control::Refuse(refusals)) = Control::decode(&frame[4..]) else {
        panic!("a refusal");
    };
    assert_eq!(refusals.len(), MAX_REFUSALS);
    let name = BlobName::new(&text(64)).expect("a name");
    let blobs = vec![BlobTotal { name, bytes: ByteCount(u64::MAX) }; MAX_BLOBS];
    let space = SpaceId::Process(TaskId(1));
    let spaces = vec![SpaceTotal { space, sent: PageCount(1), owed: PageCount(1) }; MAX_SPACES];
    assert!(Manifest::new(blobs.clone(), vec![spaces[0]; MAX_SPACES + 1]).is_err());
    let manifest = Control::Manifest(Manifest::new(blobs, spaces).expect("a manifest"));
    assert_eq!(Control::decode(&manifest.encode()[4..]), Ok(manifest));
}
