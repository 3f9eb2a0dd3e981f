//! Pages leave while the program runs, round by round, until the rest fits the goal, or will never do.
//!
//! What its processes share copy on write goes ahead of all rounds, each page once, and the tree over
//! there grows out of it. Where no rounds are wanted that is all that leaves while it runs.
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

use crate::asks::{Ask, Asks, Made};
use crate::cargo::{Images, send_blob};
use crate::collect::{MemoryLook, Moment, PageSource, SpacePages};
use crate::converge::{self, Decision, Limits, Percent, Round};
use crate::downtime::Downtime;
use crate::engine::stop_and_read;
use crate::failure::{Cause, Failure};
use crate::fill::send_pages;
use crate::rounds::{Look, Rounds};
use crate::source::{Job, hear, tell_peer};
use crate::switch::Mode;
use crate::throttle::Throttle;
use transport::encode::{Compression, Squeezer};

/// Rounds that are tried, unless somebody says otherwise, before the goal is given up.
pub const MAX_ROUNDS: u32 = 30;
/// What a standstill takes on the other side, beside its pages and what was measured here.
const REMOTE: Duration = Duration::from_millis(10);

/// How rounds have ended.
pub(crate) enum Ending {
    /// What is left fits the goal, as far as one can tell.
    Fits,
    /// It never will: it shall follow after the hand-over.
    Follows,
}

/// How much of it leaves while the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// Rounds, of everything.
    Rounds,
    /// What processes have in common, if they have.
    Common,
}

