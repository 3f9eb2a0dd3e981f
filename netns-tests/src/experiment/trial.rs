//! One migration, watched.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::clients::Clients;
use super::clock::{Clock, micros};
use super::flow::Flow;
use super::load::Load;
use super::meter::Meter;
use super::phases::phases;
use super::record::{LaneUse, Machine, Record};
use super::samples::Samples;
use super::stalls::Stalls;
use super::way::Way;
use super::{criu, service};
use crate::Result;
use crate::criu::Criu;
use crate::lab::{Lab, Side};
use crate::link::Link;
use crate::migration::{Migration, Moved, Moving, QmigEvent};
use crate::running::GLANCE;
use crate::subject::Started;

/// How long what moves goes on by itself before, unless its work is to be compared with that after.
const BRIEFLY: Duration = Duration::from_millis(300);
/// How long the destination may take to hear that the source is gone.
const GOODBYE: Duration = Duration::from_secs(10);
const VETH: &str = "veth";
/// The size of Ethernet frames.
const ETHERNET: u32 = 1500;

/// A migration to be measured.
#[derive(Clone, Debug)]
pub struct Trial {
    /// How.
    pub way: Way,
    /// Over what; a veth pair without one.
    pub link: Option<Link>,
    /// What carries it without one: `veth`, or `pair` for what is between two real hosts.
    pub path: &'static str,
    /// The size of frames on a veth pair.
    pub mtu: u32,
    /// The name of that in tables.
    pub link_name: String,
    /// What.
    pub load: Load,
    /// The congestion control of a TCP flow beside it, which is there before and after.
    pub rival: Option<String>,
    /// What becomes of the link, so long after the process runs: words for both directions.
    pub changes: Vec<(Duration, String)>,
    /// More arguments for `qmig dump`.
    pub dump_args: Vec<String>,
    /// How often before.
    pub repetition: u32,
    /// How long it may take.
    pub deadline: Duration,
    /// How long what moves goes on by itself, before and after.
    pub linger: Duration,
    /// By qmig: it is ended as soon as it runs there, for what follows is not to be measured.
    pub until_running: bool,
    /// Whether it is noted how long the machine itself stood still. Those who note it interrupt
    /// whatever runs, a thousand times a second: a program that is always busy gets a tenth less done.
    pub watched: bool,
}

impl Trial {
    /// Over a veth pair, in two minutes.
    pub fn new(way: Way, load: Load) -> Self {
        Self {
            way,
            link: None,
            path: VETH,
            mtu: ETHERNET,
            link_name: VETH.to_owned(),
            load,
            rival: None,
            changes: Vec::new(),
            dump_args: Vec::new(),
            repetition: 0,
            deadline: Duration::from_secs(120),
            // It shall be as it always is, not as it was when it began.
            linger: BRIEFLY,
            until_running: false,
            watched: false,
        }
    }

