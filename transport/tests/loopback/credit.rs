//! Bulk that waits for credit, and what overtakes it meanwhile.

use bytes::Bytes;
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, SpaceId, TaskId};
use transport::LinkStats;
use transport::quic::credit::Waiting;
use transport::quic::{
    Congestion, DestinationLink, Incoming, Lane, LinkOptions, PageReceiver, Remedies, SourceLink,
};
use transport::wire::{Control, PageRun, Progress, Wanted};

use crate::support::{listener, listener_with, options, pair, pair_with, soon, ticket};

const SPACE: SpaceId = SpaceId::Process(TaskId(1));
/// More than is ever allowed on its way to somebody who may wait for pages on this host.
const PAGES: u64 = 1024;

fn range(start: u64, count: u64) -> PageRange {
    PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
}

fn pages(range: PageRange) -> (PageRun, Bytes) {
    let run = PageRun::raw(SPACE, range).expect("a run");
    (run, vec![7; run.byte_len()].into())
}

/// Sends all pages in runs of 1 MiB, hearing what the destination says.
async fn send(link: SourceLink) {
    let sending = async {
        let mut bulk = link.bulk().await.expect("a stream");
        for piece in range(0, PAGES).pieces(PageCount(256)) {
            let (run, bytes) = pages(piece);
            bulk.run(run, bytes).await.expect("written");
        }
        bulk.finish().await.expect("finished");
    };
    tokio::select! {
        () = sending => {}
        never = async { loop { link.recv().await.expect("progress"); } } => never,
    }
}

async fn bulk(link: &DestinationLink) -> PageReceiver {
    match soon(link.next_lane()).await {
        Ok(Incoming::Bulk(pages)) => pages,
        other => panic!("no bulk: {other:?}"),
    }
}

/// Asks for one page and waits for it.
async fn fault(source: &SourceLink, link: &DestinationLink, bulk: Option<&mut PageReceiver>) {
    let (mut wishes, mut answers) = link.faults().await.expect("a stream");
    wishes.ask(Wanted::new(SPACE, range(5000, 1)).expect("a wish")).await.expect("asked");
    let (mut asked, mut answer) = soon(source.next_faults()).await.expect("a stream");
    let wanted = soon(asked.next()).await.expect("a wish").expect("one");
    let (run, bytes) = pages(wanted.range());
    answer.run(run, bytes).await.expect("answered");
    let answers = bulk.unwrap_or(&mut answers);
    loop {
        let (run, _) = soon(answers.next()).await.expect("an answer").expect("one");
        if run.range() == range(5000, 1) {
            return;
        }
    }
}

#[tokio::test]
async fn bulk_waits_until_it_was_taken_and_faults_do_not() {
    let listener = listener().await;
    let (source, destination) = pair(&listener, &ticket(&listener)).await;
    source.yield_bulk(Waiting::Now);
    let sending = tokio::spawn(send(source.clone()));
    let mut bulk = bulk(&destination).await;
    let mut taken = PageCount(0);
    // Nothing is acknowledged: soon nothing more comes, though everything was read.
    while taken.bytes() < Waiting::Now.tell_after() {
        let (run, _) = soon(bulk.next()).await.expect("a run").expect("one");
        taken.0 += run.range().count().0;
    }
    fault(&source, &destination, None).await;
    assert!(!sending.is_finished(), "only so much may be on its way");
    let mut told = 0;
    while taken < PageCount(PAGES) {
        let (run, _) = tokio::select! {
            run = bulk.next() => run.expect("a run").expect("one"),
            () = destination.consumed_as_much(pages::ByteCount(told + Waiting::Now.tell_after().0)) => {
                told = destination.consumed().0;
                let progress = Progress { pages: taken, bytes: destination.consumed() };
                destination.send(&Control::Progress(progress)).await.expect("told");
                continue;
            }
        };
        assert!(run.range().count() <= PageCount(8), "small runs while somebody may wait");
        taken.0 += run.range().count().0;
    }
    soon(sending).await.expect("all sent");
    let stats = source.stats();
    let sent = stats.lanes.iter().find(|lane| lane.lane == Lane::Bulk).expect("bulk").sent;
    assert_eq!(sent.0, 1 + PAGES * PAGE_SIZE as u64 + PAGES / 8 * 24);
    let stats = destination.stats();
    let got =
        |lane: Lane| stats.lanes.iter().find(|stats| stats.lane == lane).expect("all").received;
    assert_eq!(got(Lane::Bulk).0, sent.0 - 1, "without the tag");
    assert_eq!(got(Lane::Faults).0, 24 + PAGE_SIZE as u64);
    assert!(got(Lane::Control).0 > 0);
    let frames = |stats: &LinkStats, lane: Lane| {
        let lane = stats.lanes.iter().find(|stats| stats.lane == lane).expect("all");
        (lane.sent_frames, lane.received_frames)
    };
    assert_eq!(frames(&source.stats(), Lane::Bulk), (PAGES / 8, 0), "runs of pages");
    assert_eq!(frames(&stats, Lane::Bulk), (0, PAGES / 8));
    assert_eq!(frames(&stats, Lane::Faults), (1, 1), "a wish and its page");
}

/// What each remedy is worth can be seen because it can be left out.
#[tokio::test]
async fn without_remedies_all_pages_share_one_stream() {
    let remedies =
        Remedies { priorities: false, credit: false, streams: false, ..Remedies::default() };
    let bare = LinkOptions { remedies, congestion: Congestion::Cubic, ..options() };
    let listener = listener_with(Default::default(), &bare).await;
    let (source, destination) = pair_with(&listener, &ticket(&listener), &bare).await;
    source.yield_bulk(Waiting::Now);
    soon(send(source.clone())).await;
    let mut bulk = bulk(&destination).await;
    fault(&source, &destination, Some(&mut bulk)).await;
}
