//! Post-copy on a link that is slow enough for the memory to be missing while the program runs:
//! what it does to that memory, what happens to the link, and who dies.
//!
//! `QMIG_TEST_REPEAT=100` repeats the one with cuts at any moment, at other moments each time;
//! `QMIG_TEST_CUT=300` has a lost link stay lost for so many seconds.

use std::error::Error;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use netns_tests::chaos::{Action, Fault, Runs, who_runs};
use netns_tests::{
    Lab, Link, Migration, Moving, Side, Started, Subject, qmig_binary, requirements, rounds_on,
};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);
/// 48 MiB take four seconds on it.
const SLOW: &str = "rate=100Mbit rtt=4ms queue=20ms";

fn missing() -> bool {
    requirements::missing(&[])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
}

/// Begin to move `subject`, until it runs on the destination.
fn begin(lab: &Lab, subject: &Subject) -> Result<(Started, Moving), Box<dyn Error>> {
    let started = subject.start(lab, lab.src())?;
    let moving = migration(lab)?.listen()?.dump(started.pid())?;
    moving.wait_event(Side::Destination, "running")?;
    Ok((started, moving))
}

fn migration(lab: &Lab) -> Result<Migration<'_>, Box<dyn Error>> {
    let cut = cut_time()?;
    let migration = Migration::new(lab)?.deadline(SOON + cut).restore_arg("--grace");
    let migration = migration.restore_arg(format!("{}s", cut.as_secs() + 30));
    let migration = migration.dump_arg("--mode").dump_arg("post-copy");
    Ok(migration.dump_arg("--connect-timeout").dump_arg("2s"))
}

/// How long a link that was lost stays so.
fn cut_time() -> Result<Duration, Box<dyn Error>> {
    let seconds = std::env::var("QMIG_TEST_CUT").map_or(Ok(0), |text| text.parse())?;
    Ok(Duration::from_secs(seconds))
}

/// The subject judges itself; the dump ends well, and nothing but the verdict is left.
fn end(lab: &Lab, started: &Started, moving: Moving) -> Outcome {
    end_with(lab, started, moving).map(drop)
}

/// The same, with all that both have said.
fn end_with(lab: &Lab, started: &Started, moving: Moving) -> Result<String, Box<dyn Error>> {
    let verdict = started.ask_at(lab.dst(), moving.qmig(Side::Destination));
    let verdict = verdict.map_err(|error| format!("{error}\n{}", moving.logs()))?;
    let logs = moving.logs();
    assert!(verdict.passed(), "{verdict}\n{logs}");
    let moved = moving.finish()?;
    moved.succeeded()?;
    let said = moved.logs();
    started.running().wait(SOON)?;
    assert_eq!(lab.wait_empty(SOON), [], "{logs}");
    Ok(said)
}

fn slow(test: impl Fn(&Lab) -> Outcome) -> Outcome {
    if missing() {
        return Ok(());
    }
    let link: Link = SLOW.parse()?;
    test(&Lab::plan().link(link).build()?)
}

#[test]
fn a_program_may_do_anything_to_what_is_missing() -> Outcome {
    slow(|lab| {
        let (started, moving) = begin(lab, &Subject::new("lazy"))?;
        let said = end_with(lab, &started, moving)?;
        // How fast pages came, to programs and to people.
        let drained = said.lines().find(|line| line.contains("\"event\":\"drained\""));
        let drained = drained.ok_or("hear that every page came")?;
        assert!(drained.contains("\"bytes_per_second\":"), "{drained}");
        assert!(!drained.contains("\"bytes_per_second\":0"), "{drained}");
        assert!(said.contains(" faults/s, "), "{said}");
        Ok(())
    })
}

