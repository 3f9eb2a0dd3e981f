//! qmig on UDP sockets that somebody else has bound for it: by number, and as systemd passes them.

use std::error::Error;
use std::process::Command;
use std::time::Duration;

use netns_tests::{Lab, QmigEvent, Subject, qmig_binary, requirements};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

/// Binds a socket, gives it a number, and becomes qmig.
const BIND: &str = r#"
import os, socket, sys
address, port, number, by_systemd = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bound.bind((address, port))
os.dup2(bound.fileno(), number)
os.set_inheritable(number, True)
if by_systemd == "systemd":
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[5], sys.argv[5:])
"#;

/// A qmig behind a bound socket.
fn behind(address: &str, port: u16, number: i32, way: &str) -> Result<Command, Box<dyn Error>> {
    let mut command = Command::new("python3");
    command.args(["-c", BIND, address, &port.to_string(), &number.to_string(), way]);
    command.arg(qmig_binary()?);
    Ok(command)
}

/// Both ends on sockets of others; the addresses they talk by are those that were bound.
fn moves(number: i32, way: &str) -> Outcome {
    if requirements::missing(&["python3"])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
    {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    let ticket = lab.shared().join("ticket");

    let mut restore = behind("10.77.0.2", 4555, number, way)?;
    restore.args(["restore", "--json", "--ticket-file"]).arg(&ticket);
    if way == "number" {
        restore.arg("--socket-fd").arg(number.to_string());
    }
    let restore = lab.dst().spawn(restore)?;
    let listening = restore.wait_line("qmig restore listen", SOON, QmigEvent::parse)?;
    assert_eq!(listening.name(), "listening", "{}", restore.logs());
    assert_eq!(listening.field("address"), "10.77.0.2:4555");

    let mut dump = behind("10.77.0.1", 4556, 7, "number")?;
    dump.args(["dump", "--json", "--socket-fd", "7", "--to", "10.77.0.2:4555", "--ticket-file"]);
    dump.arg(&ticket).arg("--tree").arg(started.pid().to_string());
    let dump = lab.src().spawn(dump)?.output(SOON)?;
    let said = String::from_utf8_lossy(&dump.stderr).into_owned();
    assert!(dump.status.success(), "{said}{}", restore.logs());

    let connected = restore.wait_line("the source's address", SOON, |line| {
        QmigEvent::parse(line).filter(|event| event.name() == "connected")
    })?;
    let peer = connected.field("peer").as_str().unwrap_or_default().to_owned();
    assert!(peer.starts_with("10.77.0.1:4556"), "{peer}");
    assert!(started.ask_at(lab.dst(), &restore)?.passed());
    started.running().wait(SOON)?;
    Ok(())
}

#[test]
fn by_number() -> Outcome {
    moves(9, "number")
}

#[test]
fn as_systemd_passes_it() -> Outcome {
    moves(3, "systemd")
}
