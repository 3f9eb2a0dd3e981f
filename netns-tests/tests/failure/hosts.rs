//! Hosts that cannot: a file that is missing or different, a pid that is taken, a full disk, a user
//! who is not root, a port in use.

use std::error::Error;
use std::process::Command;

use netns_tests::chaos::{Runs, who_runs};
use netns_tests::{
    Images, Lab, Migration, Moving, QmigEvent, Running, Side, Started, Subject, qmig_binary,
};
use nix::sys::signal::Signal;

use crate::end::{self, End};
use crate::{Outcome, SOON, missing};

/// `sh -ec SCRIPT`.
fn sh(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-ec", script]);
    shell
}

/// Both ended like this, the dump with these words, and the source runs unharmed.
fn refused(lab: &Lab, moving: &Moving, started: &Started, restore: End, says: &[&str]) -> Outcome {
    let judge = || -> Outcome {
        let dump = moving.qmig(Side::Source);
        end::of(dump, &[End::Refused])?;
        end::of(moving.qmig(Side::Destination), &[restore])?;
        let said = end::words(dump);
        for words in says {
            if !said.contains(words) {
                return Err(format!("{said:?} does not say {words:?}").into());
            }
        }
        source_runs(lab, started)
    };
    judge().map_err(|error| format!("{error}\n{}", moving.logs()).into())
}

fn source_runs(lab: &Lab, started: &Started) -> Outcome {
    let runs = who_runs(lab, started.pid(), SOON);
    if runs != Runs::Source {
        return Err(format!("{runs:?} runs").into());
    }
    let verdict = started.ask(lab.src())?;
    if verdict.passed() { Ok(()) } else { Err(verdict.to_string().into()) }
}

/// A file of the source's own that the tree has open, and what the destination has in its place.
#[test]
fn a_file_that_is_not_the_same() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    for (there, says) in [
        ("true", "No such file"),
        ("echo other words > needed; chmod 644 needed", "5 bytes at the source, 12 here"),
        ("echo same > needed; chmod 600 needed", "mode"),
        ("mkdir needed", "needed"),
    ] {
        let lab = Lab::two_hosts()?;
        let scratch = lab.src().scratch().to_owned();
        let make = |script: &str| sh(&format!("cd {}; {script}", scratch.display()));
        lab.src().run(make("echo same > needed; chmod 644 needed"))?;
        lab.dst().run(make(there))?;
        let needed = scratch.join("needed");
        let started = Subject::new("heartbeat").holding(&needed).start(&lab, lab.src())?;
        let moving = Migration::new(&lab)?.listen()?.dump(started.pid())?;
        let path = needed.display().to_string();
        refused(&lab, &moving, &started, End::Refused, &[&path, says])
            .map_err(|error| format!("{there}: {error}"))?;
    }
    Ok(())
}

/// With --keep the destination goes on listening, and the same ticket is good once more.
#[test]
fn a_file_that_comes_later() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let needed = lab.src().scratch().join("needed");
    let touch = || sh(&format!("echo same > {}", needed.display()));
    lab.src().run(touch())?;
    let started = Subject::new("heartbeat").holding(&needed).start(&lab, lab.src())?;
    let listening = Migration::new(&lab)?.restore_arg("--keep").listen()?;
    let first = lab.src().spawn(listening.dump_command(started.pid()))?;
    end::of(&first, &[End::Refused])?;
    let told = |restore: &Running| {
        QmigEvent::all_of(restore).iter().filter(|event| event.name() == "error").count()
    };
    listening.restore().wait_line("the error", SOON, |line| {
        QmigEvent::parse(line).filter(|event| event.name() == "error")
    })?;
    assert_eq!(told(listening.restore()), 1);
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);

    lab.dst().run(touch())?;
    let moved = listening.dump(started.pid())?.finish()?;
    started.running().wait(SOON)?;
    assert!(moved.ask(&lab, &started)?.passed());
    assert_eq!(told(moved.restore()), 1);
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(())
}

