//! Two ends and the network between them, on a virtual clock.

mod receiving;
mod sending;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::script::{END, Fault, IDLE, LATENCY, Policy, REDIAL, SESSION, Script};
use crate::session::report::{Outcome, RunsOn};
use crate::session::{destination, source};
use crate::wire::{Control, Features};

use self::receiving::Destination;
pub(super) use self::sending::Source;

/// The right to run, as a value that can be in one place only.
pub(super) struct Right;

/// The built tree.
pub(super) struct Tree;

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
