//! The destination from the staged tree on: it runs, or is destroyed.

use std::time::{Duration, Instant};

use crate::error::PeerMisbehaved;
use crate::session::out_of_turn;
use crate::wire::{Control, FaultTotals, Kind, PeerPhase, Progress, Running as Started, SessionId};

/// The tree stands one instruction from running, and may not run it.
#[must_use = "a staged tree must end in running or in being destroyed"]
pub struct Staged<G> {
    pub(super) session: SessionId,
    pub(super) built: G,
    pub(super) grace: Duration,
    pub(super) lost_since: Option<Instant>,
}

/// What may follow [`Staged`].
pub enum AfterStaged<G> {
    /// **The right to run is here.** Let it run, then say so.
    Entrusted(Entrusted<G>),
    /// The source takes the right back, or stopped: destroy the tree.
    Condemned(Condemned<G>),
    /// The source is back on a new link: send the answer and go on waiting.
    Resumed(Staged<G>, Control),
    /// The source broke the protocol. Drop the link, then wait out the grace time.
    Misbehaved(Staged<G>, PeerMisbehaved),
}

/// The hand-off has arrived. Nobody else may run the program now.
#[must_use = "the program runs nowhere until this one does"]
pub struct Entrusted<G> {
    session: SessionId,
    built: G,
}

/// The tree must be destroyed and never run.
#[must_use = "a condemned tree must be destroyed"]
pub struct Condemned<G> {
    session: SessionId,
    built: G,
}

/// The tree is being destroyed. Whatever the source asks meanwhile, nothing is answered until it is
/// gone: then `Released` goes out, over the newest link there is.
#[derive(Debug)]
#[must_use = "the source waits to hear that the tree is gone"]
pub struct Destroying {
    session: SessionId,
}

/// The tree was destroyed before it ran an instruction. Whatever the source asks, this is said.
#[derive(Debug)]
pub struct Gone {
    session: SessionId,
}

/// The program runs here; the source may still be needed for pages.
#[derive(Debug)]
pub struct Running {
    session: SessionId,
    started: Started,
}

/// The program runs here and needs nothing more. The source may not know yet.
#[derive(Debug)]
pub struct Draining {
    session: SessionId,
    started: Started,
}

/// The source knows, or need not be waited for.
#[derive(Debug)]
pub struct Finished {
    started: Started,
}

impl<G> Staged<G> {
    /// Which migration this is.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The built tree, to be looked at.
    pub const fn built(&mut self) -> &mut G {
        &mut self.built
    }

    /// The link was lost. The grace time begins, unless it has begun already.
    pub fn link_lost(&mut self, now: Instant) {
        self.lost_since.get_or_insert(now);
    }

    /// When to call [`Staged::expire`]; `None` while there is a link.
    pub fn deadline(&self) -> Option<Instant> {
        self.lost_since.map(|since| since + self.grace)
    }

    /// Condemns the tree if the link has been lost for longer than the grace time.
    pub fn expire(self, now: Instant) -> Result<Condemned<G>, Self> {
        match self.deadline() {
            Some(deadline) if now >= deadline => Ok(self.condemn()),
            _ => Err(self),
        }
    }

    /// Stops before the hand-off arrived: for Ctrl-C, or a tree that broke while it waited.
    pub fn condemn(self) -> Condemned<G> {
        Condemned { session: self.session, built: self.built }
    }

    /// Takes what the source says. `Resume` must come over a link whose peer has proven the
    /// identity it had at the hello; the listener sees to that.
    pub fn receive(mut self, message: Control) -> AfterStaged<G> {
        match message {
            Control::Handoff => {
                AfterStaged::Entrusted(Entrusted { session: self.session, built: self.built })
            }
            Control::Release | Control::Abort(_) => AfterStaged::Condemned(self.condemn()),
            Control::Resume(session) if session == self.session => {
                self.lost_since = None;
                AfterStaged::Resumed(self, Control::ResumeReply(PeerPhase::Staged))
            }
            Control::Resume(got) => {
                let expected = self.session;
                AfterStaged::Misbehaved(self, PeerMisbehaved::OtherSession { expected, got })
            }
            other => {
                let allowed = &[Kind::Handoff, Kind::Release, Kind::Abort, Kind::Resume];
                AfterStaged::Misbehaved(self, out_of_turn("Staged", allowed, &other))
            }
        }
    }
}

