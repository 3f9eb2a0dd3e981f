//! The source's driver: one line a phase, then how each is undone.
//!
//! It runs on the thread that traces, so the stopped tree is a plain value in it ([`Still`]) that
//! lets everybody run on when it is dropped: every `?` above the one-way door ends with the source
//! running, without a line of code for it. Below the door the same value is [`Doomed`], which kills
//! when it is dropped.

use std::time::{Duration, Instant};

use image::plan::{PLAN, Plan};
use pages::PageCount;
use tracee::host::Preference;
use tracee::{HostPid, chaos};
use transport::encode::Compression;
use transport::event::{Event, Watch};
use transport::quic::{self, CloseCode, LinkOptions, SourceLink, SourceTrust, Warmed};
use transport::session::source::{
    AfterHello, AfterPlan, Agreed, Committed, Frozen, Offering, StagedProof,
};
use transport::session::{Outcome, Report};
use transport::wire::{Abort, AbortCode, BlobTotal, Control, Features, SessionId, VersionNumber};

use crate::asks::Asks;
use crate::cargo::{Cargo, send_blob};
use crate::downtime::Downtime;
use crate::engine::{Doomed, Engine, Still, Taken};
use crate::failure::{Cause, Failure};
use crate::files::Files;
use crate::fill::{Filling, fill};
use crate::handoff::{self, Left};
use crate::heritage;
use crate::precopy::{self, Ahead, Ending};
use crate::rounds::Rounds;
use crate::serve::Server;
use crate::stays::stays;
use crate::survey::SurveyOptions;
use crate::survey::open::direct;
use crate::switch::{self, Beginning, Mode};
use transport::stop::Stop;

const NO_POST_COPY: &str = "post-copy: the kernel there has no userfaultfd(2) that qmig may use \
    (Linux 4.11, CONFIG_USERFAULTFD, root); --mode stop does without";