#[test]
fn a_pid_that_is_taken() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    lab.dst().next_pid(started.pid())?;
    let mut sleeper = Command::new("sleep");
    sleeper.arg("1000");
    let sleeper = lab.dst().spawn_quiet(sleeper)?;
    assert_eq!(sleeper.pid(), started.pid());
    let moving = Migration::new(&lab)?.listen()?.dump(started.pid())?;
    let dump = moving.qmig(Side::Source);
    end::of(dump, &[End::Refused])?;
    end::of(moving.qmig(Side::Destination), &[End::Refused])?;
    let said = end::words(dump);
    assert!(["10000", "sleep", "--pidns"].iter().all(|word| said.contains(word)), "{said}");
    assert!(sleeper.ended().is_none());

    // In a PID namespace of its own every pid is free.
    let moved = Migration::new(&lab)?.restore_arg("--pidns").run(started.pid())?;
    moved.succeeded()?;
    let is_it = |comm: &str| comm.starts_with("heartbeat");
    let there: Vec<_> = lab.dst().pids().into_iter().filter(|one| is_it(&one.comm)).collect();
    let [one] = there.as_slice() else { return Err(format!("{:?}", lab.dst().pids()).into()) };
    assert!(started.ask_orphan(lab.dst(), one.pid)?.passed());
    assert!(moved.restore().wait(SOON)?.success(), "{}", moved.logs());
    assert!(sleeper.ended().is_none());
    Ok(())
}

#[test]
fn a_full_disk() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("filler").arg("mib").arg(8).start(&lab, lab.src())?;
    let folder = lab.src().scratch().join("small");
    let mount = format!("mkdir {0}; mount -t tmpfs -o size=1m small {0}", folder.display());
    lab.src().run(sh(&mount))?;
    let dump = Images::at(&folder)?.dump(lab.src(), started.pid(), &[])?;
    end::of(&dump, &[End::Aborted])?;
    let said = end::words(&dump);
    let path = folder.display().to_string();
    assert!(said.contains("No space left") && said.contains(&path), "{said}");
    source_runs(&lab, &started)?;
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(())
}

/// A file that was deleted goes along with its content, for which the destination has no room.
#[test]
fn a_full_disk_at_the_destination() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let folder = lab.src().scratch().join("small");
    let make = |script: &str| sh(&format!("mkdir {0}; cd {0}; {script}", folder.display()));
    lab.src().run(make("dd if=/dev/urandom of=needed bs=1M count=2 2>&1"))?;
    lab.dst().run(make("mount -t tmpfs -o size=1m small ."))?;
    let needed = folder.join("needed");
    let started = Subject::new("heartbeat").holding(&needed).start(&lab, lab.src())?;
    lab.src().run(sh(&format!("rm {}", needed.display())))?;
    let moving = Migration::new(&lab)?.listen()?.dump(started.pid())?;
    let judge = || -> Outcome {
        let [dump, restore] = Side::BOTH.map(|side| moving.qmig(side));
        end::of(dump, &[End::Aborted])?;
        end::of(restore, &[End::Aborted])?;
        for qmig in [dump, restore] {
            let said = end::words(qmig);
            if !(said.contains("No space left") && said.contains(&folder.display().to_string())) {
                return Err(said.into());
            }
        }
        source_runs(&lab, &started)?;
        assert_eq!(lab.wait_empty(SOON), []);
        Ok(())
    };
    judge().map_err(|error| format!("{error}\n{}", moving.logs()).into())
}

/// `command`, run by somebody else. The binary may be where only root can look: a copy is not.
fn as_nobody(lab: &Lab, command: &Command) -> Result<Command, Box<dyn Error>> {
    let copy = lab.shared().join("qmig");
    if !copy.exists() {
        std::fs::copy(qmig_binary()?, &copy)?;
    }
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    setpriv.arg(copy).args(command.get_args()).env("HOME", "/nonexistent");
    Ok(setpriv)
}

