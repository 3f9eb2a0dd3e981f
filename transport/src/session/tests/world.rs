//! Two ends and the network between them, on a virtual clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pages::{PageCount, TaskId};

use crate::session::report::{Outcome, RunsOn};
use crate::session::{destination, source};
use crate::wire::{Abort, AbortCode, Control, FaultTotals, Features, Manifest, SessionId};

/// The right to run, as a value that can be in one place only.
pub(super) struct Right;

/// The built tree.
pub(super) struct Tree;

pub(super) const SESSION: SessionId = SessionId([5; 16]);
/// Milliseconds one way.
const LATENCY: u64 = 5;
/// Milliseconds until a silent link counts as lost.
pub(super) const IDLE: u64 = 40;
/// Milliseconds a staged tree waits for a lost source.
pub(super) const GRACE: u64 = 100;
/// Milliseconds between two dials.
const REDIAL: u64 = 15;
/// When all must be decided, if the network is there.
const END: u64 = 3000;

/// What happens to the message with a number, counted over both directions and all links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It and all that is under way is lost, and both ends notice after a while.
    Cut,
    /// It arrives, but nothing after it; both ends notice after a while.
    CutAfter,
    /// It is held up for so long that both ends give the link up, and then still arrives: between
    /// the messages of the next link, or after all is over.
    Delay(u64),
    /// It arrives twice.
    Repeat,
}

pub(super) const FAULTS: [Fault; 7] = [
    Fault::Cut,
    Fault::CutAfter,
    // Just before the release that follows the next link's first answer, just after it, and late.
    Fault::Delay(IDLE + REDIAL + LATENCY - 1),
    Fault::Delay(IDLE + REDIAL + LATENCY),
    Fault::Delay(2 * IDLE),
    Fault::Delay(6 * IDLE),
    Fault::Repeat,
];

/// What the source does when it learns that the hand-off did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Again,
    TakeBack,
    /// One, then the other.
    Waver,
    /// What nobody may do: resume because nothing is heard. The checks must notice.
    Reckless,
}

/// One migration's fate.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) faults: Vec<(usize, Fault)>,
    /// How long nobody can dial after a link was lost; `None` for ever.
    pub(super) outage: Option<u64>,
    pub(super) policy: Policy,
    /// The tree cannot be let run.
    pub(super) launch_fails: bool,
    /// When somebody presses Ctrl-C on the source, on the destination.
    pub(super) cancel: [Option<u64>; 2],
    pub(super) rounds: u32,
}

impl Script {
    pub(super) fn calm() -> Self {
        Self {
            faults: Vec::new(),
            outage: Some(0),
            policy: Policy::Again,
            launch_fails: false,
            cancel: [None, None],
            rounds: 1,
        }
    }
}

pub(super) enum Source {
    Offering(source::Offering),
    Greeted(source::Greeted),
    Frozen(source::Frozen<Right>),
    Committed(source::Committed<Right>),
    Serving(source::Serving<Right>),
    Done(Outcome),
    /// Between two states.
    Moving,
}

pub(super) enum Destination {
    Answering(destination::Answering),
    Greeted(destination::Greeted, u64),
    Checked(destination::Checked),
    Filling(destination::Filling),
    Building(destination::Building, u64),
    Staged(destination::Staged<Tree>),
    Entrusted(destination::Entrusted<Tree>, u64),
    Running(destination::Running, u64),
    Draining(destination::Draining),
    Destroying(destination::Destroying, u64),
    Gone(destination::Gone),
    /// It ended before a tree was staged.
    Never,
    Moving,
}

const SRC: usize = 0;
const DST: usize = 1;

pub(super) struct World {
    script: Script,
    start: Instant,
    now: u64,
    /// The link each end believes to have, by number.
    link: [Option<usize>; 2],
    links: usize,
    /// When each end will notice that a link is gone.
    notices: Vec<(u64, usize, usize)>,
    /// Messages under way: when, to whom, over which link. Ordered by sending.
    wire: VecDeque<(u64, usize, usize, Control)>,
    pub(super) sent: usize,
    dial_at: Option<u64>,
    pub(super) source: Source,
    destination: Destination,
    pub(super) source_runs: bool,
    pub(super) destination_runs: bool,
    tree_exists: bool,
    handoff_sent: bool,
    pub(super) both_ran: bool,
    wavered: bool,
}

