//! TCP connections go along: those within a tree, and those of clients on a third host.

use std::error::Error;
use std::process::Command;
use std::time::Duration;

use netns_tests::chaos::{Action, Fault, Runs, who_runs};
use netns_tests::programs::{Nginx, Redis};
use netns_tests::{
    Criu, Host, Images, Lab, Migration, Moved, REPEAT_VARIABLE, Running, Side, Subject,
    qmig_binary, requirements,
};
use nix::sys::signal::Signal;
use serde_json::Value;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);
/// The address that goes along.
const SERVICE: [(&str, &str); 2] =
    [("10.77.0.100", "10.77.0.100/32@eth0"), ("fd77::100", "fd77::100/128@eth0")];

/// The kinds of clients of the subject `server`.
const OURS: [&str; 3] = ["ask", "echo", "download"];

fn missing(programs: &[&str]) -> bool {
    requirements::missing(programs)
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
}

/// Clients on the third host, at work.
struct Clients(Running);

impl Clients {
    /// `count` of each kind.
    fn start(
        host: &Host,
        address: &str,
        count: u32,
        kinds: &[&str],
    ) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients.py"));
        command.arg(address).arg(count.to_string()).args(kinds);
        let clients = host.spawn(command)?;
        clients
            .wait_line("the clients to be served", SOON, |line| (line == "READY").then_some(()))?;
        Ok(Self(clients))
    }

    /// They have been at work for a while longer; what they say.
    fn end(self) -> Result<Value, Box<dyn Error>> {
        self.0.signal(Signal::SIGTERM)?;
        let said = self.0.output(SOON)?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let last = said.lines().last().unwrap_or_default();
        Ok(serde_json::from_str(last).map_err(|_| format!("{said}\n{}", self.0.logs()))?)
    }
}

fn ip(host: &Host, words: &str) -> Outcome {
    let mut ip = Command::new("ip");
    ip.args(words.split(' '));
    host.run(ip)?;
    Ok(())
}

fn has(host: &Host, address: &str) -> Result<bool, Box<dyn Error>> {
    let mut ip = Command::new("ip");
    ip.args(["-o", "addr"]);
    Ok(String::from_utf8_lossy(&host.run(ip)?.stdout).contains(&format!(" {address}/")))
}

fn add(host: &Host, at: &str) -> Outcome {
    let address = at.split('@').next().unwrap_or_default();
    let nodad = if at.contains(':') { " nodad" } else { "" };
    ip(host, &format!("addr add {address} dev eth0{nodad}"))
}

/// No packet is held back any more.
fn is_unlocked(host: &Host) -> Outcome {
    // What holds packets back ends with its owner; nobody of the two is left.
    let left: Vec<_> = host.pids().into_iter().filter(|one| one.comm == "qmig").collect();
    if left.is_empty() { Ok(()) } else { Err(format!("{left:?}").into()) }
}

fn with_service<'l>(lab: &'l Lab, at: &str) -> Result<Migration<'l>, Box<dyn Error>> {
    Ok(Migration::new(lab)?
        .dump_arg("--tcp-established")
        .dump_arg(format!("--release-ip={at}"))
        .restore_arg(format!("--takeover-ip={at}")))
}

#[test]
fn connections_within_a_tree() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("streams").start(&lab, lab.src())?;
    let moved = Migration::new(&lab)?.dump_arg("--tcp-established").run(started.pid())?;
    let verdict = moved.ask(&lab, &started)?;
    assert!(verdict.passed(), "{verdict}\n{}", moved.logs());
    started.running().wait(SOON)?;
    assert_eq!(lab.wait_empty(SOON), [], "{}", moved.logs());
    is_unlocked(lab.src())?;
    println!("{verdict}");
    Ok(())
}