impl<G> Entrusted<G> {
    /// The tree, to be let run. Once any instruction may have run, only
    /// [`Entrusted::launched`] may follow.
    pub const fn built(&mut self) -> &mut G {
        &mut self.built
    }

    /// It runs: `task` is the root of the tree, `after` the time since the hand-off arrived.
    pub fn launched(self, task: pages::TaskId, after: Duration) -> (Running, G, Control) {
        let started = Started { task, after };
        let running = Running { session: self.session, started };
        (running, self.built, Control::Running(started))
    }

    /// It could not be let run, and has not run a single instruction: destroy it and give the
    /// right back.
    pub fn condemn(self) -> Condemned<G> {
        Condemned { session: self.session, built: self.built }
    }

    /// Takes a question that comes over a new link before it runs.
    pub fn receive(&self, message: &Control) -> Result<Option<Control>, PeerMisbehaved> {
        // Every answer is the same: the door is behind us, `Running` or `Released` will follow.
        later(self.session, "Entrusted", message, PeerPhase::Entrusted, None)
    }
}

impl<G> Condemned<G> {
    /// Takes the tree out, to destroy it.
    pub fn take(self) -> (G, Destroying) {
        (self.built, Destroying { session: self.session })
    }
}

impl Destroying {
    /// The tree is gone: every task of it has been reaped. Must not be called before, or two hosts
    /// may run the program.
    pub fn destroyed(self) -> (Gone, Control) {
        (Gone { session: self.session }, Control::Released)
    }
}

impl Gone {
    /// Which migration this was.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// Answers whatever the source still says. Keep this as long as the source may ask.
    pub fn receive(&self, message: &Control) -> Result<Option<Control>, PeerMisbehaved> {
        if matches!(message, Control::Abort(_)) {
            return Ok(Some(Control::Released));
        }
        later(self.session, "Gone", message, PeerPhase::Released, Some(Control::Released))
    }
}

impl Running {
    /// Which migration this is.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// What is in place; send it as often as is useful.
    pub const fn progress(&self, progress: Progress) -> Control {
        Control::Progress(progress)
    }

    /// Every page is here.
    pub fn drained(self, faults: FaultTotals) -> (Draining, Control) {
        let draining = Draining { session: self.session, started: self.started };
        (draining, Control::Drained(faults))
    }

    /// Answers what the source says: a repeated hand-off, a late wish for the right back, a
    /// question over a new link.
    pub fn receive(&self, message: &Control) -> Result<Option<Control>, PeerMisbehaved> {
        let again = Control::Running(self.started);
        later(self.session, "Running", message, PeerPhase::Running(self.started), Some(again))
    }
}

impl Draining {
    /// Which migration this is.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// Answers what the source says: it may have missed that all is done.
    pub fn receive(&self, message: &Control) -> Result<Option<Control>, PeerMisbehaved> {
        let phase = PeerPhase::Drained(self.started);
        let again = Some(Control::ResumeReply(phase));
        later(self.session, "Draining", message, phase, again)
    }

    /// The source closed its link in peace, or need not be waited for any longer.
    pub const fn finish(self) -> Finished {
        Finished { started: self.started }
    }
}

impl Finished {
    /// What was started here.
    pub const fn started(&self) -> Started {
        self.started
    }
}

/// The answer of a destination that has decided: `phase` to a question, `again` to a command that
/// comes too late.
fn later(
    session: SessionId,
    state: &'static str,
    message: &Control,
    phase: PeerPhase,
    again: Option<Control>,
) -> Result<Option<Control>, PeerMisbehaved> {
    match message {
        Control::Resume(asked) if *asked == session => Ok(Some(Control::ResumeReply(phase))),
        Control::Resume(got) => Err(PeerMisbehaved::OtherSession { expected: session, got: *got }),
        Control::Handoff | Control::Release => Ok(again),
        other => Err(out_of_turn(state, &[Kind::Resume, Kind::Handoff, Kind::Release], other)),
    }
}

debug_as_name!(Staged "Staged", Entrusted "Entrusted", Condemned "Condemned");
