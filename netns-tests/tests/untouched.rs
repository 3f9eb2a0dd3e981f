//! Whatever ends a migration before the hand-over, and whenever: the source's program is as it was.
//! Nobody traces it, holds it back, or notes what it writes; nothing of qmig is in its memory, and no
//! descriptor; and it computes on.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use netns_tests::chaos::{Action, Fault, Runs, who_runs};
use netns_tests::{Lab, Link, Migration, Moving, Side, Started, Subject, requirements};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);

/// Where the source gets to before the hand-over, in this order.
const PHASES: [&str; 8] =
    ["surveyed", "agreed", "frozen", "outlined", "round", "images", "pages", "staged"];

fn missing() -> bool {
    requirements::missing(&["cc"])
}

fn writer(lab: &Lab, rate: u32) -> Result<Started, Box<dyn Error>> {
    Ok(Subject::new("writer").arg("mib").arg(8).arg("rate").arg(rate).start(lab, lab.src())?)
}

fn precopy(lab: &Lab) -> Result<Migration<'_>, Box<dyn Error>> {
    let migration = Migration::new(lab)?.dump_arg("--mode").dump_arg("pre-copy");
    Ok(migration.dump_arg("--max-downtime").dump_arg("5s"))
}

/// All that a migration could change of a program that keeps its memory and files.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    mappings: String,
    descriptors: BTreeMap<String, String>,
    cgroup: String,
    /// By thread: who traces it, where it may run, what it does about signals.
    threads: BTreeMap<String, Vec<String>>,
    /// Mappings whose pages a userfaultfd watches.
    watched: Vec<String>,
}

impl Look {
    fn at(lab: &Lab, pid: i32) -> Result<Self, Box<dyn Error>> {
        const LINES: [&str; 8] = [
            "TracerPid:",
            "SigPnd:",
            "ShdPnd:",
            "SigBlk:",
            "SigIgn:",
            "SigCgt:",
            "Cpus_allowed_list:",
            "Seccomp:",
        ];
        let of = |name: &str| lab.src().path(format!("/proc/{pid}/{name}"));
        let named = |name: &str| -> Result<Vec<String>, Box<dyn Error>> {
            let entries = fs::read_dir(of(name))?.collect::<Result<Vec<_>, _>>()?;
            Ok(entries.iter().map(|it| it.file_name().to_string_lossy().into_owned()).collect())
        };
        let mut threads = BTreeMap::new();
        for tid in named("task")? {
            let status = fs::read_to_string(of(&format!("task/{tid}/status")))?;
            let lines = status.lines();
            let told = lines.filter(|line| LINES.iter().any(|name| line.starts_with(name)));
            let mut told: Vec<String> = told.map(str::to_owned).collect();
            // Stopped by a signal, or by a tracer; running and asleep are the same.
            let stat = fs::read_to_string(of(&format!("task/{tid}/stat")))?;
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            told.push(format!("stopped: {}", matches!(state, Some('T' | 't'))));
            threads.insert(tid, told);
        }
        let link = |fd: String| Ok((fd.clone(), fs::read_link(of(&format!("fd/{fd}")))?));
        let descriptors = named("fd")?.into_iter().map(link);
        let descriptors = descriptors.collect::<Result<Vec<_>, std::io::Error>>()?;
        let descriptors = descriptors.into_iter();
        let smaps = fs::read_to_string(of("smaps"))?;
        let flags = smaps.lines().filter(|line| line.starts_with("VmFlags:"));
        let watched =
            flags.filter(|line| line.split(' ').any(|flag| ["uw", "um", "ui"].contains(&flag)));
        Ok(Self {
            mappings: fs::read_to_string(of("maps"))?,
            descriptors: descriptors.map(|(fd, to)| (fd, to.display().to_string())).collect(),
            cgroup: fs::read_to_string(of("cgroup"))?,
            threads,
            watched: watched.map(str::to_owned).collect(),
        })
    }
}

