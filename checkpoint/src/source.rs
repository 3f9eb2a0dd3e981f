//! The source's driver: one line a phase, then how each is undone.
//!
//! It runs on the thread that traces, so the stopped tree is a plain value in it ([`Held`]) that
//! lets everybody run on when it is dropped: every `?` above the one-way door ends with the source
//! running, without a line of code for it. Below the door the same value is [`Doomed`], which kills
//! when it is dropped.

use std::time::{Duration, Instant};

use image::plan::{PLAN, Plan};
use image::{ImageSet, NamespaceIds};
use pages::{ByteCount, PageCount};
use tracee::host::Urgency;
use tracee::net::HostAddress;
use tracee::{Held, HostPid, chaos};
use transport::event::{Event, Watch};
use transport::quic::{self, CloseCode, LinkOptions, SourceLink, SourceTrust};
use transport::session::source::{
    AfterFreeze, AfterHello, AfterPlan, Agreed, Committed, Frozen, Offering, StagedProof,
};
use transport::session::{Outcome, Report};
use transport::wire::{
    Abort, AbortCode, BlobName, BlobTotal, Control, Features, Manifest, SessionId, SpaceTotal,
    VersionNumber,
};

use crate::collect::{self, Clockwork, CollectOptions, Collected, Doors, Moment, SpacePages};
use crate::doomed::{Doomed, Ties};
use crate::downtime::Downtime;
use crate::error::CollectError;
use crate::failure::{Cause, Failure};
use crate::handoff;
use crate::pump::Pump;
use crate::survey::{self, SurveyOptions};
use transport::stop::Stop;

/// How long a tree may take to stand still: a task in uninterruptible sleep cannot be stopped.
const FREEZE_DEADLINE: Duration = Duration::from_secs(5);

/// What to move, and where to.
pub struct Job {
    /// Root of the tree.
    pub root: HostPid,
    /// HOST:PORT of the destination.
    pub to: String,
    /// How the two know each other.
    pub trust: SourceTrust,
    /// How the link is made.
    pub link: LinkOptions,
    /// What may be carried.
    pub survey: SurveyOptions,
    /// Addresses of this host that go where the tree goes.
    pub release: Vec<HostAddress>,
    /// How this qmig calls itself.
    pub software: String,
    /// After the hand-over, a link that stays lost is worth a warning after this long.
    pub patience: Duration,
}

