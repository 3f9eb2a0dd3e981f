//! Each subject moves from one host to the other and finds everything as it was.
//!
//! `QMIG_TEST_REPEAT=20 cargo test -p netns-tests --test smoke table -- --nocapture` moves each that
//! often in each mode and prints how often it was well; `QMIG_TEST_SUBJECTS="vast waits"` only those.

use std::error::Error;
use std::time::Duration;

use netns_tests::chaos::{Runs, who_runs};
use netns_tests::{HugePages, Lab, Migration, Side, Subject, Swap, qmig_binary, requirements};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(20);

fn missing() -> bool {
    requirements::missing(&[])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
}

/// Start, move, ask; then nothing but the verdict may be left.
fn moves(subject: &Subject, mode: &str) -> Outcome {
    if missing() {
        return Ok(());
    }
    let Ok(pages) = HugePages::for_subject(subject) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    pages.iter().try_for_each(|pages| pages.mount(&lab))?;
    if subject.name() == "ptys" {
        lab.part_terminals()?;
    }
    let started = subject.start(&lab, lab.src())?;
    let mut migration = Migration::new(&lab)?.dump_arg("--mode").dump_arg(mode);
    if mode == "pre-copy" {
        // A goal that a busy machine meets too: what is judged here is what arrives.
        migration = migration.dump_arg("--max-downtime").dump_arg("10s");
    }
    let moved = migration.run(started.pid())?;
    moved.succeeded()?;
    assert!(moved.event(Side::Source, "report").is_some(), "no report\n{}", moved.logs());
    // The source's copy is dead, and is ours to bury.
    started.running().wait(SOON)?;
    let runs = who_runs(&lab, started.pid(), SOON);
    if runs != Runs::Destination {
        return Err(format!("{runs:?} instead of the destination\n{}", moved.logs()).into());
    }
    let verdict = moved.ask(&lab, &started)?;
    if !verdict.passed() {
        return Err(format!("{verdict}\n{}", moved.logs()).into());
    }
    assert_eq!(lab.wait_empty(SOON), [], "{}", moved.logs());
    Ok(())
}

/// One test a subject and mode, so that they run side by side and fail by name.
macro_rules! smoke {
    ($($name:ident)*) => {
        mod stop {$(
            #[test]
            fn $name() -> super::Outcome {
                super::moves(&super::Subject::new(stringify!($name)), "stop")
            }
        )*}
        mod pre_copy {$(
            #[test]
            fn $name() -> super::Outcome {
                super::moves(&super::Subject::new(stringify!($name)), "pre-copy")
            }
        )*}
        mod post_copy {$(
            #[test]
            fn $name() -> super::Outcome {
                super::moves(&super::Subject::new(stringify!($name)), "post-copy")
            }
        )*}
        /// Every subject that moves here.
        const MOVED: &[&str] = &[$(stringify!($name)),*];
    };
}

smoke! {
    churn commons creds datagrams edges events fifos files filler forks headless heartbeat heirs huge inherited ipc kv locks marks memory netlink packets pipes places posix ptys raw registers
    rseq rules settings signals sockets swapped sysv threads timers toucher vast waits watches writer zombie
}

/// Those that need more than two hosts, and where they are moved in every mode.
const ELSEWHERE: [(&str, &str); 2] =
    [("server", "it has clients: migration.rs"), ("streams", "it has peers: connections.rs")];

#[test]
fn none_is_forgotten() {
    let elsewhere = ELSEWHERE.map(|(name, _)| name);
    let mut all: Vec<&str> = MOVED.iter().copied().chain(elsewhere).collect();
    all.sort_unstable();
    assert_eq!(all, Subject::ALL);
}

/// Each subject in each mode, so many times; nothing without QMIG_TEST_REPEAT, for each is moved once
/// above.
#[test]
fn table() -> Outcome {
    let repeat = std::env::var("QMIG_TEST_REPEAT").ok().and_then(|times| times.parse().ok());
    let Some(times) = repeat.filter(|times: &u32| *times > 0 && !missing()) else {
        return Ok(());
    };
    const MODES: [&str; 3] = ["stop", "pre-copy", "post-copy"];
    let mut failures = Vec::new();
    println!("{:<12}{:>12}{:>12}{:>12}", "subject", MODES[0], MODES[1], MODES[2]);
    let wanted = std::env::var("QMIG_TEST_SUBJECTS").ok();
    let wanted = |name: &&&str| {
        wanted.as_ref().is_none_or(|wanted| wanted.split_whitespace().any(|word| word == **name))
    };
    for name in MOVED.iter().filter(wanted) {
        let well = MODES.map(|mode| {
            let outcomes = (0..times).map(|_| moves(&Subject::new(name), mode));
            let failed =
                outcomes.filter_map(|outcome| Some((name, mode, outcome.err()?.to_string())));
            let before = failures.len();
            failures.extend(failed);
            format!("{}/{times}", times as usize - (failures.len() - before))
        });
        println!("{name:<12}{:>12}{:>12}{:>12}", well[0], well[1], well[2]);
    }
    for (name, why) in ELSEWHERE {
        println!("{name:<12}{why:>36}");
    }
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}