/// Through a directory; from it to a stock CRIU, and back from one.
#[test]
fn connections_in_a_directory() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let criu = Criu::installed();
    let criu = criu.map(|criu| criu.arg("--tcp-established").arg("--network-lock=skip"));
    let (one, other) = (Some(None), criu.as_ref().map(Some));
    for (dumps, restores) in [(one, one), (one, other), (other, one)] {
        let (Some(dumps), Some(restores)) = (dumps, restores) else { continue };
        let lab = Lab::two_hosts()?;
        // CRIU sends what was unsent while it restores, to an end that it has not restored yet.
        let full = u8::from(dumps.is_none() && restores.is_none());
        let subject = Subject::new("streams").arg("full").arg(full);
        let started = subject.start(&lab, lab.src())?;
        let images = Images::new(&lab, "images")?;
        match dumps {
            Some(criu) => match criu.dump(lab.src(), started.pid(), images.folder(), None) {
                // SO_PASSCRED of such a socket, since Linux 6.16; CRIU 4.2 does not know.
                Err(error) if error.to_string().contains("1:16 opt: Operation not supported") => {
                    eprintln!("this CRIU cannot dump an IP socket on this kernel");
                    continue;
                }
                other => other?,
            },
            None => {
                let dump = images.dump(lab.src(), started.pid(), &["--tcp-established"])?;
                assert!(dump.ended().is_some_and(|status| status.success()), "{}", dump.logs());
            }
        }
        started.running().wait(SOON)?;
        let (verdict, logs) = match restores {
            Some(criu) => {
                criu.restore(lab.dst(), images.folder())?;
                (started.ask_orphan(lab.dst(), started.pid())?, String::new())
            }
            None => {
                let restore = images.restore(lab.dst(), &[])?;
                (started.ask_at(lab.dst(), &restore)?, restore.logs())
            }
        };
        assert!(verdict.passed(), "{verdict}\n{logs}");
        assert_eq!(lab.wait_empty(SOON), [], "{logs}");
    }
    Ok(())
}

/// Clients on a third host notice a pause and nothing else, over both protocols.
#[test]
fn clients_on_a_third_host() -> Outcome {
    if missing(&["/usr/bin/python3"]) {
        return Ok(());
    }
    for (address, at) in SERVICE {
        let lab = Lab::plan().client().build()?;
        let client = lab.client().ok_or("a third host")?;
        add(lab.src(), at)?;
        let server = Subject::new("server").arg("clients").arg(6).start(&lab, lab.src())?;
        let clients = Clients::start(client, address, 2, &OURS)?;
        let moved = with_service(&lab, at)?.run(server.pid())?;
        moved.succeeded()?;
        assert_eq!(who_runs(&lab, server.pid(), SOON), Runs::Destination, "{}", moved.logs());
        let more = Clients::start(client, address, 1, &OURS)?;
        for said in [clients.end()?, more.end()?] {
            assert_eq!(said["wrong"], serde_json::json!([]), "{said}\n{}", moved.logs());
            println!("{address}: {said}");
        }
        assert_eq!((has(lab.src(), address)?, has(lab.dst(), address)?), (false, true));
        let verdict = moved.ask(&lab, &server)?;
        assert!(verdict.passed(), "{verdict}\n{}", moved.logs());
        println!("{address}: {verdict}, {}", stood_still(&moved));
    }
    Ok(())
}

/// Real servers under load, in every mode: no client sees an error. QMIG_TEST_REPEAT=50 does each so often.
#[test]
fn redis_with_clients_on_a_third_host() -> Outcome {
    in_every_mode("redis")
}

#[test]
fn nginx_with_clients_on_a_third_host() -> Outcome {
    in_every_mode("http")
}

fn in_every_mode(kind: &str) -> Outcome {
    if missing(&["/usr/bin/python3", "redis-server", "redis-cli", "nginx", "bash"]) {
        return Ok(());
    }
    let times = std::env::var(REPEAT_VARIABLE).map_or(Ok(1), |times| times.parse::<u32>())?;
    for time in 1..=times {
        for mode in ["stop", "pre-copy", "post-copy", "hybrid"] {
            under_load(kind, mode).map_err(|error| format!("{kind}, {mode}, {time}: {error}"))?;
            println!("{kind} by {mode}: {time}/{times}");
        }
    }
    Ok(())
}

/// Moves a server once while clients on a third host are at work, and more begin when it has moved.
fn under_load(kind: &str, mode: &str) -> Outcome {
    let (address, at) = SERVICE[0];
    let lab = Lab::plan().client().build()?;
    let client = lab.client().ok_or("a third host")?;
    add(lab.src(), at)?;
    let pid = 10_000;
    let redis = (kind == "redis").then(|| Redis::start(&lab, lab.src(), pid)).transpose()?;
    let nginx = (kind == "http").then(|| Nginx::start(&lab, lab.src(), pid, "a page"));
    let nginx = nginx.transpose()?;
    let clients = Clients::start(client, address, 4, &[kind])?;
    let mut migration = with_service(&lab, at)?.dump_arg(format!("--mode={mode}"));
    if mode == "pre-copy" {
        // A goal that a busy machine meets too: what is judged here is what clients see.
        migration = migration.dump_arg("--max-downtime=10s");
    }
    let moved = migration.run(pid)?;
    moved.succeeded()?;
    let more = Clients::start(client, address, 1, &[kind])?;
    for said in [clients.end()?, more.end()?] {
        if said["wrong"] != serde_json::json!([]) {
            return Err(format!("{said}\n{}", moved.logs()).into());
        }
        println!("{said}, {}", stood_still(&moved));
    }
    lab.dst().signal(pid, Signal::SIGTERM)?;
    moved.restore().wait(SOON)?;
    drop((redis, nginx));
    assert_eq!(lab.wait_empty(SOON), [], "{}", moved.logs());
    Ok(())
}

