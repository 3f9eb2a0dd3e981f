//! The destination's driver: one line a phase, then how each is undone.
//!
//! It runs on the thread that traces, so the tree that is being built is a plain value in it, which
//! destroys every task when it is dropped: every `?` above the one-way door ends with nothing left
//! here, and with the source running on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use image::heritage::HERITAGE;
use image::kept::Extent;
use image::plan::{LONGEST_PLAN, PLAN, Plan};
use pages::{ByteCount, PageCount, SpaceId};
use tracee::{Keeper, chaos};
use transport::event::{Event, Watch};
use transport::quic::{CloseCode, DestinationLink, Incoming, Listener};
use transport::session::destination::{AfterHello, Answering, Building, Checked, Greeted};
use transport::stop::Stop;
use transport::wire::{Abort, AbortCode, Control, Features, SpaceTotal};

use crate::build::Sink;
use crate::engine::{Arrived, Engine, Ready};
use crate::failure::{Cause, Failure};
use crate::fill::Fill;
use crate::gather::{Gathered, Hearing, gather, total};
use crate::handoff::{self, Farewell};
use crate::inflow::Inflow;
use crate::inherit::inherit;
use crate::offspring::Offspring;
use crate::rounds::{self, Early};

/// How often whoever watches is told how far it is.
pub(crate) const TELL_EVERY: Duration = Duration::from_millis(100);
/// How long a source may take from its hello to its plan.
const PLAN_DEADLINE: Duration = Duration::from_secs(60);

/// What this end brings along.
pub struct Host<'a> {
    /// Where sources knock.
    pub listener: &'a Listener,
    /// Who builds the tree.
    pub engine: &'a dyn Engine,
    /// How long a staged tree waits for a source whose link was lost.
    pub grace: Duration,
    /// How this qmig calls itself.
    pub software: String,
}

/// Takes one tree in. Until the hand-over every error leaves it running at the source, and nothing
/// of it here.
pub async fn migrate_in(
    host: &Host<'_>,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<(Offspring, Farewell), Failure> {
    let (link, hello) = knock(host, stop).await.map_err(Failure::refused)?;
    watch.event(Event::Connected { peer: link.peer().to_string() });
    let greeted = greet(&link, hello, host).await.map_err(Failure::refused)?;
    let session = greeted.session();
    take(host, link, greeted, stop, watch).await.map_err(|failure| failure.of(session))
}

