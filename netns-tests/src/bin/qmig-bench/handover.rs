//! How long a process stands still until it runs on the other host in post-copy, by its size and the
//! link: what is missing follows later, so the size should not matter.

use std::fmt::Write as _;
use std::time::Duration;

use netns_tests::{Lab, Link, Migration, Side, Subject};
use nix::sys::signal::Signal;

use crate::report::millis;
use crate::statistics::Sample;
use crate::{Outcome, quiet};

/// Its threads, the first included.
const THREADS: u32 = 8;
const MOVE: Duration = Duration::from_secs(120);

pub(crate) fn measure(quick: bool) -> Outcome<String> {
    let (sizes, rounds): (&[u32], u32) = if quick { (&[64], 1) } else { (&[256, 4096], 5) };
    let mut text = format!(
        "## Hand-over in post-copy: a process with {THREADS} threads\n\nFreeze to running, by the report \
         of qmig, {rounds} time(s). It is ended when it runs.\nGoal: ≤ 30 ms + 2 RTT for 4096 MiB.\n\n\
         | link | size | median | p90 | min | max |\n|---|---:|---:|---:|---:|---:|\n"
    );
    for (name, words) in
        [("veth", None), ("1 Gbit/s, RTT 20 ms", Some("rate=1Gbit rtt=20ms queue=1bdp"))]
    {
        for mib in sizes {
            let times: Vec<_> =
                (0..rounds).map(|_| standstill(*mib, words)).collect::<Outcome<_>>()?;
            let sample = Sample::new(times).ok_or("measure anything")?;
            let row = [sample.median(), sample.p90(), sample.min(), sample.max()].map(millis);
            let _ = writeln!(text, "| {name} | {mib} MiB | {} |", row.join(" | "));
        }
    }
    Ok(text)
}

fn standstill(mib: u32, words: Option<&str>) -> Outcome<Duration> {
    let lab = match words {
        Some(words) => Lab::plan().link(words.parse::<Link>()?).build()?,
        None => Lab::two_hosts()?,
    };
    let subject = Subject::new("filler").arg("mib").arg(mib).arg("threads").arg(THREADS - 1);
    let subject = subject.start(&lab, lab.src())?;
    quiet::wait()?;
    let migration = Migration::new(&lab)?.deadline(MOVE).dump_arg("--mode").dump_arg("post-copy");
    let moving = migration.listen()?.dump(subject.pid())?;
    moving.wait_event(Side::Destination, "running")?;
    lab.dst().signal(subject.pid(), Signal::SIGKILL)?;
    let moved = moving.finish()?;
    let report = moved.event(Side::Source, "report").ok_or("read the report")?;
    let time = report.field("downtime_us").as_u64().ok_or("read the standstill")?;
    eprintln!("hand-over of {mib} MiB: {time} µs");
    Ok(Duration::from_micros(time))
}