#[test]
fn somebody_who_is_not_root() -> Outcome {
    if missing(&["setpriv"]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;

    // As the source: the tree is not theirs to look at.
    let listening = Migration::new(&lab)?.listen()?;
    let ticket = std::fs::read_to_string(listening.ticket())?;
    let mut command = Command::new(qmig_binary()?);
    command.args([
        "dump",
        "--json",
        "--tree",
        &started.pid().to_string(),
        "--ticket",
        ticket.trim(),
    ]);
    command.args(["--to", &format!("{}:4433", lab.dst().addr())]);
    let moving = listening.dump_with(as_nobody(&lab, &command)?)?;
    let dump = moving.qmig(Side::Source);
    end::of(dump, &[End::Refused])?;
    assert!(end::words(dump).contains("root"), "{}", dump.logs());
    end::of(moving.qmig(Side::Destination), &[End::Waits])?;
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);

    // As the destination: it may listen, and then cannot build.
    let mut restore = Command::new(qmig_binary()?);
    restore.args(["restore", "--json", "--listen", "[::]:4433"]);
    let restore = lab.dst().spawn(as_nobody(&lab, &restore)?)?;
    let said = restore.wait_line("an event of qmig restore", SOON, QmigEvent::parse)?;
    if said.name() == "listening" {
        let ticket = said.field("ticket").as_str().unwrap_or_default();
        let mut command = Command::new(qmig_binary()?);
        command.args(["dump", "--json", "--tree", &started.pid().to_string(), "--ticket", ticket]);
        command.args(["--to", &format!("{}:4433", lab.dst().addr())]);
        let dump = lab.src().spawn(command)?;
        end::of(&dump, &[End::Refused])?;
        assert!(end::words(&dump).contains("root"), "{}", dump.logs());
    }
    end::of(&restore, &[End::Refused])?;
    assert!(end::words(&restore).contains("root"), "{}", restore.logs());
    source_runs(&lab, &started)?;
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(())
}

#[test]
fn a_port_in_use() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let listening = Migration::new(&lab)?.listen()?;
    let mut second = Command::new(qmig_binary()?);
    second.args(["restore", "--json", "--listen", "[::]:4433"]);
    let second = lab.dst().spawn(second)?;
    end::of(&second, &[End::Refused])?;
    let said = end::words(&second);
    assert!(said.contains("4433") && said.contains("in use"), "{said}");
    end::of(listening.restore(), &[End::Waits])?;
    Ok(())
}

#[test]
fn nobody_there() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    let listening = Migration::new(&lab)?.dump_arg("--connect-timeout").dump_arg("1s").listen()?;
    let command = listening.dump_command(started.pid());
    listening.restore().kill()?;
    let dump = lab.src().spawn(command)?;
    end::of(&dump, &[End::Refused])?;
    let said = end::words(&dump);
    assert!(said.contains("no answer") && said.contains("qmig restore --listen"), "{said}");
    source_runs(&lab, &started)
}

/// Trees that cannot be taken at all: none, process 1, and qmig's own.
#[test]
fn a_tree_that_is_none() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let images = Images::new(&lab, "images")?;
    for pid in [99_999, 1, 0] {
        end::of(&images.dump(lab.src(), pid, &[])?, &[End::Refused])?;
    }
    let qmig = qmig_binary()?;
    let own = format!(
        "{} dump --json --tree $$ --images-dir {}; exit $?",
        qmig.display(),
        images.folder().display()
    );
    let own = lab.src().spawn(sh(&own))?;
    end::of(&own, &[End::Refused])?;
    assert_eq!(std::fs::read_dir(images.folder())?.count(), 0, "something was written");
    Ok(())
}

/// Signals to a `qmig restore` that is the parent go to the tree, and its end is passed on.
#[test]
fn a_parent_passes_on() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let lab = Lab::two_hosts()?;
        let started = Subject::new("heartbeat").start(&lab, lab.src())?;
        let moved = Migration::new(&lab)?.run(started.pid())?;
        moved.succeeded()?;
        started.running().wait(SOON)?;
        moved.restore().signal(signal)?;
        assert_eq!(moved.restore().wait(SOON)?.code(), Some(code), "{}", moved.logs());
        let exited = moved.event(Side::Destination, "exited").ok_or("no event exited")?;
        assert_eq!(exited.field("status"), code);
        assert_eq!(lab.wait_empty(SOON), []);
    }
    Ok(())
}

/// With --detach the tree is left to process 1, and both qmigs end.
#[test]
fn a_tree_that_is_left_to_init() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    let moved = Migration::new(&lab)?.restore_arg("--detach").run(started.pid())?;
    moved.succeeded()?;
    started.running().wait(SOON)?;
    assert!(moved.restore().wait(SOON)?.success(), "{}", moved.logs());
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Destination);
    assert!(started.ask_orphan(lab.dst(), started.pid())?.passed());
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(())
}
