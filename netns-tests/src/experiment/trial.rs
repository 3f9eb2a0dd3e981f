//! One migration, watched.

use std::time::{Duration, Instant};

use super::flow::Flow;
use super::meter::Meter;
use super::record::{LinkUse, Machine, Record};
use super::samples::Samples;
use super::way::Way;
use super::{criu, monotonic_us};
use serde_json::Value;

use crate::criu::Criu;
use crate::lab::{Lab, Side};
use crate::link::{Link, Tally};
use crate::migration::{Migration, Moved, Moving, QmigEvent};
use crate::running::GLANCE;
use crate::subject::{Started, Subject, Verdict};
use crate::{LabError, Result};

/// What moves, and what it does meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The name of the subject.
    pub subject: String,
    /// MiB of memory.
    pub mib: u32,
    /// More arguments of the subject.
    pub args: Vec<(String, u32)>,
}

impl Load {
    /// Threads that look at random pages each millisecond, and one that writes.
    pub fn toucher(mib: u32, threads: u32) -> Self {
        let args = vec![("threads".to_owned(), threads), ("random".to_owned(), 100)];
        Self { subject: "toucher".to_owned(), mib, args }
    }

    /// A thread that rewrites random pages at so many MiB a second.
    pub fn writer(mib: u32, rate: u32) -> Self {
        Self { subject: "writer".to_owned(), mib, args: vec![("rate".to_owned(), rate)] }
    }

    /// Memory that nobody touches.
    pub fn idle(mib: u32) -> Self {
        Self { subject: "filler".to_owned(), mib, args: Vec::new() }
    }

    /// With one more argument of the subject, or another value of one.
    #[must_use]
    pub fn arg(mut self, name: &str, value: u32) -> Self {
        self.args.retain(|(known, _)| known != name);
        self.args.push((name.to_owned(), value));
        self
    }

    /// `toucher mib 64 threads 2`.
    pub fn words(&self) -> String {
        let args = self.args.iter().map(|(name, value)| format!(" {name} {value}"));
        format!("{} mib {}{}", self.subject, self.mib, args.collect::<String>())
    }

    fn subject(&self) -> Subject {
        self.arguments().iter().fold(Subject::new(&self.subject), Subject::arg)
    }

    /// What the subject is started with.
    pub(super) fn arguments(&self) -> Vec<String> {
        let args = self.args.iter().flat_map(|(name, value)| [name.clone(), value.to_string()]);
        ["mib".to_owned(), self.mib.to_string()].into_iter().chain(args).collect()
    }
}

/// How long what moves goes on by itself before, unless its work is to be compared with that after.
const BRIEFLY: Duration = Duration::from_millis(300);
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
        self.link.as_ref().map_or_else(|| self.path.to_owned(), Link::to_string)
    }

    /// Do it. Whatever goes wrong is in the record.
    pub fn run(&self) -> Record {
        let mut record = Record { machine: Machine::here(self.mtu), ..self.record() };
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
        let lab = plan.build()?;
        let subject = self.load.subject().start(&lab, lab.src())?;
        std::thread::sleep(self.linger);
        let flow = self.rival.as_ref().map(|control| Flow::start(&lab, control)).transpose()?;
        lab.emulator().map_or(Ok(()), |link| link.reset())?;
        let mut clock = Clock::start(&lab, flow.as_ref());
        let verdict = match self.way {
            Way::Qmig { mode, without } => {
                let mut migration = Migration::new(&lab)?.deadline(self.deadline);
                migration = migration.dump_arg("--mode").dump_arg(mode);
                if !without.is_empty() {
                    let word = format!("--link-without={without}");
                    migration = migration.dump_arg(&word).restore_arg(&word);
                }
                self.by_qmig(&lab, &subject, migration, &mut clock, record)?
            }
            Way::QmigCriu { mode } => {
                let criu = Criu::installed().ok_or_else(|| criu::missing("to be the engine"))?;
                let migration = Migration::new(&lab)?.deadline(self.deadline).criu(&criu);
                let migration = migration.engines("criu", "criu");
                let migration = migration.dump_arg("--mode").dump_arg(mode);
                self.by_qmig(&lab, &subject, migration, &mut clock, record)?
            }
            Way::CriuStop { tls } => criu::stop(&lab, &subject, tls, &mut clock)?,
            Way::CriuLazy { tls } => criu::lazy(&lab, &subject, tls, self.deadline, &mut clock)?,
        };
        clock.fill_in(record, self.link.as_ref().filter(|_| self.way.is_lazy()));
        record.felt_us = verdict.longest_gap().map_or(0, micros);
        record.verdict = verdict.to_string();
        let samples = lab.dst().path(format!("{}.samples", subject.result().display()));
        let samples = Samples::parse(&std::fs::read_to_string(samples).unwrap_or_default());
        record.waits = samples.waits(clock.began_us);
        record.written =
            samples.written.iter().map(|(at, n)| ((at - clock.began_us) / 1000, *n)).collect();
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
    ) -> Result<Verdict> {
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
        }
        let moved = self.finish(lab, moving)?;
        clock.complete()?;
        moved.succeeded()?;
        (record.source, record.destination) = (source.read(), destination.read());
        let report = moved.event(Side::Source, "report").map(QmigEvent::into_value);
        reported(record, &report.unwrap_or_default());
        let rounds = moved.events(Side::Source).into_iter().filter(|event| event.name() == "round");
        record.rounds = rounds.map(QmigEvent::into_value).collect();
        if self.linger > BRIEFLY {
            std::thread::sleep(self.linger);
        }
        let verdict = moved.ask(lab, subject)?;
        Ok(verdict)
    }
}

