//! Plain checkpoints: into a directory and out of it again, alone and beside a stock CRIU.

use std::error::Error;
use std::time::Duration;

use netns_tests::chaos::{Runs, who_runs};
use netns_tests::{
    Criu, HugePages, Images, Lab, QmigEvent, Running, Started, Subject, qmig_binary, requirements,
};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(20);

fn missing() -> bool {
    requirements::missing(&[])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
}

fn succeeded(qmig: &Running) -> Outcome {
    match qmig.ended() {
        Some(status) if status.success() => Ok(()),
        _ => Err(qmig.logs().into()),
    }
}

fn passed(started: &Started, lab: &Lab, restore: &Running) -> Outcome {
    let verdict = started
        .ask_at(lab.dst(), restore)
        .map_err(|error| format!("{error}\n{}", restore.logs()))?;
    if verdict.passed() { Ok(()) } else { Err(format!("{verdict}\n{}", restore.logs()).into()) }
}

/// Dump on one host, restore on the other, ask.
fn round_trip(subject: &Subject) -> Outcome {
    let lab = Lab::two_hosts()?;
    if subject.name() == "ptys" {
        lab.part_terminals()?;
    }
    round_trip_in(&lab, subject)
}

fn round_trip_in(lab: &Lab, subject: &Subject) -> Outcome {
    let started = subject.start(lab, lab.src())?;
    let images = Images::new(lab, "images")?;
    let dump = images.dump(lab.src(), started.pid(), &[])?;
    succeeded(&dump)?;
    started.running().wait(SOON)?;
    let restore = images.restore(lab.dst(), &[])?;
    assert_eq!(who_runs(lab, started.pid(), SOON), Runs::Destination);
    passed(&started, lab, &restore)?;
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(())
}

macro_rules! round_trips {
    ($($name:ident)*) => {
        mod round_trip_of {
            use super::*;
            $(
                #[test]
                fn $name() -> Outcome {
                    if missing() {
                        return Ok(());
                    }
                    round_trip(&Subject::new(stringify!($name)))
                }
            )*
        }
    };
}

round_trips! {
    creds datagrams edges events fifos files filler forks headless heartbeat ipc marks memory netlink packets pipes places posix ptys raw registers rseq rules settings signals
    sockets swapped sysv threads timers watches zombie
}

/// Huge pages, which take a machine that may have some, and a place for files of them.
#[test]
fn round_trip_of_huge_pages() -> Outcome {
    let subject = Subject::new("huge");
    if missing() {
        return Ok(());
    }
    let Ok(Some(pages)) = HugePages::for_subject(&subject) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    pages.mount(&lab)?;
    round_trip_in(&lab, &subject)
}

/// The tree runs on, and its checkpoint is a copy that runs too. (One that writes no files: both
/// hosts see the same.)
#[test]
fn leave_running() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("filler").start(&lab, lab.src())?;
    let images = Images::new(&lab, "images")?;
    succeeded(&images.dump(lab.src(), started.pid(), &["--leave-running"])?)?;
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    let restore = images.restore(lab.dst(), &[])?;
    passed(&started, &lab, &restore)?;
    assert!(started.ask(lab.src())?.passed());
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(())
}

#[test]
fn leave_stopped() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("threads").start(&lab, lab.src())?;
    let images = Images::new(&lab, "images")?;
    succeeded(&images.dump(lab.src(), started.pid(), &["--leave-stopped"])?)?;
    started.running().wait_stopped(SOON)?;
    lab.src().signal(started.pid(), Signal::SIGCONT)?;
    assert!(started.ask(lab.src())?.passed());
    Ok(())
}

/// One checkpoint, restored twice, and on the host it came from.
#[test]
fn again_and_again() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    let images = Images::new(&lab, "images")?;
    succeeded(&images.dump(lab.src(), started.pid(), &[])?)?;
    started.running().wait(SOON)?;
    for host in [lab.src(), lab.dst(), lab.src()] {
        let restore = images.restore(host, &[])?;
        host.signal(started.pid(), Signal::SIGTERM)?;
        assert_eq!(restore.wait(SOON)?.code(), Some(143), "{}", restore.logs());
        assert_eq!(lab.wait_empty(SOON), []);
    }
    Ok(())
}