/// Before anything is stopped the path is learnt by padding, a small part of what follows.
#[test]
fn the_path_is_learnt_while_the_program_runs() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::plan().link("rate=100Mbit rtt=20ms queue=1bdp".parse::<Link>()?).build()?;
    let (started, moving) = begin(&lab, &Subject::new("lazy"))?;
    let said = end_with(&lab, &started, moving)?;
    let at = |event: &str| said.find(&format!("\"event\":\"{event}\""));
    let warmed = said.lines().find(|line| line.contains("\"event\":\"warmed\""));
    let (_, padding) =
        warmed.and_then(|it| it.split_once("\"padding_bytes\":")).ok_or("padding")?;
    let padding: u64 = padding.split([',', '}']).next().unwrap_or_default().parse()?;
    // More than a window of the beginning; of 48 MiB a sixteenth, and what was written with the last.
    assert!((300_000..7 << 19).contains(&padding), "{padding}");
    assert!(warmed.is_some_and(|line| line.contains("\"found\":true")), "{said}");
    assert!(at("warmed") < at("frozen"), "{said}");
    Ok(())
}

#[test]
fn a_program_may_end_before_its_memory_has_come() -> Outcome {
    slow(|lab| {
        let (started, moving) = begin(lab, &Subject::new("lazy"))?;
        lab.dst().signal(started.pid(), Signal::SIGKILL)?;
        let status = moving.qmig(Side::Destination).wait(SOON)?;
        assert_eq!(status.code(), Some(137), "{}", moving.logs());
        moving.finish()?.succeeded()?;
        started.running().wait(SOON)?;
        assert_eq!(lab.wait_empty(SOON), []);
        Ok(())
    })
}

/// The kernel asks nobody for pages while it dumps core (fs/userfaultfd.c, PF_DUMPCORE): those that
/// were missing are holes in the file. It ends all the same, and so does the migration.
#[test]
fn a_program_may_dump_core_before_its_memory_has_come() -> Outcome {
    slow(|lab| {
        let (started, moving) = begin(lab, &Subject::new("lazy").arg("core").arg(1))?;
        lab.dst().signal(started.pid(), Signal::SIGABRT)?;
        let status = moving.qmig(Side::Destination).wait(SOON)?;
        assert_eq!(status.code(), Some(134), "{}", moving.logs());
        moving.finish()?.succeeded()?;
        started.running().wait(SOON)?;
        assert_eq!(lab.wait_empty(SOON), []);
        // Where the machine has files of core at all, and under their plain name.
        if std::fs::read_to_string("/proc/sys/kernel/core_pattern")?.trim() == "core" {
            let folders = std::fs::read_dir(lab.shared())?.filter_map(Result::ok);
            let core = folders.map(|folder| folder.path().join("core")).find(|core| core.exists());
            let core = std::fs::read(core.ok_or("find the core file")?)?;
            assert_eq!(core.get(..4), Some(&b"\x7fELF"[..]));
        }
        Ok(())
    })
}

#[test]
fn a_link_that_is_cut_for_a_moment_costs_time_only() -> Outcome {
    slow(|lab| {
        let (started, moving) = begin(lab, &Subject::new("lazy"))?;
        lab.cut()?;
        std::thread::sleep(Duration::from_secs(1)); // this long is the cut
        lab.heal()?;
        end(lab, &started, moving)
    })
}

#[test]
fn a_link_that_is_lost_is_found_again() -> Outcome {
    slow(|lab| {
        let (started, moving) = begin(lab, &Subject::new("lazy"))?;
        let cut = Instant::now();
        lab.cut()?;
        moving.wait_event(Side::Source, "link_lost")?;
        moving.wait_event(Side::Destination, "link_lost")?;
        std::thread::sleep(cut_time()?.saturating_sub(cut.elapsed())); // this long is the cut
        lab.heal()?;
        end(lab, &started, moving)
    })
}

