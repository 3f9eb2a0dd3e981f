//! CRIUs that people start themselves, with `--stream`, against `qmig proxy` and `qmig cache`.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use netns_tests::chaos::{Action, Fault, Runs, who_runs};
use netns_tests::{Criu, Host, Lab, QmigEvent, Running, Side, Started, Subject, qmig_binary};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

/// Where the proxy takes pages, and how its CRIU is told.
const PAGES: &str = "127.0.0.1:9977";
const TO_PAGES: [&str; 5] = ["--page-server", "--address", "127.0.0.1", "--port", "9977"];
/// How a CRIU is told to keep pages and serve them.
const LAZILY: [&str; 5] = ["--lazy-pages", "--address", "127.0.0.1", "--port", "9978"];
const SOON: Duration = Duration::from_secs(60);
/// What a qmig says that has left everything as it was.
const ABORTED: Option<i32> = Some(122);
const REFUSED: Option<i32> = Some(121);

/// A subject on the source, and both qmigs between the two CRIUs.
struct Bridge {
    lab: Lab,
    criu: Criu,
    started: Started,
    cache: Running,
    proxy: Running,
}

impl Bridge {
    fn make(criu: Criu, subject: &Subject, mode: &str) -> Result<Self, Box<dyn Error>> {
        Self::with(criu, subject, mode, None)
    }

    fn with(
        criu: Criu,
        subject: &Subject,
        mode: &str,
        fault: Option<Fault>,
    ) -> Result<Self, Box<dyn Error>> {
        let lab = Lab::two_hosts()?;
        let started = subject.start(&lab, lab.src())?;
        let mut cache = qmig(&lab, lab.dst(), "cache")?;
        cache.args(["--listen", "10.77.0.2:4433", "--grace", "2s"]);
        if let Some(fault) = fault {
            fault.set_on(&mut cache);
        }
        let cache = lab.dst().spawn(cache)?;
        said(&cache, "listening")?;
        let mut proxy = qmig(&lab, lab.src(), "proxy")?;
        proxy.args(["--to", "10.77.0.2:4433", "--mode", mode, "--page-server", PAGES]);
        let proxy = lab.src().spawn(proxy)?;
        said(&proxy, "waiting")?;
        Ok(Self { lab, criu, started, cache, proxy })
    }

    /// `criu dump --stream`, as somebody types it who adds these words.
    fn dump(&self, words: &[&str]) -> Result<Running, Box<dyn Error>> {
        let mut criu = self.asking(self.lab.src(), "dump");
        criu.arg("--stream").arg("--tree").arg(self.started.pid().to_string()).args(words);
        Ok(self.lab.src().spawn(criu)?)
    }

    /// The same without `--stream`: images are in the directory for a moment. With `number`, CRIU gets
    /// a connection for its pages under it.
    fn dump_files(&self, number: Option<&str>, words: &[&str]) -> Result<Running, Box<dyn Error>> {
        let src = self.lab.src();
        let mut criu = self.asking(src, "dump");
        criu.arg("--tree").arg(self.started.pid().to_string()).args(words);
        let Some(number) = number else { return Ok(src.spawn(criu)?) };
        let mut connected = Command::new("python3");
        connected.args(["-c", CONNECT, number]).arg(folder(src).join("page-server.sock"));
        connected.arg(criu.get_program()).args(criu.get_args());
        Ok(src.spawn(connected)?)
    }

    fn restore(&self, words: &[&str]) -> Result<Running, Box<dyn Error>> {
        let dst = self.lab.dst();
        let mut criu = self.asking(dst, "restore");
        criu.arg("--stream")
            .arg("--work-dir")
            .arg(folder(dst))
            .arg("--restore-detached")
            .args(words);
        Ok(dst.spawn(criu)?)
    }

    fn asking(&self, host: &Host, verb: &str) -> Command {
        let mut criu = Command::new(self.criu.program());
        criu.arg(verb).arg("--images-dir").arg(folder(host));
        criu.arg("--action-script").arg(folder(host).join("qmig-hook"));
        criu.args(["-v2", "--log-file", "log"]);
        criu
    }

    fn logs(&self) -> String {
        let log = |host: &Host| std::fs::read_to_string(host.path(folder(host)).join("log"));
        let logs = [self.lab.src(), self.lab.dst()].map(|host| log(host).unwrap_or_default());
        format!("{}{}{logs:?}", self.proxy.logs(), self.cache.logs())
    }