    /// Over a veth pair with frames of this size.
    #[must_use]
    pub fn frames(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Over this link.
    #[must_use]
    pub fn over(mut self, name: &str, link: Link) -> Self {
        (self.link, self.link_name) = (Some(link), name.to_owned());
        self
    }

    /// With a look at how long the machine itself stood still.
    #[must_use]
    pub fn watched(mut self) -> Self {
        self.watched = true;
        self
    }

    /// The repetition, which also seeds the link.
    #[must_use]
    pub fn repetition(mut self, number: u32) -> Self {
        self.repetition = number;
        self.link = self.link.map(|link| {
            let seed = link.seed + u64::from(number);
            link.seed(seed)
        });
        self
    }

    /// Between two real hosts, whatever link was named.
    #[must_use]
    pub fn between(mut self, name: &str) -> Self {
        (self.link, self.path, self.link_name) = (None, "pair", name.to_owned());
        self
    }

    /// The words of what carries it.
    pub fn link_words(&self) -> String {
        // A third host is joined to the others by an emulated link, be it a perfect one.
        let perfect = || (self.path == VETH && self.load.asking().is_some()).then(Link::perfect);
        let link = self.link.clone().or_else(perfect);
        link.map_or_else(|| self.path.to_owned(), |link| link.to_string())
    }

    /// Do it. Whatever goes wrong is in the record.
    pub fn run(&self) -> Record {
        let emulated = self.link_words() != VETH;
        let machine = Machine::here(self.mtu, emulated);
        let mut record = Record { machine, ..self.record() };
        if matches!(self.way, Way::CriuStop { .. } | Way::CriuLazy { .. }) {
            record.congestion = format!("TCP {}", record.machine.tcp);
        }
        if let Err(error) = self.measure(&mut record) {
            record.error = Some(error.to_string());
        }
        record
    }

    /// What is known before it begins.
    pub(super) fn record(&self) -> Record {
        Record {
            way: self.way.word().to_owned(),
            link: self.link_words(),
            link_name: self.link_name.clone(),
            congestion: self.way.congestion().to_owned(),
            seed: self.link.as_ref().map_or(0, |link| link.seed),
            load: self.load.words(),
            mib: self.load.mib,
            repetition: self.repetition,
            ..Record::default()
        }
    }

    fn measure(&self, record: &mut Record) -> Result<()> {
        let plan = match &self.link {
            Some(link) => Lab::plan().link(link.clone()),
            None => Lab::plan().mtu(self.mtu),
        };
        let asking = self.load.asking();
        let lab = if asking.is_some() { plan.client() } else { plan }.build()?;
        let stalls = self.watched.then(Stalls::watch);
        let subject = self.load.subject().start(&lab, lab.src())?;
        let clients = asking.map(|asking| {
            service::begin(&lab)?;
            Clients::start(&lab, asking)
        });
        let clients = clients.transpose()?;
        std::thread::sleep(self.linger);
        let flow = self.rival.as_ref().map(|control| Flow::start(&lab, control)).transpose()?;
        lab.emulator().map_or(Ok(()), |link| link.reset())?;
        let mut clock = Clock::start(&lab, flow.as_ref());
        let moved = match self.way {
            Way::Qmig { mode, link, limit } => {
                let mut migration = Migration::new(&lab)?.deadline(self.deadline);
                migration = migration.dump_arg("--mode").dump_arg(mode);
                for word in link.split_whitespace() {
                    migration = migration.dump_arg(word).restore_arg(word);
                }
                if let Some(limit) = limit {
                    migration = migration.dump_arg("--limit-rate").dump_arg(limit);
                }
                Some(self.by_qmig(&lab, &subject, migration, &mut clock, record)?)
            }
            Way::QmigCriu { mode } => {
                let criu = Criu::installed().ok_or_else(|| criu::missing("to be the engine"))?;
                let migration = Migration::new(&lab)?.deadline(self.deadline).criu(&criu);
                let migration = migration.engines("criu", "criu");
                let migration = migration.dump_arg("--mode").dump_arg(mode);
                Some(self.by_qmig(&lab, &subject, migration, &mut clock, record)?)
            }
            Way::CriuStop { tls } => {
                criu::stop(&lab, &subject, tls, &mut clock)?;
                None
            }
            Way::CriuLazy { tls } => {
                criu::lazy(&lab, &subject, tls, self.deadline, &mut clock)?;
                None
            }
        };
        if self.linger > BRIEFLY || clients.is_some() {
            std::thread::sleep(self.linger);
        }
        if let Some(clients) = clients {
            record.requests = clients.end(clock.began_us())?;
        }
        record.stalled_us = stalls.and_then(Stalls::longest).map(micros);
        let verdict = match moved {
            Some(moved) if self.until_running => {
                clock.fill_in(record, None);
                return match record.downtime_us {
                    0 => Err(super::failed("the tree run", moved.dumped(), moved.logs())),
                    _ => Ok(()),
                };
            }
            Some(moved) => moved.ask(&lab, &subject)?,
            None => subject.ask_orphan(lab.dst(), subject.pid())?,
        };
        clock.fill_in(record, self.link.as_ref().filter(|_| self.way.is_lazy()));
        record.felt_us = verdict.longest_gap().map_or(0, micros);
        record.verdict = verdict.to_string();
        let samples = lab.dst().path(format!("{}.samples", subject.result().display()));
        let samples = Samples::parse(&std::fs::read_to_string(samples).unwrap_or_default());
        record.waits = samples.waits(clock.began_us());
        record.written =
            samples.written.iter().map(|(at, n)| ((at - clock.began_us()) / 1000, *n)).collect();
        if verdict.passed() {
            return Ok(());
        }
        let what = "the subject find everything as it was";
        Err(super::failed(what, verdict, String::new()))
    }

    fn by_qmig(
        &self,
        lab: &Lab,
        subject: &Started,
        mut migration: Migration<'_>,
        clock: &mut Clock<'_>,
        record: &mut Record,
    ) -> Result<Moved> {
        if self.load.asking().is_some() {
            migration = service::by_qmig(migration);
        }
        for arg in &self.dump_args {
            migration = migration.dump_arg(arg);
        }
        let listening = migration.listen()?;
        clock.began();
        let moving = listening.dump(subject.pid())?;
        let on = |side: Side| Meter::on(lab.host(side), moving.qmig(side).pid());
        let (source, destination) = (on(Side::Source), on(Side::Destination));
        if moving.wait_running()? {
            clock.running()?;
            if self.until_running {
                lab.dst().signal(subject.pid(), Signal::SIGKILL)?;
            }
        }
        let moved = self.finish(lab, moving)?;
        clock.complete()?;
        if !self.until_running {
            moved.succeeded()?;
        }
        (record.source, record.destination) = (source.read(), destination.read());
        let (here, there) = (moved.events(Side::Source), moved.events(Side::Destination));
        record.phases = phases(&here, &there, clock.began_us(), clock.total_us());
        let report = moved.event(Side::Source, "report").map(QmigEvent::into_value);
        reported(record, &report.unwrap_or_default());
        // A moment after the source has ended, unless the link was lost then.
        let counted = moved.restore().wait_line("the goodbye", GOODBYE, |line| {
            QmigEvent::parse(line).filter(|event| event.name() == "parted")
        });
        record.destination_lanes = counted.map(|it| lanes(&it.into_value())).unwrap_or_default();
        let frozen = here.iter().find(|event| event.name() == "frozen");
        let pages = frozen.and_then(|event| event.field("pages").as_u64());
        record.frozen_pages = pages.unwrap_or(0);
        let rounds = here.into_iter().filter(|event| event.name() == "round");
        record.rounds = rounds.map(QmigEvent::into_value).collect();
        Ok(moved)
    }
}

/// What a qmig on the source said at the end.
pub(super) fn reported(record: &mut Record, report: &Value) {
    record.downtime_us = report["downtime_us"].as_u64().unwrap_or(0);
    record.parts = serde_json::from_value(report["parts"].clone()).unwrap_or_default();
    record.lanes = lanes(report);
    record.second_bytes = report["link"]["second_sent_bytes"].as_u64().unwrap_or(0);
    record.faults = report["faults"].clone();
}

/// What each lane has carried, by what one side said at the end.
pub(super) fn lanes(report: &Value) -> BTreeMap<String, LaneUse> {
    serde_json::from_value(report["link"]["lanes"].clone()).unwrap_or_default()
}

impl Trial {
    /// Change the link as planned, until `qmig dump` ends.
    fn finish(&self, lab: &Lab, moving: Moving) -> Result<Moved> {
        let since = Instant::now();
        for (after, words) in &self.changes {
            while since.elapsed() < *after && moving.qmig(Side::Source).ended().is_none() {
                std::thread::sleep(GLANCE);
            }
            lab.emulator().map_or(Ok(()), |link| link.change_both(words))?;
        }
        moving.finish()
    }
}