async fn take(
    host: &Host<'_>,
    link: DestinationLink,
    greeted: Greeted,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<(Offspring, Farewell), Failure> {
    let plan = read_plan(&link, &greeted, stop).await.map_err(Failure::refused)?;
    watch.event(told(&plan));
    // Started now, because starting a process takes longer than the tree shall stand still.
    let keeper = match greeted.features().contains(Features::POST_COPY) {
        true => Some(Keeper::start().map_err(|error| Failure::refused(crate::Error::from(error)))?),
        false => None,
    };
    let features = greeted.features();
    let checked = agree(&link, greeted, &plan, host).await.map_err(Failure::refused)?;
    host.engine.get_ready();
    let files = match host.engine.files(&plan) {
        Ok(files) => files,
        Err(cause) => return Err(goodbye(&link, cause).await),
    };

    let (hearing, early) = if features.contains(Features::PRE_COPY) {
        let extent = match features.contains(Features::WHOLE_ROUNDS) {
            true => Extent::Whole,
            false => Extent::Anonymous,
        };
        let options = host.engine.grows().unwrap_or_default();
        match rounds::rounds(&link, checked, (options, extent), stop, watch).await {
            Ok((filling, early)) => (Hearing::Filling(filling), early),
            Err(cause) => return Err(goodbye(&link, cause).await),
        }
    } else {
        (Hearing::Checked(checked), None)
    };
    let (building, gathered) = match gather(&link, hearing, files, stop, watch).await {
        Ok(gathered) => gathered,
        Err(cause) => return Err(goodbye(&link, cause).await),
    };
    let built = match build(&link, &building, (gathered, early), keeper, host, stop, watch).await {
        Ok(built) => built,
        Err(cause) => return Err(goodbye(&link, cause).await),
    };
    let (staged, message) = building.stage(Some(built.ready), built.took, host.grace);
    watch.event(Event::Staged);
    handoff::await_it(staged, message, (link, built.inflow), host, &plan, stop, watch).await
}

/// The next source that wants something of this qmig.
async fn knock(host: &Host<'_>, stop: &mut Stop) -> Result<(DestinationLink, Control), Cause> {
    // Until somebody comes to migrate.
    let answering = Answering::new(features(host.engine), &host.software);
    let _probes = host.listener.answer_probes(answering);
    loop {
        let link = tokio::select! {
            accepted = host.listener.accept() => match accepted {
                Ok(link) => link,
                Err(transport::quic::AcceptError::Rejected(_)) => continue,
                Err(ended) => return Err(ended.into()),
            },
            () = stop.ended() => return Err(Cause::Interrupted),
        };
        match link.recv().await {
            Ok(Control::Resume(_)) => {
                // A session from before this process: nothing is known of it here.
                let _ = link.send(&Answering::unknown_session()).await;
                link.close(CloseCode::UNKNOWN_SESSION, "").await;
            }
            Ok(first) => return Ok((link, first)),
            Err(_) => {}
        }
    }
}

async fn greet(link: &DestinationLink, hello: Control, host: &Host<'_>) -> Result<Greeted, Cause> {
    let answering = Answering::new(features(host.engine), &host.software);
    match answering.receive(hello)? {
        AfterHello::Greeted(greeted, reply) => {
            link.send(&reply).await?;
            link.agree(greeted.features());
            Ok(greeted)
        }
        AfterHello::Refused(refusal) => {
            link.send(&refusal).await?;
            link.close(CloseCode::REFUSED, "").await;
            Err(Cause::NoCommonVersion)
        }
    }
}

/// What this host can do.
fn features(engine: &dyn Engine) -> Features {
    let lazy = tracee::uffd::Features::of_this_kernel().contains(tracee::uffd::Features::LAZY);
    let lazy = if lazy { Features::POST_COPY } else { Features::NONE };
    let in_rounds = Features::PRE_COPY.with(Features::SHARED_ROUNDS).with(Features::WHOLE_ROUNDS);
    let in_rounds = in_rounds.with(Features::FILE_ROUNDS).with(Features::COMMON_ROUNDS);
    let early = if engine.grows().is_some() { in_rounds } else { Features::NONE };
    let eager = if engine.builds_early() { Features::EAGER_FIRST } else { Features::NONE };
    let common = if engine.grows().is_some() { Features::HERITAGE } else { Features::NONE };
    let always = Features::STOP_AND_COPY.with(early).with(eager);
    always.with(lazy).with(Features::LZ4).with(Features::ZSTD).with(Features::PADDING).with(common)
}

async fn read_plan(
    link: &DestinationLink,
    greeted: &Greeted,
    stop: &mut Stop,
) -> Result<Plan, Cause> {
    let reading = async {
        match link.next_lane().await? {
            Incoming::Blob(blob) if blob.name().as_str() == PLAN => {
                let bytes = blob.read_all(ByteCount(LONGEST_PLAN as u64)).await?;
                Ok(Plan::from_bytes(&bytes)?)
            }
            _ => Err(Cause::PlanFirst),
        }
    };
    let plan = tokio::select! {
        plan = reading => plan,
        message = link.recv() => Err(match greeted.receive(message?) {
            Ok(abort) => Cause::PeerAborted(abort),
            Err(wrong) => wrong.into(),
        }),
        () = tokio::time::sleep(PLAN_DEADLINE) => Err(Cause::NotEntrusted("it sent no plan")),
        () = stop.ended() => Err(Cause::Interrupted),
    };
    if plan.is_err() {
        link.close(CloseCode::ABORTED, "no plan").await;
    }
    plan
}

/// Answers the plan, with every reason if the answer is no.
async fn agree(
    link: &DestinationLink,
    greeted: Greeted,
    plan: &Plan,
    host: &Host<'_>,
) -> Result<Checked, Cause> {
    let told_to_fail = chaos::point("destination:answering");
    match host.engine.check(plan) {
        Ok(()) => {
            told_to_fail?;
            let (checked, ready) = greeted.ready();
            link.send(&ready).await?;
            Ok(checked)
        }
        Err(refusals) => {
            let travelling = refusals.iter().map(wire_refusal).collect();
            link.send(&greeted.refuse(travelling)).await?;
            link.close(CloseCode::REFUSED, "").await;
            Err(Cause::CannotTake(refusals))
        }
    }
}

/// A tree that is one instruction from running.
struct Staging {
    ready: Ready,
    /// What brings the pages that follow.
    inflow: Inflow,
    /// How long building took beside waiting for pages.
    took: Duration,
}

/// Builds the tree and fills its memory with what cannot wait.
async fn build(
    link: &DestinationLink,
    building: &Building,
    (mut gathered, early): (Gathered, Option<Early>),
    keeper: Option<Keeper>,
    host: &Host<'_>,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<Staging, Cause> {
    let begun = Instant::now();
    // Another tree by now, which begins anew; its first process may have the same number.
    let early = early.filter(|_| gathered.images.get(HERITAGE).is_none());
    let trunk = match host.engine.grows() {
        Some(options) => inherit(link, building, &mut gathered, options, stop).await?,
        None => None,
    };
    let waited = trunk.as_ref().map_or(Duration::ZERO, |_| begun.elapsed());
    let Gathered { images, files, manifest, owed, bulk } = gathered;
    let arrived = Arrived { images, early, trunk, files };
    let hollow = host.engine.build(arrived, manifest.spaces())?;
    let skeleton = begun.elapsed().saturating_sub(waited);
    tracing::debug!("the tree is built; its memory is empty");
    chaos::point("destination:building")?;
    let roaming = hollow.roam()?;
    let sinks = sinks(|space| hollow.sink(space), manifest.spaces())?;
    let (door, mut fill) = Fill::start(manifest.spaces(), sinks);
    let mut inflow = Inflow::start(link.clone(), bulk, owed.clone(), door, fill.installed());
    let arriving = Arriving { total: total(&manifest), counted: fill.installed() };
    let received = receive(link, building, &mut fill, &mut inflow, &arriving, stop, watch).await;
    received.map_err(|cause| hollow.failure().unwrap_or(cause))?;
    drop(roaming);
    tracing::debug!("what cannot wait is in its memory");
    chaos::point("destination:pages")?;
    let begun = Instant::now();
    let (ready, faults) = tokio::select! {
        finished = hollow.finish(owed, keeper) => finished?,
        message = link.recv() => {
            return Err(Cause::PeerAborted(building.receive(message?)?));
        }
        () = stop.ended() => return Err(Cause::Interrupted),
    };
    if let Some(faults) = faults {
        inflow.open(faults);
    }
    Ok(Staging { ready, inflow, took: skeleton + begun.elapsed() })
}

/// What is counted while pages arrive.
struct Arriving {
    total: PageCount,
    counted: Arc<AtomicU64>,
}

/// Waits until every page that cannot wait is in the tree.
async fn receive(
    link: &DestinationLink,
    building: &Building,
    fill: &mut Fill,
    inflow: &mut Inflow,
    arriving: &Arriving,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<(), Cause> {
    let mut tell = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            filled = fill.finished() => return Ok(filled?),
            state = inflow.changed() => if let Some(failed) = state.failed {
                return Err(Cause::Inflow(failed));
            },
            message = link.recv() => {
                return Err(Cause::PeerAborted(building.receive(message?)?));
            }
            _ = tell.tick() => {
                let done = arriving.counted.load(Ordering::Relaxed);
                watch.event(Event::Pages { done, total: arriving.total.0 });
            }
            () = stop.ended() => return Err(Cause::Interrupted),
        }
    }
}