#[test]
fn images_can_be_read() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("forks").start(&lab, lab.src())?;
    let images = Images::new(&lab, "images")?;
    succeeded(&images.dump(lab.src(), started.pid(), &["--leave-running"])?)?;
    let shown = images.inspect(lab.src())?;
    let root = format!("core-{}.img", started.pid());
    for name in ["inventory.img", "pstree.img", "files.img", "pagemap-10000.img", &root] {
        assert!(shown.get(name).is_some_and(|image| !image.is_null()), "{name} in {shown}");
    }
    assert!(shown["pstree.img"].to_string().contains("10000"), "{}", shown["pstree.img"]);
    assert!(started.ask(lab.src())?.passed());
    Ok(())
}

/// Neither an empty directory nor half a checkpoint is restored; the message names what is missing.
#[test]
fn half_a_checkpoint() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    let images = Images::new(&lab, "images")?;
    succeeded(&images.dump(lab.src(), started.pid(), &["--leave-running"])?)?;
    for name in ["core-10000.img", "pagemap-10000.img", "inventory.img"] {
        let (image, away) = (images.folder().join(name), lab.shared().join(name));
        std::fs::rename(&image, &away)?;
        let mut qmig = std::process::Command::new(qmig_binary()?);
        qmig.args(["restore", "--json", "--images-dir"]).arg(images.folder());
        let restore = lab.dst().spawn(qmig)?;
        let output = restore.output(SOON)?;
        assert_eq!(output.status.code(), Some(121), "without {name}: {}", restore.logs());
        let error = QmigEvent::all_of(&restore).into_iter().find(|event| event.name() == "error");
        let what = error.ok_or("no error event")?.field("what").to_string();
        assert!(what.contains(name), "without {name}: {what}");
        assert_eq!(lab.dst().pids(), []);
        std::fs::rename(&away, &image)?;
    }
    Ok(())
}

/// `criu restore` of what qmig wrote.
#[test]
fn criu_reads_ours() -> Outcome {
    let Some(criu) = criu() else { return Ok(()) };
    for name in ["heartbeat", "filler", "threads", "forks", "pipes", "fifos", "rules", "netlink"] {
        let lab = Lab::two_hosts()?;
        let started = common(name).start(&lab, lab.src())?;
        let images = Images::new(&lab, "images")?;
        succeeded(&images.dump(lab.src(), started.pid(), &[])?)?;
        started.running().wait(SOON)?;
        criu.restore(lab.dst(), images.folder())?;
        let verdict = started.ask_orphan(lab.dst(), started.pid())?;
        assert!(verdict.passed(), "{name}: {verdict}");
        assert_eq!(lab.wait_empty(SOON), []);
    }
    Ok(())
}

/// `qmig restore` of what `criu dump` wrote.
#[test]
fn we_read_criu_s() -> Outcome {
    let Some(criu) = criu() else { return Ok(()) };
    for name in ["heartbeat", "memory", "threads", "forks", "pipes", "fifos", "rules", "netlink"] {
        let lab = Lab::two_hosts()?;
        let started = common(name).start(&lab, lab.src())?;
        let images = Images::new(&lab, "images")?;
        criu.dump(lab.src(), started.pid(), images.folder(), None)?;
        started.running().wait(SOON)?;
        let restore = images.restore(lab.dst(), &[])?;
        passed(&started, &lab, &restore).map_err(|error| format!("{name}: {error}"))?;
        assert_eq!(lab.wait_empty(SOON), []);
    }
    Ok(())
}

/// A subject that a stock CRIU carries too.
fn common(name: &str) -> Subject {
    let subject = Subject::new(name);
    if name == "netlink" { subject.arg("all").arg(0) } else { subject }
}

/// A stock CRIU is no requirement of this project: where none is installed there is nothing to
/// compare with.
fn criu() -> Option<Criu> {
    if missing() {
        return None;
    }
    let criu = Criu::installed();
    if criu.is_none() {
        eprintln!("no CRIU here (netns-tests/install-criu.sh /opt/qmig-criu)");
    }
    criu
}
