//! Links that do what they should.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::time::Duration;

use bytes::Bytes;
use pages::{ByteCount, PAGE_SIZE, PageCount, PageIndex, PageRange, SpaceId, TaskId};
use transport::encode::{self, Content};
use transport::quic::{
    CloseCode, DestinationLink, Incoming, Known, LinkError, LinkOptions, Lost, SourceLink, dial,
};
use transport::session::{destination, source};
use transport::wire::{
    BlobName, BlobTotal, Control, FaultTotals, Features, Manifest, PageRun, SessionId, SpaceTotal,
    Wanted,
};

use crate::support::{hello, impatient, listener, options, pair, pair_with, soon, target, ticket};

const SPACE: SpaceId = SpaceId::Process(TaskId(1));
/// A page, or a part of a blob, is filled with the low byte of its number.
fn letter(number: impl Into<u64>) -> u8 {
    number.into().to_le_bytes()[0]
}

const PAGES: u64 = (64 << 20) / PAGE_SIZE as u64;

/// Memory in which every eighth page, and one long stretch, is zero.
fn memory() -> Vec<u8> {
    let mut seed = 1_u64;
    let mut bytes = Vec::new();
    for page in 0..PAGES {
        if page % 8 == 3 || (5000..7000).contains(&page) {
            bytes.resize(bytes.len() + PAGE_SIZE, 0);
            continue;
        }
        for _ in 0..PAGE_SIZE / 8 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.extend(seed.to_le_bytes());
        }
    }
    bytes
}

fn range(start: u64, count: u64) -> PageRange {
    PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
}

fn blobs() -> [(BlobName, Bytes); 4] {
    let name = |name| BlobName::new(name).expect("a name");
    [
        (name("plan"), Bytes::from_static(b"one process")),
        (name("empty.img"), Bytes::new()),
        (name("core-1.img"), vec![7; 100_000].into()),
        (name("tmpfs-2.tar"), vec![9; 3_000_000].into()),
    ]
}

/// The source's whole story.
async fn migrate_out(link: SourceLink, memory: Bytes) {
    let session = SessionId::random().expect("random bytes");
    let (offering, hello) = source::Offering::new(session, Features::STOP_AND_COPY, "test");
    link.send(&hello).await.expect("sent");
    let Ok(source::AfterHello::Greeted(greeted)) =
        offering.receive(link.recv().await.expect("a reply"))
    else {
        panic!("not greeted");
    };
    let mut totals = Vec::new();
    let mut blobs = blobs().into_iter();
    let mut send_blob = async |(name, bytes): (BlobName, Bytes)| {
        let mut sender = link.blob(&name).await.expect("a stream");
        for piece in bytes.chunks(40_000) {
            sender.write(bytes.slice_ref(piece)).await.expect("written");
        }
        let bytes = sender.finish().await.expect("finished");
        totals.push(BlobTotal { name, bytes });
    };
    send_blob(blobs.next().expect("a plan")).await;
    let Ok(source::AfterPlan::Agreed(agreed)) =
        greeted.receive(link.recv().await.expect("an answer"))
    else {
        panic!("not agreed");
    };
    let (frozen, freezing) = agreed.freeze("the right to run");
    link.send(&freezing).await.expect("sent");
    let mut bulk = link.bulk().await.expect("a stream");
    for piece in range(0, PAGES).pieces(PageCount(1024)) {
        let start = usize::try_from(piece.start().0).expect("small") * PAGE_SIZE;
        let length = usize::try_from(piece.bytes().0).expect("small");
        for (run, bytes) in encode::runs(SPACE, piece, memory.slice(start..start + length)) {
            bulk.run(run, bytes).await.expect("written");
        }
    }
    bulk.finish().await.expect("finished");
    for blob in blobs {
        send_blob(blob).await;
    }
    let spaces = vec![SpaceTotal { space: SPACE, sent: PageCount(PAGES), owed: PageCount(0) }];
    let manifest = Manifest::new(totals, spaces).expect("a manifest");
    link.send(&frozen.manifest(manifest)).await.expect("sent");
    let source::AfterFreeze::Staged(frozen, proof) =
        frozen.receive(link.recv().await.expect("an answer"))
    else {
        panic!("not staged");
    };
    let (committed, handoff) = frozen.commit(proof);
    link.send(&handoff).await.expect("sent");
    let source::AfterHandoff::Running(serving, started) =
        committed.receive(link.recv().await.expect("an answer"))
    else {
        panic!("not running");
    };
    assert_eq!(started.task, TaskId(1));
    let source::AfterServing::Finished(finished, _) =
        serving.receive(link.recv().await.expect("an answer"))
    else {
        panic!("not finished");
    };
    assert_eq!(finished.into_stale(), "the right to run");
    link.close(CloseCode::DONE, "").await;
}