pub(crate) fn sinks(
    open: impl Fn(SpaceId) -> Result<Sink, crate::Error>,
    spaces: &[SpaceTotal],
) -> Result<HashMap<SpaceId, Sink>, crate::Error> {
    spaces.iter().map(|space| Ok((space.space, open(space.space)?))).collect()
}

/// Tells the source why it ends here; what was built is gone already.
async fn goodbye(link: &DestinationLink, cause: Cause) -> Failure {
    if !matches!(cause, Cause::PeerAborted(_) | Cause::Link(_)) {
        let code = match cause {
            Cause::Interrupted => AbortCode::CANCELLED,
            Cause::PeerMisbehaved(_) => AbortCode::MISBEHAVED,
            _ => AbortCode::FAILED,
        };
        let abort = Control::Abort(Abort::new(code, format!("failed to {cause}")));
        let _ = link.send(&abort).await;
    }
    link.close(CloseCode::ABORTED, "").await;
    Failure::aborted(cause)
}

fn wire_refusal(refusal: &image::Refusal) -> transport::wire::Refusal {
    transport::wire::Refusal {
        object: refusal.object.clone(),
        place: refusal.place.clone(),
        reason: refusal.reason.clone(),
        hint: refusal.hint.clone().unwrap_or_default(),
    }
}

fn told(plan: &Plan) -> Event {
    Event::Plan {
        root: plan.root.0,
        command: plan.command.clone(),
        processes: plan.tasks.len(),
        threads: plan.thread_count(),
        resident_bytes: plan.resident.0,
    }
}
