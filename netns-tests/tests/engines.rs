//! Every pair of engines: what one takes the other restores, and a failure on either side leaves the
//! tree where it was.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use netns_tests::chaos::{Action, Fault};
use netns_tests::programs::Redis;
use netns_tests::{Criu, HugePages, Lab, Migration, Side, Subject};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);
const PID: i32 = 10_000;
const PAIRS: [(&str, &str); 3] = [("criu", "criu"), ("criu", "native"), ("native", "criu")];

const MODES: [&str; 2] = ["stop", "post-copy"];

/// The subject moves once, judges itself, and ends with its verdict as the status of `qmig restore`.
fn moves(criu: &Criu, subject: &Subject, pair: (&str, &str), mode: &str) -> Outcome {
    let lab = Lab::two_hosts()?;
    let started = subject.start(&lab, lab.src())?;
    let migration = Migration::new(&lab)?.criu(criu).engines(pair.0, pair.1);
    let moved = migration.dump_arg("--mode").dump_arg(mode).run(started.pid())?;
    let verdict = moved.ask(&lab, &started)?;
    started.running().wait(SOON)?;
    assert!(verdict.passed(), "{pair:?} {mode}: {verdict}\n{}", moved.logs());
    let report = moved.event(Side::Source, "report").ok_or("no report")?;
    let lazy = !report.field("faults").is_null();
    assert_eq!(lazy, mode == "post-copy", "{pair:?} {mode}\n{}", moved.logs());
    assert_eq!(lab.wait_empty(SOON), [], "{pair:?} {mode}");
    Ok(())
}

/// The subject moves by each pair of engines in each mode.
fn judged(subject: &Subject) -> Outcome {
    let Some(criu) = Criu::to_test_with(&[]) else { return Ok(()) };
    for (pair, mode) in PAIRS.iter().flat_map(|pair| MODES.map(|mode| (*pair, mode))) {
        moves(&criu, subject, pair, mode).map_err(|error| format!("{pair:?} {mode}: {error}"))?;
    }
    Ok(())
}

macro_rules! judged {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() -> Outcome {
            judged(&Subject::new(stringify!($name)))
        }
    )*};
}

judged! { heartbeat threads forks filler }

/// What every pair of engines is proven with, qmig's own with itself among them, in each mode. Of sockets what
/// CRIU's images have a place for (docs/criu.md tells what they have not).
#[test]
fn matrix() -> Outcome {
    let needed = ["redis-server", "redis-cli", "/usr/bin/python3"];
    let Some(criu) = Criu::to_test_with(&needed) else { return Ok(()) };
    let subjects = [
        ("python threads", Subject::python("children")),
        ("pipes", Subject::new("pipes")),
        ("sockets", Subject::new("sockets").arg("criu").arg(1)),
        ("shared memory", Subject::new("memory").arg("criu")),
    ];
    let mut table = format!("{:24}", "");
    let columns = [("native", "native")].into_iter().chain(PAIRS);
    let columns: Vec<_> = columns.flat_map(|pair| MODES.map(|mode| (pair, mode))).collect();
    for ((from, to), mode) in &columns {
        write!(table, " {from}>{to} {mode},")?;
    }
    let mut failed = Vec::new();
    let mut note = |table: &mut String, what: &str, end: Outcome| {
        *table += if end.is_ok() { " ok" } else { " FAILED" };
        failed.extend(end.err().map(|error| format!("{what}: {error}")));
    };
    for (name, subject) in &subjects {
        write!(table, "\n{name:24}")?;
        for (pair, mode) in &columns {
            let what = format!("{name} {pair:?} {mode}");
            note(&mut table, &what, moves(&criu, subject, *pair, mode));
        }
    }
    write!(table, "\n{:24}", "redis")?;
    for (pair, mode) in &columns {
        note(&mut table, &format!("redis {pair:?} {mode}"), redis(&criu, *pair, mode));
    }
    // Not `eprintln!`: the harness would keep that to itself as long as the test passes.
    std::io::stderr().write_all(format!("{table}\n").as_bytes())?;
    assert!(failed.is_empty(), "{failed:#?}");
    Ok(())
}

