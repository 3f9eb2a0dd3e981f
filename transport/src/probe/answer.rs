//! The destination's side of a probe.

use std::time::{Duration, Instant};

use pages::ByteCount;
use tokio::time::sleep;

use super::{LONGEST, SPACE, first_pages};
use crate::PeerMisbehaved;
use crate::error::Kinds;
use crate::quic::credit::Waiting;
use crate::quic::{CloseCode, DestinationLink, FaultSender, Incoming, LinkError, PageReceiver};
use crate::session::destination::{AfterHello, Answering};
use crate::wire::limits::MAX_PROBE_BYTES;
use crate::wire::{Control, Kind, PageRun, Probed, Progress, Wanted};

/// Why a probe ended before the source had enough.
#[derive(Debug)]
enum End {
    Link(LinkError),
    Misbehaved(PeerMisbehaved),
    NoCommonVersion,
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<PeerMisbehaved> for End {
    fn from(error: PeerMisbehaved) -> Self {
        Self::Misbehaved(error)
    }
}

/// Answers until the source closes the link, or for as long as anybody bears.
pub(crate) async fn answer(link: &DestinationLink, answering: Answering) {
    let end = tokio::select! {
        end = converse(link, answering) => end,
        () = sleep(LONGEST) => {
            return link.close(CloseCode::TIMED_OUT, "a probe may take two minutes").await;
        }
    };
    match end {
        // The source is gone, or was told already what it did.
        End::Link(error) => tracing::info!("the probe ended: {error}"),
        End::Misbehaved(error) => link.close(CloseCode::MISBEHAVED, &error.to_string()).await,
        End::NoCommonVersion => link.close(CloseCode::REFUSED, "").await,
    }
}

async fn converse(link: &DestinationLink, answering: Answering) -> End {
    let (wishes, pages) = match greet(link, answering).await {
        Ok(opened) => opened,
        Err(end) => return end,
    };
    let ended = tokio::select! {
        ended = obey(link, wishes, pages) => ended,
        ended = count(link) => ended,
        ended = tell(link) => ended,
    };
    match ended {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

/// Nobody holds a value of this: what would return it goes on until it fails.
enum Never {}

async fn greet(
    link: &DestinationLink,
    answering: Answering,
) -> Result<(FaultSender, PageReceiver), End> {
    match answering.receive(link.recv().await?)? {
        AfterHello::Greeted(_, reply) => link.send(&reply).await?,
        AfterHello::Refused(refusal) => {
            link.send(&refusal).await?;
            return Err(End::NoCommonVersion);
        }
    }
    Ok(link.faults().await?)
}

/// Wishes for a page each time it is asked to.
async fn obey(
    link: &DestinationLink,
    mut wishes: FaultSender,
    mut pages: PageReceiver,
) -> Result<Never, End> {
    let wanted = Wanted::new(SPACE, first_pages(1)).expect("one page is a wish");
    loop {
        let probe = match link.recv().await? {
            Control::Probe(probe) => probe,
            other => {
                let (expected, got) = (Kinds(&[Kind::Probe]), other.kind());
                return Err(PeerMisbehaved::OutOfTurn { state: "Probing", expected, got }.into());
            }
        };
        let mut waited = Duration::ZERO;
        if probe.wish {
            let since = Instant::now();
            wishes.ask(wanted).await?;
            if pages.next().await?.is_none() {
                let (lane, within) = ("faults", "a probe");
                return Err(PeerMisbehaved::EndedWithin { lane, within }.into());
            }
            waited = since.elapsed();
        }
        link.send(&Control::Probed(Probed { waited })).await?;
    }
}

/// Takes what comes in bulk, and throws it away.
async fn count(link: &DestinationLink) -> Result<Never, End> {
    loop {
        let mut pages = match link.next_lane().await? {
            Incoming::Bulk(pages) => pages,
            Incoming::Blob(_) | Incoming::Urgent(_) => {
                let (expected, got) = ("bulk", 0);
                return Err(PeerMisbehaved::UnknownLane { expected, got }.into());
            }
        };
        while pages.next().await?.is_some() {
            let most = ByteCount(MAX_PROBE_BYTES + (MAX_PROBE_BYTES >> 4));
            if link.consumed() > most {
                return Err(PeerMisbehaved::ProbeTooLong { most }.into());
            }
        }
        say_how_much(link).await?;
    }
}

/// Says how much has come, as often as in a migration whose pages somebody waits for.
async fn tell(link: &DestinationLink) -> Result<Never, End> {
    let mut told = ByteCount(0);
    loop {
        link.consumed_as_much(ByteCount(told.0 + Waiting::Now.tell_after().0)).await;
        told = link.consumed();
        say_how_much(link).await?;
    }
}

async fn say_how_much(link: &DestinationLink) -> Result<(), LinkError> {
    let progress = Progress { bytes: link.consumed(), ..Progress::default() };
    link.send(&Control::Progress(progress)).await
}

const _: () =
    assert!(PageRun::HEADER_BYTES * 16 <= pages::PAGE_SIZE, "headers are below a sixteenth");