    fn has_moved(&self, dump: &Running, restore: &Running) -> Outcome {
        let proxied = self.proxy.wait(SOON)?;
        assert!(proxied.success(), "{}", self.logs());
        assert!(self.cache.wait(SOON)?.success(), "{}", self.logs());
        assert!(dump.wait(SOON)?.success(), "{}", self.logs());
        assert!(restore.wait(SOON)?.success(), "{}", self.logs());
        self.started.running().wait(SOON)?;
        let verdict = self.started.ask_orphan(self.lab.dst(), self.started.pid())?;
        assert!(verdict.passed(), "{verdict}\n{}", self.logs());
        self.leaves_nothing()
    }

    /// No image is, or was left, in the directories.
    fn leaves_nothing(&self) -> Outcome {
        for host in [self.lab.src(), self.lab.dst()] {
            for entry in std::fs::read_dir(host.path(folder(host)))? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let logs = name == "log" || name.starts_with("stats-");
                assert!(logs || name == "lazy-pages.socket", "{name} on {}", host.name());
            }
        }
        Ok(())
    }
}

/// Connects to a socket, gives the connection a number, and becomes another program.
const CONNECT: &str = r#"
import os, socket, sys
number, path = int(sys.argv[1]), sys.argv[2]
pages = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
pages.connect(path)
os.dup2(pages.fileno(), number)
os.set_inheritable(number, True)
os.execv(sys.argv[3], sys.argv[3:])
"#;

/// Where a host's CRIU and qmig meet.
fn folder(host: &Host) -> PathBuf {
    host.scratch().join("meeting")
}

fn qmig(lab: &Lab, host: &Host, verb: &str) -> Result<Command, Box<dyn Error>> {
    let mut command = Command::new(qmig_binary()?);
    command.arg(verb).arg("--json").arg("--images-dir").arg(folder(host));
    command.arg("--ticket-file").arg(lab.shared().join("ticket"));
    Ok(command)
}

fn said(qmig: &Running, name: &str) -> Outcome {
    qmig.wait_line(name, SOON, |line| QmigEvent::parse(line).filter(|it| it.name() == name))?;
    Ok(())
}

/// What one CRIU dumps another restores; the subject judges itself over there. `dump` and `words` are
/// what else the two are told; the restore may be there `first`.
fn moves(subject: &Subject, mode: &str, dump: &[&str], words: &[&str], first: bool) -> Outcome {
    let Some(criu) = Criu::to_test_with(&[]) else { return Ok(()) };
    moves_by(criu, subject, mode, (dump, words), first)
}

/// The same with that CRIU on both sides.
fn moves_by(
    criu: Criu,
    subject: &Subject,
    mode: &str,
    (dump, words): (&[&str], &[&str]),
    first: bool,
) -> Outcome {
    let bridge = Bridge::make(criu, subject, mode)?;
    let early = if first { Some(bridge.restore(words)?) } else { None };
    let dump = bridge.dump(dump)?;
    let restore = early.map_or_else(|| bridge.restore(words), Ok)?;
    bridge.has_moved(&dump, &restore)
}

#[test]
fn stop_and_copy() -> Outcome {
    moves(&Subject::new("memory").arg("criu"), "stop", &[], &[], false)
}

/// In one letter, that the dumped tree shall live on slips through; it dies all the same.
#[test]
fn a_dump_that_would_let_its_tree_run() -> Outcome {
    moves(&Subject::new("heartbeat"), "stop", &["-R"], &[], false)
}

#[test]
fn a_restore_that_was_there_first() -> Outcome {
    moves(&Subject::new("forks"), "stop", &[], &["--lazy-pages"], true)
}

#[test]
fn post_copy() -> Outcome {
    moves(&Subject::new("filler"), "post-copy", &[], &["--lazy-pages"], false)
}

/// Images by the streamer, pages by the page server.
#[test]
fn a_dump_with_a_page_server_too() -> Outcome {
    moves(&Subject::new("memory").arg("criu"), "stop", &TO_PAGES, &[], false)
}

#[test]
fn post_copy_with_a_page_server_too() -> Outcome {
    moves(&Subject::new("filler"), "post-copy", &TO_PAGES, &["--lazy-pages"], false)
}

