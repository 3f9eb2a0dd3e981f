//! stderr is for people, stdout (with --json) for programs.
//!
//! Every line of JSON is `{"event": NAME, "at_us": microseconds since qmig started, …}`. The names
//! and fields are an interface: docs/json.md lists them.

use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::time::{ClockId, clock_gettime};
use pages::ByteCount;
use serde_json::{Value, json};
use transport::event::{Event, Watch};
use transport::session::{Report, RunsOn};
use transport::wire::FaultTotals;
use transport::{Arrival, LinkStats};

use crate::exit::Exit;

/// A command that did not do what was asked, in the words people and programs get.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: Exit,
    /// Whose fault it is: `this host`, `the other host`, `the link`, `the words typed`, …
    pub(crate) whose: &'static str,
    /// What failed.
    pub(crate) what: String,
    /// What to do.
    pub(crate) hint: Option<String>,
    /// Who runs now.
    pub(crate) runs_on: RunsOn,
    /// If it is a refusal: every reason.
    pub(crate) reasons: Vec<String>,
}

impl Failure {
    /// The words typed make no sense; nothing was touched.
    pub(crate) fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code: Exit::Usage,
            whose: "the command line",
            what: what.into(),
            hint: Some(hint.into()),
            runs_on: RunsOn::Source,
            reasons: Vec::new(),
        }
    }

    /// This host cannot; nothing was touched.
    pub(crate) fn here(what: impl Into<String>) -> Self {
        Self {
            code: Exit::Refused,
            whose: "this host",
            what: what.into(),
            hint: None,
            runs_on: RunsOn::Source,
            reasons: Vec::new(),
        }
    }

    /// With advice.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Where what happens is told.
pub(crate) struct Progress {
    started: Instant,
    json: bool,
    quiet: bool,
    /// From the moment there is something to count.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Nothing has happened yet.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { started: Instant::now(), json, quiet, bar: None }
    }

    /// True if programs listen.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A line for people.
    pub(crate) fn say(&self, line: &str) {
        if self.quiet {
            return;
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// A line for programs. A closed stdout is their choice, not an error of the migration.
    pub(crate) fn emit(&self, name: &str, mut fields: Value) {
        if !self.json {
            return;
        }
        let at_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let clock = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.num_microseconds());
        let mut line = json!({ "event": name, "at_us": at_us, "monotonic_us": clock });
        if let (Some(line), Some(fields)) = (line.as_object_mut(), fields.as_object_mut()) {
            line.append(fields);
        }
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    /// The command failed.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        self.finish();
        eprintln!("qmig: {}", failure.what);
        for reason in &failure.reasons {
            eprintln!("  - {reason}");
        }
        if let Some(hint) = &failure.hint {
            eprintln!("hint: {hint}");
        }
        if matches!(failure.code, Exit::Refused | Exit::Aborted | Exit::Stranded) {
            eprintln!("whose fault: {}; {}", failure.whose, runs_sentence(failure));
        }
        self.emit(
            "error",
            json!({
                "code": failure.code.code(),
                "whose": failure.whose,
                "what": failure.what,
                "reasons": failure.reasons,
                "hint": failure.hint,
                "runs_on": runs_on(failure.runs_on),
            }),
        );
    }

    /// Takes the bar away.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn report(&mut self, report: &Report) {
        self.finish();
        if !self.quiet {
            eprintln!("{report}");
        }
        self.emit("report", report_json(report));
    }

    fn bar_of_pages(&mut self, total: u64) {
        if self.quiet {
            return;
        }
        let style = ProgressStyle::with_template(
            "pages [{bar:32}] {percent:>3}% {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg}",
        );
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(Some(total << pages::PAGE_SHIFT), target);
        self.bar = Some(bar.with_style(style.progress_chars("=> ")));
    }
}