const NO_PRE_COPY: &str = "pre-copy: the qmig there does not know it; --mode stop does without";
const NOT_BY_CRIU: &str = "pre-copy: a stock CRIU cannot tell what is written meanwhile; `--engine \
    native` can";

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
    /// Who stops the tree and reads it.
    pub engine: Box<dyn Engine>,
    /// How memory moves.
    pub mode: Mode,
    /// How long the tree may stand still, for modes that have a choice.
    pub max_downtime: Duration,
    /// How many rounds of pre-copy may be tried.
    pub max_rounds: u32,
    /// How long rounds of pre-copy may be tried.
    pub deadline: Option<Duration>,
    /// True if a tree that writes too fast may be held back while rounds are tried.
    pub auto_converge: bool,
    /// True if only a copy leaves, and the tree runs on here. Then nothing follows after the
    /// hand-over.
    pub leave_running: bool,
    /// Makes rounds only when they are asked for; `None`: one after the other.
    pub asks: Option<Asks>,
    /// How pages are written.
    pub compress: Compression,
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
    let plan = job.engine.survey(job.root, &job.survey).map_err(Failure::refused)?;
    watch.event(told(&plan));
    let unseen = direct(job.root);
    if job.mode.wants_rounds() {
        if !job.engine.pre_copies() {
            return Err(Failure::refused(Cause::Unable(NOT_BY_CRIU)));
        }
        if let Some(file) = unseen {
            return Err(Failure::refused(Cause::Unseen(file)));
        }
    }
    let able = job.engine.pre_copies() && tracee::dirty::offered().is_ok() && unseen.is_none();
    chaos::point("source:surveyed").map_err(Failure::refused)?;

    job.engine.get_ready(job.root, &job.survey);
    let link = quic::dial(&job.to, &job.trust, &job.link).await.map_err(Failure::refused)?;
    watch.event(Event::Connected { peer: link.peer().to_string() });
    let beginning = Beginning { able, resident: plan.resident, rtt: link.stats().min_rtt };
    let ahead = ahead(job, &beginning, &plan);
    let offered = features(job, ahead);
    let agreed = agree(&link, job, offered, &plan, stop).await.map_err(Failure::refused)?;
    chaos::point("source:agreed").map_err(Failure::refused)?;

    let files = match files(job, &link, stop, watch).await {
        Ok(files) => files,
        Err(cause) => {
            let abort = Abort::new(code_of(&cause), cause.to_string());
            tell_peer(&link, agreed.abort(abort)).await;
            return Err(Failure::aborted(cause));
        }
    };
    let mut mode = job.mode;
    let ahead = ahead.filter(|_| agreed.features().contains(Features::PRE_COPY));
    let (agreed, rounds) = if let Some(ahead) = ahead {
        let job = (job, ahead);
        let (precopy, rounds) = precopy::rounds(agreed, &link, job, &plan, stop, watch).await?;
        if let Some((_, Ending::Follows)) = rounds {
            mode = Mode::PostCopy;
        }
        (precopy.last_round_done(), rounds.map(|(rounds, _)| rounds))
    } else {
        (agreed, None)
    };
    let taught = rounds.is_some() && ahead == Some(Ahead::Rounds);
    let agreed = match warm_up(&link, &agreed, &plan, (job, taught), stop, watch).await {
        Ok(()) => agreed,
        Err(cause) => {
            tell_peer(&link, agreed.abort(Abort::new(code_of(&cause), cause.to_string()))).await;
            return Err(Failure::aborted(cause));
        }
    };
    let mut downtime = Downtime::starts();
    let features = agreed.features();
    let (frozen, taken) =
        freeze(agreed, &link, job, (&plan, rounds.as_ref()), &mut downtime).await?;
    let Taken { images, tasks, shared, mut spaces } = taken;
    let lazy = features.contains(Features::POST_COPY);
    let anywhere = features.contains(Features::COMMON_ROUNDS);
    let common = match (&tasks, &shared) {
        (Some(tasks), Some(shared))
            if !lazy && (rounds.is_none() || anywhere) && features.contains(Features::HERITAGE) =>
        {
            heritage::take((tasks, shared), &mut spaces, anywhere)
        }
        _ => None,
    };
    let mut cargo = Cargo::load(images, tasks.as_deref(), &mut spaces, lazy);
    if let Some((files, ahead)) = files {
        match files.again(&link, stop, watch).await {
            Ok(again) => cargo.files = vec![ahead, again],
            Err(cause) => return Err(give_up(frozen, &link, cause).await),
        }
        downtime.lap("files");
    }
    if let (Some(tasks), false, true) = (&tasks, lazy, features.contains(Features::EAGER_FIRST)) {
        spaces = cargo.eager_first(tasks, spaces);
    }
    if let Some(common) = common {
        spaces = cargo.common_first(common, spaces);
    }
    watch.event(Event::Frozen { pages: cargo.pages().0 });

    let mut server = Server::new(&cargo.owed).map_err(Failure::aborted)?;
    let (standing, mut urgency) = (&mut downtime, None);
    let urgent = &mut urgency;
    let mut filling =
        Filling { job, mode, features, stop, watch, downtime: standing, urgency: urgent };
    let filled = fill(frozen, &link, &cargo, spaces, &mut server, &mut filling).await;
    let (frozen, proof) = filled?;
    watch.event(Event::Staged);

    let committed = commit(frozen, proof, &link, job, watch).await?;
    let left = Left { server, owed: cargo.owed(), sent: cargo.sent() };
    let followed = handoff::follow(committed, link, left, job, stop, watch).await;
    let mut moved = match followed {
        Err(failure) if job.leave_running => return Err(Failure::aborted(*failure.cause)),
        followed => followed?,
    };
    if !job.leave_running {
        downtime.lap("commit");
    }
    drop(urgency);
    watch.event(Event::Running { pid: moved.task() });
    let _preference = lazy.then(Preference::take); // without it things are only slower
    moved.serve(job, stop, watch).await?;

    let report = Report {
        outcome: if job.leave_running { Outcome::Copied } else { Outcome::Moved },
        task: plan.root,
        name: plan.command.clone(),
        memory: plan.resident,
        total: started.elapsed(),
        downtime: downtime.parts,
        goal: (job.mode != Mode::Stop).then_some(job.max_downtime),
        faults: moved.faults(),
        arrival: moved.arrival(),
        pages: rounds.as_ref().map_or(PageCount(0), Rounds::sent) + cargo.sent() + moved.served(),
        wire_bytes: moved.wire_bytes(),
        link: moved.link_stats().map(Box::new),
    };
    moved.end_stale_copy().await;
    Ok(report)
}

