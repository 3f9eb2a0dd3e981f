//! After the one-way door: the right to run has left, and the source learns what became of it.
//!
//! Nothing in this file may let the stopped tree run, except on the destination's word `Released`
//! or on the word of a person who looked. While the link is lost the source dials again for as long
//! as it takes: only the destination knows who runs.

use std::time::{Duration, Instant};

use pages::ByteCount;
use tokio::time::{sleep, timeout};
use tracee::chaos;
use transport::event::{Event, Watch};
use transport::quic::{self, CloseCode, LinkError, SourceLink};
use transport::session::source::{AfterHandoff, AfterServing, Committed, Serving};
use transport::wire::{Control, Running};

use crate::doomed::Doomed;
use crate::failure::{Cause, Failure};
use crate::source::Job;
use transport::stop::{Stop, Wish};

/// Between two attempts to reach a destination that does not answer.
const DIAL_AGAIN: Duration = Duration::from_millis(250);
/// How long a destination that was asked for the right back, or runs the tree, may take to answer.
const LAST_WORD: Duration = Duration::from_secs(5);

/// The tree runs on the destination; what is left here is stale.
pub(crate) struct Moved {
    stale: Doomed,
    running: Running,
    link: Option<SourceLink>,
    sent_before: ByteCount,
}

impl Moved {
    /// The root of the tree, as it knows itself.
    pub(crate) fn task(&self) -> i32 {
        i32::try_from(self.running.task.0).unwrap_or_default()
    }

    /// Everything that was sent, over all links.
    pub(crate) fn wire_bytes(&self) -> ByteCount {
        let now = self.link.as_ref().map_or(0, |link| link.stats().sent.0);
        ByteCount(self.sent_before.0 + now)
    }

    /// Ends the copy here and says goodbye. It runs there already, so nothing here is an error.
    pub(crate) async fn end_stale_copy(self) {
        let Self { stale, link, .. } = self;
        let _ = chaos::point("source:running");
        let _ = stale.kill();
        if let Some(link) = link {
            link.close(CloseCode::DONE, "").await;
        }
    }
}

/// Follows the hand-over to its end.
pub(crate) async fn follow(
    mut committed: Committed<Doomed>,
    link: SourceLink,
    job: &Job,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<Moved, Failure> {
    // The hand-off is queued. Let the link's own task put it on the wire before anything else.
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    committed.held().unlock();
    if chaos::point("source:committed").is_err() {
        link.close(CloseCode::LET_GO, "").await;
    }
    let mut asker = Asker { link: Some(link), sent_before: ByteCount(0), releasing: false };
    loop {
        let message = match asker.next(&committed, job, stop, watch).await {
            Ok(message) => message,
            Err(Wish::TakeBack) => return Err(taken_back_by_hand(committed)),
            Err(_) => return Err(stranded(committed)),
        };
        committed = match committed.receive(message) {
            AfterHandoff::Running(serving, running) => {
                return Ok(serve(serving, running, asker).await);
            }
            AfterHandoff::Finished(finished, running) => {
                return Ok(asker.moved(finished.into_stale(), running));
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
        committed: &Committed<Doomed>,
        job: &Job,
        stop: &mut Stop,
        watch: &mut dyn Watch,
    ) -> Result<Control, Wish> {
        loop {
            let Some(link) = &self.link else {
                self.dial_again(committed, job, stop, watch).await?;
                continue;
            };
            tokio::select! {
                message = link.recv() => match message {
                    Ok(message) => return Ok(message),
                    Err(_) => self.hang_up(CloseCode::LET_GO).await,
                },
                wish = stop.next_wish() => match wish {
                    Wish::End if !self.releasing => {
                        // There is somebody to ask: perhaps the right can still come back.
                        self.releasing = true;
                        let _ = link.send(&committed.release()).await;
                        if let Ok(Ok(message)) = timeout(LAST_WORD, link.recv()).await {
                            return Ok(message);
                        }
                        return Err(Wish::End);
                    }
                    Wish::GoOn => {}
                    wish => return Err(wish),
                },
            }
        }
    }

    async fn dial_again(
        &mut self,
        committed: &Committed<Doomed>,
        job: &Job,
        stop: &mut Stop,
        watch: &mut dyn Watch,
    ) -> Result<(), Wish> {
        let lost_at = Instant::now();
        let mut warned = false;
        watch.event(Event::LinkLost { grace: job.patience });
        loop {
            let attempt = async {
                let link = quic::dial(&job.to, &job.trust, &job.link).await.ok()?;
                link.send(&committed.resume()).await.ok()?;
                Some(link)
            };
            tokio::select! {
                link = attempt => if let Some(link) = link {
                    self.link = Some(link);
                    return Ok(());
                },
                wish = stop.next_wish() => if wish != Wish::GoOn { return Err(wish) },
            }
            if !warned && lost_at.elapsed() >= job.patience {
                warned = true;
                watch.event(Event::Warning { text: UNREACHABLE.to_owned() });
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

    fn moved(self, stale: Doomed, running: Running) -> Moved {
        Moved { stale, running, link: self.link, sent_before: self.sent_before }
    }
}

const UNREACHABLE: &str = "\
    the destination does not answer, and only it knows who runs; still trying. If you know that the \
    tree does not run there, `kill -USR1` this qmig lets the stopped copy run here; Ctrl-C ends this \
    qmig and the stopped copy with it";

/// Everything was sent before the hand-over, so the destination says `Drained` at once; a link that
/// is lost now changes nothing.
async fn serve(mut serving: Serving<Doomed>, running: Running, asker: Asker) -> Moved {
    loop {
        let next = match &asker.link {
            Some(link) => timeout(LAST_WORD, link.recv()).await.ok().and_then(Result::ok),
            None => None,
        };
        let Some(message) = next else {
            return asker.moved(serving.give_up().into_unsure(), running);
        };
        serving = match serving.receive(message) {
            AfterServing::Finished(finished) => return asker.moved(finished.into_stale(), running),
            AfterServing::Progress(serving, _) | AfterServing::Still(serving) => serving,
            AfterServing::Unknown(serving) | AfterServing::Misbehaved(serving, _) => {
                return asker.moved(serving.give_up().into_unsure(), running);
            }
        };
    }
}

fn taken_back_by_hand(committed: Committed<Doomed>) -> Failure {
    drop(committed.give_up().into_unsure().reprieve()); // everybody runs on
    Failure::taken_back(Cause::TakenBackByHand)
}

fn stranded(committed: Committed<Doomed>) -> Failure {
    drop(committed.give_up()); // the stopped copy dies: it may be a second one
    Failure::stranded()
}
