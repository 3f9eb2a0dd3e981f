//! Pages leave while the program runs, round by round, until the rest fits the goal.
//!
//! The program stands still twice: for the few milliseconds in which its shape is read and the
//! watching arranged, and at the end for good. Any error before that ends with the program running
//! and nothing left in it: the watching goes with [`Rounds`].

use std::time::{Duration, Instant};

use image::outline::OUTLINE;
use image::plan::Plan;
use pages::PageCount;
use tracee::chaos;
use tracee::host::Urgency;
use transport::event::{Event, Watch};
use transport::quic::SourceLink;
use transport::session::source::{Agreed, DuringRounds, Precopy};
use transport::stop::Stop;
use transport::wire::{Abort, AbortCode, Features};

use crate::cargo::{Images, send_blob};
use crate::collect::{Moment, SpacePages};
use crate::converge::{self, Decision, Limits, Round};
use crate::downtime::Downtime;
use crate::engine::stop_and_read;
use crate::failure::{Cause, Failure};
use crate::fill::send_pages;
use crate::rounds::Rounds;
use crate::source::{Job, hear, tell_peer};
use transport::encode::Squeezer;

/// Rounds that are tried before the goal is given up.
const MAX_ROUNDS: u32 = 30;
/// What a standstill takes on the other side, beside its pages and what was measured here.
const REMOTE: Duration = Duration::from_millis(10);

/// Sends rounds until the program should be stopped.
pub(crate) async fn rounds(
    agreed: Agreed,
    link: &SourceLink,
    job: &Job,
    plan: &Plan,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<(Precopy, Rounds), Failure> {
    let features = agreed.features();
    let mut precopy = agreed.precopy();
    match run(&mut precopy, link, (job, features), plan, stop, watch).await {
        Ok(rounds) => Ok((precopy, rounds)),
        Err(cause) => {
            let code = match cause {
                Cause::Interrupted => AbortCode::CANCELLED,
                Cause::PeerMisbehaved(_) => AbortCode::MISBEHAVED,
                _ => AbortCode::FAILED,
            };
            tell_peer(link, precopy.abort(Abort::new(code, cause.to_string()))).await;
            Err(Failure::aborted(cause))
        }
    }
}

async fn run(
    precopy: &mut Precopy,
    link: &SourceLink,
    (job, features): (&Job, Features),
    plan: &Plan,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<Rounds, Cause> {
    let (mut rounds, stood) = begin(job, plan)?;
    watch.event(Event::Watched { stood });
    // Its clocks go on: as late as possible, so that they are not behind over there.
    let mut early = rounds.early().clone();
    early.clocks = Moment::now().inside(job.root);
    let images = Images::of_state(&early);
    link.send(&precopy.outline(images.manifest()?)).await?;
    images.send(link).await?;
    chaos::point("source:outlined")?;

    let limits =
        Limits { max_downtime: job.max_downtime, max_rounds: MAX_ROUNDS, overhead: stood + REMOTE };
    let mut measured: Vec<Round> = Vec::new();
    let mut sent = PageCount(0);
    rounds.look().map_err(Cause::Watch)?;
    loop {
        let began = Instant::now();
        let (outline, spaces) = rounds.next();
        let pages = outline.spaces.iter().map(|space| space.pages).sum();
        let name = format!("{OUTLINE}{}", measured.len() + 1);
        send_blob(link, &name, outline.to_bytes()).await?;
        sent = sent + pages;
        let squeezer = Squeezer::new(job.compress, features);
        send(precopy, link, (spaces, squeezer), sent, stop).await?;
        let took = began.elapsed();
        let dirty = rounds.look().map_err(Cause::Watch)?;
        measured.push(Round { pages, took, dirty });
        watch.event(Event::Round {
            number: measured.len(),
            pages: pages.0,
            took,
            dirty: dirty.0,
            predicted: converge::predict(&measured, &limits),
        });
        chaos::point("source:round")?;
        match converge::decide(&measured, &limits) {
            Decision::Again => link.send(&precopy.round_done(pages, dirty)).await?,
            Decision::Freeze(_) => return Ok(rounds),
            Decision::GiveUp(why) => return Err(Cause::Hopeless(why)),
        }
    }
}

/// Stops the tree for a moment: reads what it is, and arranges that its writes are noted.
fn begin(job: &Job, plan: &Plan) -> Result<(Rounds, Duration), Cause> {
    tracee::dirty::offered().map_err(Cause::Watch)?;
    let _urgency = Urgency::raise();
    let mut moment = Downtime::starts();
    let (mut held, collected) = stop_and_read(job.root, plan, &job.survey, None, &mut moment)?;
    let rounds = Rounds::begin(&mut held, collected).map_err(Cause::Watch)?;
    held.resume().map_err(Cause::Freeze)?;
    Ok((rounds, moment.so_far()))
}

/// Sends a round and waits until the destination has all of it, `until` pages in all.
async fn send(
    precopy: &Precopy,
    link: &SourceLink,
    (spaces, squeezer): (Vec<SpacePages>, Squeezer),
    until: PageCount,
    stop: &mut Stop,
) -> Result<(), Cause> {
    let sending = async {
        match spaces.is_empty() {
            true => Ok::<_, Cause>(()),
            false => Ok(send_pages(link, spaces, squeezer).await?.finish().await?),
        }
    };
    tokio::pin!(sending);
    let mut sent = false;
    let mut arrived = false;
    while !(sent && arrived) {
        tokio::select! {
            done = &mut sending, if !sent => {
                done?;
                sent = true;
            }
            message = hear(link, stop) => match precopy.receive(message?)? {
                DuringRounds::Progress(progress) => arrived = progress.pages >= until,
                DuringRounds::Aborted(abort) => return Err(Cause::PeerAborted(abort)),
            },
        }
    }
    Ok(())
}