/// The destination's whole story; returns what arrived.
async fn migrate_in(link: DestinationLink) -> (HashMap<BlobName, Vec<u8>>, Vec<u8>) {
    let answering = destination::Answering::new(Features::STOP_AND_COPY, "test");
    let Ok(destination::AfterHello::Greeted(greeted, reply)) =
        answering.receive(link.recv().await.expect("a hello"))
    else {
        panic!("not greeted");
    };
    link.send(&reply).await.expect("sent");
    let mut blobs = HashMap::new();
    let Ok(Incoming::Blob(plan)) = link.next_lane().await else { panic!("no plan") };
    let name = plan.name().clone();
    blobs.insert(name, plan.read_all(ByteCount(1000)).await.expect("the plan"));
    let (checked, ready) = greeted.ready();
    link.send(&ready).await.expect("sent");
    let Ok(destination::AfterFilling::Freezing(filling)) =
        checked.receive(link.recv().await.expect("a message"))
    else {
        panic!("not frozen");
    };
    // Lanes and control are read side by side, as a driver does.
    let lanes = {
        let link = link.clone();
        tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            let mut memory = Vec::new();
            while tasks.len() < 3 || memory.is_empty() {
                match link.next_lane().await.expect("a lane") {
                    Incoming::Blob(blob) => {
                        tasks.spawn(async move {
                            let name = blob.name().clone();
                            (name, blob.read_all(ByteCount(4_000_000)).await.expect("a blob"))
                        });
                    }
                    Incoming::Bulk(mut bulk) => {
                        while let Some((run, bytes)) = bulk.next().await.expect("a run") {
                            assert_eq!(run.space(), SPACE);
                            assert_eq!(run.range().start_addr().0, memory.len() as u64, "in order");
                            match encode::decode(run, bytes).expect("content") {
                                Content::Zero => {
                                    let bytes = usize::try_from(run.range().bytes().0);
                                    memory.resize(memory.len() + bytes.expect("small"), 0);
                                }
                                Content::Bytes(bytes) => memory.extend_from_slice(&bytes),
                            }
                        }
                    }
                    Incoming::Urgent(_) => panic!("nothing is urgent"),
                }
            }
            (tasks.join_all().await, memory)
        })
    };
    let Ok(destination::AfterFilling::Manifest(building, manifest)) =
        filling.receive(link.recv().await.expect("a message"))
    else {
        panic!("no manifest");
    };
    let (rest, memory) = lanes.await.expect("no panic");
    blobs.extend(rest);
    assert_eq!(manifest.blobs().len(), blobs.len());
    for total in manifest.blobs() {
        assert_eq!(blobs[&total.name].len() as u64, total.bytes.0, "{}", total.name);
    }
    assert_eq!(manifest.spaces()[0].sent, PageCount(PAGES));
    let (staged, message) =
        building.stage("the tree", Duration::from_millis(1), Duration::from_secs(30));
    link.send(&message).await.expect("sent");
    let destination::AfterStaged::Entrusted(entrusted) =
        staged.receive(link.recv().await.expect("a message"))
    else {
        panic!("not entrusted");
    };
    let (running, tree, message) = entrusted.launched(TaskId(1), Duration::from_millis(1));
    assert_eq!(tree, "the tree");
    link.send(&message).await.expect("sent");
    let (draining, message) = running.drained(FaultTotals::default());
    link.send(&message).await.expect("sent");
    let goodbye = link.recv().await.expect_err("nothing more");
    assert_eq!(goodbye, LinkError::ClosedByPeer { code: CloseCode::DONE, reason: String::new() });
    draining.finish();
    (blobs, memory)
}

#[tokio::test]
async fn a_whole_migration_crosses() {
    let listener = listener().await;
    let trust = ticket(&listener);
    let memory = Bytes::from(memory());
    let out = async {
        let link = dial(&target(&listener), &trust, &options()).await.expect("dialled");
        assert_eq!(link.peer().key, listener.fingerprint());
        migrate_out(link.clone(), memory.clone()).await;
        link
    };
    let within = async {
        let link = listener.accept().await.expect("accepted");
        assert_eq!(link.peer().known, Known::Ticket);
        migrate_in(link).await
    };
    let (link, (arrived, copy)) = soon(async { tokio::join!(out, within) }).await;
    assert!(copy == memory, "every page arrived as it was");
    for (name, bytes) in blobs() {
        assert!(arrived[&name] == bytes, "{name}");
    }
    let sent = link.stats().sent.0;
    let nonzero = memory.chunks(PAGE_SIZE).filter(|page| !pages::is_zero(page)).count();
    let carried = (nonzero * PAGE_SIZE) as u64;
    assert!(sent > carried && sent < carried * 11 / 10 + 4_000_000, "{sent} for {carried}");
}