/// What a qmig on the source said at the end.
pub(super) fn reported(record: &mut Record, report: &Value) {
    record.downtime_us = report["downtime_us"].as_u64().unwrap_or(0);
    record.parts = serde_json::from_value(report["parts"].clone()).unwrap_or_default();
    record.lanes = serde_json::from_value(report["link"]["lanes"].clone()).unwrap_or_default();
    record.faults = report["faults"].clone();
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

/// The phases of a trial, and what the link had carried at each.
pub(crate) struct Clock<'lab> {
    lab: &'lab Lab,
    flow: Option<&'lab Flow>,
    began: Instant,
    /// The same, as programs on the hosts call it.
    began_us: i64,
    /// Frames until then.
    frames: (u64, u64),
    running: Option<Mark>,
    complete: Option<Mark>,
}

#[derive(Clone, Debug)]
struct Mark {
    after: Duration,
    up: Option<Tally>,
    down: Option<Tally>,
    /// Bytes of the flow beside it.
    rival: u64,
    /// Bytes of frames from the source, and to it.
    frames: (u64, u64),
}

impl<'lab> Clock<'lab> {
    fn start(lab: &'lab Lab, flow: Option<&'lab Flow>) -> Self {
        let (began, began_us) = (Instant::now(), monotonic_us());
        let frames = lab.frames();
        Self { lab, flow, began, began_us, frames, running: None, complete: None }
    }

    /// The first command is about to be given.
    pub(crate) fn began(&mut self) {
        self.frames = self.lab.frames();
        (self.began, self.began_us) = (Instant::now(), monotonic_us());
    }

    /// The process runs on the destination.
    pub(crate) fn running(&mut self) -> Result<()> {
        self.running = Some(self.mark()?);
        Ok(())
    }

    /// Every page is there.
    pub(crate) fn complete(&mut self) -> Result<()> {
        self.complete = Some(self.mark()?);
        Ok(())
    }

    fn mark(&self) -> Result<Mark, LabError> {
        let after = self.began.elapsed();
        let tally = |side| self.lab.emulator().map(|link| link.tally(side)).transpose();
        let (up, down) = (tally(Side::Source)?, tally(Side::Destination)?);
        let rival = self.flow.map_or(0, Flow::bytes);
        Ok(Mark { after, up, down, rival, frames: self.lab.frames() })
    }

    /// `lazily`: the link, if pages were missing while the process ran.
    fn fill_in(&self, record: &mut Record, lazily: Option<&Link>) {
        let (Some(running), Some(complete)) = (&self.running, &self.complete) else { return };
        record.running_us = micros(running.after);
        record.total_us = micros(complete.after);
        record.up.bytes = complete.frames.0.saturating_sub(self.frames.0);
        record.down.bytes = complete.frames.1.saturating_sub(self.frames.1);
        let (Some(before), Some(after)) = (&running.up, &complete.up) else { return };
        record.up = after.into();
        record.down = complete.down.as_ref().map(LinkUse::from).unwrap_or_default();
        let seconds = (complete.after.saturating_sub(running.after)).as_secs_f64();
        let bytes = after.delivered_bytes.saturating_sub(before.delivered_bytes);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        if let Some(link) = lazily.filter(|_| seconds > 0.05) {
            // Headers of TCP and IP are 52 of its 1500 bytes.
            let rival = complete.rival.saturating_sub(running.rival) as f64;
            record.rival_bps = rival * 8.0 / seconds;
            record.fill_bps = (bytes as f64 - rival * 1500.0 / 1448.0).max(0.0) * 8.0 / seconds;
            let rate = link.up.rate;
            record.fill_share = rate.map(|rate| record.fill_bps / rate.as_bits() as f64);
        }
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