/// Hello, plan, and the destination's answer. Nothing is touched yet.
async fn agree(
    link: &SourceLink,
    job: &Job,
    offered: Features,
    plan: &Plan,
    stop: &mut Stop,
) -> Result<Agreed, Cause> {
    let session = SessionId::random()?;
    let (offering, mut hello) = Offering::new(session, offered, &job.software);
    if let (true, Control::Hello(hello)) = (chaos::told("source:hello", "version"), &mut hello) {
        hello.versions = vec![VersionNumber(u16::MAX)];
    }
    link.send(&hello).await?;
    let greeted = match offering.receive(hear(link, stop).await?)? {
        AfterHello::Greeted(greeted) => greeted,
        AfterHello::Refused(reasons) => return Err(Cause::refused(&reasons)),
        AfterHello::Aborted(abort) => return Err(Cause::PeerAborted(abort)),
    };
    if job.mode.wants_rounds() && !greeted.features().contains(Features::PRE_COPY) {
        return Err(Cause::Refused(vec![NO_PRE_COPY.to_owned()]));
    }
    if job.mode.wants_to_owe() && !greeted.features().contains(Features::POST_COPY) {
        return Err(Cause::Refused(vec![NO_POST_COPY.to_owned()]));
    }
    send_blob(link, PLAN, plan.to_bytes()).await?;
    match greeted.receive(hear(link, stop).await?)? {
        AfterPlan::Agreed(agreed) => Ok(agreed),
        AfterPlan::Refused(reasons) => Err(Cause::refused(&reasons)),
        AfterPlan::Aborted(abort) => Err(Cause::PeerAborted(abort)),
    }
}

