//! After the one-way door: the right to run has left, and the source learns what became of it.
//!
//! Nothing in this file may let the stopped tree run, except on the destination's word `Released`
//! or on the word of a person who looked. While the link is lost the source dials again for as long
//! as it takes: only the destination knows who runs.

use std::time::{Duration, Instant};

use pages::{ByteCount, PageCount};
use tokio::time::{sleep, timeout};
use tracee::chaos;
use transport::event::{Event, Watch};
use transport::quic::credit::Waiting;
use transport::quic::{self, CloseCode, LinkError, SourceLink};
use transport::session::source::{AfterHandoff, AfterServing, Committed, Serving};
use transport::wire::{Control, FaultTotals, Running};
use transport::{Arrival, LinkStats};

use crate::engine::Doomed;
use crate::failure::{Cause, Failure};
use crate::serve::Server;
use crate::source::Job;
use transport::stop::{Stop, Wish};

/// Between two attempts to reach a destination that does not answer.
const DIAL_AGAIN: Duration = Duration::from_millis(250);
/// How soon the last word reaches a destination that is near.
const NEAR: Duration = Duration::from_millis(5);
/// How long a destination that was asked for the right back, or runs the tree, may take to answer.
const LAST_WORD: Duration = Duration::from_secs(5);

/// What leaves after the hand-over.
pub(crate) struct Left {
    /// Who sends it.
    pub(crate) server: Server,
    /// How many pages.
    pub(crate) owed: PageCount,
    /// How many pages had left before.
    pub(crate) sent: PageCount,
}

/// The tree runs on the destination; what is left here is a store of pages, and then stale.
pub(crate) struct Moved {
    state: State,
    running: Running,
    asker: Asker,
    left: Left,
    /// When it began to run there, and what had been pushed by then.
    since: (Instant, PageCount),
    faults: Option<FaultTotals>,
    /// How long the destination was without all of its pages, once it has them.
    took: Option<Duration>,
}

/// How much the destination still needs the stopped copy.
enum State {
    Serving(Serving<Doomed>),
    /// No more, or nobody can tell any more.
    Stale(Doomed),
    /// Between the two.
    Moving,
}

impl Moved {
    fn new(state: State, running: Running, asker: Asker, left: Left) -> Self {
        let since = (Instant::now(), left.server.sent());
        Self { state, running, asker, left, since, faults: None, took: None }
    }

    /// The root of the tree, as it knows itself.
    pub(crate) fn task(&self) -> i32 {
        i32::try_from(self.running.task.0).unwrap_or_default()
    }

    /// Everything that was sent, over all links.
    pub(crate) fn wire_bytes(&self) -> ByteCount {
        let now = self.asker.link.as_ref().map_or(0, |link| link.stats().sent.0);
        ByteCount(self.asker.sent_before.0 + now)
    }

    /// What the present link is like, if there is one.
    pub(crate) fn link_stats(&self) -> Option<LinkStats> {
        self.asker.link.as_ref().map(SourceLink::stats)
    }

    /// Pages that left on demand or in the background.
    pub(crate) fn served(&self) -> PageCount {
        self.left.server.sent()
    }

    /// How long the tree waited for pages, if there were any to wait for.
    pub(crate) fn faults(&self) -> Option<FaultTotals> {
        self.faults.clone().filter(|_| self.left.owed.0 > 0)
    }

    /// How fast pages came that left after the hand-over, if there were any.
    pub(crate) fn arrival(&self) -> Option<Arrival> {
        let (faults, time) = (self.faults()?.count, self.took?);
        let pages = PageCount(self.served().0.saturating_sub(self.since.1.0));
        (pages.0 > 0).then_some(Arrival { faults, pages, time })
    }

    /// Serves pages until the destination has them all. A link that is lost is looked for as long as
    /// pages are missing over there: nobody else has them.
    pub(crate) async fn serve(
        &mut self,
        job: &Job,
        stop: &mut Stop,
        watch: &mut dyn Watch,
    ) -> Result<(), Failure> {
        if self.asker.releasing && self.left.owed.0 > 0 {
            // Asked for when the right could perhaps still be had back: now it cannot.
            watch.event(Event::Warning { text: STILL_NEEDED.to_owned() });
        }
        while let State::Serving(serving) = std::mem::replace(&mut self.state, State::Moving) {
            let said = Said { resume: serving.resume(), release: None };
            let message = if self.left.owed.0 == 0 {
                self.asker.last_word().await
            } else {
                match self.asker.next(&said, Some(&mut self.left.server), job, stop, watch).await {
                    Ok(message) => Some(message),
                    Err(_) => return Err(self.abandoned(serving)),
                }
            };
            self.state = match message {
                Some(message) => self.hear(serving, message, watch).await,
                None => State::Stale(serving.give_up().into_unsure()),
            };
        }
        Ok(())
    }

