//! The hosts are hosts, the link is a link, and nothing stays.

use std::process::Command;
use std::time::{Duration, Instant};

use netns_tests::{Host, Lab, Running, Side, in_session, requirements};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const SOON: Duration = Duration::from_secs(20);

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn python(script: &str) -> Command {
    let mut command = Command::new("/usr/bin/env");
    command.args(["python3", "-c", script]);
    command
}

fn line(host: &Host, script: &str) -> Result<String, netns_tests::LabError> {
    let output = host.run(sh(script))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A server on `host` that answers one message of each connection or datagram, in capitals.
fn echo(host: &Host, kind: &str, address: &str) -> Result<Running, netns_tests::LabError> {
    let family = if address.contains(':') { "AF_INET6" } else { "AF_INET" };
    let running = host.spawn(python(&format!(
        "import socket\ns=socket.socket(socket.{family}, socket.{kind})\ns.bind(('{address}',700))\n\
         if '{kind}'=='SOCK_STREAM': s.listen()\nprint('up',flush=True)\n\
         while True:\n  if '{kind}'=='SOCK_STREAM':\n    c,_=s.accept(); c.sendall(c.recv(99).upper()); c.close()\n  \
         else:\n    m,a=s.recvfrom(99); s.sendto(m.upper(),a)\n"
    )))?;
    running.wait_line("the server", SOON, |line| (line == "up").then_some(()))?;
    Ok(running)
}

fn ask(host: &Host, kind: &str, address: &str) -> Result<bool, netns_tests::LabError> {
    let family = if address.contains(':') { "AF_INET6" } else { "AF_INET" };
    let client = host.spawn(python(&format!(
        "import socket,sys\ns=socket.socket(socket.{family}, socket.{kind})\ns.settimeout(1)\n\
         s.connect(('{address}',700)); s.send(b'hello'); sys.exit(s.recv(99)!=b'HELLO')\n"
    )))?;
    Ok(client.wait(SOON)?.success())
}

#[test]
fn the_link_carries_and_can_be_cut() -> Outcome {
    if requirements::missing(&["python3"]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let (v4, v6) = (lab.dst().addr().to_string(), lab.dst().addr6().to_string());
    for (kind, address) in [("SOCK_STREAM", &v4), ("SOCK_DGRAM", &v6)] {
        let server = echo(lab.dst(), kind, address)?;
        assert!(ask(lab.src(), kind, address)?, "{}", server.logs());
        lab.cut()?;
        assert!(!ask(lab.src(), kind, address)?);
        lab.heal()?;
        assert!(ask(lab.src(), kind, address)?);
        lab.cut_from(Side::Destination)?;
        assert!(!ask(lab.src(), kind, address)?);
        lab.heal()?;
        lab.unplug()?;
        assert!(!ask(lab.src(), kind, address)?);
        lab.plug()?;
        assert!(ask(lab.src(), kind, address)?);
    }
    Ok(())
}

#[test]
fn hosts_do_not_see_each_other() -> Outcome {
    if requirements::missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    assert_eq!(line(lab.src(), "hostname")?, "src");
    assert_eq!(line(lab.dst(), "hostname")?, "dst");

    lab.src().next_pid(12_345)?;
    let sleeper = lab.src().spawn_quiet(in_session("sleep").arg_then("1000"))?;
    assert_eq!(sleeper.pid(), 12_345);
    let seen = lab.src().process(12_345).ok_or("the source does not see it")?;
    assert!(["sleep", "setsid"].contains(&seen.comm.as_str()), "{seen:?}");
    assert_eq!(lab.dst().process(12_345), None);
    assert!(line(lab.dst(), "ls -d /proc/12345 2>&1 || true")?.contains("No such"));

    let scratch = lab.src().scratch().join("mine");
    line(lab.src(), &format!("echo one > {}", scratch.display()))?;
    assert_eq!(std::fs::read_to_string(lab.src().path(&scratch))?, "one\n");
    assert!(!lab.dst().path(&scratch).exists());
    let shared = lab.shared().join("ours");
    line(lab.src(), &format!("echo two > {}", shared.display()))?;
    assert_eq!(line(lab.dst(), &format!("cat {}", shared.display()))?, "two");

    lab.src().signal(12_345, Signal::SIGTERM)?;
    assert!(sleeper.wait(SOON)?.to_string().contains("SIGTERM"));
    assert_eq!(lab.leftovers(), []);
    Ok(())
}

#[test]
fn orphans_are_buried() -> Outcome {
    if requirements::missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    lab.dst().run(sh("(sleep 0.05; exit 3) & exec true"))?;
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(())
}

#[test]
fn nothing_stays_after_drop() -> Outcome {
    if requirements::missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    // A stubborn one, one that outlives its parent, and one we still hold.
    lab.src().run(sh(
        "setsid sh -c 'trap : TERM HUP; while :; do sleep 1000; done' >&- 2>&- & exec true",
    ))?;
    let held = lab.dst().spawn(sh("sleep 1000"))?;
    assert!(!lab.leftovers().is_empty());
    let footprint = lab.footprint();
    assert!(footprint.remains().len() >= 4, "{:?}", footprint.remains());
    drop(lab);
    assert_eq!(footprint.remains(), [] as [String; 0]);
    assert!(held.ended().is_some());
    Ok(())
}

/// Not a test of its own: the victim of `nothing_stays_after_a_kill`.
#[test]
fn victim() -> Outcome {
    let Some(report) = std::env::var_os("NETNS_TESTS_VICTIM") else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let running = lab.src().spawn_quiet(in_session("sleep").arg_then("1000"))?;
    let text = format!("{} {}\n", lab.shared().display(), std::process::id());
    std::fs::write(&report, text)?;
    running.wait(Duration::from_secs(100))?;
    Ok(())
}

#[test]
fn nothing_stays_after_a_kill() -> Outcome {
    if requirements::missing(&[]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "victim"])
        .env("NETNS_TESTS_VICTIM", &report)
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let end = Instant::now() + SOON;
        while !done() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let said = || std::fs::read_to_string(&report).unwrap_or_default();
    until("the victim's report", &|| said().ends_with('\n'));
    let shared = std::path::PathBuf::from(said().split(' ').next().unwrap_or_default());
    let inits = |shared: &std::path::Path| {
        let needle = shared.to_string_lossy().into_owned();
        std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&needle))
        })
    };
    assert!(shared.exists() && inits(&shared));
    child.kill()?;
    child.wait()?;
    until("both hosts gone", &|| !inits(&shared) && !shared.exists());
    Ok(())
}

/// `Command::arg` by value, so that a command can be made in one expression.
trait ArgThen {
    fn arg_then(self, arg: &str) -> Command;
}

impl ArgThen for Command {
    fn arg_then(mut self, arg: &str) -> Command {
        self.arg(arg);
        self
    }
}