/// Nothing is missing any more then, and the source hears so when it finds the link again.
#[test]
fn a_program_may_end_while_the_link_is_lost() -> Outcome {
    ends_unheard(|lab, moving| {
        lab.heal()?;
        assert_eq!(moving.qmig(Side::Source).wait(SOON)?.code(), Some(0), "{}", moving.logs());
        Ok(())
    })
}

/// If it does not, a person ends it, who is told what it knows; the destination ends as its tree did.
#[test]
fn a_program_may_end_while_the_link_is_lost_for_good() -> Outcome {
    ends_unheard(|_, moving| {
        moving.qmig(Side::Source).signal(Signal::SIGTERM)?;
        let status = moving.qmig(Side::Source).wait(SOON)?;
        assert_eq!(status.code(), Some(123), "{}", moving.logs());
        let told = moving.qmig(Side::Source).stderr().text();
        let not_sent = told.lines().find_map(|line| line.strip_suffix(" pages had not been sent"));
        let not_sent = not_sent.and_then(|line| line.rsplit(' ').next()).ok_or("how many")?;
        // Most of 12 000: a few hundred a tenth of a second.
        assert!((1000..12_500).contains(&not_sent.parse::<u32>()?), "{told}");
        assert!(told.contains("look there whether the tree still runs"), "{told}");
        Ok(())
    })
}

/// The link is cut and the program ends at once; `then` sees to the end of the source, which has lost the link.
fn ends_unheard(then: impl Fn(&Lab, &Moving) -> Outcome) -> Outcome {
    slow(|lab| {
        let started = Subject::new("lazy").start(lab, lab.src())?;
        let moving = migration(lab)?.listen()?.dump(started.pid())?;
        for side in Side::BOTH {
            moving.wait_event(side, "running")?;
        }
        lab.cut()?;
        lab.dst().signal(started.pid(), Signal::SIGKILL)?;
        moving.wait_event(Side::Source, "link_lost")?;
        then(lab, &moving)?;
        let status = moving.qmig(Side::Destination).wait(SOON)?;
        assert_eq!(status.code(), Some(137), "{}", moving.logs());
        started.running().wait(SOON)?;
        assert_eq!(lab.wait_empty(SOON), []);
        Ok(())
    })
}

/// QUIC knows a connection by its number, not by its addresses (RFC 9000, section 9).
#[test]
fn a_source_may_change_its_address() -> Outcome {
    slow(|lab| {
        let (started, moving) = begin(lab, &Subject::new("lazy"))?;
        lab.readdress(Side::Source, Some(Ipv4Addr::new(10, 77, 0, 99)))?;
        let said = end_with(lab, &started, moving)?;
        assert!(!said.contains("link_lost"), "{said}");
        Ok(())
    })
}

/// Its ticket names all addresses it had.
#[test]
fn a_destination_that_has_lost_an_address_is_found_at_another() -> Outcome {
    slow(|lab| {
        let (started, moving) = begin(lab, &Subject::new("lazy"))?;
        lab.readdress(Side::Destination, None)?;
        moving.wait_event(Side::Source, "link_lost")?;
        end(lab, &started, moving)
    })
}

/// The hand-over, or the news of it, is lost with the link, and the pages that were under way too.
#[test]
fn a_link_that_is_lost_at_the_hand_over_is_found_again() -> Outcome {
    for (side, phase) in [(Side::Source, "staged"), (Side::Destination, "running")] {
        slow(|lab| {
            let fault = Fault::new(side, phase, Action::Stop);
            let started = Subject::new("lazy").start(lab, lab.src())?;
            let moving = migration(lab)?.fault(fault).listen()?.dump(started.pid())?;
            let qmig = moving.qmig(side);
            qmig.wait_stopped(SOON)?;
            lab.cut()?;
            qmig.signal(Signal::SIGCONT)?;
            moving.wait_event(Side::Source, "link_lost")?;
            moving.wait_event(Side::Destination, "link_lost")?;
            lab.heal()?;
            moving.wait_event(Side::Destination, "running")?;
            end(lab, &started, moving)
        })?;
    }
    Ok(())
}