    /// A person ended it while pages were missing over there.
    fn abandoned(&self, serving: Serving<Doomed>) -> Failure {
        drop(serving.give_up()); // the stopped copy dies: it runs over there
        Failure::abandoned(self.left.server.left(), self.asker.link.is_some())
    }

    async fn hear(
        &mut self,
        serving: Serving<Doomed>,
        message: Control,
        watch: &mut dyn Watch,
    ) -> State {
        match serving.receive(message) {
            AfterServing::Finished(finished, faults) => {
                (self.faults, self.took) = (faults, Some(self.since.0.elapsed()));
                State::Stale(finished.into_stale())
            }
            AfterServing::Progress(serving, progress) => {
                let total = self.left.sent.0 + self.left.owed.0;
                watch.event(Event::Pages { done: progress.pages.0, total });
                State::Serving(serving)
            }
            AfterServing::Still(serving) => State::Serving(serving),
            AfterServing::Missing(serving, missing) => {
                if self.left.server.missing(missing).await.is_err() {
                    self.asker.hang_up(CloseCode::LET_GO).await;
                }
                State::Serving(serving)
            }
            AfterServing::Unknown(serving) if self.left.owed.0 == 0 => {
                State::Stale(serving.give_up().into_unsure())
            }
            AfterServing::Unknown(serving) | AfterServing::Misbehaved(serving, _) => {
                self.asker.hang_up(CloseCode::MISBEHAVED).await;
                sleep(DIAL_AGAIN).await;
                State::Serving(serving)
            }
        }
    }

    /// Ends the copy here and says goodbye. It runs there already, so nothing here is an error.
    pub(crate) async fn end_stale_copy(self) {
        let _ = chaos::point("source:running");
        drop(self.left);
        let goodbye = async {
            if let Some(link) = self.asker.link {
                link.close(CloseCode::DONE, "").await;
            }
        };
        tokio::pin!(goodbye);
        // On a near link the word goes out first: what is waited for then, so that it may be said again,
        // takes as long as the end of a large tree.
        let said = timeout(NEAR, &mut goodbye).await.is_ok();
        if let State::Stale(stale) = self.state {
            let _ = stale.kill();
        }
        if !said {
            goodbye.await;
        }
    }
}