/// Files that go along with the tree cross while it runs.
async fn files(
    job: &Job,
    link: &SourceLink,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<Option<(Files, BlobTotal)>, Cause> {
    let Some(files) = job.engine.files(job.root)? else { return Ok(None) };
    let crossed = files.ahead(link, stop, watch).await?;
    chaos::point("source:files")?;
    Ok(Some(crossed))
}

/// Learns the path while the tree runs, if pages will be owed and no round has taught it. A link that is lost
/// meanwhile, or a destination that has gone, is found out here, before anything is stopped.
async fn warm_up(
    link: &SourceLink,
    agreed: &Agreed,
    plan: &Plan,
    (job, taught): (&Job, bool),
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<(), Cause> {
    let features = agreed.features();
    let owing = features.contains(Features::POST_COPY.with(Features::PADDING));
    if !owing || taught || job.link.bulk_rate.is_some() {
        return Ok(());
    }
    let warmed = tokio::select! {
        warmed = link.warm_up(plan.resident) => warmed?,
        message = hear(link, stop) => return Err(match message? {
            Control::Abort(abort) => Cause::PeerAborted(abort),
            other => Cause::TooMuch(format!("{} while padding was sent", other.kind())),
        }),
    };
    if let Some(Warmed { padding, took, found }) = warmed {
        watch.event(Event::Warmed { padding: padding.0, took, found });
    }
    chaos::point("source:warmed")?;
    Ok(())
}

/// Stops the tree and reads everything but its pages.
async fn freeze(
    agreed: Agreed,
    link: &SourceLink,
    job: &Job,
    (plan, rounds): (&Plan, Option<&Rounds>),
    downtime: &mut Downtime,
) -> Result<(Frozen<Still>, Taken), Failure> {
    match job.engine.freeze(job.root, (plan, rounds), &job.survey, downtime).await {
        Ok((still, taken)) => {
            let (frozen, freezing) = agreed.freeze(still);
            link.send(&freezing).await.map_err(Failure::aborted)?;
            Ok((frozen, taken))
        }
        Err(cause) => {
            tell_peer(link, agreed.abort(Abort::new(AbortCode::FAILED, cause.to_string()))).await;
            Err(Failure::aborted(cause))
        }
    }
}

/// **The one-way door.** Below it the tree can only die here, unless the destination gives it back.
async fn commit(
    frozen: Frozen<Still>,
    proof: StagedProof,
    link: &SourceLink,
    job: &Job,
    watch: &mut dyn Watch,
) -> Result<Committed<Doomed>, Failure> {
    if let Err(told) = chaos::point("source:staged") {
        return Err(give_up(frozen, link, told.into()).await);
    }
    match frozen.map(|still| if job.leave_running { Ok(stays(still)) } else { still.doom() }) {
        Ok(frozen) => {
            let (committed, handoff) = frozen.commit(proof);
            // A link that is lost here is found out, and asked about, by whoever follows.
            let _ = link.send(&handoff).await;
            watch.event(Event::Handoff);
            Ok(committed)
        }
        Err((frozen, cause)) => Err(give_up(frozen, link, cause).await),
    }
}

/// Lets the tree run on, and tells the destination why.
pub(crate) async fn give_up(frozen: Frozen<Still>, link: &SourceLink, cause: Cause) -> Failure {
    let (held, abort) = frozen.abort(Abort::new(code_of(&cause), cause.to_string()));
    drop(held); // everybody runs on
    tell_peer(link, abort).await;
    Failure::aborted(cause)
}

fn code_of(cause: &Cause) -> AbortCode {
    match cause {
        Cause::Interrupted => AbortCode::CANCELLED,
        Cause::PeerMisbehaved(_) => AbortCode::MISBEHAVED,
        _ => AbortCode::FAILED,
    }
}

/// Says goodbye with a reason; a peer that cannot hear it any more finds out by itself.
pub(crate) async fn tell_peer(link: &SourceLink, message: Control) {
    let _ = link.send(&message).await;
    link.close(CloseCode::DONE, "").await;
}

/// The next message, unless somebody presses Ctrl-C first.
pub(crate) async fn hear(link: &SourceLink, stop: &mut Stop) -> Result<Control, Cause> {
    tokio::select! {
        message = link.recv() => Ok(message?),
        () = stop.ended() => Err(Cause::Interrupted),
    }
}

/// What leaves while the tree runs; `None`: nothing.
fn ahead(job: &Job, beginning: &Beginning, plan: &Plan) -> Option<Ahead> {
    if switch::begins_with_rounds(job.mode, beginning) {
        return Some(Ahead::Rounds);
    }
    // Where it stands still for all of it, common memory is found then.
    let several = beginning.able && owes(job) && plan.tasks.len() > 1;
    (several && heritage::is_likely(job.root)).then_some(Ahead::Common)
}

/// True if pages may follow after the hand-over.
fn owes(job: &Job) -> bool {
    job.mode.is_lazy() && !job.leave_running
}

/// What the way memory is to move takes of a destination.
fn features(job: &Job, ahead: Option<Ahead>) -> Features {
    let in_rounds = Features::PRE_COPY.with(Features::SHARED_ROUNDS).with(Features::WHOLE_ROUNDS);
    let in_rounds = in_rounds.with(Features::FILE_ROUNDS);
    let rounds = if ahead.is_some() { in_rounds } else { Features::NONE };
    let owing = if owes(job) { Features::POST_COPY } else { Features::NONE };
    let always = Features::STOP_AND_COPY.with(Features::LZ4).with(Features::ZSTD);
    let always = always.with(Features::EAGER_FIRST).with(Features::PADDING);
    let always = always.with(Features::HERITAGE).with(Features::COMMON_ROUNDS);
    always.with(rounds).with(owing)
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