/// Moves a tree to another host. Before the hand-over every error leaves it running here.
pub async fn migrate_out(
    job: &Job,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<Report, Failure> {
    let started = Instant::now();
    let plan = survey::survey(job.root, &job.survey).map_err(Failure::refused)?;
    watch.event(told(&plan));
    chaos::point("source:surveyed").map_err(Failure::refused)?;

    let link = quic::dial(&job.to, &job.trust, &job.link).await.map_err(Failure::refused)?;
    watch.event(Event::Connected { peer: link.peer().to_string() });
    let agreed = agree(&link, job, &plan, stop).await.map_err(Failure::refused)?;
    chaos::point("source:agreed").map_err(Failure::refused)?;

    let mut downtime = Downtime::starts();
    let (frozen, mut collected) = freeze(agreed, &link, job, &plan, &mut downtime).await?;
    let pages = total_pages(&collected.spaces);
    let ties = Ties { addresses: job.release.clone(), ..std::mem::take(&mut collected.ties) };
    watch.event(Event::Frozen { pages: pages.0 });

    let (frozen, proof) = fill(frozen, &link, collected, stop, watch, &mut downtime).await?;
    watch.event(Event::Staged);

    let committed = commit(frozen, ties, proof, &link, watch).await?;
    let moved = handoff::follow(committed, link, job, stop, watch).await?;
    downtime.lap("commit");
    watch.event(Event::Running { pid: moved.task() });

    let report = Report {
        outcome: Outcome::Moved,
        task: plan.root,
        name: plan.command.clone(),
        memory: plan.resident,
        total: started.elapsed(),
        downtime: downtime.parts,
        goal: None,
        pages,
        wire_bytes: moved.wire_bytes(),
    };
    moved.end_stale_copy().await;
    Ok(report)
}

/// Hello, plan, and the destination's answer. Nothing is touched yet.
async fn agree(
    link: &SourceLink,
    job: &Job,
    plan: &Plan,
    stop: &mut Stop,
) -> Result<Agreed, Cause> {
    let session = SessionId::random()?;
    let (offering, mut hello) = Offering::new(session, Features::STOP_AND_COPY, &job.software);
    if let (true, Control::Hello(hello)) = (chaos::told("source:hello", "version"), &mut hello) {
        hello.versions = vec![VersionNumber(u16::MAX)];
    }
    link.send(&hello).await?;
    let greeted = match offering.receive(hear(link, stop).await?)? {
        AfterHello::Greeted(greeted) => greeted,
        AfterHello::Refused(reasons) => return Err(Cause::refused(&reasons)),
        AfterHello::Aborted(abort) => return Err(Cause::PeerAborted(abort)),
    };
    send_blob(link, PLAN, plan.to_bytes()).await?;
    match greeted.receive(hear(link, stop).await?)? {
        AfterPlan::Agreed(agreed) => Ok(agreed),
        AfterPlan::Refused(reasons) => Err(Cause::refused(&reasons)),
        AfterPlan::Aborted(abort) => Err(Cause::PeerAborted(abort)),
    }
}

/// Stops the tree and reads everything but its pages.
async fn freeze(
    agreed: Agreed,
    link: &SourceLink,
    job: &Job,
    plan: &Plan,
    downtime: &mut Downtime,
) -> Result<(Frozen<Held>, Collected), Failure> {
    let urgency = Urgency::raise();
    let taken = stop_and_read(job.root, plan, &job.survey, downtime);
    drop(urgency);
    match taken {
        Ok((held, collected)) => {
            let (frozen, freezing) = agreed.freeze(held);
            link.send(&freezing).await.map_err(Failure::aborted)?;
            Ok((frozen, collected))
        }
        Err(cause) => {
            tell_peer(link, agreed.abort(Abort::new(AbortCode::FAILED, cause.to_string()))).await;
            Err(Failure::aborted(cause))
        }
    }
}

/// What a freeze is: nobody runs between its two lines.
pub(crate) fn stop_and_read(
    root: HostPid,
    plan: &Plan,
    survey: &SurveyOptions,
    downtime: &mut Downtime,
) -> Result<(Held, Collected), Cause> {
    let doors = Doors::shut(plan, survey.tcp).map_err(CollectError::from)?;
    let clockwork = Clockwork::sample(root);
    downtime.begin();
    let mut held = Held::freeze(root, FREEZE_DEADLINE).map_err(Cause::Freeze)?;
    let frozen = Moment::now();
    downtime.lap("freeze");
    chaos::point("source:frozen")?;
    let options = CollectOptions {
        tcp: survey.tcp,
        ghost_limit: survey.ghost_limit,
        clockwork: &clockwork,
        frozen,
    };
    let mut collected = collect::collect(&mut held, plan, &options)?;
    collected.ties.doors = doors;
    downtime.lap("collect");
    Ok((held, collected))
}

/// Sends images and pages, and waits until the destination stands one instruction from running.
async fn fill(
    frozen: Frozen<Held>,
    link: &SourceLink,
    collected: Collected,
    stop: &mut Stop,
    watch: &mut dyn Watch,
    downtime: &mut Downtime,
) -> Result<(Frozen<Held>, StagedProof), Failure> {
    match staged(&frozen, link, collected, stop, watch, downtime).await {
        Ok(message) => match frozen.receive(message) {
            AfterFreeze::Staged(frozen, proof) => {
                downtime.lap_in_two("pages", "restore", proof.staged().built_in);
                Ok((frozen, proof))
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
        },
        Err(cause) => Err(give_up(frozen, link, cause).await),
    }
}

/// The first message of the destination that is not progress, once everything was sent; or why
/// not everything could be sent.
async fn staged(
    frozen: &Frozen<Held>,
    link: &SourceLink,
    collected: Collected,
    stop: &mut Stop,
    watch: &mut dyn Watch,
    downtime: &mut Downtime,
) -> Result<Control, Cause> {
    let images = collected.checkpoint.to_images(&NamespaceIds::default());
    let total = total_pages(&collected.spaces);
    link.send(&frozen.manifest(manifest(&images, &collected.spaces)?)).await?;
    for (name, bytes) in images.iter() {
        send_blob(link, name, bytes.to_vec()).await?;
    }
    watch.event(Event::Images { count: images.len(), bytes: images.total_bytes() });
    downtime.lap("images");
    chaos::point("source:images")?;

    let sending = send_pages(link, collected.spaces);
    tokio::pin!(sending);
    let mut sent = false;
    loop {
        tokio::select! {
            done = &mut sending, if !sent => {
                done?;
                sent = true;
                tracing::debug!(stats = ?link.stats(), "every page is under way");
                chaos::point("source:pages")?;
            }
            message = hear(link, stop) => match message? {
                Control::Progress(progress) => {
                    watch.event(Event::Pages { done: progress.pages.0, total: total.0 });
                }
                other => return Ok(other),
            },
        }
    }
}

/// **The one-way door.** Below it the tree can only die here, unless the destination gives it back.
async fn commit(
    frozen: Frozen<Held>,
    ties: Ties,
    proof: StagedProof,
    link: &SourceLink,
    watch: &mut dyn Watch,
) -> Result<Committed<Doomed>, Failure> {
    if let Err(told) = chaos::point("source:staged") {
        return Err(give_up(frozen, link, told.into()).await);
    }
    match frozen.map(|held| Doomed::new(held, ties)) {
        Ok(frozen) => {
            let (committed, handoff) = frozen.commit(proof);
            // A link that is lost here is found out, and asked about, by whoever follows.
            let _ = link.send(&handoff).await;
            watch.event(Event::Handoff);
            Ok(committed)
        }
        Err((frozen, error)) => Err(give_up(frozen, link, Cause::Freeze(error)).await),
    }
}

/// Lets the tree run on, and tells the destination why.
async fn give_up(frozen: Frozen<Held>, link: &SourceLink, cause: Cause) -> Failure {
    let code = match cause {
        Cause::Interrupted => AbortCode::CANCELLED,
        Cause::PeerMisbehaved(_) => AbortCode::MISBEHAVED,
        _ => AbortCode::FAILED,
    };
    let (held, abort) = frozen.abort(Abort::new(code, cause.to_string()));
    drop(held); // everybody runs on
    tell_peer(link, abort).await;
    Failure::aborted(cause)
}

/// Says goodbye with a reason; a peer that cannot hear it any more finds out by itself.
async fn tell_peer(link: &SourceLink, message: Control) {
    let _ = link.send(&message).await;
    link.close(CloseCode::DONE, "").await;
}

/// The next message, unless somebody presses Ctrl-C first.
async fn hear(link: &SourceLink, stop: &mut Stop) -> Result<Control, Cause> {
    tokio::select! {
        message = link.recv() => Ok(message?),
        () = stop.ended() => Err(Cause::Interrupted),
    }
}

async fn send_blob(link: &SourceLink, name: &str, bytes: Vec<u8>) -> Result<(), Cause> {
    let mut blob = link.blob(&blob_name(name)?).await?;
    blob.write(bytes.into()).await?;
    blob.finish().await?;
    Ok(())
}

async fn send_pages(link: &SourceLink, spaces: Vec<SpacePages>) -> Result<(), Cause> {
    let mut pump = Pump::start(spaces);
    let mut bulk = link.bulk().await?;
    while let Some((run, bytes)) = pump.next().await? {
        bulk.run(run, bytes).await?;
    }
    Ok(bulk.finish().await?)
}

fn manifest(images: &ImageSet, spaces: &[SpacePages]) -> Result<Manifest, Cause> {
    let blobs = images.iter().map(|(name, bytes)| {
        Ok(BlobTotal { name: blob_name(name)?, bytes: ByteCount(bytes.len() as u64) })
    });
    let blobs = blobs.collect::<Result<Vec<_>, Cause>>()?;
    let spaces = spaces.iter().map(|space| SpaceTotal {
        space: space.space,
        sent: space.pages.count(),
        owed: PageCount(0),
    });
    Manifest::new(blobs, spaces.collect()).map_err(|over| Cause::TooMuch(over.to_string()))
}

fn blob_name(name: &str) -> Result<BlobName, Cause> {
    BlobName::new(name).map_err(|bad| Cause::TooMuch(bad.to_string()))
}

fn total_pages(spaces: &[SpacePages]) -> PageCount {
    spaces.iter().map(|space| space.pages.count()).sum()
}

pub(crate) fn told(plan: &Plan) -> Event {
    Event::Plan {
        root: plan.root.0,
        command: plan.command.clone(),
        processes: plan.tasks.len(),
        threads: plan.thread_count(),
        resident_bytes: plan.resident.0,
    }
}