/// Follows the hand-over to its end.
pub(crate) async fn follow(
    mut committed: Committed<Doomed>,
    link: SourceLink,
    mut left: Left,
    job: &Job,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<Moved, Failure> {
    // The hand-off is queued. Let the link's own task put it on the wire before anything else.
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    committed.held().unlock();
    if left.owed.0 > 0 {
        link.yield_bulk(Waiting::Now);
    }
    if chaos::point("source:committed").is_err() {
        link.close(CloseCode::LET_GO, "").await;
    }
    let mut asker = Asker { link: Some(link), sent_before: ByteCount(0), releasing: false };
    loop {
        let said = Said { resume: committed.resume(), release: Some(committed.release()) };
        let server = Some(&mut left.server).filter(|_| left.owed.0 > 0);
        let message = match asker.next(&said, server, job, stop, watch).await {
            Ok(message) => message,
            Err(Wish::TakeBack) => return Err(taken_back_by_hand(committed)),
            Err(_) => return Err(stranded(committed)),
        };
        committed = match committed.receive(message) {
            AfterHandoff::Running(serving, running) => {
                let state = State::Serving(serving);
                return Ok(Moved::new(state, running, asker, left));
            }
            AfterHandoff::Finished(finished, running) => {
                let state = State::Stale(finished.into_stale());
                return Ok(Moved::new(state, running, asker, left));
            }
            AfterHandoff::TakenBack(doomed) => {
                drop(doomed.reprieve()); // everybody runs on
                return Err(Failure::taken_back(Cause::GivenBack));
            }
            AfterHandoff::NotReceived(committed) => {
                asker.repeat(&committed).await;
                committed
            }
            AfterHandoff::Entrusted(committed) | AfterHandoff::Progress(committed, _) => committed,
            AfterHandoff::Unknown(committed) | AfterHandoff::Misbehaved(committed, _) => {
                asker.hang_up(CloseCode::MISBEHAVED).await;
                sleep(DIAL_AGAIN).await;
                committed
            }
        };
    }
}

/// What is said over a new link, and what when a person wants it to end.
struct Said {
    resume: Control,
    /// `None`: it runs over there, there is nothing to be had back.
    release: Option<Control>,
}

/// Holds the link, and makes a new one when it is lost.
struct Asker {
    link: Option<SourceLink>,
    sent_before: ByteCount,
    /// The right was asked back: it is said again over every new link.
    releasing: bool,
}

impl Asker {
    /// The destination's next word, or what a person wished instead.
    async fn next(
        &mut self,
        said: &Said,
        mut server: Option<&mut Server>,
        job: &Job,
        stop: &mut Stop,
        watch: &mut dyn Watch,
    ) -> Result<Control, Wish> {
        loop {
            let Some(link) = &self.link else {
                let link = self.dial_again(said, job, stop, watch).await?;
                if let Some(server) = server.as_deref_mut() {
                    server.answer(&link, Waiting::Now);
                }
                self.link = Some(link);
                continue;
            };
            tokio::select! {
                message = link.recv() => match message {
                    Ok(message) => return Ok(message),
                    Err(_) => {
                        if let Some(server) = server.as_deref_mut() {
                            server.link_lost();
                        }
                        self.hang_up(CloseCode::LET_GO).await;
                    }
                },
                wish = stop.next_wish() => match wish {
                    Wish::End if !self.releasing => {
                        self.releasing = true;
                        let Some(release) = &said.release else {
                            watch.event(Event::Warning { text: STILL_NEEDED.to_owned() });
                            continue;
                        };
                        // There is somebody to ask: perhaps the right can still come back.
                        let _ = link.send(release).await;
                        if let Ok(Ok(message)) = timeout(LAST_WORD, link.recv()).await {
                            return Ok(message);
                        }
                        return Err(Wish::End);
                    }
                    Wish::TakeBack if said.release.is_none() => {
                        watch.event(Event::Warning { text: RUNS_THERE.to_owned() });
                    }
                    Wish::GoOn => {}
                    wish => return Err(wish),
                },
            }
        }
    }

    async fn dial_again(
        &self,
        said: &Said,
        job: &Job,
        stop: &mut Stop,
        watch: &mut dyn Watch,
    ) -> Result<SourceLink, Wish> {
        let lost_at = Instant::now();
        let mut warned = false;
        watch.event(Event::LinkLost { grace: said.release.is_some().then_some(job.patience) });
        loop {
            let attempt = async {
                let link = quic::dial(&job.to, &job.trust, &job.link).await.ok()?;
                link.send(&said.resume).await.ok()?;
                Some(link)
            };
            tokio::select! {
                link = attempt => if let Some(link) = link {
                    return Ok(link);
                },
                wish = stop.next_wish() => if wish != Wish::GoOn { return Err(wish) },
            }
            if !warned && lost_at.elapsed() >= job.patience {
                warned = true;
                let text = match &said.release {
                    Some(_) if job.leave_running => COPY_UNKNOWN,
                    Some(_) => UNREACHABLE,
                    None => STILL_MISSING,
                };
                watch.event(Event::Warning { text: text.to_owned() });
            }
            tokio::select! {
                () = sleep(DIAL_AGAIN) => {}
                wish = stop.next_wish() => if wish != Wish::GoOn { return Err(wish) },
            }
        }
    }

    /// The hand-off did not arrive: it is said again, or asked back if a person wants to end.
    async fn repeat(&mut self, committed: &Committed<Doomed>) {
        let message = if self.releasing { committed.release() } else { committed.handoff_again() };
        if let Some(link) = &self.link {
            let _: Result<(), LinkError> = link.send(&message).await;
        }
    }

    async fn hang_up(&mut self, code: CloseCode) {
        if let Some(link) = self.link.take() {
            self.sent_before.0 += link.stats().sent.0;
            link.close(code, "").await;
        }
    }

    /// Everything was sent before the hand-over, so the destination says `Drained` at once; a link
    /// that is lost now changes nothing.
    async fn last_word(&self) -> Option<Control> {
        let link = self.link.as_ref()?;
        timeout(LAST_WORD, link.recv()).await.ok().and_then(Result::ok)
    }
}

const COPY_UNKNOWN: &str = "\
    the destination does not answer: whether the copy runs there only it knows; the tree runs here; \
    still trying";

const STILL_NEEDED: &str = "\
    the tree runs on the destination and still needs pages that only this qmig has; Ctrl-C again \
    ends this qmig all the same, and whatever needs one of those pages then waits in vain";

const STILL_MISSING: &str = "\
    the destination does not answer; the tree runs there and still needs pages that only this qmig \
    has; still trying";

const RUNS_THERE: &str = "\
    the tree runs on the destination and has moved on since: the stopped copy here may not run";

const UNREACHABLE: &str = "\
    the destination does not answer, and only it knows who runs; still trying. If you know that the \
    tree does not run there, `kill -USR1` this qmig lets the stopped copy run here; Ctrl-C ends this \
    qmig and the stopped copy with it";

fn taken_back_by_hand(committed: Committed<Doomed>) -> Failure {
    drop(committed.give_up().into_unsure().reprieve()); // everybody runs on
    Failure::taken_back(Cause::TakenBackByHand)
}

fn stranded(committed: Committed<Doomed>) -> Failure {
    drop(committed.give_up()); // the stopped copy dies: it may be a second one
    Failure::stranded()
}