/// Memory of huge pages that cannot be had is refused before the tree is touched, in these words.
fn is_refused(subject: &Subject, mounted: bool, words: &[&str]) -> Outcome {
    if missing() {
        return Ok(());
    }
    let Ok(Some(pages)) = HugePages::for_subject(subject) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    match mounted {
        true => pages.mount(&lab)?,
        false => pages.mount_on(lab.src())?,
    }
    let started = subject.start(&lab, lab.src())?;
    let refused = Migration::new(&lab)?.run(started.pid())?;
    assert_eq!(refused.dumped().code(), Some(121), "{}", refused.logs());
    let logs = refused.logs();
    assert!(words.iter().all(|word| logs.contains(word)), "{logs}");
    assert!(logs.contains("nothing was touched"), "{logs}");
    refused.restore().signal(Signal::SIGTERM)?;
    refused.restore().wait(SOON)?;
    assert!(started.ask(lab.src())?.passed());
    Ok(())
}

/// A destination that has too few huge pages says so.
#[test]
fn huge_pages_that_are_not_there() -> Outcome {
    let words = ["huge pages of 2048 kB (this host): ", " are free"];
    is_refused(&Subject::new("huge").arg("vast").arg(21), true, &words)
}

/// One without a place for files of huge pages, too.
#[test]
fn a_hugetlbfs_that_is_not_there() -> Outcome {
    let words = ["/huge/named (this host): ", "/huge is no hugetlbfs with pages of 2048 kB"];
    is_refused(&Subject::new("huge"), false, &words)
}

/// A private mapping of such a file is none of memory alone.
#[test]
fn a_private_mapping_of_a_file_of_huge_pages() -> Outcome {
    let words = ["/huge/unmapped", "a private mapping of a file of huge pages"];
    is_refused(&Subject::new("huge").arg("private").arg(1), true, &words)
}

/// Pages of other sizes: a mapping keeps it, and where there are too few the destination says so.
#[test]
fn pages_of_1_gib() -> Outcome {
    if !std::path::Path::new("/sys/kernel/mm/hugepages/hugepages-1048576kB").exists() {
        println!("SKIPPED: this processor has no pages of 1 GiB");
        return Ok(());
    }
    let giant = Subject::new("huge").arg("giant").arg(1);
    ["stop", "pre-copy", "post-copy"].iter().try_for_each(|mode| moves(&giant, mode))?;
    let words = ["1024 huge pages of 1048576 kB (this host): ", " are free"];
    is_refused(&Subject::new("huge").arg("vast").arg(30), true, &words)
}

/// What a parent and its children share copy on write does not become many copies.
#[test]
fn memory_shared_since_a_fork() -> Outcome {
    moves(&Subject::new("inherited").arg("keep").arg(1).arg("mib").arg(48), "stop")
}

#[test]
fn a_thousand_threads() -> Outcome {
    let subject = Subject::new("threads").arg("threads").arg(1000);
    ["stop", "pre-copy", "post-copy"].iter().try_for_each(|mode| moves(&subject, mode))
}

#[test]
fn memory_that_keeps_changing() -> Outcome {
    let subject = Subject::new("filler").arg("mib").arg(256).arg("dirty").arg(64);
    ["stop", "post-copy", "hybrid", "auto"].iter().try_for_each(|mode| moves(&subject, mode))
}

#[test]
fn memory_that_is_swapped_out() -> Outcome {
    if missing() {
        return Ok(());
    }
    let _swap = match Swap::on(64) {
        Ok(swap) => swap,
        Err(why) if requirements::skip(&why) => return Ok(()),
        Err(why) => return Err(why.into()),
    };
    let subject = Subject::new("swapped").arg("must").arg(1);
    ["stop", "pre-copy", "post-copy"].iter().try_for_each(|mode| moves(&subject, mode))
}
