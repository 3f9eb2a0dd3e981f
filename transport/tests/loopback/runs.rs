//! Runs of pages, one by one and by the handful.

use bytes::Bytes;
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, SpaceId, TaskId};
use transport::quic::{DestinationLink, Incoming, PageReceiver, SourceLink};
use transport::wire::PageRun;

use crate::support::{impatient, listener, pair, soon, ticket};

const SPACE: SpaceId = SpaceId::Process(TaskId(1));

fn range(start: u64, count: u64) -> PageRange {
    PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
}

/// Every second page, filled with its number.
fn single(number: u8) -> (PageRun, Bytes) {
    let run = PageRun::raw(SPACE, range(2 * u64::from(number), 1)).expect("a run");
    (run, vec![number; PAGE_SIZE].into())
}

async fn bulk(destination: &DestinationLink) -> PageReceiver {
    match soon(destination.next_lane()).await {
        Ok(Incoming::Bulk(receiver)) => receiver,
        other => panic!("no bulk lane: {other:?}"),
    }
}

/// Many short runs are collected; none is lost, changed or held back past a flush.
#[tokio::test]
async fn short_runs_arrive_after_a_flush() {
    let listener = listener().await;
    let trust = ticket(&listener);
    let (source, destination) = pair(&listener, &trust).await;
    let mut bulk = source.bulk().await.expect("a stream");
    for number in 0..5 {
        let (run, bytes) = single(number);
        bulk.run(run, bytes).await.expect("written");
    }
    let zeros = PageRun::zero(SPACE, range(100, 1 << 20)).expect("a run");
    bulk.run(zeros, Bytes::new()).await.expect("written");
    bulk.flush().await.expect("flushed");
    let mut receiver = self::bulk(&destination).await;
    for number in 0..5 {
        assert_eq!(soon(receiver.next()).await, Ok(Some(single(number))));
    }
    let (run, bytes) = soon(receiver.next()).await.expect("well formed").expect("a run");
    assert_eq!((run, bytes.len()), (zeros, 0));
    bulk.finish().await.expect("finished");
    assert_eq!(soon(receiver.next()).await, Ok(None));
}

/// What has come is one handful, up to as many pages as are wanted; what has not is not waited for.
#[tokio::test]
async fn a_handful_is_what_has_come() {
    let listener = listener().await;
    let (source, destination) = pair(&listener, &ticket(&listener)).await;
    let mut sender = source.bulk().await.expect("a stream");
    for number in 0..40 {
        let (run, bytes) = single(number);
        sender.run(run, bytes).await.expect("written");
    }
    sender.flush().await.expect("flushed");
    let mut receiver = bulk(&destination).await;
    // With what surrounds them, this is more than 32 pages and less than 40.
    while destination.stats().received.0 < 38 * PAGE_SIZE as u64 {
        tokio::task::yield_now().await;
    }
    let mut due = 0..40;
    for _ in 0..2 {
        let handful = soon(receiver.next_handful(PageCount(16))).await.expect("well formed");
        assert_eq!(handful, due.by_ref().take(16).map(single).collect::<Vec<_>>());
    }
    while !due.is_empty() {
        let handful = soon(receiver.next_handful(PageCount(16))).await.expect("well formed");
        let expected: Vec<_> = due.by_ref().take(handful.len()).map(single).collect();
        assert_eq!(handful, expected);
    }
    // One run is taken whole.
    let long = PageRun::zero(SPACE, range(100, 1 << 20)).expect("a run");
    sender.run(long, Bytes::new()).await.expect("written");
    sender.flush().await.expect("flushed");
    let handful = soon(receiver.next_handful(PageCount(16))).await;
    assert_eq!(handful, Ok(vec![(long, Bytes::new())]));
    sender.finish().await.expect("finished");
    assert_eq!(soon(receiver.next_handful(PageCount(16))).await, Ok(Vec::new()));
}

/// Waiting for a handful may be given up at any moment without losing a run.
#[tokio::test]
async fn waiting_for_a_handful_can_be_given_up() {
    async fn send(source: SourceLink) -> SourceLink {
        let mut sender = source.bulk().await.expect("a stream");
        for number in 0..250 {
            let (run, bytes) = single(number);
            sender.run(run, bytes).await.expect("written");
            if number % 7 == 0 {
                sender.flush().await.expect("flushed");
                tokio::task::yield_now().await;
            }
        }
        sender.finish().await.expect("finished");
        source
    }
    let listener = listener().await;
    let (source, destination) = pair(&listener, &ticket(&listener)).await;
    let sending = tokio::spawn(send(source));
    let received = async {
        let mut receiver = bulk(&destination).await;
        let mut all = Vec::new();
        loop {
            let handful = impatient(async || receiver.next_handful(PageCount(5)).await).await;
            let handful = handful.expect("well formed");
            assert!(handful.len() <= 5);
            if handful.is_empty() {
                return all;
            }
            all.extend(handful);
        }
    };
    assert_eq!(soon(received).await, (0..250).map(single).collect::<Vec<_>>());
    soon(sending).await.expect("no panic");
}