/// No missing page may ever read as zeros: with nobody left to bring them, the tree dies.
#[test]
fn the_tree_dies_with_the_qmig_that_brings_its_memory() -> Outcome {
    slow(|lab| {
        let (started, moving) = begin(lab, &Subject::new("lazy"))?;
        // It begins to look at its memory, and must not come to a verdict.
        lab.dst().signal(started.pid(), Signal::SIGUSR1)?;
        moving.qmig(Side::Destination).kill()?;
        gone(lab, started.pid())?;
        let said = std::fs::read_to_string(lab.dst().path(started.result())).unwrap_or_default();
        assert_eq!(said, "", "{}", moving.logs());
        moving.wait_event(Side::Source, "link_lost")?;
        moving.qmig(Side::Source).signal(Signal::SIGTERM)?;
        let status = moving.qmig(Side::Source).wait(SOON)?;
        assert_eq!(status.code(), Some(123), "{}", moving.logs());
        let runs = who_runs(lab, started.pid(), Duration::from_millis(500));
        assert_eq!(runs, Runs::Neither, "{}", moving.logs());
        started.running().wait(SOON)?;
        assert_eq!(lab.wait_empty(SOON), []);
        Ok(())
    })
}

/// The only ones who had the pages are gone: whoever needs one sleeps until somebody ends the tree.
#[test]
fn a_tree_whose_source_died_waits_for_a_person() -> Outcome {
    slow(|lab| {
        let (started, moving) = begin(lab, &Subject::new("lazy"))?;
        moving.qmig(Side::Source).kill()?;
        started.running().wait(SOON)?; // the stopped copy went with it
        moving.wait_event(Side::Destination, "link_lost")?;
        lab.dst().signal(started.pid(), Signal::SIGUSR1)?;
        let runs = who_runs(lab, started.pid(), Duration::from_secs(1));
        assert_eq!(runs, Runs::Neither, "it waits\n{}", moving.logs());
        lab.dst().signal(started.pid(), Signal::SIGKILL)?;
        let status = moving.qmig(Side::Destination).wait(SOON)?;
        assert_eq!(status.code(), Some(137), "{}", moving.logs());
        assert_eq!(lab.wait_empty(SOON), []);
        Ok(())
    })
}

#[test]
fn an_interrupted_source_goes_on_as_long_as_it_is_needed() -> Outcome {
    slow(|lab| {
        let (started, moving) = begin(lab, &Subject::new("lazy"))?;
        moving.qmig(Side::Source).signal(Signal::SIGINT)?;
        moving.wait_event(Side::Source, "warning")?;
        end(lab, &started, moving)
    })
}

/// Cuts at moments that differ from round to round, some of them long enough to lose the link.
#[test]
fn cuts_at_any_moment() -> Outcome {
    if missing() {
        return Ok(());
    }
    let round = std::cell::Cell::new(0_u64);
    rounds_on(
        || Ok(Lab::plan().link(SLOW.parse::<Link>()?).build()?),
        |lab| {
            let number = round.replace(round.get() + 1);
            let (started, moving) = begin(lab, &Subject::new("lazy"))?;
            // Weyl's sequence: moments that are spread evenly, and the same in every run.
            std::thread::sleep(Duration::from_millis(number * 618 % 1000));
            lab.cut()?;
            if number % 8 == 7 {
                moving.wait_event(Side::Source, "link_lost")?;
            } else {
                std::thread::sleep(Duration::from_millis(number * 377 % 700));
            }
            lab.heal()?;
            end(lab, &started, moving)
        },
    )
}

fn gone(lab: &Lab, pid: i32) -> Outcome {
    let end = Instant::now() + SOON;
    while lab.dst().process(pid).is_some_and(|process| process.state != 'Z') {
        if Instant::now() >= end {
            return Err("the tree is still there".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
