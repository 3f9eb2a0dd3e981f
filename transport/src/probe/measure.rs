//! The source's side of a probe.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pages::ByteCount;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::findings::{Arrived, Findings, Times};
use super::{Bounds, LONGEST, OURS, SPACE, bytes_of, first_pages};
use crate::quic::credit::Waiting;
use crate::quic::{
    CloseCode, DialError, FaultReceiver, Lane, LinkError, LinkOptions, PageSender, Purpose,
    SourceLink, SourceTrust, dial_for,
};
use crate::wire::{Control, Hello, HelloReply, PageRun, Probe, Refusal, SessionId};

/// Round trips that are measured, if they are quick.
const ECHOES: usize = 16;
/// Wishes on the idle link.
const WISHES: usize = 32;
/// No more of either once so much time has passed, but three at least.
const PATIENCE: Duration = Duration::from_secs(2);
const LEAST: usize = 3;
/// Between two wishes beside bulk.
const PAUSE: Duration = Duration::from_millis(10);
/// Pages of a run of bulk: as large as runs are while somebody waits.
const RUN: u64 = 8;
/// How long what is on its way may take when nothing more is sent.
const LAST: Duration = Duration::from_secs(10);
/// How long a destination that gave up on a stream may take to say why.
const WHY: Duration = Duration::from_secs(2);

/// A path could not be measured. Nothing was touched at the destination.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The destination was not reached, or would not.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It speaks no version of ours.
    #[error("probe: the destination refused")]
    Refused(Vec<Refusal>),
    /// The link did not last.
    #[error("measure the path")]
    Link(#[from] LinkError),
    /// The destination answered something else.
    #[error("measure the path: the destination said {0}")]
    OutOfTurn(crate::wire::Kind),
    /// It did not answer in time.
    #[error("measure the path: no answer within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// No random bytes could be had.
    #[error("make bytes that cannot be compressed")]
    Random,
}

/// Learns what the path to a listening destination is like. `software` is how this qmig calls itself.
pub async fn measure(
    target: &str,
    trust: &SourceTrust,
    options: &LinkOptions,
    bounds: Bounds,
    software: &str,
) -> Result<Findings, ProbeError> {
    let link = dial_for(Purpose::Probe, target, trust, options).await?;
    let found = timeout(LONGEST, converse(&link, bounds, software)).await;
    let mut found = found.unwrap_or(Err(ProbeError::TooSlow(LONGEST)));
    if let Err(ProbeError::Link(LinkError::StreamGivenUp { .. })) = found {
        // Why is a moment behind.
        found = timeout(WHY, link.closed()).await.map_or(found, |why| Err(why.into()));
    }
    link.close(CloseCode::DONE, "").await;
    found
}

async fn converse(
    link: &SourceLink,
    bounds: Bounds,
    software: &str,
) -> Result<Findings, ProbeError> {
    let reply = greet(link, software).await?;
    let (wishes, answers) = link.next_faults().await?;
    let page = random(1)?;
    tokio::select! {
        ended = serve(wishes, answers, page) => Err(ended),
        found = look(link, bounds, reply) => found,
    }
}

async fn greet(link: &SourceLink, software: &str) -> Result<HelloReply, ProbeError> {
    link.send(&Control::Hello(Hello::new(SessionId([0; 16]), OURS, software))).await?;
    match link.recv().await? {
        Control::HelloReply(reply) => Ok(reply),
        Control::Refuse(reasons) => Err(ProbeError::Refused(reasons)),
        other => Err(ProbeError::OutOfTurn(other.kind())),
    }
}

/// Answers wishes, as a source in post-copy does.
async fn serve(mut wishes: FaultReceiver, mut answers: PageSender, page: Bytes) -> ProbeError {
    loop {
        let run = match wishes.next().await {
            Ok(Some(wanted)) => PageRun::raw(wanted.space(), first_pages(1)).expect("one page"),
            Ok(None) => return LinkError::StreamGivenUp { lane: Lane::Faults }.into(),
            Err(error) => return error.into(),
        };
        if let Err(error) = answers.run(run, page.clone()).await {
            return error.into();
        }
    }
}