/// Until 4.2 headers of the page server were shorter, and nobody says which size he speaks.
#[test]
fn an_older_criu() -> Outcome {
    let Some(criu) = Criu::older_to_test_with(&[]) else { return Ok(()) };
    assert!(criu.version()?.starts_with("4.1"), "{:?}", criu.version());
    let memory = Subject::new("memory").arg("criu").arg("old");
    moves_by(criu.clone(), &memory, "stop", (&TO_PAGES, &[]), false)?;
    moves_by(
        criu.clone(),
        &Subject::new("filler"),
        "post-copy",
        (&LAZILY, &["--lazy-pages"]),
        false,
    )?;
    let bridge = Bridge::make(criu, &memory, "stop")?;
    let dump = bridge.dump_files(None, &TO_PAGES)?;
    let restore = bridge.restore(&[])?;
    bridge.has_moved(&dump, &restore)
}

/// It keeps its pages, and would serve them at any port.
#[test]
fn a_dump_that_keeps_pages() -> Outcome {
    moves(&Subject::new("memory").arg("criu"), "stop", &["--lazy-pages"], &[], false)
}

#[test]
fn post_copy_of_a_dump_that_keeps_pages() -> Outcome {
    moves(&Subject::new("filler"), "post-copy", &LAZILY, &["--lazy-pages"], false)
}

/// Without `--stream` as well; its connection for whoever wants pages was made for it.
#[test]
fn a_dump_that_keeps_pages_on_an_inherited_socket() -> Outcome {
    moves_files(Some("9"), &["--lazy-pages", "--ps-socket", "9"])
}

#[test]
fn a_dump_that_keeps_pages_into_files() -> Outcome {
    moves_files(None, &LAZILY)
}

/// As `criu dump --page-server` always was: nothing but pages is sent.
fn moves_files(number: Option<&str>, words: &[&str]) -> Outcome {
    let Some(criu) = Criu::to_test_with(&["python3"]) else { return Ok(()) };
    let bridge = Bridge::make(criu, &Subject::new("memory").arg("criu"), "stop")?;
    let dump = bridge.dump_files(number, words)?;
    let restore = bridge.restore(&[])?;
    bridge.has_moved(&dump, &restore)
}

#[test]
fn a_page_server_of_the_network() -> Outcome {
    moves_files(None, &TO_PAGES)
}

#[test]
fn a_page_server_on_an_inherited_socket() -> Outcome {
    moves_files(Some("9"), &["--page-server", "--ps-socket", "9"])
}

/// Whoever else comes to the port is not heard.
#[test]
fn a_stranger_sends_no_pages() -> Outcome {
    let Some(criu) = Criu::to_test_with(&["python3"]) else { return Ok(()) };
    let bridge = Bridge::make(criu, &Subject::new("memory").arg("criu"), "stop")?;
    let mut stranger = Command::new("python3");
    let line = "import socket, struct, time
pages = socket.create_connection(('127.0.0.1', 9977))
pages.sendall(struct.pack('<IIQQQ', 4, 0, 0, 0, 1 << 8 | 1))
print('sent', flush=True)
time.sleep(1000)";
    stranger.args(["-c", line]);
    let stranger = bridge.lab.src().spawn(stranger)?;
    stranger.wait_line("it sends", SOON, |line| line.contains("sent").then_some(()))?;
    let dump = bridge.dump(&TO_PAGES)?;
    let restore = bridge.restore(&[])?;
    bridge.has_moved(&dump, &restore)
}

/// A restore that fails, is never started, or cannot take what comes: the dumped tree runs on.
fn stays(mode: &str, act: impl Fn(&Bridge) -> Outcome) -> Outcome {
    for words in [&[] as &[&str], &LAZILY] {
        stays_of(mode, words, &act).map_err(|error| format!("{words:?}: {error}"))?;
    }
    Ok(())
}

/// The same of a dump with those words.
fn stays_of(mode: &str, words: &[&str], act: impl Fn(&Bridge) -> Outcome) -> Outcome {
    let Some(criu) = Criu::to_test_with(&[]) else { return Ok(()) };
    let bridge = Bridge::make(criu, &Subject::new("heartbeat"), mode)?;
    let dump = bridge.dump(words)?;
    act(&bridge)?;
    assert_eq!(bridge.proxy.wait(SOON)?.code(), ABORTED, "{}", bridge.logs());
    assert!(!bridge.cache.wait(SOON)?.success(), "{}", bridge.logs());
    assert!(!dump.wait(SOON)?.success(), "{}", bridge.logs());
    assert_eq!(who_runs(&bridge.lab, bridge.started.pid(), SOON), Runs::Source);
    assert!(bridge.started.ask(bridge.lab.src())?.passed());
    bridge.leaves_nothing()
}