impl Watch for Progress {
    fn event(&mut self, event: Event) {
        match event {
            Event::Listening { address, ticket, command } => {
                self.say(&format!("waiting on {address}; type on the source:\n\n    {command}\n"));
                let fields = json!({ "address": address, "ticket": ticket, "command": command });
                self.emit("listening", fields);
            }
            Event::Connected { peer } => {
                self.say(&format!("connected: {peer}"));
                self.emit("connected", json!({ "peer": peer }));
            }
            Event::Plan { root, command, processes, threads, resident_bytes } => {
                self.say(&format!(
                    "plan: {root} ({command}), {processes} processes, {threads} threads, {}",
                    ByteCount(resident_bytes)
                ));
                self.emit(
                    "plan",
                    json!({ "root": root, "command": command, "processes": processes,
                            "threads": threads, "resident_bytes": resident_bytes }),
                );
            }
            Event::Warmed { padding, took, found } => self.emit(
                "warmed",
                json!({ "padding_bytes": padding, "took_us": micros(took), "found": found }),
            ),
            Event::Watched { stood } => {
                self.say(&format!(
                    "its memory is watched; it stood still {} ms",
                    stood.as_millis()
                ));
                self.emit("watched", json!({ "stood_us": micros(stood) }));
            }
            Event::Round { number, pages, took, dirty, left, predicted } => {
                let bytes = pages << pages::PAGE_SHIFT;
                let dirty_bytes = dirty << pages::PAGE_SHIFT;
                let [rate, dirty_rate] = [bytes, dirty_bytes].map(|bytes| per_second(bytes, took));
                self.say(&format!(
                    "round {number}: {} in {} ms, {} changed ({}/s); it would stand still {} ms",
                    ByteCount(bytes),
                    took.as_millis(),
                    ByteCount(dirty_bytes),
                    ByteCount(dirty_rate),
                    predicted.as_millis()
                ));
                self.emit(
                    "round",
                    json!({ "n": number, "pages": pages, "bytes": bytes, "took_us": micros(took),
                            "dirty_pages": dirty, "left_pages": left, "rate": rate, "dirty_rate": dirty_rate,
                            "predicted_downtime_us": micros(predicted) }),
                );
            }
            Event::Throttled { percent } => {
                self.say(&format!("it writes too fast: held back for {percent} % of the time"));
                self.emit("throttled", json!({ "percent": percent }));
            }
            Event::SwitchedOver { why } => {
                self.say(&format!("what is left follows on demand: {why}"));
                self.emit("switched_over", json!({ "why": why }));
            }
            Event::Frozen { pages } => {
                self.bar_of_pages(pages);
                self.emit("frozen", json!({ "pages": pages }));
            }
            Event::Pages { done, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(done << pages::PAGE_SHIFT);
                }
            }
            Event::Files { count, bytes } => {
                self.say(&format!("{count} files, {}", ByteCount(bytes)));
                self.emit("files", json!({ "count": count, "bytes": bytes }));
            }
            Event::Images { count, bytes } => {
                self.emit("images", json!({ "count": count, "bytes": bytes }));
            }
            Event::Staged => self.emit("staged", json!({})),
            Event::Handoff => self.emit("handoff", json!({})),
            Event::Running { pid } => self.emit("running", json!({ "pid": pid })),
            Event::LinkLost { grace } => {
                let how_long = match grace {
                    Some(grace) => format!("for {}", humantime::format_duration(grace)),
                    None => "until somebody ends it".to_owned(),
                };
                self.say(&format!("the link is lost; looking for it {how_long}"));
                self.emit("link_lost", json!({ "grace_us": grace.map(micros) }));
            }
            Event::Faults(faults, lately) => {
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("{}; {lately}", in_words(&faults)));
                }
                self.emit("faults", faults_json(&faults, Some(lately)));
            }
            Event::Drained(faults, all) => {
                self.finish();
                self.say(&format!("no page is missing any more; {}; {all}", in_words(&faults)));
                self.emit("drained", json!({ "faults": faults_json(&faults, Some(all)) }));
            }
            Event::Parted(link) => self.emit("parted", json!({ "link": link_json(&link) })),
            Event::Warning { text } => {
                self.say(&format!("warning: {text}"));
                self.emit("warning", json!({ "text": text }));
            }
            Event::Report(report) => self.report(&report),
        }
    }
}