impl World {
    pub(super) fn new(script: Script) -> Self {
        let features = Features::STOP_AND_COPY;
        let (offering, hello) = source::Offering::new(SESSION, features, "test");
        let answering = destination::Answering::new(features, "test");
        let mut world = Self {
            script,
            start: Instant::now(),
            now: 0,
            link: [Some(0), Some(0)],
            links: 1,
            notices: Vec::new(),
            wire: VecDeque::new(),
            sent: 0,
            dial_at: None,
            source: Source::Offering(offering),
            destination: Destination::Answering(answering),
            source_runs: true,
            destination_runs: false,
            tree_exists: false,
            handoff_sent: false,
            both_ran: false,
            wavered: false,
        };
        world.say(SRC, hello);
        world
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    /// Sends over the link this end has, with whatever the script does to this message.
    fn say(&mut self, who: usize, message: Control) {
        self.handoff_sent |= message == Control::Handoff;
        let Some(link) = self.link[who] else {
            return;
        };
        let number = self.sent;
        self.sent += 1;
        let fault = self.script.faults.iter().find(|(at, _)| *at == number).map(|(_, f)| *f);
        let (due, to) = (self.now + LATENCY, 1 - who);
        match fault {
            None => self.wire.push_back((due, to, link, message)),
            Some(Fault::Repeat) => {
                self.wire.push_back((due, to, link, message.clone()));
                self.wire.push_back((due + 1, to, link, message));
            }
            Some(Fault::Cut) => self.cut(link),
            Some(Fault::CutAfter) => {
                self.cut(link);
                self.wire.push_back((due, to, link, message));
            }
            Some(Fault::Delay(by)) => {
                self.cut(link);
                self.wire.push_back((due + by, to, link, message));
            }
        }
    }

    /// Nothing under way on this link arrives any more; the ends notice at different times.
    fn cut(&mut self, link: usize) {
        self.wire.retain(|(_, _, over, _)| *over != link);
        self.notices.push((self.now + IDLE, SRC, link));
        self.notices.push((self.now + IDLE + 7, DST, link));
    }

    /// This end lets go of its link; the other notices soon.
    fn let_go(&mut self, who: usize) {
        if let Some(link) = self.link[who].take() {
            self.notices.push((self.now + LATENCY, 1 - who, link));
            self.lost(who);
        }
    }

    pub(super) fn run(mut self) -> Self {
        while self.now < END && !self.is_over() {
            self.now += 1;
            self.step();
            self.both_ran |= self.source_runs && self.destination_runs;
            let right_here = matches!(self.source, Source::Frozen(_) | Source::Moving);
            assert!(self.handoff_sent || self.source_runs || right_here, "{:?}", self.script);
        }
        self
    }

    /// Nothing is under way, and nobody waits for anything.
    fn is_over(&self) -> bool {
        let decided = matches!(self.source, Source::Done(_))
            && matches!(
                self.destination,
                Destination::Draining(_) | Destination::Gone(_) | Destination::Never
            );
        decided && self.wire.is_empty() && self.notices.is_empty()
    }

    fn step(&mut self) {
        let now = self.now;
        let noticed: Vec<_> = self.notices.extract_if(.., |(at, _, _)| *at <= now).collect();
        for (_, who, link) in noticed {
            if self.link[who] == Some(link) {
                self.link[who] = None;
                self.lost(who);
            }
        }
        if self.dial_at.is_some_and(|at| at <= now) {
            self.dial_at = None;
            self.dial();
        }
        while let Some(at) = self.wire.iter().position(|(due, ..)| *due <= now) {
            let Some((_, to, link, message)) = self.wire.remove(at) else { break };
            if to == DST {
                self.destination_hears(message, link);
            } else if self.link[SRC] == Some(link) {
                // The source drops an old link before it dials a new one.
                self.source_hears(message);
            }
        }
        self.destination_timers();
        if self.script.cancel[SRC] == Some(now)
            && matches!(self.source, Source::Frozen(_) | Source::Greeted(_))
        {
            self.source_aborts("Ctrl-C");
        }
        if self.script.cancel[DST] == Some(now) {
            self.destination_cancels();
        }
    }

    /// An end has noticed that its link is gone.
    fn lost(&mut self, who: usize) {
        if who == DST {
            let now = self.instant();
            match &mut self.destination {
                Destination::Staged(staged) => staged.link_lost(now),
                Destination::Answering(_)
                | Destination::Greeted(..)
                | Destination::Checked(_)
                | Destination::Filling(_)
                | Destination::Building(..) => self.destination = Destination::Never,
                _ => {}
            }
            return;
        }
        match &self.source {
            Source::Committed(_) if self.script.policy == Policy::Reckless => {
                let Source::Committed(committed) = self.take_source() else { return };
                let Right = committed.give_up().into_unsure();
                self.source_runs = true;
                self.source = Source::Done(Outcome::Aborted);
            }
            Source::Committed(_) | Source::Serving(_) => {
                self.dial_at = self.script.outage.map(|outage| self.now + outage + REDIAL);
            }
            Source::Offering(_) | Source::Greeted(_) | Source::Frozen(_) => {
                self.source_aborts("lost");
            }
            Source::Done(_) | Source::Moving => {}
        }
    }

    fn dial(&mut self) {
        let resume = match &self.source {
            Source::Committed(committed) => committed.resume(),
            Source::Serving(serving) => serving.resume(),
            _ => return,
        };
        let link = self.links;
        self.links += 1;
        self.link = [Some(link), Some(link)];
        self.say(SRC, resume);
    }

    fn take_source(&mut self) -> Source {
        std::mem::replace(&mut self.source, Source::Moving)
    }

    fn source_aborts(&mut self, reason: &str) {
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

    fn source_hears(&mut self, message: Control) {
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

    fn freeze(&mut self, agreed: source::Agreed) -> Source {
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

    fn after_handoff(&mut self, after: source::AfterHandoff<Right>) -> Source {
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

    fn destination_hears(&mut self, message: Control, link: usize) {
        // What an old link still delivers is heard: the rules must bear it.
        let answer_over = self.link[DST] == Some(link);
        let mut answer = None;
        let state = std::mem::replace(&mut self.destination, Destination::Moving);
        let later = self.now + 4;
        let mut blame = false;
        self.destination = match state {
            Destination::Answering(answering) => match answering.receive(message) {
                Ok(destination::AfterHello::Greeted(greeted, reply)) => {
                    answer = Some(reply);
                    Destination::Greeted(greeted, later)
                }
                Ok(destination::AfterHello::Refused(refuse)) => {
                    answer = Some(refuse);
                    Destination::Never
                }
                Err(_) => Destination::Never,
            },
            Destination::Greeted(greeted, _) => {
                let _ = greeted.receive(message);
                Destination::Never
            }
            Destination::Checked(checked) => filled(checked.receive(message), later),
            Destination::Filling(filling) => filled(filling.receive(message), later),
            Destination::Building(building, _) => {
                let _ = building.receive(message);
                Destination::Never
            }
            Destination::Staged(staged) => match staged.receive(message) {
                destination::AfterStaged::Entrusted(entrusted) => {
                    Destination::Entrusted(entrusted, later)
                }
                destination::AfterStaged::Condemned(condemned) => {
                    let (Tree, destroying) = condemned.take();
                    Destination::Destroying(destroying, later)
                }
                destination::AfterStaged::Resumed(staged, reply) => {
                    answer = Some(reply);
                    Destination::Staged(staged)
                }
                destination::AfterStaged::Misbehaved(staged, _) => {
                    blame = true;
                    Destination::Staged(staged)
                }
            },
            Destination::Entrusted(entrusted, at) => {
                match entrusted.receive(&message) {
                    Ok(reply) => answer = reply,
                    Err(_) => blame = true,
                }
                Destination::Entrusted(entrusted, at)
            }
            Destination::Running(running, at) => {
                match running.receive(&message) {
                    Ok(reply) => answer = reply,
                    Err(_) => blame = true,
                }
                Destination::Running(running, at)
            }
            Destination::Draining(draining) => {
                match draining.receive(&message) {
                    Ok(reply) => answer = reply,
                    Err(_) => blame = true,
                }
                Destination::Draining(draining)
            }
            Destination::Gone(gone) => {
                match gone.receive(&message) {
                    Ok(reply) => answer = reply,
                    Err(_) => blame = true,
                }
                Destination::Gone(gone)
            }
            // Nothing is answered before the tree is gone.
            destroying @ Destination::Destroying(..) => destroying,
            Destination::Never => {
                assert!(!matches!(message, Control::Resume(_)), "{:?}", self.script);
                Destination::Never
            }
            Destination::Moving => Destination::Moving,
        };
        if let Some(answer) = answer.filter(|_| answer_over) {
            self.say(DST, answer);
        }
        if blame || matches!(self.destination, Destination::Never) && answer_over {
            self.let_go(DST);
        }
    }

    fn destination_timers(&mut self) {
        let now = self.now;
        let instant = self.instant();
        let state = std::mem::replace(&mut self.destination, Destination::Moving);
        let mut said = None;
        self.destination = match state {
            Destination::Greeted(greeted, at) if at <= now => {
                let (checked, ready) = greeted.ready();
                said = Some(ready);
                Destination::Checked(checked)
            }
            Destination::Building(building, at) if at <= now => {
                let grace = Duration::from_millis(GRACE);
                let (mut staged, message) = building.stage(Tree, Duration::ZERO, grace);
                self.tree_exists = true;
                if self.link[DST].is_none() {
                    staged.link_lost(instant);
                }
                said = Some(message);
                Destination::Staged(staged)
            }
            Destination::Staged(staged) => match staged.expire(instant) {
                Ok(condemned) => {
                    let (Tree, destroying) = condemned.take();
                    Destination::Destroying(destroying, now + 3)
                }
                Err(staged) => Destination::Staged(staged),
            },
            Destination::Entrusted(entrusted, at) if at <= now => {
                if self.script.launch_fails {
                    let (Tree, destroying) = entrusted.condemn().take();
                    Destination::Destroying(destroying, now + 3)
                } else {
                    let (running, Tree, message) =
                        entrusted.launched(TaskId(1), Duration::from_millis(4));
                    self.destination_runs = true;
                    said = Some(message);
                    Destination::Running(running, now + 20)
                }
            }
            Destination::Running(running, at) if at <= now => {
                let (draining, message) = running.drained(FaultTotals::default());
                said = Some(message);
                Destination::Draining(draining)
            }
            Destination::Destroying(destroying, at) if at <= now => {
                self.tree_exists = false;
                let (gone, message) = destroying.destroyed();
                said = Some(message);
                Destination::Gone(gone)
            }
            other => other,
        };
        if let Some(message) = said {
            self.say(DST, message);
        }
    }

    fn destination_cancels(&mut self) {
        let state = std::mem::replace(&mut self.destination, Destination::Moving);
        self.destination = match state {
            Destination::Staged(staged) => {
                let (Tree, destroying) = staged.condemn().take();
                Destination::Destroying(destroying, self.now + 3)
            }
            Destination::Building(building, _) => {
                let abort = building.abort(Abort::new(AbortCode::CANCELLED, "Ctrl-C"));
                self.say(DST, abort);
                Destination::Never
            }
            other => other,
        };
    }

    /// What each end says at the end, against what is.
    pub(super) fn judge(&self) {
        let script = &self.script;
        assert!(!self.both_ran, "two ran: {script:?}");
        let source = match &self.source {
            Source::Done(outcome) => *outcome,
            Source::Committed(_) | Source::Serving(_) => Outcome::Stranded,
            _ => panic!("the source is undecided: {script:?}"),
        };
        match source.runs_on() {
            RunsOn::Source => assert!(self.source_runs && !self.destination_runs, "{script:?}"),
            RunsOn::Destination => assert!(self.destination_runs, "{script:?}"),
            RunsOn::None => assert!(!self.source_runs, "{script:?}"),
        }
        let here = match &self.destination {
            Destination::Running(..) | Destination::Draining(_) => true,
            Destination::Gone(_) | Destination::Never | Destination::Answering(_) => false,
            _ => panic!("the destination is undecided: {script:?}"),
        };
        assert_eq!(here, self.destination_runs, "{script:?}");
        assert_eq!(here, self.tree_exists, "{script:?}");
        if !self.handoff_sent {
            assert!(self.source_runs, "the source always runs before hand-off: {script:?}");
        }
        if script.outage.is_some() {
            assert_ne!(source, Outcome::Stranded, "{script:?}");
            assert!(self.source_runs != self.destination_runs, "{script:?}");
        }
    }
}

fn filled(
    after: Result<destination::AfterFilling, crate::PeerMisbehaved>,
    later: u64,
) -> Destination {
    use destination::AfterFilling::{Aborted, Freezing, Manifest, Outline, RoundEnd};
    match after {
        Ok(Outline(it, _) | RoundEnd(it, _) | Freezing(it)) => Destination::Filling(it),
        Ok(Manifest(building, _)) => Destination::Building(building, later),
        Ok(Aborted(_)) | Err(_) => Destination::Never,
    }
}