#[test]
fn a_restore_that_fails() -> Outcome {
    stays("stop", |bridge| {
        // Its pid is taken.
        bridge.lab.dst().next_pid(bridge.started.pid())?;
        let taken = bridge.lab.dst().spawn_quiet({
            let mut sleep = Command::new("sleep");
            sleep.arg("1000");
            sleep
        })?;
        assert_eq!(taken.pid(), bridge.started.pid());
        assert!(!bridge.restore(&[])?.wait(SOON)?.success());
        Ok(())
    })
}

#[test]
fn a_restore_that_does_not_ask_for_pages_that_follow() -> Outcome {
    stays("post-copy", |bridge| {
        assert!(!bridge.restore(&[])?.wait(SOON)?.success());
        assert!(bridge.logs().contains("--lazy-pages"), "{}", bridge.logs());
        Ok(())
    })
}

#[test]
fn nobody_restores_and_a_person_ends_it() -> Outcome {
    stays("stop", |bridge| {
        said(&bridge.cache, "frozen")?;
        bridge.lab.dst().signal(bridge.cache.pid(), Signal::SIGTERM)?;
        Ok(())
    })
}

/// The hand-over is on its way when the CRIU over there dies: its tree is ended, and given back.
#[test]
fn a_restoring_criu_that_dies() -> Outcome {
    let Some(criu) = Criu::to_test_with(&[]) else { return Ok(()) };
    let fault = Fault::new(Side::Destination, "staged", Action::Stop);
    let bridge = Bridge::with(criu, &Subject::new("heartbeat"), "stop", Some(fault))?;
    let dump = bridge.dump(&[])?;
    let restore = bridge.restore(&[])?;
    bridge.cache.wait_stopped(SOON)?;
    bridge.lab.dst().signal(restore.pid(), Signal::SIGKILL)?;
    restore.wait(SOON)?;
    bridge.lab.dst().signal(bridge.cache.pid(), Signal::SIGCONT)?;
    assert_eq!(bridge.proxy.wait(SOON)?.code(), ABORTED, "{}", bridge.logs());
    assert!(!bridge.cache.wait(SOON)?.success(), "{}", bridge.logs());
    assert!(!dump.wait(SOON)?.success(), "{}", bridge.logs());
    assert_eq!(who_runs(&bridge.lab, bridge.started.pid(), SOON), Runs::Source);
    assert!(bridge.started.ask(bridge.lab.src())?.passed());
    Ok(())
}

/// The proxy dies while CRIU waits for its word: nobody waits for pages of it, and its tree runs on.
#[test]
fn a_proxy_that_dies() -> Outcome {
    let Some(criu) = Criu::to_test_with(&[]) else { return Ok(()) };
    for words in [&[] as &[&str], &LAZILY] {
        let bridge = Bridge::make(criu.clone(), &Subject::new("heartbeat"), "post-copy")?;
        let dump = bridge.dump(words)?;
        said(&bridge.cache, "frozen")?;
        bridge.lab.src().signal(bridge.proxy.pid(), Signal::SIGKILL)?;
        assert!(!dump.wait(SOON)?.success(), "{words:?}: {}", bridge.logs());
        assert_eq!(who_runs(&bridge.lab, bridge.started.pid(), SOON), Runs::Source, "{words:?}");
        assert!(bridge.started.ask(bridge.lab.src())?.passed(), "{words:?}");
        bridge.lab.dst().signal(bridge.cache.pid(), Signal::SIGTERM)?;
        assert!(!bridge.cache.wait(SOON)?.success(), "{words:?}: {}", bridge.logs());
    }
    Ok(())
}

/// Words that would let two copies run, or that nobody here can answer: it does not even begin.
#[test]
fn a_dump_that_does_not_suit_is_refused() -> Outcome {
    let Some(criu) = Criu::to_test_with(&[]) else { return Ok(()) };
    let bridge = Bridge::make(criu, &Subject::new("heartbeat"), "stop")?;
    let dump = bridge.dump(&["--leave-running"])?;
    assert_eq!(bridge.proxy.wait(SOON)?.code(), REFUSED, "{}", bridge.logs());
    assert!(!dump.wait(SOON)?.success());
    assert!(bridge.logs().contains("--leave-running"), "{}", bridge.logs());
    assert!(bridge.started.ask(bridge.lab.src())?.passed());
    Ok(())
}
