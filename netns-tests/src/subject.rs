//! A program that makes state, keeps a heartbeat, and judges itself.
//!
//! The protocol, whose other half is `subjects/subject.h`: the program is started with
//! `--result FILE --scratch DIR --shared DIR`. When its state is made it appends `READY` to FILE.
//! On SIGUSR1 it verifies everything, appends a line `PASS …` or `FAIL what`, and exits with 0 or
//! with 1. FILE is in the private directory, so after a migration the verdict is found at the host
//! where the program ran and nowhere else. It is opened only for those two lines.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::host::Host;
use crate::lab::Lab;
use crate::running::{GLANCE, Running};
use crate::{LabError, Result, workshop};

/// How long a subject may take to make its state.
const GET_READY: Duration = Duration::from_secs(60);
/// How long a subject may take to judge itself.
const JUDGE: Duration = Duration::from_secs(60);
/// The distribution's own, not a version manager's wrapper.
const PYTHON: &str = "/usr/bin/python3";
/// The pid of a subject unless another is chosen: far above what the other host uses.
const PID: i32 = 10_000;

/// A subject that has not been started.
#[derive(Clone, Debug)]
pub struct Subject {
    name: String,
    language: Language,
    args: Vec<String>,
    sabotage: bool,
    held: Option<PathBuf>,
    pid: i32,
}

/// What a subject is written in. Those that are not in C judge less of the kernel and more of what
/// people run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    C,
    Python,
    Java,
    Node,
}

impl Subject {
    /// Every subject in C: the file names in `subjects/`.
    pub const ALL: [&str; 45] = [
        "churn",
        "commons",
        "creds",
        "datagrams",
        "edges",
        "events",
        "fifos",
        "files",
        "filler",
        "forks",
        "headless",
        "heartbeat",
        "heirs",
        "huge",
        "inherited",
        "ipc",
        "kv",
        "locks",
        "marks",
        "memory",
        "netlink",
        "packets",
        "pipes",
        "places",
        "posix",
        "ptys",
        "raw",
        "registers",
        "rseq",
        "rules",
        "server",
        "settings",
        "signals",
        "sockets",
        "streams",
        "swapped",
        "sysv",
        "threads",
        "timers",
        "toucher",
        "vast",
        "waits",
        "watches",
        "writer",
        "zombie",
    ];

    /// The subject `subjects/NAME.c`.
    pub fn new(name: &str) -> Self {
        Self::of(name, Language::C)
    }

    /// The subject `subjects/NAME.py`; needs `python3`.
    pub fn python(name: &str) -> Self {
        Self::of(name, Language::Python)
    }

    /// The subject `subjects/NAME.java`; needs `java` and `javac`.
    pub fn java(name: &str) -> Self {
        Self::of(name, Language::Java)
    }

    /// The subject `subjects/NAME.js`; needs `node`.
    pub fn node(name: &str) -> Self {
        Self::of(name, Language::Node)
    }

    fn of(name: &str, language: Language) -> Self {
        let (name, args) = (name.to_owned(), Vec::new());
        Self { name, language, args, sabotage: false, held: None, pid: PID }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One more argument; each subject documents its own.
    #[must_use]
    pub fn arg(mut self, arg: impl ToString) -> Self {
        self.args.push(arg.to_string());
        self
    }

    /// It shall break its own state before it judges, and so must fail.
    #[must_use]
    pub fn sabotaged(mut self) -> Self {
        self.sabotage = true;
        self
    }

    /// It shall have this file open for reading, from its start to its end, and never look at it.
    #[must_use]
    pub fn holding(mut self, file: impl Into<PathBuf>) -> Self {
        self.held = Some(file.into());
        self
    }

    /// Start with this pid (10,000 unless told otherwise), so that it is free on the other host.
    #[must_use]
    pub fn pid(mut self, pid: i32) -> Self {
        self.pid = pid;
        self
    }

    /// Start it on `host`, and wait until it is ready.
    pub fn start(&self, lab: &Lab, host: &Host) -> Result<Started> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let shared = lab.shared().join(format!("{}-{number}", self.name));
        std::fs::create_dir_all(&shared).map_err(LabError::file("make", &shared))?;
        let result = host.scratch().join(format!("{}-{number}.result", self.name));
        let mut command = self.command()?;
        command.arg("--result").arg(&result).arg("--scratch").arg(host.scratch());
        command.arg("--shared").arg(&shared);
        if self.sabotage {
            command.arg("--sabotage");
        }
        command.args(&self.args);
        host.next_pid(self.pid)?;
        let started = Started { running: host.spawn_quiet(command)?, result };
        started.await_line(host, "READY", GET_READY, || started.running.ended().is_some())?;
        started.await_closed(host)?;
        Ok(started)
    }

