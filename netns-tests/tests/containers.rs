//! Containers of a real runtime move, and the runtime over there owns them.

use std::error::Error;
use std::time::{Duration, Instant};

use netns_tests::chaos::{Action, Fault};
use netns_tests::{Boxed, Bundle, ConsoleSocket, Criu, Lab, Migration, Runtime, Side, Subject};

use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

/// With a tmpfs and a network of its own: what it remembers, what it wrote there, and its addresses
/// are over there, under another name.
fn moves(runtime: &str, mode: &str) -> Outcome {
    let Some(criu) = Criu::for_containers(&["runc"]) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let bundle = Bundle::make(&lab)?;
    let boxed = Boxed::start(&lab, &criu, runtime, &bundle)?;
    let Boxed { src, dst, there, here, .. } = &boxed;
    for line in [
        &["ip", "link", "set", "lo", "up"][..],
        &["ip", "addr", "add", "10.99.0.1/24", "dev", "lo"],
        &["sh", "-c", "echo kept >/tmp/kept"],
    ] {
        src.exec(there, line)?;
    }
    let before = src.wait_beats(there, 1)?;

    // The bundle over there has no configuration yet: it gets the one of the source.
    let other = Bundle::make(&lab)?;
    std::fs::remove_file(other.config())?;
    let moved = boxed.migration(&other)?.dump_arg("--mode").dump_arg(mode).run(0)?;
    moved.succeeded()?;
    let restored = moved.restore().wait(SOON)?;
    assert!(restored.success(), "{}", moved.logs());

    assert_eq!(std::fs::read(other.config())?, std::fs::read(bundle.config())?);
    let (status, pid) = dst.state(here).ok_or("the runtime does not know it")?;
    assert_eq!((status.as_str(), pid > 1), ("running", true));
    assert_eq!(src.state(there), None, "the source's runtime still has it");
    let after = dst.wait_beats(here, 2)?;
    assert!(after.number > before.number, "it began anew: {before:?}, {after:?}");
    assert_eq!(after.wrong, 0, "its memory changed");
    assert_eq!(dst.exec(here, &["cat", "/tmp/kept"])?, "kept\n");
    let addresses = dst.exec(here, &["ip", "addr"])?;
    assert!(addresses.contains("10.99.0.1/24"), "{addresses}");
    let report = moved.event(Side::Source, "report").ok_or("no report")?;
    assert_eq!(!report.field("faults").is_null(), mode == "post-copy", "{}", moved.logs());
    Ok(())
}

#[test]
fn of_runc_by_stop_and_copy() -> Outcome {
    moves("runc", "stop")
}

#[test]
fn of_runc_by_post_copy() -> Outcome {
    moves("runc", "post-copy")
}

#[test]
fn of_crun_by_stop_and_copy() -> Outcome {
    moves("crun", "stop")
}

#[test]
fn of_crun_by_post_copy() -> Outcome {
    moves("crun", "post-copy")
}

/// A connection between two of its processes goes on: not a beat that was said over it is lost.
fn talks_on(mode: &str) -> Outcome {
    let Some(criu) = Criu::for_containers(&["runc"]) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let bundle = Bundle::with_connection(&lab)?;
    let boxed = Boxed::start(&lab, &criu, "runc", &bundle)?;
    let Boxed { src, dst, there, here, .. } = &boxed;
    wait_heard(src, there, 1)?;
    let refused = boxed.migration(&bundle)?.dump_arg("--mode").dump_arg(mode).run(0)?;
    assert!(!refused.dumped().success(), "it has a connection: {}", refused.logs());
    refused.restore().wait(SOON)?;
    let before = src.wait_beats(there, 1)?;
    let migration = boxed.migration(&bundle)?.dump_arg("--tcp-established");
    let moved = migration.dump_arg("--mode").dump_arg(mode).run(0)?;
    moved.succeeded()?;
    moved.restore().wait(SOON)?;
    assert_eq!(src.state(there), None, "the source's runtime still has it");
    wait_heard(dst, here, before.number + 2)?;
    assert_eq!(dst.wait_beats(here, 2)?.wrong, 0);
    Ok(())
}

