//! The destination's states, in the order of its life: until the tree is built here, then from
//! [`Staged`] on.

mod staged;

use std::time::Duration;

use super::out_of_turn;
use crate::error::PeerMisbehaved;
use crate::wire::{
    Abort, Control, Features, Hello, HelloReply, Kind, Manifest, PeerPhase, Progress, Refusal,
    RoundEnd, SessionId, Staged as StagedMessage, Version,
};

pub use self::staged::{
    AfterStaged, Condemned, Destroying, Draining, Entrusted, Finished, Gone, Running, Staged,
};

/// Nothing was said yet.
#[derive(Debug, Clone)]
pub struct Answering {
    features: Features,
    software: String,
}

/// What may follow [`Answering`].
#[derive(Debug)]
pub enum AfterHello {
    /// A version was found. Send the reply, then read the plan.
    Greeted(Greeted, Control),
    /// No common version. Send the refusal and close.
    Refused(Control),
}

/// Both know how to talk. The plan is on its way, or being checked.
#[derive(Debug)]
pub struct Greeted {
    hello: Hello,
    features: Features,
}

/// The host can carry the plan, and the source was told so. Build the skeleton; pages may come.
#[derive(Debug)]
pub struct Checked {
    session: SessionId,
}

/// Pages and blobs arrive.
#[derive(Debug)]
pub struct Filling {
    session: SessionId,
    outlined: bool,
    frozen: bool,
}

/// What may follow [`Checked`] and [`Filling`].
#[derive(Debug)]
pub enum AfterFilling {
    /// The tree as it is while it still runs: rounds of pre-copy follow.
    Outline(Filling, Manifest),
    /// A round of pre-copy was sent, and another follows.
    RoundEnd(Filling, RoundEnd),
    /// The program stands still on the source; what comes now is the last.
    Freezing(Filling),
    /// All that was sent: wait for it, then build.
    Manifest(Building, Manifest),
    /// The source stopped: destroy what was built.
    Aborted(Abort),
}

/// All that comes is known; the tree is being finished.
#[derive(Debug)]
pub struct Building {
    session: SessionId,
}

impl Answering {
    /// Waits for a hello.
    pub fn new(features: Features, software: &str) -> Self {
        Self { features, software: software.to_owned() }
    }

    /// Takes the hello, and chooses the newest version that both know.
    pub fn receive(self, message: Control) -> Result<AfterHello, PeerMisbehaved> {
        let Control::Hello(hello) = message else {
            return Err(out_of_turn("Answering", &[Kind::Hello], &message));
        };
        let Some(version) = Version::choose(&hello.versions) else {
            return Ok(AfterHello::Refused(Control::Refuse(vec![Version::refusal(
                &hello.versions,
            )])));
        };
        let features = self.features.common(hello.features);
        let reply = HelloReply { version, features, software: self.software };
        Ok(AfterHello::Greeted(Greeted { hello, features }, Control::HelloReply(reply)))
    }

    /// The answer to a `Resume` of a session that this destination does not know.
    pub const fn unknown_session() -> Control {
        Control::ResumeReply(PeerPhase::Unknown)
    }
}

impl Greeted {
    /// The source's own words about itself.
    pub const fn peer(&self) -> &Hello {
        &self.hello
    }

    /// Which migration this is.
    pub const fn session(&self) -> SessionId {
        self.hello.session
    }

    /// What both can do.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// The host can carry the plan.
    pub fn ready(self) -> (Checked, Control) {
        (Checked { session: self.hello.session }, Control::Ready)
    }

    /// It cannot, and every reason why. Send it, then close.
    pub fn refuse(self, reasons: Vec<Refusal>) -> Control {
        Control::Refuse(reasons)
    }

    /// Takes what the source may say meanwhile: that it stops.
    pub fn receive(&self, message: Control) -> Result<Abort, PeerMisbehaved> {
        match message {
            Control::Abort(abort) => Ok(abort),
            other => Err(out_of_turn("Greeted", &[Kind::Abort], &other)),
        }
    }
}

impl Checked {
    /// Which migration this is.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// Takes what the source says.
    pub fn receive(self, message: Control) -> Result<AfterFilling, PeerMisbehaved> {
        let filling = Filling { session: self.session, outlined: false, frozen: false };
        filling.receive_in("Checked", message)
    }

    /// Stops: the built part must be destroyed, the source runs on.
    pub fn abort(self, why: Abort) -> Control {
        Control::Abort(why)
    }
}

impl Filling {
    /// Which migration this is.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// True once the program stands still on the source.
    pub const fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// What is in place; send it as often as is useful.
    pub const fn progress(&self, progress: Progress) -> Control {
        Control::Progress(progress)
    }

    /// Takes what the source says.
    pub fn receive(self, message: Control) -> Result<AfterFilling, PeerMisbehaved> {
        self.receive_in("Filling", message)
    }

    /// Takes what the source may say in the middle of a round: that it stops.
    pub fn only_abort(&self, message: Control) -> Result<Abort, PeerMisbehaved> {
        match message {
            Control::Abort(abort) => Ok(abort),
            other => Err(out_of_turn("Filling", &[Kind::Abort], &other)),
        }
    }

    /// Stops: the built part must be destroyed, the source runs on.
    pub fn abort(self, why: Abort) -> Control {
        Control::Abort(why)
    }

    fn receive_in(
        mut self,
        state: &'static str,
        message: Control,
    ) -> Result<AfterFilling, PeerMisbehaved> {
        match message {
            Control::Abort(abort) => Ok(AfterFilling::Aborted(abort)),
            Control::Manifest(manifest) if !self.frozen && !self.outlined => {
                self.outlined = true;
                Ok(AfterFilling::Outline(self, manifest))
            }
            Control::RoundEnd(end) if self.outlined && !self.frozen => {
                Ok(AfterFilling::RoundEnd(self, end))
            }
            Control::Freezing if !self.frozen => {
                self.frozen = true;
                Ok(AfterFilling::Freezing(self))
            }
            Control::Manifest(manifest) if self.frozen => {
                Ok(AfterFilling::Manifest(Building { session: self.session }, manifest))
            }
            other if self.frozen => Err(out_of_turn(state, &[Kind::Manifest, Kind::Abort], &other)),
            other if self.outlined => {
                Err(out_of_turn(state, &[Kind::RoundEnd, Kind::Freezing, Kind::Abort], &other))
            }
            other => {
                Err(out_of_turn(state, &[Kind::Manifest, Kind::Freezing, Kind::Abort], &other))
            }
        }
    }
}

impl Building {
    /// Which migration this is.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// What is in place; send it as often as is useful.
    pub const fn progress(&self, progress: Progress) -> Control {
        Control::Progress(progress)
    }

    /// The tree stands, complete but for pages that may come later. `grace` is how long it waits
    /// for the source after the link is lost.
    pub fn stage<G>(self, built: G, built_in: Duration, grace: Duration) -> (Staged<G>, Control) {
        let staged = Staged { session: self.session, built, grace, lost_since: None };
        (staged, Control::Staged(StagedMessage { built_in }))
    }

    /// Stops: the built part must be destroyed, the source runs on.
    pub fn abort(self, why: Abort) -> Control {
        Control::Abort(why)
    }

    /// Takes what the source may say meanwhile: that it stops.
    pub fn receive(&self, message: Control) -> Result<Abort, PeerMisbehaved> {
        match message {
            Control::Abort(abort) => Ok(abort),
            other => Err(out_of_turn("Building", &[Kind::Abort], &other)),
        }
    }
}
