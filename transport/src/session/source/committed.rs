//! The source after the one-way door: what became of the right to run, and what is left here.

use crate::error::PeerMisbehaved;
use crate::session::out_of_turn;
use crate::wire::{Control, FaultTotals, Kind, Missing, PeerPhase, Progress, Running, SessionId};

/// **The right to run has left.** `G` is kept stopped, and comes back only as
/// [`AfterHandoff::TakenBack`].
#[must_use = "a committed source must learn what became of the hand-off"]
pub struct Committed<G> {
    pub(super) session: SessionId,
    pub(super) held: G,
}

/// What may follow [`Committed`].
pub enum AfterHandoff<G> {
    /// The program runs over there.
    Running(Serving<G>, Running),
    /// It runs over there and needs nothing more.
    Finished(Finished<G>, Running),
    /// Asked over a new link: the hand-off did not arrive. Say it again
    /// ([`Committed::handoff_again`]) or ask for the right back ([`Committed::release`]).
    NotReceived(Committed<G>),
    /// Asked over a new link: it arrived, and the program is about to run. Wait.
    Entrusted(Committed<G>),
    /// The other copy is destroyed and never ran: the right to run is here again.
    TakenBack(G),
    /// The destination does not know this session. Nobody can say who runs.
    Unknown(Committed<G>),
    /// How far the destination is.
    Progress(Committed<G>, Progress),
    /// The destination broke the protocol. This changes nothing about who may run: drop the link,
    /// dial again, ask again.
    Misbehaved(Committed<G>, PeerMisbehaved),
}

/// The program runs over there and may still want pages from the stopped copy here.
#[must_use = "the program over there may still want pages"]
pub struct Serving<G> {
    session: SessionId,
    held: G,
    running: Running,
}

/// What may follow [`Serving`].
pub enum AfterServing<G> {
    /// Every page is over there; how long the program waited for them, if the destination still
    /// tells.
    Finished(Finished<G>, Option<FaultTotals>),
    /// How far the destination is.
    Progress(Serving<G>, Progress),
    /// It repeated that it runs: the link was renewed.
    Still(Serving<G>),
    /// Over a new link: what has not come, or a part of that.
    Missing(Serving<G>, Missing),
    /// The destination does not know this session any more.
    Unknown(Serving<G>),
    /// The destination broke the protocol. Drop the link and dial again.
    Misbehaved(Serving<G>, PeerMisbehaved),
}

/// It has moved. What is left here is a stale copy, to be ended.
pub struct Finished<G> {
    stale: G,
}

/// Nobody can be asked any more. What is left here may be the only copy, or a stale one: keep it
/// stopped until a person decides.
pub struct Stranded<G> {
    unsure: G,
}

impl<G> Committed<G> {
    /// The stopped tree. It may not run, but what it holds and the destination now needs can be let
    /// go.
    pub const fn held(&mut self) -> &mut G {
        &mut self.held
    }

    /// Which migration this is.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The first message on a new link, after the old one was lost.
    pub const fn resume(&self) -> Control {
        Control::Resume(self.session)
    }

    /// Says it again, after [`AfterHandoff::NotReceived`].
    pub const fn handoff_again(&self) -> Control {
        Control::Handoff
    }

    /// Asks for the right back, after [`AfterHandoff::NotReceived`]. Only the answer gives it.
    pub const fn release(&self) -> Control {
        Control::Release
    }

    /// Stops asking. A person must decide what the stopped copy is.
    pub fn give_up(self) -> Stranded<G> {
        Stranded { unsure: self.held }
    }

    /// Takes what the destination says.
    pub fn receive(self, message: Control) -> AfterHandoff<G> {
        let Self { session, held } = self;
        let running =
            |held, running| AfterHandoff::Running(Serving { session, held, running }, running);
        match message {
            Control::Running(started) => running(held, started),
            Control::ResumeReply(PeerPhase::Running(started)) => running(held, started),
            Control::ResumeReply(PeerPhase::Drained(started)) => {
                AfterHandoff::Finished(Finished { stale: held }, started)
            }
            // The only two lines that give the right back.
            Control::Released => AfterHandoff::TakenBack(held),
            Control::ResumeReply(PeerPhase::Released) => AfterHandoff::TakenBack(held),
            Control::ResumeReply(PeerPhase::Staged) => {
                AfterHandoff::NotReceived(Self { session, held })
            }
            Control::ResumeReply(PeerPhase::Entrusted) => {
                AfterHandoff::Entrusted(Self { session, held })
            }
            Control::ResumeReply(PeerPhase::Unknown) => {
                AfterHandoff::Unknown(Self { session, held })
            }
            Control::ResumeReply(PeerPhase::Filling) => AfterHandoff::Misbehaved(
                Self { session, held },
                PeerMisbehaved::ImpossiblePhase {
                    state: "Committed",
                    expected: "Staged or later",
                    got: "Filling",
                },
            ),
            Control::Progress(progress) => AfterHandoff::Progress(Self { session, held }, progress),
            other => {
                let allowed = &[Kind::Running, Kind::Released, Kind::ResumeReply, Kind::Progress];
                let wrong = out_of_turn("Committed", allowed, &other);
                AfterHandoff::Misbehaved(Self { session, held }, wrong)
            }
        }
    }
}

impl<G> Serving<G> {
    /// The stopped tree, to be read from.
    pub const fn held(&mut self) -> &mut G {
        &mut self.held
    }

    /// What the destination said when it started.
    pub const fn running(&self) -> Running {
        self.running
    }

    /// The first message on a new link, after the old one was lost.
    pub const fn resume(&self) -> Control {
        Control::Resume(self.session)
    }

    /// Stops serving. A person must decide.
    pub fn give_up(self) -> Stranded<G> {
        Stranded { unsure: self.held }
    }

    /// Takes what the destination says.
    pub fn receive(self, message: Control) -> AfterServing<G> {
        match message {
            Control::Drained(faults) => {
                AfterServing::Finished(Finished { stale: self.held }, Some(faults))
            }
            Control::ResumeReply(PeerPhase::Drained(_)) => {
                AfterServing::Finished(Finished { stale: self.held }, None)
            }
            Control::Progress(progress) => AfterServing::Progress(self, progress),
            // It answers a repeated hand-off this way, and our question on a new link.
            Control::Running(_) | Control::ResumeReply(PeerPhase::Running(_)) => {
                AfterServing::Still(self)
            }
            Control::Missing(missing) => AfterServing::Missing(self, missing),
            Control::ResumeReply(PeerPhase::Unknown) => AfterServing::Unknown(self),
            other => {
                let allowed = &[
                    Kind::Drained,
                    Kind::Progress,
                    Kind::Running,
                    Kind::ResumeReply,
                    Kind::Missing,
                ];
                AfterServing::Misbehaved(self, out_of_turn("Serving", allowed, &other))
            }
        }
    }
}

impl<G> Finished<G> {
    /// The stale copy, to be ended: it must never run again.
    pub fn into_stale(self) -> G {
        self.stale
    }
}

impl<G> Stranded<G> {
    /// The copy nobody knows the state of, to be kept stopped.
    pub fn into_unsure(self) -> G {
        self.unsure
    }
}

debug_as_name!(
    Committed "Committed", Serving "Serving", Finished "Finished", Stranded "Stranded"
);