async fn look(
    link: &SourceLink,
    bounds: Bounds,
    reply: HelloReply,
) -> Result<Findings, ProbeError> {
    let round_trip = repeat(ECHOES, || ask(link, false)).await?;
    let idle = repeat(WISHES, || ask(link, true)).await?;
    let before = link.stats();
    let (behind_bulk, arrived) = load(link, bounds).await?;
    let after = link.stats();
    Ok(Findings {
        peer: link.peer().to_string(),
        software: reply.software,
        features: reply.features,
        round_trip,
        idle,
        behind_bulk,
        rate: arrived.rate(),
        bytes: arrived.bytes(),
        took: arrived.took(),
        packets: after.sent_packets.saturating_sub(before.sent_packets),
        lost_packets: after.lost_packets.saturating_sub(before.lost_packets),
        mtu: after.mtu,
    })
}

/// Measures again and again, within patience.
async fn repeat<F: Future<Output = Result<Duration, ProbeError>>>(
    times: usize,
    mut once: impl FnMut() -> F,
) -> Result<Times, ProbeError> {
    let (since, mut measured) = (Instant::now(), Vec::new());
    while measured.len() < times && (measured.len() < LEAST || since.elapsed() < PATIENCE) {
        measured.push(once().await?);
    }
    Ok(Times::of(measured))
}

/// A round trip; or what a wish waits for, by the destination's clock.
async fn ask(link: &SourceLink, wish: bool) -> Result<Duration, ProbeError> {
    let since = Instant::now();
    link.send(&Control::Probe(Probe { wish })).await?;
    loop {
        match link.recv().await? {
            Control::Probed(probed) => {
                return Ok(if wish { probed.waited } else { since.elapsed() });
            }
            Control::Progress(_) => {}
            other => return Err(ProbeError::OutOfTurn(other.kind())),
        }
    }
}

/// Fills the link as post-copy does, and has the destination wish for pages meanwhile.
async fn load(link: &SourceLink, bounds: Bounds) -> Result<(Times, Arrived), ProbeError> {
    link.yield_bulk(Waiting::Now);
    let (mut waits, mut arrived) = (Vec::new(), Arrived::from_now());
    let (say_all, mut all) = mpsc::channel(1);
    let (say_probed, mut probed) = mpsc::channel(1);
    let sending = async {
        let sent = send(link, bounds).await?;
        let _ = say_all.send(sent).await;
        std::future::pending::<Result<(), ProbeError>>().await
    };
    let asking = async {
        loop {
            link.send(&Control::Probe(Probe { wish: true })).await?;
            if probed.recv().await.is_none() {
                return Ok::<(), ProbeError>(());
            }
            sleep(PAUSE).await;
        }
    };
    let hearing = async {
        let (mut sent, mut patience) = (None, None);
        loop {
            let tired = async {
                match patience {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = link.recv() => match message? {
                    Control::Progress(progress) => arrived.add(progress.bytes),
                    Control::Probed(answer) => {
                        waits.push(answer.waited);
                        let _ = say_probed.try_send(());
                    }
                    other => return Err(ProbeError::OutOfTurn(other.kind())),
                },
                Some(bytes) = all.recv() => {
                    sent = Some(bytes);
                    patience = Some(tokio::time::Instant::now() + LAST);
                }
                () = tired => return Ok(()),
            }
            if sent.is_some_and(|sent: ByteCount| arrived.bytes() >= sent) {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = sending => ended?,
        ended = asking => ended?,
        ended = hearing => ended?,
    }
    Ok((Times::of(waits), arrived))
}

/// Sends in bulk within bounds; how much.
async fn send(link: &SourceLink, bounds: Bounds) -> Result<ByteCount, ProbeError> {
    let run = PageRun::raw(SPACE, first_pages(RUN)).expect("a few pages are a run");
    let (bytes, since) = (random(RUN)?, Instant::now());
    let each = (PageRun::HEADER_BYTES + run.byte_len()) as u64;
    let mut bulk = link.bulk().await?;
    let mut sent = 0;
    while sent + each <= bounds.bytes.0 && since.elapsed() < bounds.time {
        bulk.run(run, bytes.clone()).await?;
        sent += each;
    }
    bulk.finish().await?;
    Ok(ByteCount(sent))
}

fn random(pages: u64) -> Result<Bytes, ProbeError> {
    let mut bytes = vec![0; bytes_of(pages)];
    SystemRandom::new().fill(&mut bytes).map_err(|_| ProbeError::Random)?;
    Ok(bytes.into())
}