/// Huge pages, which take a machine that may have some.
#[test]
fn huge_pages() -> Outcome {
    let Some(criu) = Criu::to_test_with(&[]) else { return Ok(()) };
    // No stock CRIU carries files of a hugetlbfs, or segments without an IPC namespace of the tree's own.
    let subject = Subject::new("huge").arg("plain").arg(1);
    let Ok(_pages) = HugePages::for_subject(&subject) else { return Ok(()) };
    for (pair, mode) in PAIRS.iter().flat_map(|pair| MODES.map(|mode| (*pair, mode))) {
        moves(&criu, &subject, pair, mode).map_err(|error| format!("{pair:?} {mode}: {error}"))?;
    }
    Ok(())
}

/// A CRIU from before 4.2, whose page server speaks with shorter headers, on both sides and on one.
#[test]
fn an_older_criu() -> Outcome {
    let Some(criu) = Criu::older_to_test_with(&[]) else { return Ok(()) };
    for (pair, mode) in PAIRS.iter().flat_map(|pair| MODES.map(|mode| (*pair, mode))) {
        moves(&criu, &Subject::new("memory").arg("criu").arg("old"), pair, mode)
            .map_err(|error| format!("{pair:?} {mode}: {error}"))?;
    }
    Ok(())
}

/// Its number is taken over there: CRIU says so while pages are on their way, and it runs on here.
#[test]
fn what_criu_cannot_build_stays_and_is_told() -> Outcome {
    let Some(criu) = Criu::to_test_with(&[]) else { return Ok(()) };
    for mode in MODES {
        let lab = Lab::two_hosts()?;
        let started = Subject::new("memory").arg("criu").start(&lab, lab.src())?;
        let migration = Migration::new(&lab)?.criu(&criu).engines("criu", "criu");
        let migration = migration.dump_arg("--mode").dump_arg(mode);
        let fault = Fault::new(Side::Destination, "checked", Action::Stop);
        let moving = migration.fault(fault).listen()?.dump(started.pid())?;
        let restore = moving.qmig(Side::Destination);
        restore.wait_stopped(SOON)?;
        lab.dst().next_pid(started.pid())?;
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("1000");
        let taken = lab.dst().spawn_quiet(sleep)?;
        assert_eq!(taken.pid(), started.pid());
        lab.dst().signal(restore.pid(), Signal::SIGCONT)?;
        let moved = moving.finish()?;
        assert_eq!(moved.dumped().code(), Some(122), "{mode}: {}", moved.logs());
        moved.restore().wait(SOON)?;
        assert!(moved.logs().contains("CRIU could not restore the tree"), "{}", moved.logs());
        assert!(started.ask(lab.src())?.passed(), "{mode}");
        lab.dst().signal(taken.pid(), Signal::SIGKILL)?;
    }
    Ok(())
}

/// What it remembers it remembers over there, and it can learn more.
fn redis(criu: &Criu, pair: (&str, &str), mode: &str) -> Outcome {
    let lab = Lab::two_hosts()?;
    let (src, dst) = (lab.src(), lab.dst());
    let redis = Redis::start(&lab, src, PID)?;
    redis.fill(src, 50_000)?;
    let digest = redis.ask(src, src, &["DEBUG", "DIGEST"])?;
    let migration = Migration::new(&lab)?.criu(criu).engines(pair.0, pair.1);
    let migration = migration.dump_arg("--tcp-close").dump_arg("--mode").dump_arg(mode);
    let moved = migration.run(redis.pid())?;
    moved.succeeded()?;
    redis.running().wait(SOON)?;
    assert_eq!(redis.ask(src, dst, &["DEBUG", "DIGEST"])?, digest, "{pair:?}");
    assert_eq!(redis.ask(src, dst, &["SET", "key:00000000", "new"])?, "OK", "{pair:?}");
    assert_eq!(redis.ask(src, dst, &["GET", "key:00000000"])?, "new", "{pair:?}");
    Ok(())
}