    /// The command line, up to the subject's own arguments.
    fn command(&self) -> Result<Command> {
        let mut words: Vec<OsString> = match self.language {
            Language::C => vec![workshop::subject(&self.name)?.into()],
            Language::Python => {
                vec!["setsid".into(), PYTHON.into(), workshop::source(&self.name, "py").into()]
            }
            Language::Node => {
                vec!["setsid".into(), "node".into(), workshop::source(&self.name, "js").into()]
            }
            Language::Java => {
                let classes = workshop::java_classes(&self.name)?.into();
                vec!["setsid".into(), "java".into(), "-cp".into(), classes, (&self.name).into()]
            }
        };
        if let Some(file) = &self.held {
            let hold = "exec 9<\"$0\" && exec \"$@\"";
            words.splice(0..0, ["sh".into(), "-c".into(), hold.into(), file.into()]);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        Ok(command)
    }
}

/// A subject that is ready. Dropped, the process first started is killed.
#[derive(Debug)]
pub struct Started {
    running: Running,
    result: PathBuf,
}

impl Started {
    /// Its pid, the same on every host it runs on.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// The process that was started, which after a migration has ended.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Where it writes its verdict, as both hosts call it.
    pub fn result(&self) -> &Path {
        &self.result
    }

    /// Ask it, where it was started, to judge itself; its exit code must agree.
    pub fn ask(&self, host: &Host) -> Result<Verdict> {
        self.ask_at(host, &self.running)
    }

    /// Ask it on `host` to judge itself. `parent` ends with its exit status: the process itself, or
    /// the `qmig restore` that stayed as its parent.
    pub fn ask_at(&self, host: &Host, parent: &Running) -> Result<Verdict> {
        let line = self.word(host, self.pid())?;
        let status = parent.wait(JUDGE)?;
        let verdict = Verdict { line, exit: status.code() };
        if verdict.exit != Some(if verdict.said_pass() { 0 } else { 1 }) {
            return Err(LabError::Ended {
                what: format!("an exit code that agrees with {:?}", verdict.line),
                ended: status.to_string(),
                logs: parent.logs(),
            });
        }
        Ok(verdict)
    }

    /// Ask it on `host` to judge itself, where nobody of ours will learn its exit status: it was
    /// left to the host's process 1, or has another pid there.
    pub fn ask_orphan(&self, host: &Host, pid: i32) -> Result<Verdict> {
        Ok(Verdict::said(&self.word(host, pid)?))
    }

    fn word(&self, host: &Host, pid: i32) -> Result<String> {
        host.signal(pid, Signal::SIGUSR1)?;
        let gone = || host.process(pid).is_none_or(|process| process.state == 'Z');
        let wanted = |line: &str| line.starts_with("PASS") || line.starts_with("FAIL");
        self.await_verdict(host, wanted, JUDGE, gone)
    }

    fn await_line(
        &self,
        host: &Host,
        word: &str,
        within: Duration,
        gone: impl Fn() -> bool,
    ) -> Result<()> {
        self.await_verdict(host, |line| line == word, within, gone).map(drop)
    }

    /// Wait until nobody has the result open any more: the line is there a moment before, and a
    /// tree that is moved in that moment has a file open that the other host has not.
    fn await_closed(&self, host: &Host) -> Result<()> {
        let end = Instant::now() + GET_READY;
        while host.pids().iter().any(|process| host.has_open(process.pid, &self.result)) {
            if Instant::now() >= end {
                let what = format!("{} be closed", self.result.display());
                return Err(LabError::Deadline { what, within: GET_READY, logs: String::new() });
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// The first line of the result on `host` that is wanted. A file has no event to wait for from
    /// outside of the host, so this looks again and again.
    fn await_verdict(
        &self,
        host: &Host,
        wanted: impl Fn(&str) -> bool,
        within: Duration,
        gone: impl Fn() -> bool,
    ) -> Result<String> {
        let path = host.path(&self.result);
        let end = Instant::now() + within;
        loop {
            // Asked before reading: what it wrote before it went is then certainly read.
            let ended = gone();
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let complete = text.rfind('\n').map_or("", |last| &text[..last]);
            if let Some(line) = complete.lines().find(|line| wanted(line)) {
                return Ok(line.to_owned());
            }
            let what = format!("the word of {} on {}", self.running.pid(), host.name());
            let logs = format!("{}result| {text}", self.running.logs());
            if ended {
                let ended = "the subject is gone".to_owned();
                return Err(LabError::Ended { what, ended, logs });
            }
            if Instant::now() >= end {
                return Err(LabError::Deadline { what, within, logs });
            }
            std::thread::sleep(GLANCE);
        }
    }
}

/// What a subject said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    line: String,
    /// Its exit code, where somebody could learn it.
    exit: Option<i32>,
}

impl Verdict {
    /// By its line alone: nobody near could learn the exit code.
    pub(crate) fn said(line: &str) -> Self {
        Self { line: line.to_owned(), exit: None }
    }

    /// All is as it was.
    pub fn passed(&self) -> bool {
        self.said_pass() && self.exit.is_none_or(|code| code == 0)
    }

    /// The longest time between two heartbeats since it was ready: what the program itself felt of
    /// the migration.
    pub fn longest_gap(&self) -> Option<Duration> {
        self.number("gap_us").map(Duration::from_micros)
    }

    /// How often its heart has beaten since it was ready.
    pub fn beats(&self) -> Option<u64> {
        self.number("beats")
    }

    /// A number that it reported as `name=123`.
    pub fn number(&self, name: &str) -> Option<u64> {
        let mut words = self.line.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    }

    fn said_pass(&self) -> bool {
        self.line.starts_with("PASS")
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}
