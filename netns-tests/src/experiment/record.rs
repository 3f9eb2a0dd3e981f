//! What one trial showed: one line of JSON, with everything that is needed to do it again.

use std::collections::BTreeMap;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::trial::Trial;
use crate::link::Tally;

/// One trial. Times are in microseconds; those of phases since the first command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The table of BENCHMARKS.md that it is part of, if it is of one.
    #[serde(default)]
    pub table: String,
    /// The word of the way.
    pub way: String,
    /// The link, as asked for: its words, or `veth`.
    pub link: String,
    /// The link's name in a table.
    pub link_name: String,
    /// What controls the congestion of whatever moves it: qmig's own by `delay`, `cubic`, or TCP's.
    #[serde(default)]
    pub congestion: String,
    /// The seed of the link's decisions.
    pub seed: u64,
    /// Which subject, with its arguments.
    pub load: String,
    /// The memory of the subject.
    pub mib: u32,
    /// Which repetition, from 0.
    pub repetition: u32,
    /// Why it failed, if it did; then nothing below is to be trusted.
    pub error: Option<String>,
    /// What the subject said of itself at the end.
    pub verdict: String,
    /// The longest time between two heartbeats of the process: the standstill it saw.
    pub felt_us: u64,
    /// The longest time in which the machine itself stood still meanwhile: what a thread saw that goes
    /// before everybody else. Part of `felt_us` may be of that. `None` where nobody looked, or may.
    #[serde(default)]
    pub stalled_us: Option<u64>,
    /// When it ran on the destination, as seen from outside.
    pub running_us: u64,
    /// When every page was there and nothing was left on the source.
    pub total_us: u64,
    /// qmig's standstill and its parts.
    pub downtime_us: u64,
    /// The parts of that, by name.
    pub parts: BTreeMap<String, u64>,
    /// Pages that were left to be sent when the tree stood still for good, as qmig reported them.
    #[serde(default)]
    pub frozen_pages: u64,
    /// The pages the process waited for, by its own clock.
    pub waits: Waits,
    /// When what was done, since the first command.
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// What clients of a server on a third host saw of it.
    #[serde(default)]
    pub requests: Requests,
    /// Pages written by the process in each tenth of a second: time in ms, count.
    pub written: Vec<(i64, u64)>,
    /// What qmig's destination said of faults.
    pub faults: Value,
    /// The rounds of a pre-copy, as qmig reported them.
    pub rounds: Vec<Value>,
    /// Bits per second that arrived while the process ran and pages were still missing.
    pub fill_bps: f64,
    /// The same as a share of the rate of the link, if it has one.
    pub fill_share: Option<f64>,
    /// Bits per second of the TCP flow beside it in the same time, if there was one.
    #[serde(default)]
    pub rival_bps: f64,
    /// What the link carried, to the destination and back.
    pub up: LinkUse,
    /// Back.
    pub down: LinkUse,
    /// What each lane of qmig's last link carried, by its name.
    #[serde(default)]
    pub lanes: BTreeMap<String, LaneUse>,
    /// The same as the destination counted it.
    #[serde(default)]
    pub destination_lanes: BTreeMap<String, LaneUse>,
    /// What left the source over a second connection.
    #[serde(default)]
    pub second_bytes: u64,
    /// The tool's process on the source.
    pub source: Process,
    /// The one on the destination.
    pub destination: Process,
    /// What `qmig probe` said of the path just before, between two real hosts.
    #[serde(default)]
    pub probe: Value,
    /// What it ran on; between two real hosts, the source.
    pub machine: Machine,
    /// The destination, if it is another machine.
    #[serde(default)]
    pub destination_machine: Option<Machine>,
}

impl Record {
    /// Whether it is of this trial, however often that was done before.
    pub fn is_of(&self, trial: &Trial) -> bool {
        self.way == trial.way.word()
            && self.load == trial.load.words()
            && self.link == trial.link_words()
            && (trial.link.is_some() || self.link_name == trial.link_name)
            && self.repetition == trial.repetition
    }
}

/// How long the process waited for pages that were not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Waits {
    /// How often.
    pub count: u64,
    /// Half are no longer.
    pub p50_us: u64,
    /// Nine of ten.
    pub p90_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
    /// For a plot: every percent from 0 to 100.
    pub quantiles_us: Vec<u64>,
    /// By log2 of their microseconds.
    pub buckets: Vec<u64>,
    /// When (ms) and how long, thinned out.
    pub points: Vec<(i64, u64)>,
}