/// Whatever breaks before the tree may run over there: the clients go on with the copy that runs.
#[test]
fn a_move_that_fails_costs_clients_nothing() -> Outcome {
    if missing(&["/usr/bin/python3"]) {
        return Ok(());
    }
    let (address, at) = SERVICE[0];
    let lab = Lab::plan().client().build()?;
    let client = lab.client().ok_or("a third host")?;
    add(lab.src(), at)?;
    let server = Subject::new("server").arg("clients").arg(3).start(&lab, lab.src())?;
    let clients = Clients::start(client, address, 1, &OURS)?;
    for (side, phase, action) in [
        (Side::Source, "staged", Action::Fail),
        (Side::Source, "staged", Action::Kill),
        (Side::Destination, "staged", Action::Fail),
    ] {
        let migration = with_service(&lab, at)?.fault(Fault::new(side, phase, action));
        let moved = migration.restore_arg("--grace=1s").run(server.pid())?;
        assert!(!moved.dumped().success(), "{}", moved.logs());
        moved.restore().wait(SOON)?;
        assert_eq!(who_runs(&lab, server.pid(), SOON), Runs::Source, "{}", moved.logs());
        // New connections are let in again, and old ones go on.
        let said = Clients::start(client, address, 1, &OURS)?.end()?;
        assert_eq!(said["wrong"], serde_json::json!([]), "{said}\n{}", moved.logs());
    }
    // Entrusted with the tree, the destination finds that it cannot run it, and gives it back.
    ip(lab.dst(), "link add gone0 type bridge")?;
    let fault = Fault::new(Side::Destination, "staged", Action::Stop);
    let migration = with_service(&lab, at)?.fault(fault);
    let moving = migration.restore_arg("--takeover-ip=192.0.2.1/32@gone0").listen()?;
    let moving = moving.dump(server.pid())?;
    moving.qmig(Side::Destination).wait_stopped(SOON)?;
    ip(lab.dst(), "link del gone0")?;
    moving.qmig(Side::Destination).signal(Signal::SIGCONT)?;
    let moved = moving.finish()?;
    assert_eq!(moved.dumped().code(), Some(122), "{}", moved.logs());
    assert_eq!(who_runs(&lab, server.pid(), SOON), Runs::Source, "{}", moved.logs());
    assert_eq!((has(lab.src(), address)?, has(lab.dst(), address)?), (true, false));
    let said = clients.end()?;
    assert_eq!(said["wrong"], serde_json::json!([]), "{said}\n{}", moved.logs());
    let verdict = server.ask(lab.src())?;
    assert!(verdict.passed(), "{verdict}");
    println!("{said}");
    Ok(())
}

/// Without the address over there, and without anything that holds packets back, nothing begins.
#[test]
fn an_address_that_stays_behind_is_refused() -> Outcome {
    if missing(&["/usr/bin/python3"]) {
        return Ok(());
    }
    let (address, at) = SERVICE[0];
    let lab = Lab::plan().client().build()?;
    let client = lab.client().ok_or("a third host")?;
    add(lab.src(), at)?;
    let server = Subject::new("server").arg("clients").arg(3).start(&lab, lab.src())?;
    let clients = Clients::start(client, address, 1, &OURS)?;
    let kept = Migration::new(&lab)?.dump_arg("--tcp-established");
    for (migration, wanted) in [
        (Migration::new(&lab)?, "use `--tcp-established` to keep it"),
        (kept, "use --takeover-ip ADDR/LEN@DEV here"),
    ] {
        let moved = migration.run(server.pid())?;
        assert_eq!(moved.dumped().code(), Some(121), "{}", moved.logs());
        let error = moved.event(Side::Source, "error").ok_or("no error event")?;
        let reasons = error.field("reasons").to_string();
        assert!(reasons.contains(wanted), "{reasons}");
        moved.restore().signal(Signal::SIGTERM)?;
        moved.restore().wait(SOON)?;
    }
    let said = clients.end()?;
    assert_eq!(said["wrong"], serde_json::json!([]), "{said}");
    assert!(server.ask(lab.src())?.passed());
    Ok(())
}

fn stood_still(moved: &Moved) -> String {
    moved.event(Side::Source, "report").map_or_else(String::new, |event| {
        format!("stood still {} us: {}", event.field("downtime_us"), event.field("parts"))
    })
}
