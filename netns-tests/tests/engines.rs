//! Every pair of engines: what one takes the other restores, and a failure on either side leaves the
//! tree where it was.

use std::error::Error;
use std::time::Duration;

use netns_tests::programs::Redis;
use netns_tests::{Criu, Lab, Migration, Side, Subject, qmig_binary, requirements};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);
const PID: i32 = 10_000;
const PAIRS: [(&str, &str); 3] = [("criu", "criu"), ("criu", "native"), ("native", "criu")];

/// The CRIU to test with, unless something is missing.
fn criu(programs: &[&str]) -> Option<Criu> {
    if requirements::missing(programs)
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
    {
        return None;
    }
    let criu = Criu::installed();
    if criu.is_none() {
        let _ = requirements::skip("no CRIU here (netns-tests/install-criu.sh /opt/qmig-criu)");
    }
    criu
}

const MODES: [&str; 2] = ["stop", "post-copy"];

/// The subject moves by each pair of engines in each mode, judges itself, and ends with its verdict as the status
/// of `qmig restore`.
fn judged(subject: &Subject, programs: &[&str]) -> Outcome {
    let Some(criu) = criu(programs) else { return Ok(()) };
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

#[test]
fn redis() -> Outcome {
    let Some(criu) = criu(&["redis-server", "redis-cli"]) else { return Ok(()) };
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