#[tokio::test]
async fn wishes_go_up_and_pages_come_down() {
    let listener = listener().await;
    let trust = ticket(&listener);
    let (source, destination) = pair(&listener, &trust).await;
    let (mut wishes, mut answers) = destination.faults().await.expect("a stream");
    let (mut asked, mut pages) = soon(source.next_faults()).await.expect("a stream");
    for page in [7, 9, 7] {
        let wanted = Wanted::new(SPACE, range(page, 1)).expect("a wish");
        wishes.ask(wanted).await.expect("asked");
        let heard = soon(asked.next()).await.expect("well formed").expect("a wish");
        assert_eq!(heard, wanted);
        let run = PageRun::raw(heard.space(), heard.range()).expect("a run");
        pages.run(run, vec![letter(page); PAGE_SIZE].into()).await.expect("sent");
        let (run, bytes) = soon(answers.next()).await.expect("well formed").expect("a run");
        assert_eq!(run.range(), wanted.range());
        assert!(bytes.iter().all(|byte| u64::from(*byte) == page));
    }
    wishes.finish().await.expect("finished");
    assert_eq!(soon(asked.next()).await, Ok(None));
}

/// Waiting for anything may be given up at any moment without losing a byte.
#[tokio::test]
async fn waiting_can_be_given_up() {
    let listener = listener().await;
    let trust = ticket(&listener);
    let (source, destination) = pair(&listener, &trust).await;
    let name = BlobName::new("name").expect("a name");
    let sending = tokio::spawn(async move {
        let mut blob = source.blob(&name).await.expect("a stream");
        let mut bulk = source.bulk().await.expect("a stream");
        for count in 0..200_u32 {
            blob.write(vec![letter(count); 50].into()).await.expect("written");
            let run = PageRun::raw(SPACE, range(u64::from(count), 3)).expect("a run");
            bulk.run(run, vec![letter(count); 3 * PAGE_SIZE].into()).await.expect("written");
            bulk.flush().await.expect("flushed");
            source.send(&Control::Ready).await.expect("sent");
            tokio::task::yield_now().await;
        }
        blob.finish().await.expect("finished");
        bulk.finish().await.expect("finished");
        source
    });
    let received = async {
        let (mut bulk, mut blob) = (None, None);
        while bulk.is_none() || blob.is_none() {
            match impatient(async || destination.next_lane().await).await.expect("a lane") {
                Incoming::Bulk(receiver) => bulk = Some(receiver),
                Incoming::Blob(receiver) => blob = Some(receiver),
                Incoming::Urgent(_) => panic!("nothing is urgent"),
            }
        }
        let (mut bulk, mut blob) = (bulk.expect("bulk"), blob.expect("a blob"));
        for count in 0..200_u32 {
            let next = impatient(async || bulk.next().await).await;
            let (run, bytes) = next.expect("well formed").expect("a run");
            assert_eq!(run.range().start().0, u64::from(count));
            assert_eq!(bytes, vec![letter(count); 3 * PAGE_SIZE]);
            let ready = impatient(async || destination.recv().await).await;
            assert_eq!(ready, Ok(Control::Ready));
        }
        let mut all = Vec::new();
        while let Some(chunk) = impatient(async || blob.chunk().await).await.expect("a chunk") {
            all.extend_from_slice(&chunk);
        }
        assert_eq!(all.len(), 200 * 50);
        assert!(
            all.chunks(50).enumerate().all(|(at, part)| part.iter().all(|b| usize::from(*b) == at))
        );
    };
    soon(received).await;
    soon(sending).await.expect("no panic");
}

/// Bulk that nobody reads does not keep a control message from coming through.
#[tokio::test]
async fn control_passes_a_full_bulk_stream() {
    let listener = listener().await;
    let trust = ticket(&listener);
    let (source, destination) = pair(&listener, &trust).await;
    let mut bulk = source.bulk().await.expect("a stream");
    let page = Bytes::from(vec![1; 1 << 20]);
    let run = PageRun::raw(SPACE, range(0, 256)).expect("a run");
    let stuck = async {
        for _ in 0..64 {
            bulk.run(run, page.clone()).await.expect("written");
        }
    };
    let control = async {
        // Only once the stream window is full does the question arise.
        while source.stats().sent.0 < 32 << 20 {
            tokio::task::yield_now().await;
        }
        source.send(&Control::Ready).await.expect("sent");
        destination.recv().await
    };
    tokio::select! {
        () = stuck => panic!("64 MiB fit where nobody reads"),
        heard = soon(control) => assert_eq!(heard, Ok(Control::Ready)),
    }
}

