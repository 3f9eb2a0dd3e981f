//! `qmig probe`: what the path to a destination is like.

use std::time::Duration;

use checkpoint::{SurveyOptions, survey};
use pages::ByteCount;
use serde_json::{Value, json};
use tracee::HostPid;
use transport::probe::{Bounds, Findings, Forecast, ProbeError, Times};

use super::{chain, dump, runtime};
use crate::args::{Measured, Probe};
use crate::exit::Exit;
use crate::options;
use crate::progress::{Failure, Progress, micros};

/// Less would be over before the link is full.
const LEAST: u64 = 1 << 20;

pub(crate) fn run(args: &Probe, progress: &mut Progress) -> Result<Exit, Failure> {
    let bounds = Bounds::new(ByteCount(args.max_bytes), args.max_time)
        .filter(|_| args.max_bytes >= LEAST && !args.max_time.is_zero())
        .ok_or_else(|| {
            let what = "probe with these bounds";
            Failure::usage(what, "give --max-bytes from 1MiB to 1GiB and --max-time up to 60s")
        })?;
    let memory = args.tree.map(memory).transpose()?;
    let mut link = options::link(args.socket_fd, &Measured::default())?;
    link.connect_timeout = args.connect_timeout;
    let trust = dump::trust(&args.trust, &args.to)?;
    let software = options::software();
    let measure = transport::probe::measure(&args.to, &trust, &link, bounds, &software);
    let found = runtime()?.block_on(measure).map_err(told)?;
    let forecast = memory.map(|memory| (memory, Forecast::of(memory, &found)));
    progress.emit("probed", in_json(&found, forecast));
    if !progress.is_json() {
        println!("{}", in_words(&found));
        forecast.iter().for_each(|(memory, forecast)| println!("{}", foretold(*memory, forecast)));
    }
    Ok(Exit::Done)
}

/// How much memory a tree has.
fn memory(root: i32) -> Result<ByteCount, Failure> {
    options::need_root()?;
    match survey(HostPid(root), &SurveyOptions::default()) {
        Ok(plan) => Ok(plan.resident),
        Err(error) => Err(Failure::here(chain(&error)).hint("`qmig check --tree` says what it is")),
    }
}

fn foretold(memory: ByteCount, forecast: &Forecast) -> String {
    let Forecast { stopped, followed, complete } = *forecast;
    let [stopped, followed, complete] = [stopped, followed, complete].map(|time| {
        let digits =
            if time.as_secs() < 1 { Duration::from_millis(1) } else { Duration::from_millis(100) };
        let steps = time.as_nanos() / digits.as_nanos();
        humantime::format_duration(digits * u32::try_from(steps).unwrap_or(u32::MAX)).to_string()
    });
    format!(
        "{memory} of memory   about {complete}, if it cannot be compressed; it would stand still {stopped} \
         (--mode stop) or {followed} (post-copy)"
    )
}

fn told(error: ProbeError) -> Failure {
    let (code, whose) = match &error {
        ProbeError::Dial(_) => (Exit::Refused, "the other host, or the way there"),
        ProbeError::Refused(_) => (Exit::Refused, "the other host"),
        ProbeError::Link(transport::quic::LinkError::ClosedByPeer { .. }) => {
            (Exit::Refused, "the other host")
        }
        ProbeError::Link(_) | ProbeError::TooSlow(_) => (Exit::Aborted, "the link"),
        ProbeError::OutOfTurn(_) => (Exit::Aborted, "the other host"),
        ProbeError::Random => (Exit::Refused, "this host"),
    };
    let hint = match &error {
        ProbeError::Dial(error) => error.hint(),
        ProbeError::Link(transport::quic::LinkError::ClosedByPeer { code, .. }) => code.hint(),
        _ => None,
    };
    let reasons = match &error {
        ProbeError::Refused(reasons) => reasons.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    let failure = Failure { code, whose, reasons, ..Failure::here(chain(&error)) };
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn in_words(found: &Findings) -> String {
    let Findings { peer, software, round_trip, idle, behind_bulk, rate, mtu, .. } = found;
    format!(
        "{peer}: {software}; nothing was changed there
round trip         {}
wait for a page    {}
behind other pages {}
rate               {} of memory ({}/s), {} in {:.1} s
loss               {:.2} % of {} packets
largest packet     {mtu} bytes",
        spread(round_trip),
        spread(idle),
        spread(behind_bulk),
        bits(*rate),
        rate,
        found.bytes,
        found.took.as_secs_f64(),
        found.loss() * 100.0,
        found.packets,
    )
}

/// `20.3 ms (20.1 to 24.0, 16 times)`.
fn spread(times: &Times) -> String {
    let ms = |percent| millis(times.percentile(percent));
    format!("{} ms ({} to {}, {} times)", ms(50), ms(0), ms(100), times.count())
}

fn millis(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 1.0 { format!("{ms:.3}") } else { format!("{ms:.1}") }
}

/// As networks are sold.
fn bits(rate: ByteCount) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let bits = rate.0 as f64 * 8.0;
    let (unit, word) = if bits >= 1e9 { (1e9, "Gbit/s") } else { (1e6, "Mbit/s") };
    format!("{:.2} {word}", bits / unit)
}

fn in_json(found: &Findings, forecast: Option<(ByteCount, Forecast)>) -> Value {
    let times = |times: &Times| {
        let us = |percent| micros(times.percentile(percent));
        json!({ "count": times.count(), "min_us": us(0), "p50_us": us(50), "p90_us": us(90),
                "p99_us": us(99), "max_us": us(100) })
    };
    json!({
        "peer": found.peer,
        "software": found.software,
        "features": found.features.to_string(),
        "rtt": times(&found.round_trip),
        "wait": times(&found.idle),
        "wait_behind_bulk": times(&found.behind_bulk),
        "bytes_per_second": found.rate.0,
        "bytes": found.bytes.0,
        "took_us": micros(found.took),
        "packets": found.packets,
        "lost_packets": found.lost_packets,
        "loss": found.loss(),
        "mtu": found.mtu,
        "forecast": forecast.map(|(memory, forecast)| json!({
            "resident_bytes": memory.0,
            "complete_us": micros(forecast.complete),
            "downtime_stop_us": micros(forecast.stopped),
            "downtime_post_copy_us": micros(forecast.followed),
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_say_them() {
        let ms = Duration::from_millis;
        let times = Times::of(vec![ms(20), ms(24), ms(21)]);
        assert_eq!(spread(&times), "21.0 ms (20.0 to 24.0, 3 times)");
        assert_eq!(millis(Duration::from_micros(48)), "0.048");
        assert_eq!(bits(ByteCount(11_800_000)), "94.40 Mbit/s");
        assert_eq!(bits(ByteCount(250_000_000)), "2.00 Gbit/s");
    }
}
