//! Pre-copy, and what is left of it on demand: programs that write all the time are moved while they
//! run, and lose nothing.
//!
//! `QMIG_TEST_REPEAT=100` repeats those that change the shape of their memory, three times as often,
//! each time in another way.

use std::error::Error;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use netns_tests::chaos::{Action, Fault, Runs, who_runs};
use netns_tests::{Lab, Link, Migration, Moved, Side, Subject, qmig_binary, requirements, rounds};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);

fn missing() -> bool {
    requirements::missing(&["cc"])
}

fn precopy(lab: &Lab) -> Result<Migration<'_>, Box<dyn Error>> {
    // A goal that a busy machine meets too: what is judged here is what arrives.
    let migration = Migration::new(lab)?.dump_arg("--mode").dump_arg("pre-copy");
    Ok(migration.dump_arg("--max-downtime").dump_arg("5s"))
}

fn pages(moved: &Moved, event: &str) -> Vec<u64> {
    let events = moved.events(Side::Source).into_iter().filter(|it| it.name() == event);
    events.filter_map(|event| event.field("pages").as_u64()).collect()
}

/// As much as it writes: rounds, then what changed last on demand.
fn hybrid(lab: &Lab) -> Result<Migration<'_>, Box<dyn Error>> {
    let migration = Migration::new(lab)?.dump_arg("--mode").dump_arg("hybrid");
    Ok(migration.dump_arg("--max-downtime").dump_arg("1ms"))
}

fn moves(subject: &Subject) -> Result<Moved, Box<dyn Error>> {
    let lab = Lab::two_hosts()?;
    let moved = moves_by(&lab, subject, precopy(&lab)?)?;
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(moved)
}

fn moves_by(
    lab: &Lab,
    subject: &Subject,
    migration: Migration<'_>,
) -> Result<Moved, Box<dyn Error>> {
    let started = subject.start(lab, lab.src())?;
    let moved = migration.run(started.pid())?;
    moved.succeeded()?;
    started.running().wait(SOON)?;
    let verdict = moved.ask(lab, &started);
    let verdict = verdict.map_err(|error| format!("{error}\n{}", moved.logs()))?;
    assert!(verdict.passed(), "{verdict}\n{}", moved.logs());
    Ok(moved)
}

