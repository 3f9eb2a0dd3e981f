//! Between the freeze and the hand-over: images and pages leave, and the destination builds.

use std::time::{Duration, Instant};

use pages::PageCount;
use tracee::chaos;
use tracee::host::Urgency;
use transport::encode::Squeezer;
use transport::event::{Event, Watch};
use transport::quic::credit::Waiting;
use transport::quic::{PageSender, SourceLink};
use transport::session::source::{AfterFreeze, Frozen, StagedProof};
use transport::stop::Stop;
use transport::wire::{Abort, AbortCode, Control, Features, Progress};

use crate::cargo::Cargo;
use crate::collect::SpacePages;
use crate::downtime::Downtime;
use crate::engine::Still;
use crate::failure::{Cause, Failure};
use crate::pump::Pump;
use crate::serve::Server;
use crate::source::{Job, give_up, hear};
use crate::switch::{self, Mode};

/// Between two looks at how pages that come ahead of the hand-over get on.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What filling reports to, and hears from.
pub(crate) struct Filling<'a> {
    pub(crate) job: &'a Job,
    /// How what is left now moves.
    pub(crate) mode: Mode,
    /// What both ends have.
    pub(crate) features: Features,
    pub(crate) stop: &'a mut Stop,
    pub(crate) watch: &'a mut dyn Watch,
    pub(crate) downtime: &'a mut Downtime,
    /// Raised once nothing is left but to hear and to answer: on a busy host each word would wait for
    /// its turn, and the tree with it.
    pub(crate) urgency: &'a mut Option<Urgency>,
}

/// Sends images and pages, and waits until the destination stands one instruction from running and
/// it is time.
pub(crate) async fn fill(
    frozen: Frozen<Still>,
    link: &SourceLink,
    cargo: &Cargo,
    spaces: Vec<SpacePages>,
    server: &mut Server,
    filling: &mut Filling<'_>,
) -> Result<(Frozen<Still>, StagedProof), Failure> {
    let mut pushing = Pushing { since: None, arrived: PageCount(0) };
    let message = match staged(&frozen, link, (cargo, spaces), server, &mut pushing, filling).await
    {
        Ok(message) => message,
        Err(cause) => return Err(give_up(frozen, link, cause).await),
    };
    match frozen.receive(message) {
        AfterFreeze::Staged(frozen, proof) => {
            filling.downtime.lap_in_two("pages", "restore", proof.staged().built_in);
            match push(link, cargo, &mut pushing, filling).await {
                Ok(()) => {
                    if !cargo.owed.is_empty() {
                        filling.downtime.lap("push");
                    }
                    Ok((frozen, proof))
                }
                Err(cause) => Err(give_up(frozen, link, cause).await),
            }
        }
        AfterFreeze::Aborted(held, abort) => {
            drop(held); // everybody runs on
            Err(Failure::aborted(Cause::PeerAborted(abort)))
        }
        AfterFreeze::Misbehaved(frozen, wrong) => {
            Err(give_up(frozen, link, Cause::PeerMisbehaved(wrong)).await)
        }
        AfterFreeze::Progress(frozen, _) => {
            let wrong = Cause::TooMuch("progress where an end was due".to_owned());
            Err(give_up(frozen, link, wrong).await)
        }
    }
}

/// The first message of the destination that is not progress, once everything was sent that cannot
/// wait; or why that could not be sent.
async fn staged(
    frozen: &Frozen<Still>,
    link: &SourceLink,
    (cargo, spaces): (&Cargo, Vec<SpacePages>),
    server: &mut Server,
    pushing: &mut Pushing,
    filling: &mut Filling<'_>,
) -> Result<Control, Cause> {
    let images = cargo.images();
    link.send(&frozen.manifest(images.manifest(&cargo.files)?)).await?;
    images.send(link).await?;
    filling.watch.event(Event::Images { count: images.len(), bytes: images.total_bytes() });
    filling.downtime.lap("images");
    chaos::point("source:images")?;

    let squeezer = Squeezer::new(filling.job.compress, filling.features);
    let sending = send_pages(link, spaces, squeezer);
    tokio::pin!(sending);
    let mut sent = false;
    // The destination may say that it has every page before we know that all were sent.
    let mut staged = None;
    loop {
        if let Some(message) = staged.take_if(|_| sent) {
            return Ok(message);
        }
        tokio::select! {
            bulk = &mut sending, if !sent => {
                sent = true;
                tracing::debug!(stats = ?link.stats(), "every page that cannot wait is under way");
                if cargo.owed.is_empty() {
                    bulk?.finish().await?;
                    *filling.urgency = Urgency::raise().ok();
                } else {
                    server.answer(link, Waiting::Soon);
                    server.push(bulk?);
                    pushing.since = Some(Instant::now());
                }
                chaos::point("source:pages")?;
            }
            message = hear(link, filling.stop) => match message? {
                Control::Progress(progress) => pushing.progress(progress, cargo, filling.watch),
                message @ Control::Staged(_) if staged.is_none() => staged = Some(message),
                other => return Ok(other),
            },
        }
    }
}

/// Pages that may follow, sent ahead of the hand-over.
struct Pushing {
    since: Option<Instant>,
    arrived: PageCount,
}

impl Pushing {
    fn progress(&mut self, progress: Progress, cargo: &Cargo, watch: &mut dyn Watch) {
        self.arrived = PageCount(progress.pages.0.saturating_sub(cargo.sent().0));
        watch.event(Event::Pages { done: progress.pages.0, total: cargo.pages().0 });
    }
}

/// Waits, while pages that may follow come ahead, until it is time for the hand-over.
async fn push(
    link: &SourceLink,
    cargo: &Cargo,
    pushing: &mut Pushing,
    filling: &mut Filling<'_>,
) -> Result<(), Cause> {
    let (mode, max_downtime) = (filling.mode, filling.job.max_downtime);
    loop {
        let state = switch::Push {
            frozen: filling.downtime.so_far(),
            pushing: pushing.since.map_or(Duration::ZERO, |since| since.elapsed()),
            arrived: pushing.arrived,
            left: PageCount(cargo.owed().0.saturating_sub(pushing.arrived.0)),
        };
        if switch::is_time(mode, &state, max_downtime) {
            return Ok(());
        }
        tokio::select! {
            message = hear(link, filling.stop) => match message? {
                Control::Progress(progress) => pushing.progress(progress, cargo, filling.watch),
                Control::Abort(abort) => return Err(Cause::PeerAborted(abort)),
                Control::Released => {
                    let why = "it destroyed its tree before the hand-over";
                    return Err(Cause::PeerAborted(Abort::new(AbortCode::CANCELLED, why)));
                }
                other => return Err(Cause::TooMuch(format!("{} where pages were due", other.kind()))),
            },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

/// Sends pages on a stream that is open for more.
pub(crate) async fn send_pages(
    link: &SourceLink,
    spaces: Vec<SpacePages>,
    squeezer: Squeezer,
) -> Result<PageSender, Cause> {
    let mut pump = Pump::start(spaces, squeezer);
    let mut bulk = link.bulk().await?;
    while let Some((run, bytes)) = pump.next().await? {
        bulk.run(run, bytes).await?;
    }
    bulk.flush().await?;
    Ok(bulk)
}