/// Waits until a beat was heard, and those before it one after the other.
fn wait_heard(runtime: &Runtime<'_>, id: &str, beat: u64) -> Outcome {
    let end = Instant::now() + SOON;
    loop {
        let heard = runtime.exec(id, &["cat", "/tmp/came"])?;
        let whole = heard.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let heard: Vec<u64> = whole.lines().map(str::parse).collect::<Result<_, _>>()?;
        assert!(heard.iter().zip(1..).all(|(heard, due)| *heard == due), "{heard:?}");
        if heard.len() as u64 >= beat {
            return Ok(());
        }
        assert!(Instant::now() < end, "{} beats were heard of {beat}", heard.len());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn connections_within_one_go_on_by_stop_and_copy() -> Outcome {
    talks_on("stop")
}

#[test]
fn connections_within_one_go_on_by_post_copy() -> Outcome {
    talks_on("post-copy")
}

/// Its terminal goes to whoever waits for it there, and it goes on where it was.
fn keeps_its_terminal(runtime: &str, mode: &str) -> Outcome {
    let Some(criu) = Criu::for_containers(&["runc"]) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let [at_src, at_dst] = [ConsoleSocket::listen(&lab)?, ConsoleSocket::listen(&lab)?];
    let bundle = Bundle::with_terminal(&lab, &at_src)?;
    let boxed = Boxed::start(&lab, &criu, runtime, &bundle)?;
    let mut console = at_src.take(SOON)?;
    console.type_line("here")?;
    console.wait_shown("1 here", SOON)?;

    let refused = boxed.migration(&bundle)?.dump_arg("--mode").dump_arg(mode).run(0)?;
    assert_eq!(refused.dumped().code(), Some(121), "{}", refused.logs());
    assert!(refused.logs().contains("--console-socket PATH"), "{}", refused.logs());
    refused.restore().wait(SOON)?;
    console.type_line("still here")?;
    console.wait_shown("2 still here", SOON)?;

    let migration = boxed.migration(&bundle)?.dump_arg("--mode").dump_arg(mode);
    let socket = at_dst.path().display();
    let moved = migration.restore_arg("--console-socket").restore_arg(socket).run(0)?;
    moved.succeeded()?;
    moved.restore().wait(SOON)?;
    assert_eq!(boxed.src.state(&boxed.there), None, "the source's runtime still has it");
    let mut console = at_dst.take(SOON)?;
    console.type_line("there")?;
    console.wait_shown("3 there", SOON)?;
    assert_eq!(boxed.dst.wait_beats(&boxed.here, 2)?.wrong, 0);
    Ok(())
}

#[test]
fn a_terminal_of_runc_is_taken_over_by_stop_and_copy() -> Outcome {
    keeps_its_terminal("runc", "stop")
}

#[test]
fn a_terminal_of_runc_is_taken_over_by_post_copy() -> Outcome {
    keeps_its_terminal("runc", "post-copy")
}

#[test]
fn a_terminal_of_crun_is_taken_over() -> Outcome {
    keeps_its_terminal("crun", "stop")
}

/// Whoever fails before the hand-over: the container goes on where it was, its runtime still knows
/// it, the runtime over there knows nothing, and it can be moved afterwards.
fn stays(side: Side, phase: &str, action: Action) -> Outcome {
    let Some(criu) = Criu::for_containers(&["runc"]) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let bundle = Bundle::make(&lab)?;
    let boxed = Boxed::start(&lab, &criu, "runc", &bundle)?;
    let Boxed { src, dst, there, here, .. } = &boxed;
    let broken = boxed
        .migration(&bundle)?
        .fault(Fault::new(side, phase, action))
        .dump_arg("--connect-timeout")
        .dump_arg("1s")
        .restore_arg("--grace")
        .restore_arg("1s");
    let moved = broken.run(0)?;
    assert!(!moved.dumped().success(), "{}", moved.logs());
    moved.restore().wait(SOON)?;
    assert_eq!(src.wait_beats(there, 2)?.wrong, 0);
    assert_eq!(src.state(there).ok_or("its runtime lost it")?.0, "running");
    until_gone(dst, here).map_err(|left| format!("{left}\n{}", moved.logs()))?;
    boxed.migration(&bundle)?.run(0)?.succeeded()?;
    assert_eq!(dst.wait_beats(here, 2)?.wrong, 0);
    assert_eq!(src.state(there), None);
    Ok(())
}

#[test]
fn a_destination_that_fails_leaves_it_where_it_is() -> Outcome {
    stays(Side::Destination, "building", Action::Fail)
}

#[test]
fn a_destination_that_dies_leaves_it_where_it_is() -> Outcome {
    stays(Side::Destination, "staged", Action::Kill)
}

#[test]
fn a_source_that_dies_leaves_it_where_it_is() -> Outcome {
    stays(Side::Source, "staged", Action::Kill)
}

/// Pages are missing when the qmig that brings them dies: the container ends rather than see zeros,
/// and the one it was does not run again.
#[test]
fn one_whose_pages_cannot_come_ends() -> Outcome {
    let Some(criu) = Criu::for_containers(&["runc"]) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let bundle = Bundle::make(&lab)?;
    let boxed = Boxed::start(&lab, &criu, "runc", &bundle)?;
    let Boxed { src, dst, there, here, .. } = &boxed;
    let slow = boxed
        .migration(&bundle)?
        .fault(Fault::new(Side::Destination, "running", Action::Kill))
        .dump_arg("--mode")
        .dump_arg("post-copy")
        .dump_arg("--limit-rate")
        .dump_arg("1Mbit");
    let moving = slow.listen()?.dump(0)?;
    moving.qmig(Side::Destination).wait(SOON)?;
    let runs = |runtime: &Runtime<'_>, id: &str| {
        runtime.state(id).is_some_and(|(status, _)| status == "running")
    };
    let end = Instant::now() + SOON;
    while runs(dst, here) {
        assert!(Instant::now() < end, "it runs on without its pages");
        std::thread::sleep(Duration::from_millis(10));
    }
    lab.src().signal(moving.qmig(Side::Source).pid(), Signal::SIGTERM)?;
    let moved = moving.finish()?;
    assert!(!moved.dumped().success(), "{}", moved.logs());
    assert!(!runs(src, there), "it runs again where it was: {}", moved.logs());
    Ok(())
}

/// The runtime over there knows nothing of it, at the latest when its own clean-up is done.
fn until_gone(runc: &Runtime<'_>, id: &str) -> Result<(), String> {
    let end = Instant::now() + SOON;
    while let Some(state) = runc.state(id) {
        if Instant::now() > end {
            return Err(format!("the runtime over there still has it: {state:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// What cannot be is refused by name, before anything is touched.
#[test]
fn what_does_not_fit_is_refused() -> Outcome {
    const REFUSED: Option<i32> = Some(121);
    let Some(criu) = Criu::for_containers(&["runc"]) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let bundle = Bundle::make(&lab)?;
    let mut boxed = Boxed::start(&lab, &criu, "runc", &bundle)?;
    let taken = boxed.dst.run(&bundle)?;
    let Boxed { src, here, there, .. } = &boxed;

    // A container that nobody waits for as one.
    let plain = Migration::new(&lab)?.criu(&criu).container(src.program(), there);
    let state = src.state_folder().display().to_string();
    let moved = plain.dump_arg("--runtime-root").dump_arg(&state).run(0)?;
    assert_eq!(moved.dumped().code(), REFUSED, "{}", moved.logs());
    moved.restore().wait(SOON)?;
    assert!(moved.logs().contains("--runc ID --bundle DIR"), "{}", moved.logs());

    // A process where a container is waited for.
    let process = Subject::new("heartbeat").start(&lab, lab.src())?;
    let waiting = Migration::new(&lab)?.criu(&criu).restore_arg("--runc").restore_arg(here);
    let waiting = waiting.restore_arg("--bundle").restore_arg(bundle.folder().display());
    let moved = waiting.run(process.pid())?;
    assert_eq!(moved.dumped().code(), REFUSED, "{}", moved.logs());
    moved.restore().wait(SOON)?;
    assert!(moved.logs().contains("it is no container"), "{}", moved.logs());

    // One that does not exist: nobody is even called.
    let moved = boxed.migration_of("nobody", here, &bundle)?.run(0)?;
    assert_eq!(moved.dumped().code(), REFUSED, "{}", moved.logs());
    lab.dst().signal(moved.restore().pid(), Signal::SIGTERM)?;
    moved.restore().wait(SOON)?;
    assert!(moved.logs().contains("does not exist"), "{}", moved.logs());

    // No room under its name.
    let moved = boxed.migration_of(there, &taken, &bundle)?.run(0)?;
    assert_eq!(moved.dumped().code(), REFUSED, "{}", moved.logs());
    moved.restore().wait(SOON)?;
    assert!(moved.logs().contains("there is one of this name"), "{}", moved.logs());
    assert_eq!(src.wait_beats(there, 1)?.wrong, 0);
    Ok(())
}
