//! The same migration between two real hosts: their own kernels, their own clocks, the network that is
//! between them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::load::Load;
use super::record::{Machine, Process, Record};
use super::remote::{Remote, host_of, quoted};
use super::samples::Samples;
use super::trial::Trial;
use super::way::Way;
use super::{clock, failed, trial};
use crate::migration::{QmigEvent, qmig_binary};
use crate::running::Running;
use crate::subject::Verdict;
use crate::{LabError, Result, workshop};

/// What two hosts are needed for, as the person named it.
#[derive(Clone, Debug)]
pub struct PairWords {
    /// `ssh:user@host` of the source.
    pub source: String,
    /// The same of the destination.
    pub destination: String,
    /// The destination's address as the source knows it; the host's name above if none.
    pub to: Option<String>,
    /// The ssh program and its options.
    pub ssh: String,
    /// Where the qmig of both hosts is; none if this one is to be copied there.
    pub qmig: Option<String>,
    /// Where a folder may be made on both.
    pub place: String,
}

impl PairWords {
    /// How tables call what is between the two.
    pub fn name(&self) -> String {
        format!("{} to {}", host_of(&self.source), host_of(&self.destination))
    }
}

/// Two hosts with everything on them that trials need; dropped, nothing of it is left there.
#[derive(Debug)]
pub struct Pair {
    source: Remote,
    destination: Remote,
    /// Under this name on both, so that what runs there can move.
    folder: String,
    qmig: String,
    to: String,
    machines: (Machine, Machine),
}

/// How long a host may take for something small.
const SOON: Duration = Duration::from_secs(60);
/// What the path is measured with before each trial.
const PROBE: &str = "--max-bytes 16MiB --max-time 2s";