impl Waits {
    /// 99 of 100 of those that began later than `ms`, if there were any.
    pub fn p99_us_after(&self, ms: i64) -> Option<u64> {
        let mut late: Vec<u64> =
            self.points.iter().filter(|(at, _)| *at >= ms).map(|(_, us)| *us).collect();
        late.sort_unstable();
        late.get((late.len() * 99).div_ceil(100).checked_sub(1)?).copied()
    }
}

/// A part of a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What was done.
    pub name: String,
    /// Since the first command.
    pub from_us: u64,
    /// It follows the one before without a gap.
    pub to_us: u64,
}

/// Questions by clients on a third host, each asked when it was due, whether others were answered or not;
/// latencies are told from then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// How many, before, during and after the move; all were answered, and rightly.
    pub count: u64,
    /// Half took no longer.
    pub p50_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
    /// The longest time without any answer.
    pub silence_us: u64,
    /// How wide the buckets of `points` are.
    pub bucket_us: u64,
    /// When a bucket of those that were due began (µs since the first command), how many were in it, the
    /// middle and the longest latency.
    pub points: Vec<(i64, u64, u64, u64)>,
}

/// One direction of the link during a trial; on a veth only its bytes, those of frames, are known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkUse {
    /// Bytes of IP packets that arrived.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Lost on the way.
    pub lost: u64,
    /// Dropped at a full queue.
    pub overflowed: u64,
    /// Time in transit: at least, half, 99 of 100.
    pub transit_us: [f64; 3],
    /// 99 of 100 packets were handed over no later than this after they were due.
    pub lateness_us: f64,
}

impl From<&Tally> for LinkUse {
    fn from(tally: &Tally) -> Self {
        Self {
            bytes: tally.delivered_bytes,
            packets: tally.delivered,
            lost: tally.lost,
            overflowed: tally.overflowed,
            transit_us: [tally.transit.min_us, tally.transit.p50_us, tally.transit.p99_us],
            lateness_us: tally.lateness.p99_us,
        }
    }
}

/// Of the streams of one lane, without QUIC's own and without what was sent again: bytes and frames
/// (messages, wishes, runs of pages, blobs). Packets hold what several lanes had to say, so there is no
/// count of them for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneUse {
    /// To the destination.
    #[serde(rename = "sent_bytes")]
    pub sent: u64,
    /// The same in frames.
    #[serde(default)]
    pub sent_frames: u64,
    /// Back.
    #[serde(rename = "received_bytes")]
    pub received: u64,
    /// The same in frames.
    #[serde(default)]
    pub received_frames: u64,
}

/// What a process of the tool used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Time on a processor, by its last clock tick.
    pub cpu_us: u64,
    /// Peak of resident memory.
    pub peak_kib: u64,
}

/// What a trial ran on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor and how many.
    pub cpu: String,
    /// Kernel release.
    pub kernel: String,
    /// The commit the measuring program was run in, if any.
    pub commit: String,
    /// The version of qmig.
    pub qmig: String,
    /// The version of CRIU, if one was there.
    pub criu: Option<String>,
    /// The MTU of the link.
    pub mtu: u32,
    /// What cuts and joins packets.
    pub offloads: String,
    /// The congestion control of TCP, which is CRIU's.
    pub tcp: String,
    /// Of the day.
    pub date: String,
}

impl Machine {
    /// This one, with frames of that size on its link, which is emulated or a veth.
    pub fn here(mtu: u32, emulated: bool) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpus = read("/proc/cpuinfo");
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let qmig = crate::qmig_binary().map(|path| said(&path.to_string_lossy(), &["--version"]));
        Self {
            cpu: format!("{cores} × {}", model.map_or("unknown", |(_, name)| name)),
            kernel: read("/proc/sys/kernel/osrelease"),
            commit: said("git", &["rev-parse", "--short", "HEAD"]),
            qmig: qmig.unwrap_or_default(),
            criu: crate::Criu::installed().and_then(|criu| criu.version().ok()),
            mtu,
            offloads: if emulated { "none, the kernel segments" } else { "all of a veth" }
                .to_owned(),
            tcp: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            date: said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        }
    }
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}
