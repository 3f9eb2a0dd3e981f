//! The source of the test world: what it does with what it hears.

use pages::PageCount;

use super::{Right, SRC, World};
use crate::session::report::Outcome;
use crate::session::source;
use crate::session::tests::script::Policy;
use crate::wire::{Abort, AbortCode, Control, Manifest};

pub(in crate::session::tests) enum Source {
    Offering(source::Offering),
    Greeted(source::Greeted),
    Frozen(source::Frozen<Right>),
    Committed(source::Committed<Right>),
    Serving(source::Serving<Right>),
    Done(Outcome),
    /// Between two states.
    Moving,
}

impl World {
    pub(super) fn take_source(&mut self) -> Source {
        std::mem::replace(&mut self.source, Source::Moving)
    }

    pub(super) fn source_aborts(&mut self, reason: &str) {
        let why = Abort::new(AbortCode::CANCELLED, reason);
        let outcome = Source::Done(Outcome::Aborted);
        match self.take_source() {
            Source::Frozen(frozen) => {
                let (Right, abort) = frozen.abort(why);
                self.source_runs = true;
                self.source = outcome;
                self.say(SRC, abort);
            }
            Source::Greeted(greeted) => {
                self.source = outcome;
                let abort = greeted.abort(why);
                self.say(SRC, abort);
            }
            _ => self.source = outcome,
        }
    }

    pub(super) fn source_hears(&mut self, message: Control) {
        self.source = match self.take_source() {
            Source::Offering(offering) => match offering.receive(message) {
                Ok(source::AfterHello::Greeted(greeted)) => Source::Greeted(greeted),
                Ok(source::AfterHello::Refused(_)) => Source::Done(Outcome::Refused),
                Ok(source::AfterHello::Aborted(_)) | Err(_) => Source::Done(Outcome::Aborted),
            },
            Source::Greeted(greeted) => match greeted.receive(message) {
                Ok(source::AfterPlan::Agreed(agreed)) => self.freeze(agreed),
                Ok(source::AfterPlan::Refused(_)) => Source::Done(Outcome::Refused),
                Ok(source::AfterPlan::Aborted(_)) | Err(_) => Source::Done(Outcome::Aborted),
            },
            Source::Frozen(frozen) => match frozen.receive(message) {
                source::AfterFreeze::Staged(frozen, proof) => {
                    let (committed, handoff) = frozen.commit(proof);
                    self.source = Source::Committed(committed);
                    self.say(SRC, handoff);
                    return;
                }
                source::AfterFreeze::Progress(frozen, _) => Source::Frozen(frozen),
                source::AfterFreeze::Aborted(Right, _) => {
                    self.source_runs = true;
                    Source::Done(Outcome::Aborted)
                }
                source::AfterFreeze::Misbehaved(frozen, _) => {
                    self.source = Source::Frozen(frozen);
                    self.source_aborts("misbehaved");
                    return;
                }
            },
            Source::Committed(committed) => self.after_handoff(committed.receive(message)),
            Source::Serving(serving) => match serving.receive(message) {
                source::AfterServing::Finished(finished, _) => {
                    let Right = finished.into_stale();
                    Source::Done(Outcome::Moved)
                }
                source::AfterServing::Progress(serving, _)
                | source::AfterServing::Missing(serving, _)
                | source::AfterServing::Still(serving)
                | source::AfterServing::Unknown(serving) => Source::Serving(serving),
                source::AfterServing::Misbehaved(serving, _) => {
                    self.source = Source::Serving(serving);
                    self.let_go(SRC);
                    return;
                }
            },
            done @ (Source::Done(_) | Source::Moving) => done,
        };
        if matches!(self.source, Source::Done(_)) {
            self.let_go(SRC);
        }
    }

    pub(super) fn freeze(&mut self, agreed: source::Agreed) -> Source {
        let mut precopy = agreed.precopy();
        if self.script.rounds > 0 {
            self.say(SRC, precopy.outline(Manifest::default()));
        }
        for _ in 0..self.script.rounds {
            self.say(SRC, precopy.round_done(PageCount(10), PageCount(1)));
        }
        self.source_runs = false;
        let (frozen, freezing) = precopy.freeze(Right);
        self.say(SRC, freezing);
        self.say(SRC, frozen.manifest(Manifest::default()));
        Source::Frozen(frozen)
    }

    pub(super) fn after_handoff(&mut self, after: source::AfterHandoff<Right>) -> Source {
        match after {
            source::AfterHandoff::Running(serving, _) => Source::Serving(serving),
            source::AfterHandoff::Finished(finished, _) => {
                let Right = finished.into_stale();
                Source::Done(Outcome::Moved)
            }
            source::AfterHandoff::NotReceived(committed) => {
                let take_back = match self.script.policy {
                    Policy::TakeBack => true,
                    Policy::Waver => std::mem::replace(&mut self.wavered, true),
                    Policy::Again | Policy::Reckless => false,
                };
                let message =
                    if take_back { committed.release() } else { committed.handoff_again() };
                self.say(SRC, message);
                Source::Committed(committed)
            }
            source::AfterHandoff::TakenBack(Right) => {
                self.source_runs = true;
                Source::Done(Outcome::TakenBack)
            }
            source::AfterHandoff::Entrusted(committed)
            | source::AfterHandoff::Progress(committed, _) => Source::Committed(committed),
            source::AfterHandoff::Unknown(_) => panic!("the destination does not forget"),
            source::AfterHandoff::Misbehaved(committed, _) => {
                self.source = Source::Committed(committed);
                self.let_go(SRC);
                self.take_source()
            }
        }
    }
}
