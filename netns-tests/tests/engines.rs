//! Every pair of engines: what one takes the other restores, and a failure on either side leaves the
//! tree where it was.

use std::error::Error;
use std::time::Duration;

use netns_tests::chaos::{Action, Fault};
use netns_tests::programs::Redis;
use netns_tests::{Criu, Lab, Migration, Side, Subject};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);
const PID: i32 = 10_000;
const PAIRS: [(&str, &str); 3] = [("criu", "criu"), ("criu", "native"), ("native", "criu")];

const MODES: [&str; 2] = ["stop", "post-copy"];

/// The subject moves by each pair of engines in each mode, judges itself, and ends with its verdict as the status
/// of `qmig restore`.
fn judged(subject: &Subject, programs: &[&str]) -> Outcome {
    let Some(criu) = Criu::to_test_with(programs) else { return Ok(()) };
    for (pair, mode) in PAIRS.iter().flat_map(|pair| MODES.map(|mode| (*pair, mode))) {
        let lab = Lab::two_hosts()?;
        let started = subject.start(&lab, lab.src())?;
        let migration = Migration::new(&lab)?.criu(&criu).engines(pair.0, pair.1);
        let moved = migration.dump_arg("--mode").dump_arg(mode).run(started.pid())?;
        let verdict =
            moved.ask(&lab, &started).map_err(|error| format!("{pair:?} {mode}: {error}"))?;
        started.running().wait(SOON)?;
        assert!(verdict.passed(), "{pair:?} {mode}: {verdict}\n{}", moved.logs());
        let report = moved.event(Side::Source, "report").ok_or("no report")?;
        let lazy = !report.field("faults").is_null();
        assert_eq!(lazy, mode == "post-copy", "{pair:?} {mode}\n{}", moved.logs());
        assert_eq!(lab.wait_empty(SOON), [], "{pair:?} {mode}");
    }
    Ok(())
}

macro_rules! judged {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() -> Outcome {
            judged(&Subject::new(stringify!($name)), &[])
        }
    )*};
}

judged! { heartbeat pipes threads forks filler }

#[test]
fn memory() -> Outcome {
    judged(&Subject::new("memory").arg("criu"), &[])
}

#[test]
fn python_with_threads_and_children() -> Outcome {
    judged(&Subject::python("children"), &["/usr/bin/python3"])
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

#[test]
fn redis() -> Outcome {
    let Some(criu) = Criu::to_test_with(&["redis-server", "redis-cli"]) else { return Ok(()) };
    for pair in PAIRS {
        let lab = Lab::two_hosts()?;
        let (src, dst) = (lab.src(), lab.dst());
        let redis = Redis::start(&lab, src, PID)?;
        redis.fill(src, 50_000)?;
        let digest = redis.ask(src, src, &["DEBUG", "DIGEST"])?;
        let moved = Migration::new(&lab)?
            .criu(&criu)
            .engines(pair.0, pair.1)
            .dump_arg("--tcp-close")
            .run(redis.pid())?;
        moved.succeeded()?;
        redis.running().wait(SOON)?;
        assert_eq!(redis.ask(src, dst, &["DEBUG", "DIGEST"])?, digest, "{pair:?}");
        assert_eq!(redis.ask(src, dst, &["SET", "key:00000000", "new"])?, "OK", "{pair:?}");
        assert_eq!(redis.ask(src, dst, &["GET", "key:00000000"])?, "new", "{pair:?}");
    }
    Ok(())
}
