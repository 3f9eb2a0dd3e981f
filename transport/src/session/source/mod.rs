//! The source's states, in the order of its life: up to the one-way door here, after it from
//! [`Committed`] on.

mod committed;

use super::out_of_turn;
use crate::error::PeerMisbehaved;
use crate::wire::{
    Abort, AbortCode, Control, Features, Hello, HelloReply, Kind, Manifest, Progress, Refusal,
    RoundEnd, SessionId, Staged,
};

pub use self::committed::{AfterHandoff, AfterServing, Committed, Finished, Serving, Stranded};

/// Hello was sent. Nothing was touched; leaving is free.
#[derive(Debug)]
pub struct Offering {
    hello: Hello,
}

/// What may follow [`Offering`].
#[derive(Debug)]
pub enum AfterHello {
    /// A version was found; send the plan.
    Greeted(Greeted),
    /// The destination will not. Nothing was touched.
    Refused(Vec<Refusal>),
    /// The destination stopped. Nothing was touched.
    Aborted(Abort),
}

/// Both know how to talk. The plan is on its way, or about to be.
#[derive(Debug)]
pub struct Greeted {
    session: SessionId,
    reply: HelloReply,
}

/// What may follow [`Greeted`].
#[derive(Debug)]
pub enum AfterPlan {
    /// The destination can carry the plan.
    Agreed(Agreed),
    /// It cannot, and why. Nothing was touched.
    Refused(Vec<Refusal>),
    /// The destination stopped. Nothing was touched.
    Aborted(Abort),
}

/// Both sides accept the plan. The program still runs, untouched.
#[derive(Debug)]
pub struct Agreed {
    session: SessionId,
    features: Features,
}

/// Rounds of pre-copy: the program runs, and its pages are watched.
#[derive(Debug)]
pub struct Precopy {
    agreed: Agreed,
    rounds: u32,
}

/// What may be heard in [`Precopy`].
#[derive(Debug)]
pub enum DuringRounds {
    /// How far the destination is.
    Progress(Progress),
    /// The destination stopped. Stop watching; the source runs on.
    Aborted(Abort),
}

/// Every thread stands still. The right to run is here: any error ends with [`Frozen::abort`].
#[must_use = "the program stands still until this is committed or aborted"]
pub struct Frozen<G> {
    session: SessionId,
    held: G,
}

/// What may follow [`Frozen`]. Whatever the peer does, the right to run is in one of these.
pub enum AfterFreeze<G> {
    /// The destination is one instruction from running: [`Frozen::commit`] may be called.
    Staged(Frozen<G>, StagedProof),
    /// How far the destination is.
    Progress(Frozen<G>, Progress),
    /// The destination stopped: let the program run on.
    Aborted(G, Abort),
    /// The destination broke the protocol: abort.
    Misbehaved(Frozen<G>, PeerMisbehaved),
}

/// The destination said `Staged` in this session. Only decoding that message makes one.
#[derive(Debug)]
pub struct StagedProof {
    session: SessionId,
    staged: Staged,
}

impl Offering {
    /// Starts a migration. Send the message first of all.
    pub fn new(session: SessionId, features: Features, software: &str) -> (Self, Control) {
        let hello = Hello::new(session, features, software);
        (Self { hello: hello.clone() }, Control::Hello(hello))
    }

    /// Takes the destination's answer to the hello.
    pub fn receive(self, message: Control) -> Result<AfterHello, PeerMisbehaved> {
        match message {
            Control::HelloReply(reply) => {
                Ok(AfterHello::Greeted(Greeted { session: self.hello.session, reply }))
            }
            Control::Refuse(reasons) => Ok(AfterHello::Refused(reasons)),
            Control::Abort(abort) => Ok(AfterHello::Aborted(abort)),
            other => {
                Err(out_of_turn("Offering", &[Kind::HelloReply, Kind::Refuse, Kind::Abort], &other))
            }
        }
    }
}

impl Greeted {
    /// What both can do: never more than was offered.
    pub const fn features(&self) -> Features {
        self.reply.features
    }

    /// The destination's own words about itself.
    pub const fn peer(&self) -> &HelloReply {
        &self.reply
    }

    /// Leaves; nothing was touched.
    pub fn abort(self, why: Abort) -> Control {
        Control::Abort(why)
    }

    /// Takes the destination's answer to the plan.
    pub fn receive(self, message: Control) -> Result<AfterPlan, PeerMisbehaved> {
        match message {
            Control::Ready => Ok(AfterPlan::Agreed(Agreed {
                session: self.session,
                features: self.reply.features,
            })),
            Control::Refuse(reasons) => Ok(AfterPlan::Refused(reasons)),
            Control::Abort(abort) => Ok(AfterPlan::Aborted(abort)),
            other => Err(out_of_turn("Greeted", &[Kind::Ready, Kind::Refuse, Kind::Abort], &other)),
        }
    }
}