impl Pair {
    /// Log in, and put there what is needed.
    pub fn meet(words: &PairWords, loads: &[&Load]) -> Result<Self> {
        let place = words.place.trim_end_matches('/');
        if !place.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)) {
            let (what, hint) = (format!("a plain path in {place:?}"), "name another folder");
            return Err(LabError::Missing { what, hint: hint.to_owned() });
        }
        let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
        let folder = format!("{place}/qmig-lab-{}", random.trim());
        let source = Remote::log_in(&words.ssh, &words.source, &folder)?;
        let destination = Remote::log_in(&words.ssh, &words.destination, &folder)?;
        let read =
            |path: &std::path::Path| std::fs::read(path).map_err(LabError::file("read", path));
        let mut names: Vec<_> = loads.iter().map(|load| load.subject.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let own = words.qmig.is_none().then(qmig_binary).transpose()?;
        for remote in [&source, &destination] {
            for name in &names {
                remote.put(name, &read(&workshop::subject(name)?)?)?;
            }
            if let Some(own) = &own {
                remote.put("qmig", &read(own)?)?;
            }
        }
        let qmig =
            words.qmig.clone().map_or_else(|| format!("{folder}/qmig"), |path| quoted(&path));
        let to = words.to.clone().unwrap_or_else(|| host_of(&words.destination).to_owned());
        let machines = (look(&source, &qmig)?, look(&destination, &qmig)?);
        Ok(Self { source, destination, folder, qmig, to, machines })
    }

    /// Do it. Whatever goes wrong is in the record.
    pub fn run(&self, trial: &Trial) -> Record {
        let mut record = trial.record();
        record.machine = self.machines.0.clone();
        record.destination_machine = Some(self.machines.1.clone());
        if let Err(error) = self.measure(trial, &mut record) {
            record.error = Some(error.to_string());
        }
        self.source.tidy();
        self.destination.tidy();
        record
    }

    fn measure(&self, trial: &Trial, record: &mut Record) -> Result<()> {
        let Way::Qmig { mode, link, limit } = trial.way else {
            return Err(failed("a way of qmig's own", trial.way, String::new()));
        };
        let limit = limit.map_or_else(String::new, |limit| format!(" --limit-rate {limit}"));
        let root = self.begin(&trial.load)?;
        let qmig = &self.qmig;
        let listen = "restore --json --quiet --pidns --listen [::]:0";
        let script = format!("exec {qmig} {listen} {link}");
        let restore = self.destination.start("restore", &script, &[])?;
        let listening = event(&restore, "listening", SOON)?;
        let field = |name: &str| listening[name].as_str().unwrap_or_default().to_owned();
        let (address, ticket) = (field("address"), field("ticket"));
        let port = address.rsplit_once(':').map_or("", |(_, port)| port);
        let at = quoted(&format!("{}:{port}", bracketed(&self.to)));
        // Over standard input: other users of the host must not see it.
        let by = "--ticket-file /dev/stdin --json --quiet";
        let probed =
            self.source.give(&format!("{qmig} probe {at} {PROBE} {by}"), ticket.as_bytes())?;
        record.probe = probed
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_default();

        let more: String = trial.dump_args.iter().map(|arg| format!(" {}", quoted(arg))).collect();
        let how = format!("dump --tree {root} --to {at} --mode {mode} {link}{limit}{more} {by}");
        let script = format!("exec {qmig} {how}");
        let dump = self.source.start("dump", &script, ticket.as_bytes())?;
        let ended = dump.output(trial.deadline)?;
        if !ended.status.success() {
            return Err(failed("a migration succeed", ended.status, dump.logs() + &restore.logs()));
        }
        let report = event(&dump, "report", SOON)?;
        trial::reported(record, &report);
        record.total_us = report["total_us"].as_u64().unwrap_or(0);
        record.running_us = event(&dump, "running", SOON)?["at_us"].as_u64().unwrap_or(0);
        record.rounds = QmigEvent::all_of(&dump)
            .into_iter()
            .filter(|event| event.name() == "round")
            .map(QmigEvent::into_value)
            .collect();
        record.source = used(&report);
        let sent = |name: &str| report.pointer(name).and_then(Value::as_u64).unwrap_or(0);
        record.up.bytes = sent("/wire_bytes");
        record.up.packets = sent("/link/sent_packets");
        record.up.lost = sent("/link/lost_packets");
        if let Ok(parted) = event(&restore, "parted", SOON) {
            record.destination_lanes = trial::lanes(&parted);
            record.down.packets = parted["link"]["sent_packets"].as_u64().unwrap_or(0);
        }

        let here = event(&restore, "running", SOON)?["pid"].as_i64().unwrap_or(-1);
        self.destination.run(&format!("kill -USR1 {here}"))?;
        let line = self.destination.await_line("result", "PASS|FAIL", SOON)?;
        restore.output(SOON)?;
        record.destination = used(&event(&restore, "exited", SOON)?);
        let verdict = Verdict::said(&line);
        record.felt_us = verdict.longest_gap().map_or(0, clock::micros);
        record.verdict = verdict.to_string();
        let samples = Samples::parse(&self.destination.read("result.samples")?);
        // The clock of the moved process is its own: it begins with what it saw first.
        record.waits =
            samples.waits(samples.waits.iter().map(|wait| wait.at_us).min().unwrap_or(0));
        if verdict.passed() {
            return Ok(());
        }
        Err(failed("the subject find everything as it was", verdict, String::new()))
    }

    /// Start the subject on the source, and wait until it is ready; its pid.
    fn begin(&self, load: &Load) -> Result<i32> {
        let folder = &self.folder;
        let args: String = load.arguments().iter().map(|arg| format!(" {}", quoted(arg))).collect();
        let subject = format!(
            "{folder}/{} --result {folder}/result --scratch {folder} --shared {folder}",
            load.subject
        );
        let pid = self.source.run(&format!(
            "cd {folder} && {{ {subject}{args} </dev/null >/dev/null 2>&1 & echo $!; }}"
        ))?;
        self.source.await_line("result", "READY", SOON)?;
        pid.parse().map_err(|_| failed("the pid of the subject", pid, String::new()))
    }
}

/// The first event of this name, once it is said.
fn event(qmig: &Running, name: &str, within: Duration) -> Result<Value> {
    qmig.wait_line(name, within, |line| {
        let event = QmigEvent::parse(line)?;
        (event.name() == name).then(|| event.into_value())
    })
}

/// What a qmig says that it has used.
fn used(event: &Value) -> Process {
    let number = |name: &str| event["used"][name].as_u64().unwrap_or(0);
    Process { cpu_us: number("cpu_us"), peak_kib: number("peak_kib") }
}

/// What a host is.
fn look(remote: &Remote, qmig: &str) -> Result<Machine> {
    let said = remote.run(&format!(
        "echo cores $(nproc); echo cpu $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1); \
         echo kernel $(uname -r); echo qmig $({qmig} --version); \
         echo tcp $(cat /proc/sys/net/ipv4/tcp_congestion_control); echo date $(date -u +%Y-%m-%dT%H:%M:%SZ)"
    ))?;
    let words: BTreeMap<_, _> = said.lines().filter_map(|line| line.split_once(' ')).collect();
    let word = |name: &str| words.get(name).copied().unwrap_or_default().to_owned();
    if word("qmig").is_empty() {
        return Err(failed("a qmig that runs there", said, String::new()));
    }
    Ok(Machine {
        cpu: format!("{} × {}", word("cores"), word("cpu")),
        kernel: word("kernel"),
        qmig: word("qmig"),
        tcp: word("tcp"),
        date: word("date"),
        offloads: "as the host has them".to_owned(),
        ..Machine::default()
    })
}

/// An address of IPv6 needs brackets before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}
