//! The lab's handle on the process that is its link.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path as File, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::{Link, Tally};
use crate::init::beside_current_exe;
use crate::lab::Side;
use crate::{LabError, Result};

/// The priority of the process among those of SCHED_FIFO: any is above everyone else's.
const PRIORITY: &str = "10";

/// A running `qmig-link`. It ends when this is dropped, or when this process does, and takes the
/// devices with it.
#[derive(Debug)]
pub struct Emulator {
    process: Child,
    /// `None` once it shall end.
    words: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
    link: Link,
    /// Where each host's counters of its interface are.
    counters: Vec<(&'static str, PathBuf)>,
    /// What they said at the last reset.
    missed_before: Mutex<Vec<u64>>,
}

impl Emulator {
    /// Join hosts, each given by its name and the `/proc` folder of its process 1.
    pub(crate) fn start(
        device: &str,
        hosts: &[(&'static str, PathBuf)],
        link: &Link,
    ) -> Result<Self> {
        let program = program()?;
        // On time even when every core is busy. Where that is not allowed it runs like any other.
        let allowed = Command::new("chrt")
            .args(["--fifo", PRIORITY, "true"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        let mut command = if allowed {
            let mut command = Command::new("chrt");
            command.args(["--fifo", PRIORITY]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        command.args(["--device", device]);
        for (name, folder) in hosts {
            command.arg(format!("{name}={}", folder.join("ns/net").display()));
        }
        command.args(link.to_string().split(' '));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command
            .spawn()
            .map_err(|source| LabError::Spawn { program: program.display().to_string(), source })?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            unreachable!("both were piped above");
        };
        let counters = hosts.iter().map(|(name, folder)| (*name, folder.join("net/dev"))).collect();
        let emulator = Self {
            process,
            words: Mutex::new(Some((stdin, BufReader::new(stdout)))),
            link: link.clone(),
            counters,
            missed_before: Mutex::default(),
        };
        emulator.ask("")?;
        Ok(emulator)
    }

    /// What it was asked to be at first.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The pid of its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Change what `words` say about what `from` sends to the other side: `rate=50Mbit loss=1%`.
    pub fn change(&self, from: Side, words: &str) -> Result<()> {
        self.ask(&format!("set {} {} {words}\n", name(from), name(from.other()))).map(drop)
    }

    /// The same in both directions.
    pub fn change_both(&self, words: &str) -> Result<()> {
        Side::BOTH.into_iter().try_for_each(|side| self.change(side, words))
    }

    /// What `from` sends to the other side is lost, and what it has sent.
    pub fn cut_from(&self, from: Side) -> Result<()> {
        self.ask(&format!("cut {} {}\n", name(from), name(from.other()))).map(drop)
    }

    /// Mend both directions.
    pub fn heal(&self) -> Result<()> {
        Side::BOTH.into_iter().try_for_each(|from| {
            self.ask(&format!("heal {} {}\n", name(from), name(from.other()))).map(drop)
        })
    }

    /// Count from nothing, in all directions.
    pub fn reset(&self) -> Result<()> {
        self.ask("reset\n")?;
        let now = self.counters.iter().map(|(_, file)| dropped(file)).collect();
        *self.missed_before.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    /// What happened since the last reset to what `from` sent to the other side.
    pub fn tally(&self, from: Side) -> Result<Tally> {
        let all = self.ask("tally\n")?;
        let wanted = |one: &&Value| one["from"] == name(from) && one["to"] == name(from.other());
        let found = all.as_array().into_iter().flatten().find(wanted);
        let tally =
            found.and_then(|one| serde_json::from_value::<Tally>(one["tally"].clone()).ok());
        let mut tally = tally.ok_or_else(|| unexpected("tally", &all.to_string()))?;
        let before = self.missed_before.lock().unwrap_or_else(PoisonError::into_inner);
        let port = self.counters.iter().position(|(host, _)| *host == name(from));
        let before = port.and_then(|port| before.get(port)).copied().unwrap_or(0);
        let now = port.map_or(0, |port| dropped(&self.counters[port].1));
        tally.missed = now.saturating_sub(before);
        Ok(tally)
    }

    fn ask(&self, line: &str) -> Result<Value> {
        let mut guard = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = String::new();
        if let Some((stdin, stdout)) = guard.as_mut() {
            let _ = stdin.write_all(line.as_bytes());
            let _ = stdout.read_line(&mut answer);
        }
        let value: Value = serde_json::from_str(&answer).unwrap_or_default();
        value.get("ok").cloned().ok_or_else(|| unexpected(line, &answer))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        *self.words.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = self.process.wait();
    }
}

/// The names of the hosts, as the lab calls them.
fn name(side: Side) -> &'static str {
    match side {
        Side::Source => "src",
        Side::Destination => "dst",
    }
}

fn unexpected(request: &str, answer: &str) -> LabError {
    let (request, answer) = (request.trim().to_owned(), answer.trim().to_owned());
    LabError::Init { host: "qmig-link".to_owned(), request, answer }
}

fn program() -> Result<PathBuf> {
    let named = std::env::var_os("QMIG_LINK").map(PathBuf::from);
    named.or_else(|| beside_current_exe("qmig-link")).ok_or_else(|| LabError::Missing {
        what: "qmig-link beside this executable".to_owned(),
        hint: "cargo build -p netns-tests --bins, or set QMIG_LINK".to_owned(),
    })
}

/// Frames that the kernel dropped on their way to the emulator: the twelfth number of the
/// interface's line in /proc/PID/net/dev (proc_pid_net(5)).
fn dropped(file: &File) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
    line.and_then(|line| line.split_whitespace().nth(11)?.parse().ok()).unwrap_or(0)
}