impl Agreed {
    /// Which migration this is.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// What both can do.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// Begins rounds of pre-copy.
    pub const fn precopy(self) -> Precopy {
        Precopy { agreed: self, rounds: 0 }
    }

    /// Moves the right to run into the session: `held` proves that every thread stands still.
    pub fn freeze<G>(self, held: G) -> (Frozen<G>, Control) {
        (Frozen { session: self.session, held }, Control::Freezing)
    }

    /// Leaves; the program runs on.
    pub fn abort(self, why: Abort) -> Control {
        Control::Abort(why)
    }

    /// Takes what the destination may say meanwhile: that it stops.
    pub fn receive(&self, message: Control) -> Result<Abort, PeerMisbehaved> {
        match message {
            Control::Abort(abort) => Ok(abort),
            other => Err(out_of_turn("Agreed", &[Kind::Abort], &other)),
        }
    }
}

impl Precopy {
    /// Tells the images of the tree as it is while it runs: before the first round.
    pub fn outline(&self, manifest: Manifest) -> Control {
        Control::Manifest(manifest)
    }

    /// A round has been sent, `pages` of it, while `dirty` pages changed again; another follows.
    pub fn round_done(&mut self, pages: pages::PageCount, dirty: pages::PageCount) -> Control {
        self.rounds = self.rounds.saturating_add(1);
        Control::RoundEnd(RoundEnd { round: self.rounds, pages, dirty })
    }

    /// Which migration this is.
    pub const fn session(&self) -> SessionId {
        self.agreed.session
    }

    /// No round follows: the program is about to be stopped.
    pub fn last_round_done(self) -> Agreed {
        self.agreed
    }

    /// Moves the right to run into the session: `held` proves that every thread stands still.
    pub fn freeze<G>(self, held: G) -> (Frozen<G>, Control) {
        self.agreed.freeze(held)
    }

    /// Leaves; the program runs on.
    pub fn abort(self, why: Abort) -> Control {
        Control::Abort(why)
    }

    /// Takes what the destination may say meanwhile.
    pub fn receive(&self, message: Control) -> Result<DuringRounds, PeerMisbehaved> {
        match message {
            Control::Progress(progress) => Ok(DuringRounds::Progress(progress)),
            Control::Abort(abort) => Ok(DuringRounds::Aborted(abort)),
            other => Err(out_of_turn("Precopy", &[Kind::Progress, Kind::Abort], &other)),
        }
    }
}

impl<G> Frozen<G> {
    /// The stopped tree, to be read from.
    pub const fn held(&mut self) -> &mut G {
        &mut self.held
    }

    /// Which migration this is.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// Tells all that is sent before the hand-off. It may go ahead of what it counts, so that the
    /// destination can build while the rest is on its way.
    pub fn manifest(&self, manifest: Manifest) -> Control {
        Control::Manifest(manifest)
    }

    /// Turns the held right into another form, for instance one whose drop kills instead of lets
    /// go, to be used just before [`Frozen::commit`]. If that fails the right is unchanged.
    pub fn map<K, E>(
        self,
        change: impl FnOnce(G) -> Result<K, (G, E)>,
    ) -> Result<Frozen<K>, (Self, E)> {
        let session = self.session;
        match change(self.held) {
            Ok(held) => Ok(Frozen { session, held }),
            Err((held, error)) => Err((Self { session, held }, error)),
        }
    }

    /// Takes the right to run back out. The destination need not agree, nor even hear of it.
    pub fn abort(self, why: Abort) -> (G, Control) {
        (self.held, Control::Abort(why))
    }

    /// Takes what the destination says.
    pub fn receive(self, message: Control) -> AfterFreeze<G> {
        match message {
            Control::Staged(staged) => {
                let session = self.session;
                AfterFreeze::Staged(self, StagedProof { session, staged })
            }
            Control::Progress(progress) => AfterFreeze::Progress(self, progress),
            Control::Abort(abort) => AfterFreeze::Aborted(self.held, abort),
            // It had said `Staged`, and thought better of it before it was committed.
            Control::Released => {
                let why = "the destination destroyed its tree before hand-off";
                AfterFreeze::Aborted(self.held, Abort::new(AbortCode::CANCELLED, why))
            }
            other => {
                let allowed = &[Kind::Staged, Kind::Progress, Kind::Abort, Kind::Released];
                AfterFreeze::Misbehaved(self, out_of_turn("Frozen", allowed, &other))
            }
        }
    }

    /// **The one-way door.** From here the source must assume that the program runs elsewhere,
    /// whether or not the message can be sent: no error below may let the held tree run.
    ///
    /// # Panics
    ///
    /// If the proof is of another session, which is our own mistake.
    pub fn commit(self, proof: StagedProof) -> (Committed<G>, Control) {
        assert_eq!(proof.session, self.session, "the proof is of this session");
        (Committed { session: self.session, held: self.held }, Control::Handoff)
    }
}

impl StagedProof {
    /// What the destination said.
    pub const fn staged(&self) -> Staged {
        self.staged
    }
}

debug_as_name!(Frozen "Frozen");