/// Bytes in a second.
fn per_second(bytes: u64, took: Duration) -> u64 {
    let per_second = u128::from(bytes) * 1_000_000 / took.as_micros().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

/// Microseconds, for JSON.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The word programs get.
pub(crate) fn runs_on(who: RunsOn) -> &'static str {
    match who {
        RunsOn::Source => "source",
        RunsOn::Destination => "destination",
        RunsOn::None => "none",
    }
}

fn runs_sentence(failure: &Failure) -> &'static str {
    match (failure.code, failure.runs_on) {
        (Exit::Refused, _) => "nothing was touched",
        (_, RunsOn::Source) => "the process runs on the source",
        (_, RunsOn::Destination) => "the process runs on the destination",
        (_, RunsOn::None) => "the process runs nowhere",
    }
}

fn in_words(faults: &FaultTotals) -> String {
    let [p50, p99] = [faults.p50, faults.p99].map(|time| time.as_secs_f64() * 1e3);
    format!("{} faults, p50 {p50:.1} ms, p99 {p99:.1} ms", faults.count)
}

fn faults_json(faults: &FaultTotals, arrival: Option<Arrival>) -> Value {
    json!({
        "count": faults.count,
        "p50_us": micros(faults.p50),
        "p99_us": micros(faults.p99),
        "longest_us": micros(faults.longest),
        "buckets": faults.buckets,
        "per_second": arrival.map(|arrival| arrival.faults_per_second()),
        "bytes_per_second": arrival.map(|arrival| arrival.bytes_per_second().0),
    })
}

fn link_json(link: &LinkStats) -> Value {
    let lanes: serde_json::Map<String, Value> = link
        .lanes
        .iter()
        .map(|lane| {
            let fields = json!({
                "sent_bytes": lane.sent.0, "sent_frames": lane.sent_frames,
                "received_bytes": lane.received.0, "received_frames": lane.received_frames,
            });
            (lane.lane.name().to_owned(), fields)
        })
        .collect();
    let mut told = json!({
        "rtt_us": micros(link.rtt),
        "min_rtt_us": micros(link.min_rtt),
        "bytes_per_second": link.rate.map(|rate| rate.0),
        "congestion_window": link.congestion_window.0,
        "sent_packets": link.sent_packets,
        "received_packets": link.received_packets,
        "lost_packets": link.lost_packets,
        "mtu": link.mtu,
        "lanes": lanes,
    });
    // Only when it is measured (`--link-with`).
    if let Some(second) = link.second_sent {
        told["second_sent_bytes"] = second.0.into();
    }
    told
}

fn report_json(report: &Report) -> Value {
    let parts: serde_json::Map<String, Value> = report
        .downtime
        .as_slice()
        .iter()
        .map(|part| (part.name.to_owned(), json!(micros(part.time))))
        .collect();
    json!({
        "outcome": report.outcome.to_string(),
        "total_us": micros(report.total),
        "downtime_us": micros(report.downtime.total()),
        "parts": parts,
        "pages": report.pages.0,
        "wire_bytes": report.wire_bytes.0,
        "link": report.link.as_deref().map(link_json),
        "faults": report.faults.as_ref().map(|faults| faults_json(faults, report.arrival)),
        "used": used(),
    })
}

/// What this process has used until now.
pub(crate) fn used() -> Value {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Value::Null };
    let cpu_us =
        [usage.user_time(), usage.system_time()].iter().map(TimeVal::num_microseconds).sum::<i64>();
    json!({ "cpu_us": cpu_us, "peak_kib": usage.max_rss() })
}