/// Waits until the program is again what it was, and sees that it runs.
fn untouched(lab: &Lab, started: &Started, before: &Look, what: &str) -> Outcome {
    let end = Instant::now() + 2 * SOON;
    loop {
        let now = Look::at(lab, started.pid())?;
        if now == *before {
            break;
        }
        if Instant::now() > end {
            return Err(format!("{what}: it was {before:#?}\nand is {now:#?}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // What is being built over there makes steps of its own until it is given up.
    while lab.dst().process(started.pid()).is_some() {
        if Instant::now() > end {
            return Err(format!("{what}: it is still at the destination").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let runs = who_runs(lab, started.pid(), SOON);
    if runs != Runs::Source {
        return Err(format!("{what}: {runs:?}").into());
    }
    Ok(())
}

/// The state before, once its second thread has begun: until then the C library blocks all signals.
fn begun(lab: &Lab, started: &Started) -> Result<Look, Box<dyn Error>> {
    let end = Instant::now() + SOON;
    loop {
        let look = Look::at(lab, started.pid())?;
        assert_eq!(look.watched, [""; 0]);
        let begins = |line: &String| line.starts_with("SigBlk:\tffff");
        if !look.threads.values().flatten().any(begins) {
            return Ok(look);
        }
        assert!(Instant::now() < end, "{look:#?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// In the end it has every byte, and may move.
fn passes(lab: &Lab, started: &Started) -> Outcome {
    let moved = precopy(lab)?.run(started.pid())?;
    moved.succeeded()?;
    let verdict = moved.ask(lab, started)?;
    assert!(verdict.passed(), "{verdict}");
    Ok(())
}

#[test]
fn a_failure_or_death_in_any_phase_leaves_nothing() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = writer(&lab, 10)?;
    let before = begun(&lab, &started)?;
    let theirs = ["answering", "outlined", "round", "building", "pages"];
    let theirs = theirs.map(|phase| (Side::Destination, phase));
    let ours = PHASES.map(|phase| (Side::Source, phase));
    for (side, phase) in ours.into_iter().chain(theirs) {
        for action in [Action::Fail, Action::Kill] {
            let what = format!("{side:?} {phase} {action:?}");
            let migration = precopy(&lab)?.fault(Fault::new(side, phase, action));
            let moved = migration.run(started.pid())?;
            assert!(!moved.dumped().success(), "{what}: {}", moved.logs());
            untouched(&lab, &started, &before, &what)?;
        }
    }
    passes(&lab, &started)
}

/// Stops the source's qmig at a phase, does something, and lets it go on.
fn at(lab: &Lab, started: &Started, phase: &str, then: impl FnOnce(&Moving) -> Outcome) -> Outcome {
    let fault = Fault::new(Side::Source, phase, Action::Stop);
    let moving = precopy(lab)?.fault(fault).listen()?.dump(started.pid())?;
    moving.qmig(Side::Source).wait_stopped(SOON)?;
    then(&moving)?;
    moving.qmig(Side::Source).signal(Signal::SIGCONT)?;
    let moved = moving.finish()?;
    assert!(!moved.dumped().success(), "{phase}: {}", moved.logs());
    Ok(())
}

/// A page whose writes are still noted, or waited for, would cost a page fault.
#[test]
fn no_page_faults_are_left() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    // Three quarters of it are not written to before it is asked.
    let subject = Subject::new("writer").arg("mib").arg(8).arg("rate").arg(10).arg("hot").arg(25);
    let subject = subject.arg("sweep").arg(1);
    for (side, phase, action) in
        [(Side::Source, "round", Action::Kill), (Side::Source, "images", Action::Fail)]
    {
        let started = subject.start(&lab, lab.src())?;
        let before = begun(&lab, &started)?;
        let what = format!("{side:?} {phase} {action:?}");
        let moved = precopy(&lab)?.fault(Fault::new(side, phase, action)).run(started.pid())?;
        assert!(!moved.dumped().success(), "{what}: {}", moved.logs());
        untouched(&lab, &started, &before, &what)?;
        let verdict = started.ask(lab.src())?;
        assert!(verdict.passed(), "{what}: {verdict}");
    }
    // While it is watched they are there.
    let started = subject.start(&lab, lab.src())?;
    at(&lab, &started, "round", |moving| {
        let verdict = started.ask(lab.src())?;
        assert!(!verdict.passed() && verdict.to_string().contains("page faults"), "{verdict}");
        Ok(moving.qmig(Side::Source).signal(Signal::SIGINT)?)
    })
}

#[test]
fn an_interrupt_in_any_phase_leaves_nothing() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = writer(&lab, 10)?;
    let before = begun(&lab, &started)?;
    // From `staged` on the hand-over is faster than the interrupt.
    for phase in &PHASES[..7] {
        at(&lab, &started, phase, |moving| {
            Ok(moving.qmig(Side::Source).signal(Signal::SIGINT)?)
        })?;
        untouched(&lab, &started, &before, &format!("interrupted, {phase}"))?;
    }
    passes(&lab, &started)
}

#[test]
fn a_link_that_is_cut_leaves_nothing() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = writer(&lab, 10)?;
    let before = begun(&lab, &started)?;
    for phase in ["round", "images"] {
        at(&lab, &started, phase, |_| Ok(lab.cut()?))?;
        untouched(&lab, &started, &before, &format!("cut, {phase}"))?;
        lab.heal()?;
    }
    passes(&lab, &started)
}

/// Its number is somebody else's there.
#[test]
fn a_refusal_leaves_nothing() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = writer(&lab, 10)?;
    let before = begun(&lab, &started)?;
    lab.dst().next_pid(started.pid())?;
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let other = lab.dst().spawn_quiet(sleep)?;
    assert_eq!(other.pid(), started.pid());
    let moved = precopy(&lab)?.run(started.pid())?;
    assert_eq!(moved.dumped().code(), Some(121), "{}", moved.logs());
    moved.restore().wait(SOON)?;
    assert!(Look::at(&lab, started.pid())? == before, "nothing was touched, not for a moment");
    other.kill()?;
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    passes(&lab, &started)
}

/// Held back, which is over with an interrupt as it is with a failure.
#[test]
fn a_program_that_was_held_back_is_let_go() -> Outcome {
    if missing() {
        return Ok(());
    }
    let link: Link = "rate=200Mbit rtt=4ms queue=20ms".parse()?;
    let lab = Lab::plan().link(link).build()?;
    let started = writer(&lab, 0)?;
    let before = begun(&lab, &started)?;
    for (side, signal) in [
        (Side::Source, Signal::SIGINT),
        (Side::Source, Signal::SIGKILL),
        (Side::Destination, Signal::SIGINT),
        (Side::Destination, Signal::SIGKILL),
    ] {
        let migration = Migration::new(&lab)?.dump_arg("--mode").dump_arg("pre-copy");
        let migration = migration.dump_arg("--max-downtime").dump_arg("1ms");
        let moving = migration.dump_arg("--auto-converge").listen()?.dump(started.pid())?;
        moving.wait_event(Side::Source, "throttled")?;
        moving.qmig(side).signal(signal)?;
        let moved = moving.finish()?;
        assert!(!moved.dumped().success(), "{}", moved.logs());
        untouched(&lab, &started, &before, &format!("held back, {side:?} {signal}"))?;
    }
    let verdict = started.ask(lab.src())?;
    assert!(verdict.passed(), "{verdict}");
    Ok(())
}