/// Sends rounds until the program should be stopped. Without rounds if it cannot be watched, and need
/// not be.
pub(crate) async fn rounds(
    agreed: Agreed,
    link: &SourceLink,
    (job, ahead): (&Job, Ahead),
    plan: &Plan,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<(Precopy, Option<(Rounds, Ending)>), Failure> {
    let features = agreed.features();
    let mut precopy = agreed.precopy();
    match run(&mut precopy, link, (job, ahead, features), plan, stop, watch).await {
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
    (job, ahead, features): (&Job, Ahead, Features),
    plan: &Plan,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<Option<(Rounds, Ending)>, Cause> {
    let takes_common = features.contains(Features::COMMON_ROUNDS);
    if ahead == Ahead::Common && !takes_common {
        return Ok(None);
    }
    let (mut rounds, stood) = match begin(job, plan, features) {
        Err(Cause::Watch(error)) if job.mode == Mode::Auto || ahead == Ahead::Common => {
            watch.event(Event::Warning { text: format!("not copied while it runs: {error}") });
            return Ok(None);
        }
        begun => begun?,
    };
    let mut begun = Instant::now();
    watch.event(Event::Watched { stood });
    // All of it: this takes time, which the clocks below must not miss.
    rounds.look()?;
    let common = if takes_common { rounds.common() } else { None };
    if ahead == Ahead::Common && common.is_none() {
        return Ok(None);
    }
    // Its clocks go on: as late as possible, so that they are not behind over there.
    let mut early = rounds.early().clone();
    early.clocks = Moment::now().inside(job.root);
    let images = Images::of_state(&early, common.as_ref().map(|found| &found.heritage));
    link.send(&precopy.outline(images.manifest(&[])?)).await?;
    images.send(link).await?;
    chaos::point("source:outlined")?;
    let mut sent = PageCount(0);
    if let Some(found) = common {
        sent = found.heritage.pages.count();
        let pages = found.spaces(PageSource::Common);
        let squeezer = Squeezer::new(job.compress, features);
        send(precopy, link, (pages, squeezer), sent, stop).await?;
        rounds.have_read(&found)?;
        rounds.look()?;
        chaos::point("source:common")?;
    }
    if ahead == Ahead::Common {
        last(precopy, link, &mut rounds, (1, sent), stop).await?;
        return Ok(Some((rounds, Ending::Fits)));
    }

    let rtt = link.stats().min_rtt;
    let mut limits = Limits {
        max_downtime: job.max_downtime,
        max_rounds: job.max_rounds,
        deadline: job.deadline,
        overhead: Duration::ZERO,
        rtt,
        may_owe: features.contains(Features::POST_COPY),
        throttle: job.auto_converge.then_some(Percent(0)),
    };
    let mut throttle: Option<Throttle> = None;
    let mut measured: Vec<Round> = Vec::new();
    // From here on rounds are made one after the other, until they have done what they can.
    let mut judged = job.asks.is_none().then_some(0);
    let mut asked = None;
    loop {
        if let (Some(asks), Some(last), None) = (&job.asks, measured.last_mut(), judged) {
            let ask = next_ask(precopy, link, asks, stop).await?;
            last.left = rounds.look()?.left;
            match ask {
                Ask::Round(tell) => asked = Some(tell),
                Ask::Finish => (judged, begun) = (Some(measured.len() - 1), Instant::now()),
            }
        }
        let decision = match judged {
            Some(first) => converge::decide(&measured[first..], begun.elapsed(), &limits),
            None => Decision::Again(PageCount(u64::MAX)),
        };
        let most = match decision {
            Decision::Again(most) => most,
            Decision::Throttle(share, most) => {
                match &throttle {
                    Some(throttle) => throttle.set(share),
                    None => throttle = Some(Throttle::begin(job.root, share)),
                }
                limits.throttle = Some(share);
                watch.event(Event::Throttled { percent: share.0 });
                most
            }
            Decision::Freeze(_) if rounds.is_ready() => return Ok(Some((rounds, Ending::Fits))),
            // What it writes while that is read may be worth one more round.
            Decision::Freeze(_) => {
                if let (true, Some(last)) = (rounds.get_ready(), measured.last_mut()) {
                    last.left = rounds.look()?.left;
                }
                continue;
            }
            Decision::SwitchOver(why) => {
                watch.event(Event::SwitchedOver { why: why.to_string() });
                if let Some(round) = measured.last().filter(|_| rounds.can_part()) {
                    link.send(&precopy.round_done(round.pages, round.dirty)).await?;
                    last(precopy, link, &mut rounds, (measured.len() + 1, sent), stop).await?;
                }
                return Ok(Some((rounds, Ending::Follows)));
            }
            // What it promises is that the tree moves.
            Decision::GiveUp(why) if job.mode == Mode::Auto => {
                watch
                    .event(Event::Warning { text: format!("it will stand still for long: {why}") });
                return Ok(Some((rounds, Ending::Fits)));
            }
            Decision::GiveUp(why) => return Err(Cause::Hopeless(why)),
        };
        if let Some(last) = measured.last() {
            link.send(&precopy.round_done(last.pages, last.dirty)).await?;
        }
        let began = Instant::now();
        let (outline, spaces) = rounds.next(most);
        let pages = outline.pages();
        let name = format!("{OUTLINE}{}", measured.len() + 1);
        send_blob(link, &name, outline.to_bytes()).await?;
        sent = sent + pages;
        let squeezer = Squeezer::new(job.compress, features);
        send(precopy, link, (spaces, squeezer), sent, stop).await?;
        let took = began.elapsed();
        let looking = Instant::now();
        let Look { dirty, left } = rounds.look()?;
        // It is looked at once more at the end. Its images go there and a word comes back; the right
        // to run goes there and a word comes back.
        limits.overhead = stood + looking.elapsed() + REMOTE + 2 * rtt;
        let round = Round { pages, took, dirty, left };
        measured.push(round);
        let (number, predicted) = (measured.len(), converge::predict(&measured, &limits));
        let [pages, dirty, left] = [pages.0, dirty.0, left.0];
        watch.event(Event::Round { number, pages, took, dirty, left, predicted });
        if let Some(tell) = asked.take() {
            let _: Result<(), Made> = tell.send(Made { number, round, predicted }); // gone meanwhile
        }
        chaos::point("source:round")?;
    }
}

/// Stops the tree for a moment: reads what it is, and arranges that its writes are noted.
fn begin(job: &Job, plan: &Plan, features: Features) -> Result<(Rounds, Duration), Cause> {
    tracee::dirty::offered().map_err(Cause::Watch)?;
    let _urgency = Urgency::raise();
    let mut moment = Downtime::starts();
    let look = (None, MemoryLook::Nothing, features.contains(Features::FILE_ROUNDS));
    let (mut held, collected) = stop_and_read(job.root, plan, &job.survey, look, &mut moment)?;
    let rounds = Rounds::begin(&mut held, collected, features).map_err(Cause::Watch)?;
    held.resume().map_err(Cause::Freeze)?;
    Ok((rounds, moment.so_far()))
}

/// Waits, while the tree runs, until somebody asks for something.
async fn next_ask(
    precopy: &Precopy,
    link: &SourceLink,
    asks: &Asks,
    stop: &mut Stop,
) -> Result<Ask, Cause> {
    loop {
        tokio::select! {
            ask = asks.next() => return Ok(ask),
            message = hear(link, stop) => match precopy.receive(message?)? {
                DuringRounds::Progress(_) => {}
                DuringRounds::Aborted(abort) => return Err(Cause::PeerAborted(abort)),
            },
        }
    }
}

/// A last round, without pages. `until` tells how many have been sent.
async fn last(
    precopy: &Precopy,
    link: &SourceLink,
    rounds: &mut Rounds,
    (number, until): (usize, PageCount),
    stop: &mut Stop,
) -> Result<(), Cause> {
    send_blob(link, &format!("{OUTLINE}{number}"), rounds.part().to_bytes()).await?;
    let nothing = Squeezer::new(Compression::None, Features::NONE);
    send(precopy, link, (Vec::new(), nothing), until, stop).await
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