/// Another one each time.
fn churn(seeds: &AtomicU64) -> Subject {
    Subject::new("churn").arg("seed").arg(seeds.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn a_writer_arrives_with_every_byte() -> Outcome {
    if missing() {
        return Ok(());
    }
    let subject = Subject::new("writer").arg("mib").arg(64).arg("rate").arg(10);
    let moved = moves(&subject)?;
    let rounds = pages(&moved, "round");
    assert!(moved.event(Side::Source, "watched").is_some() && !rounds.is_empty());
    assert!(rounds[0] >= 64 << 8, "the first round has everything: {rounds:?}");
    let last = pages(&moved, "frozen");
    assert!(last[0] < rounds[0] / 2, "what was sent is not sent again: {last:?} after {rounds:?}");
    Ok(())
}

#[test]
fn memory_that_changes_its_shape_arrives() -> Outcome {
    if missing() {
        return Ok(());
    }
    let seeds = AtomicU64::new(1);
    (1..=3).try_for_each(|_| rounds(|lab| moves_by(lab, &churn(&seeds), precopy(lab)?).map(drop)))
}

/// What private mappings of files hold of their own; the other half is the file's.
#[test]
fn pages_of_files_that_a_program_made_its_own_arrive() -> Outcome {
    if missing() {
        return Ok(());
    }
    let subject = |rate: u32| {
        Subject::new("writer").arg("mib").arg(64).arg("rate").arg(rate).arg("file").arg(1)
    };
    let moved = moves(&subject(5))?;
    let (rounds, last) = (pages(&moved, "round"), pages(&moved, "frozen"));
    assert!((32 << 8..40 << 8).contains(&rounds[0]), "half of it: {rounds:?}");
    assert!(last[0] < rounds[0] / 2, "what was sent is not sent again: {last:?} after {rounds:?}");
    let lab = Lab::two_hosts()?;
    moves_by(&lab, &subject(200), hybrid(&lab)?).map(drop)
}

/// Through mappings of two processes, by descriptor, with holes, and growing; without a name, and as a
/// segment of System V, which leaves private memory where it is.
#[test]
fn shared_memory_that_two_write_to_arrives() -> Outcome {
    if missing() {
        return Ok(());
    }
    let subject = |rate: u32| Subject::new("commons").arg("mib").arg(8).arg("rate").arg(rate);
    rounds(|lab| {
        let moved = moves_by(lab, &subject(1).arg("segment").arg(1), precopy(lab)?)?;
        let (rounds, last) = (pages(&moved, "round"), pages(&moved, "frozen"));
        assert!(rounds[0] >= 16 << 8, "the first round has the segment too: {rounds:?}");
        assert!(last[0] < rounds[0], "what was sent is not sent again: {last:?}, {rounds:?}");
        Ok(())
    })?;
    rounds(|lab| {
        let moved = moves_by(lab, &subject(1), precopy(lab)?)?;
        let (rounds, last) = (pages(&moved, "round"), pages(&moved, "frozen"));
        assert!(rounds[0] >= 16 << 8, "the first round has shared memory too: {rounds:?}");
        assert!(last[0] < rounds[0], "what was sent is not sent again: {last:?}, {rounds:?}");
        Ok(())
    })?;
    rounds(|lab| moves_by(lab, &subject(8), hybrid(lab)?).map(drop))
}

/// A file of /dev/shm that nobody else has, by its name and without one, is memory like any other.
#[test]
fn a_file_of_shared_memory_crosses_in_rounds() -> Outcome {
    if missing() {
        return Ok(());
    }
    for file in [1, 2] {
        let subject = |rate: u32| {
            Subject::new("commons").arg("mib").arg(8).arg("rate").arg(rate).arg("file").arg(file)
        };
        rounds(|lab| {
            let moved = moves_by(lab, &subject(1), precopy(lab)?)?;
            let (rounds, last) = (pages(&moved, "round"), pages(&moved, "frozen"));
            assert!(rounds[0] >= 16 << 8, "the first round has the file too: {rounds:?}");
            assert!(last[0] < rounds[0], "what was sent is not sent again: {last:?}, {rounds:?}");
            Ok(())
        })?;
        rounds(|lab| moves_by(lab, &subject(8), hybrid(lab)?).map(drop))?;
    }
    Ok(())
}

/// Nobody's file is written over, and the program does not stand still to learn of it.
#[test]
fn a_file_of_shared_memory_that_is_there_already_is_left_alone() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("commons").arg("file").arg(1).start(&lab, lab.src())?;
    let name = format!("/dev/shm/qmig-commons-{}", started.pid());
    std::fs::write(lab.dst().path(&name), "somebody's")?;
    let moved = precopy(&lab)?.run(started.pid())?;
    assert!(!moved.dumped().success(), "{}", moved.logs());
    assert!(
        moved.logs().contains(&format!("make anew {name}: the kernel says EEXIST")),
        "{}",
        moved.logs()
    );
    assert!(moved.event(Side::Source, "frozen").is_none(), "{}", moved.logs());
    assert_eq!(std::fs::read_to_string(lab.dst().path(&name))?, "somebody's");
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    let verdict = started.ask(lab.src())?;
    assert!(verdict.passed(), "{verdict}");
    Ok(())
}

#[test]
fn trees_of_many_kinds_arrive() -> Outcome {
    if missing() {
        return Ok(());
    }
    for name in ["forks", "threads", "memory", "files", "waits", "zombie", "timers", "sysv"] {
        moves(&Subject::new(name)).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

/// Whatever breaks before the hand-over: the source runs on, and is as it was.
#[test]
fn an_abort_in_any_round_leaves_the_source_untouched() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let subject = Subject::new("writer").arg("mib").arg(16).arg("rate").arg(10);
    let started = subject.start(&lab, lab.src())?;
    for (side, phase, action) in [
        (Side::Source, "outlined", Action::Fail),
        (Side::Source, "round", Action::Fail),
        (Side::Source, "round", Action::Kill),
        (Side::Source, "images", Action::Kill),
        (Side::Destination, "outlined", Action::Fail),
        (Side::Destination, "round", Action::Fail),
        (Side::Destination, "round", Action::Kill),
        (Side::Destination, "building", Action::Fail),
    ] {
        let fault = Fault::new(side, phase, action);
        let moved = precopy(&lab)?.fault(fault).run(started.pid())?;
        assert!(!moved.dumped().success(), "{phase}: {}", moved.logs());
        let runs = who_runs(&lab, started.pid(), SOON);
        assert!(runs == Runs::Source && runs.exactly_one(), "{phase}: {runs:?}");
    }
    // With pages that would have followed, too.
    for (side, phase, action) in [
        (Side::Source, "images", Action::Kill),
        (Side::Source, "staged", Action::Fail),
        (Side::Destination, "building", Action::Fail),
        (Side::Destination, "pages", Action::Kill),
    ] {
        let fault = Fault::new(side, phase, action);
        let moved = hybrid(&lab)?.fault(fault).run(started.pid())?;
        assert!(!moved.dumped().success(), "hybrid, {phase}: {}", moved.logs());
        let runs = who_runs(&lab, started.pid(), SOON);
        assert!(runs == Runs::Source && runs.exactly_one(), "hybrid, {phase}: {runs:?}");
    }
    // And can be moved after all that.
    let moved = precopy(&lab)?.run(started.pid())?;
    moved.succeeded()?;
    let verdict = moved.ask(&lab, &started)?;
    assert!(verdict.passed(), "{verdict}");
    Ok(())
}

#[test]
fn a_goal_that_cannot_be_met_is_given_up_with_numbers() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("writer").arg("rate").arg(0).start(&lab, lab.src())?;
    let migration = Migration::new(&lab)?.dump_arg("--mode").dump_arg("pre-copy");
    let moved = migration.dump_arg("--max-downtime").dump_arg("1ms").run(started.pid())?;
    assert!(!moved.dumped().success(), "{}", moved.logs());
    assert!(moved.logs().contains("it still changes"), "{}", moved.logs());
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    let verdict = started.ask(lab.src())?;
    assert!(verdict.passed(), "{verdict}");
    Ok(())
}

/// It writes faster than the link carries, to a quarter of its memory: that quarter follows.
#[test]
fn what_never_stops_changing_follows_on_demand() -> Outcome {
    if missing() {
        return Ok(());
    }
    let link: Link = "rate=400Mbit rtt=4ms queue=20ms".parse()?;
    let lab = Lab::plan().link(link).build()?;
    let subject = Subject::new("writer").arg("mib").arg(32).arg("rate").arg(0).arg("hot").arg(25);
    let moved = moves_by(&lab, &subject, hybrid(&lab)?)?;
    let why = moved.event(Side::Source, "switched_over").expect("rounds do not end by themselves");
    assert!(why.field("why").to_string().contains("rounds make no less of it"), "{why:?}");
    let (rounds, frozen) = (pages(&moved, "round"), pages(&moved, "frozen"));
    assert!(rounds[0] >= 32 << 8 && frozen[0] < rounds[0] / 2, "{rounds:?}, {frozen:?}");
    let report = moved.event(Side::Source, "report").expect("a report");
    assert!(!report.field("faults").is_null(), "it waited for no page: {report:?}");
    Ok(())
}

/// All that can happen to memory in rounds, and then again to what is missing of it.
#[test]
fn memory_that_changes_its_shape_arrives_in_part_on_demand() -> Outcome {
    if missing() {
        return Ok(());
    }
    let seeds = AtomicU64::new(1);
    (1..=3)
        .try_for_each(|_| rounds(|lab| moves_by(lab, &churn(&seeds), hybrid(lab)?).map(drop)))?;
    for name in ["forks", "threads", "memory", "files", "waits", "zombie", "lazy"] {
        let lab = Lab::two_hosts()?;
        let moved = moves_by(&lab, &Subject::new(name), hybrid(&lab)?);
        moved.map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

/// The first round would take seconds; it is cut where the time is over.
#[test]
fn a_deadline_ends_rounds_in_time() -> Outcome {
    if missing() {
        return Ok(());
    }
    let link: Link = "rate=100Mbit rtt=4ms queue=20ms".parse()?;
    let lab = Lab::plan().link(link).build()?;
    let subject = Subject::new("writer").arg("mib").arg(48).arg("rate").arg(1);
    let args = ["--compress", "none", "--deadline", "2s"];
    let migration = args.iter().fold(hybrid(&lab)?, |migration, arg| migration.dump_arg(arg));
    let moved = moves_by(&lab, &subject, migration)?;
    let why = moved.event(Side::Source, "switched_over").expect("the time was over");
    assert!(why.field("why").to_string().contains("2 s are all that was allowed"), "{why:?}");
    let sent: u64 = pages(&moved, "round").iter().sum();
    assert!(sent < 40 << 8, "all of it in no time? {}", moved.logs());
    Ok(())
}

#[test]
fn a_rate_is_kept() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let subject = Subject::new("writer").arg("mib").arg(12).arg("rate").arg(1);
    let args = ["--compress", "none", "--limit-rate", "100Mbit"];
    let migration = args.iter().fold(precopy(&lab)?, |migration, arg| migration.dump_arg(arg));
    let moved = moves_by(&lab, &subject, migration)?;
    // The first: a short one may be all burst.
    let mut rounds = moved.events(Side::Source).into_iter().filter(|it| it.name() == "round");
    let round = rounds.next().expect("a round");
    let rate = round.field("rate").as_u64().expect("a number");
    // 12.5 MB/s; at most 10 ms of it, and one run, go for nothing.
    assert!(rate < 13_000_000, "{rate} B/s\n{}", moved.logs());
    Ok(())
}

/// What a device writes is not told: such a tree is not copied while it runs.
#[test]
fn devices_that_write_to_memory_forbid_rounds() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let subject = Subject::new("writer").arg("mib").arg(80).arg("rate").arg(1).arg("direct").arg(1);
    let started = subject.start(&lab, lab.src())?;
    for migration in [precopy(&lab)?, hybrid(&lab)?] {
        let moved = migration.run(started.pid())?;
        assert_eq!(moved.dumped().code(), Some(121), "{}", moved.logs());
        assert!(moved.logs().contains("is open with O_DIRECT"), "{}", moved.logs());
        assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    }
    let moved = Migration::new(&lab)?.run(started.pid())?;
    moved.succeeded()?;
    assert!(moved.event(Side::Source, "watched").is_none(), "{}", moved.logs());
    let verdict = moved.ask(&lab, &started)?;
    assert!(verdict.passed(), "{verdict}");
    Ok(())
}

/// It writes three times as fast as the link carries, which a busy machine fills too, and is held back
/// until it does not.
#[test]
fn a_writer_that_is_held_back_fits_the_goal() -> Outcome {
    if missing() {
        return Ok(());
    }
    let link: Link = "rate=100Mbit rtt=4ms queue=20ms".parse()?;
    let lab = Lab::plan().link(link).build()?;
    let subject = Subject::new("writer").arg("mib").arg(8).arg("rate").arg(40);
    let migration = Migration::new(&lab)?.dump_arg("--mode").dump_arg("pre-copy");
    let args = ["--compress", "none", "--max-downtime", "300ms", "--auto-converge"];
    let migration = args.iter().fold(migration, |migration, arg| migration.dump_arg(arg));
    let moved = moves_by(&lab, &subject, migration)?;
    assert!(moved.event(Side::Source, "throttled").is_some(), "{}", moved.logs());
    Ok(())
}

#[test]
fn the_death_of_qmig_lets_a_program_run_that_is_held_back() -> Outcome {
    if missing() {
        return Ok(());
    }
    let link: Link = "rate=200Mbit rtt=4ms queue=20ms".parse()?;
    let lab = Lab::plan().link(link).build()?;
    let started =
        Subject::new("writer").arg("mib").arg(16).arg("rate").arg(0).start(&lab, lab.src())?;
    let migration = Migration::new(&lab)?.dump_arg("--mode").dump_arg("pre-copy");
    let migration = migration.dump_arg("--max-downtime").dump_arg("1ms");
    let moving = migration.dump_arg("--auto-converge").listen()?.dump(started.pid())?;
    moving.wait_event(Side::Source, "throttled")?;
    moving.qmig(Side::Source).signal(Signal::SIGKILL)?;
    let moved = moving.finish()?;
    assert!(!moved.dumped().success(), "{}", moved.logs());
    let runs = who_runs(&lab, started.pid(), SOON);
    assert!(runs == Runs::Source && runs.exactly_one(), "{runs:?}");
    let verdict = started.ask(lab.src())?;
    assert!(verdict.passed(), "{verdict}");
    Ok(())
}

/// A copy runs there, and the program here goes on: both are right to the last byte.
#[test]
fn a_copy_is_taken_while_it_runs_on() -> Outcome {
    if missing() {
        return Ok(());
    }
    for mode in ["stop", "pre-copy", "auto"] {
        let lab = Lab::two_hosts()?;
        let subject = Subject::new("writer").arg("mib").arg(72).arg("rate").arg(10);
        let started = subject.start(&lab, lab.src())?;
        let args = ["--mode", mode, "--max-downtime", "5s", "--leave-running"];
        let migration = Migration::new(&lab)?;
        let moved = args.iter().fold(migration, |all, arg| all.dump_arg(arg)).run(started.pid())?;
        moved.succeeded()?;
        let report = moved.event(Side::Source, "report").expect("a report");
        assert_eq!(report.field("outcome").as_str(), Some("copied"), "{}", moved.logs());
        for verdict in [started.ask(lab.src()), moved.ask(&lab, &started)] {
            let verdict = verdict.map_err(|error| format!("{mode}: {error}\n{}", moved.logs()))?;
            assert!(verdict.passed(), "{mode}: {verdict}\n{}", moved.logs());
        }
        assert_eq!(lab.wait_empty(SOON), []);
    }
    Ok(())
}

/// pre-dump, pre-dump, pre-dump, dump: one session, held by the first.
#[test]
fn rounds_are_made_when_they_are_asked_for() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    // The real one is everybody's, and all labs have the same pids.
    let mut own = Command::new("sh");
    own.args(["-c", "mkdir -p /run/qmig && mount -t tmpfs sessions /run/qmig"]);
    lab.src().run(own)?;
    let subject = Subject::new("writer").arg("mib").arg(16).arg("rate").arg(5);
    let started = subject.start(&lab, lab.src())?;
    let ask = |words: &[&str]| -> Result<Option<i32>, Box<dyn Error>> {
        let mut command = Command::new(qmig_binary()?);
        command.arg("dump").args(words).arg("--tree").arg(started.pid().to_string());
        Ok(lab.src().spawn(command)?.wait(SOON)?.code())
    };
    assert_eq!(ask(&[])?, Some(2), "there is no session");
    let migration = Migration::new(&lab)?.dump_arg("--pre-dump").dump_arg("--max-downtime");
    let moving = migration.dump_arg("5s").listen()?.dump(started.pid())?;
    moving.wait_event(Side::Source, "round")?;
    assert_eq!(ask(&["--pre-dump"])?, Some(0), "{}", moving.logs());
    assert_eq!(ask(&["--pre-dump"])?, Some(0), "{}", moving.logs());
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    assert_eq!(ask(&[])?, Some(0), "{}", moving.logs());
    let moved = moving.finish()?;
    moved.succeeded()?;
    // The last dump may make more of its own.
    assert!(pages(&moved, "round").len() >= 3, "{}", moved.logs());
    let verdict = moved.ask(&lab, &started)?;
    assert!(verdict.passed(), "{verdict}\n{}", moved.logs());
    Ok(())
}

/// Watching takes a descriptor of the program, for a moment. `auto` does without.
#[test]
fn a_program_that_cannot_be_watched_moves_by_auto() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let subject = Subject::new("writer").arg("mib").arg(72).arg("rate").arg(10);
    let started = subject.start(&lab, lab.src())?;
    let limit = |side: Side, soft: &str| -> Outcome {
        let mut prlimit = Command::new("prlimit");
        prlimit.arg("--pid").arg(started.pid().to_string()).arg(format!("--nofile={soft}:"));
        lab.host(side).run(prlimit)?;
        Ok(())
    };
    limit(Side::Source, "3")?;
    let moved = precopy(&lab)?.run(started.pid())?;
    assert_eq!(moved.dumped().code(), Some(122), "{}", moved.logs());
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    let moved = Migration::new(&lab)?.run(started.pid())?;
    moved.succeeded()?;
    assert!(moved.logs().contains("not copied while it runs"), "{}", moved.logs());
    limit(Side::Destination, "64")?;
    let verdict = moved.ask(&lab, &started)?;
    assert!(verdict.passed(), "{verdict}\n{}", moved.logs());
    Ok(())
}
