//! How fast pages cross on loopback: `cargo run --release -p transport --example rate [MiB]`.
//!
//! Source and destination are two threads with a current-thread runtime each, as in the product.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, SpaceId, TaskId};
use transport::encode;
use transport::quic::{
    CloseCode, Congestion, DestinationTrust, Identity, Incoming, LinkOptions, Listener, MtuBound,
    SourceTrust, dial,
};
use transport::wire::{Control, FaultTotals, Features, Hello, PageRun, SessionId};

fn main() {
    let mut args = std::env::args().skip(1);
    let mib: u32 = args.next().map_or(2048, |text| text.parse().expect("a number of MiB"));
    let (delay, cubic) = (Congestion::Delay, Congestion::Cubic);
    for (name, congestion, mtu, run_pages) in [
        ("1 MiB runs, mtu 1452", delay, MtuBound::Ethernet, 256),
        ("1 MiB runs, mtu 1452, Cubic", cubic, MtuBound::Ethernet, 256),
        ("1 MiB runs, mtu 6500", delay, MtuBound::FirstHop, 256),
        ("4 KiB runs, mtu 1452", delay, MtuBound::Ethernet, 1),
    ] {
        let before = cpu_time();
        let rate = measure(mib, congestion, mtu, run_pages);
        let cpu = (cpu_time() - before).as_secs_f64() * 1024.0 / f64::from(mib);
        println!("{name}: {rate:.0} MB/s, {cpu:.2} s of CPU a GiB for both ends");
    }
}

/// What this process has used so far, in user space and in the kernel.
fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("always there");
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| Duration::from_micros(time.num_microseconds().unsigned_abs()))
        .sum()
}

/// Megabytes a second, from the first page written to the last one read.
fn measure(mib: u32, congestion: Congestion, mtu: MtuBound, run_pages: u64) -> f64 {
    let options = move || LinkOptions { congestion, mtu, ..LinkOptions::default() };
    let (tell, told) = std::sync::mpsc::channel();
    let destination = std::thread::spawn(move || {
        runtime().block_on(async {
            let trust = DestinationTrust::new(Identity::generate().expect("an identity"));
            let listener = Listener::bind("127.0.0.1:0", trust, &options()).await.expect("bound");
            let ticket = listener.ticket(Duration::from_secs(60)).expect("a ticket");
            tell.send((listener.local_addr().expect("an address"), ticket)).expect("told");
            let link = listener.accept().await.expect("accepted");
            let Ok(Incoming::Bulk(mut bulk)) = link.next_lane().await else { panic!("no bulk") };
            let mut pages = 0;
            while let Some((run, bytes)) = bulk.next().await.expect("a run") {
                let content = encode::decode(run, bytes).expect("content");
                std::hint::black_box(content);
                pages += run.range().count().0;
            }
            link.send(&Control::Drained(FaultTotals::default())).await.expect("sent");
            link.closed().await;
            pages
        })
    });
    let (address, ticket) = told.recv().expect("told");
    let took = runtime().block_on(async {
        let trust = SourceTrust::Ticket(ticket);
        let link = dial(&address.to_string(), &trust, &options()).await.expect("dialled");
        let session = SessionId::random().expect("random bytes");
        let hello = Hello::new(session, Features::STOP_AND_COPY, "rate");
        link.send(&Control::Hello(hello)).await.expect("sent");
        let space = SpaceId::Process(TaskId(1));
        let bytes = usize::try_from(run_pages).expect("small") * PAGE_SIZE;
        let start = Instant::now();
        let mut bulk = link.bulk().await.expect("a stream");
        let whole = PageRange::new(PageIndex(0), PageCount(u64::from(mib) * 256)).expect("pages");
        for range in whole.pieces(PageCount(run_pages)) {
            let run = PageRun::raw(space, range).expect("a run");
            bulk.run(run, Bytes::from(vec![7; bytes])).await.expect("written");
        }
        bulk.finish().await.expect("finished");
        assert_eq!(link.recv().await, Ok(Control::Drained(FaultTotals::default())));
        let took = start.elapsed();
        link.close(CloseCode::DONE, "").await;
        took
    });
    assert_eq!(destination.join().expect("no panic"), u64::from(mib) * 256);
    let bytes = f64::from(mib) * 1_048_576.0;
    bytes / 1e6 / took.as_secs_f64()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
