//! The subjects are honest: left alone they pass, and when they break something they say so.

use std::error::Error;
use std::time::Duration;

use netns_tests::chaos::{Runs, who_runs};
use netns_tests::{HugePages, Lab, Subject, Verdict, requirements};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_millis(400);

/// Start, let it live a while, ask: all on one host. With `stop`, its main process stands still for
/// that long, as in a migration that did everything right.
fn live(subject: &Subject, stop: Option<Duration>) -> Result<Verdict, Box<dyn Error>> {
    let lab = Lab::two_hosts()?;
    if let Ok(Some(pages)) = HugePages::for_subject(subject) {
        pages.mount(&lab)?;
    }
    let started = subject.start(&lab, lab.src())?;
    let lives = || {
        let runs = who_runs(&lab, started.pid(), SOON);
        if runs == Runs::Source { Ok(()) } else { Err(format!("{runs:?} instead of the source")) }
    };
    lives()?;
    if let Some(time) = stop {
        started.running().signal(Signal::SIGSTOP)?;
        started.running().wait_stopped(SOON)?;
        std::thread::sleep(time);
        started.running().signal(Signal::SIGCONT)?;
        lives()?;
    }
    let verdict = started.ask(lab.src())?;
    if verdict.passed() {
        let left = lab.wait_empty(SOON);
        assert_eq!(left, [], "{verdict}");
    }
    Ok(verdict)
}

fn passes(subject: &Subject) -> Outcome {
    let verdict = live(subject, None)?;
    assert!(verdict.passed(), "{verdict}");
    assert!(verdict.beats().is_some_and(|beats| beats >= 3), "{verdict}");
    assert!(verdict.longest_gap().is_some(), "{verdict}");
    Ok(())
}

/// A stop may cost time and nothing else. Except that Linux lets EINTR out of some waits after a
/// stop (signal(7), last section), which a migration must not: the subject that looks must see it.
fn stops(subject: &Subject) -> Outcome {
    let verdict = live(subject, Some(STOP))?;
    if subject.name() == "waits" {
        let said = verdict.to_string();
        for wait in ["epoll_wait", "epoll_pwait with timeout", "sigtimedwait"] {
            assert!(said.contains(&format!("{wait} returned -4, wanted")), "{said}");
        }
        for innocent in ["nanosleep", "futex", "select", "timerfd", "does not end", "too late"] {
            assert!(!said.contains(innocent), "{said}");
        }
        return Ok(());
    }
    assert!(verdict.passed(), "{verdict}");
    assert!(verdict.longest_gap() >= Some(STOP), "{verdict}");
    Ok(())
}

fn fails(subject: &Subject) -> Outcome {
    // What gives it away must be named; the waits behave as if one had begun again.
    let word = if subject.name() == "waits" { "FAIL 1: nanosleep ended after" } else { "FAIL" };
    let verdict = live(&subject.clone().sabotaged(), None)?;
    assert!(!verdict.passed() && verdict.to_string().starts_with(word), "{verdict}");
    Ok(())
}

/// What is not in C has many hearts, and the one that counts beats more slowly.
fn can_tell(subject: &Subject) -> Outcome {
    for stop in [None, Some(STOP)] {
        let verdict = live(subject, stop)?;
        assert!(verdict.passed(), "{verdict}");
    }
    fails(subject)
}

/// Does this with a subject, if the machine has what that takes.
fn alone(name: &str, test: fn(&Subject) -> Outcome) -> Outcome {
    let subject = Subject::new(name);
    if requirements::missing(&[]) {
        return Ok(());
    }
    let Ok(_pages) = HugePages::for_subject(&subject) else { return Ok(()) };
    test(&subject)
}

/// It passes, it passes after a stop, and it fails when sabotaged.
macro_rules! honest {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn passes_alone() -> Outcome {
                alone(stringify!($name), passes)
            }

            #[test]
            fn excuses_a_stop() -> Outcome {
                alone(stringify!($name), stops)
            }

            #[test]
            fn admits_sabotage() -> Outcome {
                alone(stringify!($name), fails)
            }
        }
    )*

    #[test]
    fn none_is_forgotten() {
        assert_eq!([$(stringify!($name)),*], Subject::ALL);
    }};
}

honest! {
    churn commons creds datagrams edges events fifos files filler forks headless heartbeat heirs huge inherited ipc kv locks marks memory netlink packets pipes places posix ptys raw
    registers rseq rules server settings signals sockets streams swapped sysv threads timers toucher vast waits watches writer zombie
}

#[test]
fn a_python_program() -> Outcome {
    if requirements::missing(&["/usr/bin/python3"]) {
        return Ok(());
    }
    can_tell(&Subject::python("children"))?;
    can_tell(&Subject::python("pool"))
}

#[test]
fn a_java_program() -> Outcome {
    if requirements::missing(&[]) || requirements::which("javac").is_none() {
        return Ok(());
    }
    can_tell(&Subject::java("Threads"))
}

#[test]
fn a_thousand_threads() -> Outcome {
    if requirements::missing(&[]) {
        return Ok(());
    }
    passes(&Subject::new("threads").arg("threads").arg(1000))
}

#[test]
fn queued_data_in_sockets() -> Outcome {
    if requirements::missing(&[]) {
        return Ok(());
    }
    passes(&Subject::new("sockets").arg("queued").arg(1))
}

#[test]
fn a_filler_that_keeps_writing() -> Outcome {
    if requirements::missing(&[]) {
        return Ok(());
    }
    passes(&Subject::new("filler").arg("mib").arg(128).arg("random").arg(30).arg("dirty").arg(64))
}

#[test]
fn has_the_pid_that_was_chosen() -> Outcome {
    if requirements::missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let one = Subject::new("heartbeat").start(&lab, lab.src())?;
    let two = Subject::new("heartbeat").pid(23_456).start(&lab, lab.dst())?;
    assert_eq!((one.pid(), two.pid()), (10_000, 23_456));
    assert_eq!(lab.dst().process(10_000), None);
    Ok(())
}

/// A stopped subject does not run, two of the same pid are two, and a dead one is none.
#[test]
fn who_runs_is_told() -> Outcome {
    if requirements::missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let (long, short) = (SOON, Duration::from_millis(200));
    let source = Subject::new("heartbeat").start(&lab, lab.src())?;
    assert_eq!(who_runs(&lab, source.pid(), long), Runs::Source);
    let destination = Subject::new("heartbeat").start(&lab, lab.dst())?;
    assert_eq!(who_runs(&lab, source.pid(), long), Runs::Both);
    source.running().signal(Signal::SIGSTOP)?;
    source.running().wait_stopped(long)?;
    assert_eq!(who_runs(&lab, source.pid(), long), Runs::Destination);
    destination.running().kill()?;
    assert_eq!(who_runs(&lab, source.pid(), short), Runs::Neither);
    source.running().signal(Signal::SIGCONT)?;
    assert_eq!(who_runs(&lab, source.pid(), long), Runs::Source);
    let verdict = source.ask(lab.src())?;
    assert!(verdict.passed() && verdict.longest_gap() >= Some(short), "{verdict}");
    Ok(())
}