/// The last message before a close is heard, however fast the close follows.
#[tokio::test]
async fn the_last_word_is_heard_before_the_close() {
    let listener = listener().await;
    for _ in 0..20 {
        let trust = ticket(&listener);
        let (source, destination) = pair(&listener, &trust).await;
        let refusing = async {
            destination.send(&Control::Refuse(Vec::new())).await.expect("sent");
            destination.close(CloseCode::REFUSED, "see above").await;
        };
        let hearing = async {
            assert_eq!(source.recv().await, Ok(Control::Refuse(Vec::new())));
            source.recv().await.expect_err("closed")
        };
        let ((), closed) = soon(async { tokio::join!(refusing, hearing) }).await;
        let (code, reason) = (CloseCode::REFUSED, "see above".to_owned());
        assert_eq!(closed, LinkError::ClosedByPeer { code, reason });
    }
}

#[tokio::test]
async fn a_blob_that_was_dropped_is_not_a_whole_one() {
    let listener = listener().await;
    let trust = ticket(&listener);
    let (source, destination) = pair(&listener, &trust).await;
    let name = BlobName::new("half.img").expect("a name");
    let mut sender = source.blob(&name).await.expect("a stream");
    sender.write(vec![1; 200_000].into()).await.expect("written");
    let Ok(Incoming::Blob(mut blob)) = soon(destination.next_lane()).await else {
        panic!("no blob");
    };
    assert!(soon(blob.chunk()).await.expect("a chunk").is_some());
    drop(sender);
    let error = soon(blob.read_all(ByteCount(1 << 20))).await.expect_err("given up");
    assert!(matches!(error, LinkError::StreamGivenUp { .. }), "{error}");
}

/// A source that is gone, and comes back with the same ticket and session.
#[tokio::test]
async fn a_lost_source_resumes_with_its_ticket() {
    let listener = listener().await;
    let trust = ticket(&listener);
    let session = SessionId([9; 16]);
    let first = dial(&target(&listener), &trust, &options()).await.expect("dialled");
    first.send(&hello(session)).await.expect("hello");
    let link = soon(listener.accept()).await.expect("accepted");
    assert_eq!(soon(link.recv()).await, Ok(hello(session)));
    drop(first);
    let lost = soon(link.recv()).await.expect_err("the source is gone");
    assert_eq!(lost, LinkError::Lost(Lost::LetGo));
    assert!(lost.is_lost());

    let second = dial(&target(&listener), &trust, &options()).await.expect("dialled again");
    second.send(&Control::Resume(session)).await.expect("resumes");
    let again = soon(listener.accept()).await.expect("accepted again");
    assert_eq!(again.peer().key, link.peer().key);
    assert_eq!(soon(again.recv()).await, Ok(Control::Resume(session)));
}

/// A peer that hears nothing for the idle time knows that the link is lost, and so does the other.
#[tokio::test]
async fn silence_becomes_a_lost_link() {
    let quiet =
        LinkOptions { idle_timeout: Duration::from_millis(300), keep_alive: None, ..options() };
    let listener = listener().await;
    let trust = ticket(&listener);
    let (source, destination) = pair_with(&listener, &trust, &quiet).await;
    let (left, right) = soon(async { tokio::join!(source.recv(), destination.recv()) }).await;
    assert_eq!(left, Err(LinkError::Lost(Lost::TimedOut)));
    assert!(right.expect_err("lost").is_lost());
}

/// The same idle time, but with keep-alives: the link outlives it.
#[tokio::test]
async fn keep_alives_keep_a_silent_link() {
    let lively = LinkOptions {
        idle_timeout: Duration::from_millis(300),
        keep_alive: Some(Duration::from_millis(50)),
        ..options()
    };
    let listener = listener().await;
    let trust = ticket(&listener);
    let (source, destination) = pair_with(&listener, &trust, &lively).await;
    let silence = tokio::time::timeout(Duration::from_millis(900), source.recv()).await;
    assert!(silence.is_err(), "nothing happened for three idle times: {silence:?}");
    destination.send(&Control::Ready).await.expect("sent");
    assert_eq!(soon(source.recv()).await, Ok(Control::Ready));
}

#[tokio::test]
async fn inherited_sockets_are_used() {
    let bound = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = bound.local_addr().expect("an address");
    let theirs = LinkOptions { socket: Some(bound), ..options() };
    let listener = crate::support::listener_with(Default::default(), &theirs).await;
    assert_eq!(listener.local_addr().expect("an address"), address);
    let ours = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let from = ours.local_addr().expect("an address");
    let ours = LinkOptions { socket: Some(ours), ..options() };
    let trust = ticket(&listener);
    let (_source, destination) = pair_with(&listener, &trust, &ours).await;
    assert_eq!(destination.peer().address, from);
}
