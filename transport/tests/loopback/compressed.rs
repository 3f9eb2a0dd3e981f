//! Runs in fewer bytes than their pages.

use bytes::Bytes;
use pages::{PageCount, PageIndex, PageRange, SpaceId, TaskId};
use transport::PeerMisbehaved;
use transport::encode::{Compression, Content, Squeezer, decode};
use transport::quic::{Incoming, LinkError};
use transport::wire::{Encoding, Features, PageRun};

use crate::support::{listener, pair, soon, ticket};

fn text() -> (PageRun, Bytes) {
    let range = PageRange::new(PageIndex(1), PageCount(256)).expect("a range");
    let run = PageRun::raw(SpaceId::Process(TaskId(1)), range).expect("a run");
    (run, b"all work and no play ".iter().copied().cycle().take(run.byte_len()).collect())
}

#[tokio::test]
async fn compressed_runs_cross_where_both_agreed() {
    let both = Features::LZ4.with(Features::ZSTD);
    let listener = listener().await;
    for asked in [Compression::Lz4, Compression::Zstd(3)] {
        let (source, destination) = pair(&listener, &ticket(&listener)).await;
        destination.agree(both);
        let (run, bytes) = text();
        let mut bulk = source.bulk().await.expect("a stream");
        let (small, squeezed) = Squeezer::new(asked, both).run(run, bytes.clone());
        assert_ne!(small.encoding(), Encoding::Raw);
        bulk.run(small, squeezed).await.expect("written");
        bulk.finish().await.expect("finished");
        let Ok(Incoming::Bulk(mut pages)) = soon(destination.next_lane()).await else {
            panic!("no bulk")
        };
        let (got, squeezed) = soon(pages.next()).await.expect("a run").expect("one");
        assert_eq!(got, small);
        assert_eq!(decode(got, squeezed), Ok(Content::Bytes(bytes)));
        assert!(destination.stats().received.0 < 256 << 10, "fewer bytes on the wire");
    }
}

#[tokio::test]
async fn compressed_runs_that_were_not_agreed_end_the_link() {
    let listener = listener().await;
    let (source, destination) = pair(&listener, &ticket(&listener)).await;
    destination.agree(Features::ZSTD);
    let (run, bytes) = text();
    let mut bulk = source.bulk().await.expect("a stream");
    let (small, squeezed) = Squeezer::new(Compression::Lz4, Features::LZ4).run(run, bytes);
    bulk.run(small, squeezed).await.expect("written");
    bulk.flush().await.expect("on its way");
    let Ok(Incoming::Bulk(mut pages)) = soon(destination.next_lane()).await else {
        panic!("no bulk")
    };
    let (space, encoding) = (run.space(), Encoding::Lz4);
    let error = PeerMisbehaved::EncodingNotAgreed { space, encoding };
    assert_eq!(soon(pages.next()).await, Err(LinkError::PeerMisbehaved(error)));
}
