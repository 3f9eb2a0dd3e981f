//! One host: a place with its own network, processes and mounts.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::init::InitCommand;
use crate::namespaces::{Namespaces, spawn_in_new};
use crate::running::{Kept, Running};
use crate::{LabError, Result};

/// The deadline of [`Host::run`].
const RUN: Duration = Duration::from_secs(60);

/// A host of a [`crate::Lab`].
///
/// While it exists, its process 1 lives and is a child of ours, so its pid (`init`) is its own.
#[derive(Debug)]
pub struct Host {
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    scratch: PathBuf,
    init: Child,
    /// Standard input and output of process 1; `None` once the host is being torn down.
    words: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
    namespaces: Namespaces,
    children: Mutex<Vec<Arc<Kept>>>,
}

/// A process of a host, as the host's own `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid in there.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its state letter: `R`, `S`, `D`, `T`, `t`, `Z`…
    pub state: char,
}

/// `program` as the leader of a session of its own, as a daemon or a login shell is.
///
/// A program spawned into a host otherwise belongs to the session of whoever runs the test, and a
/// session that has its leader outside of the tree cannot move.
pub fn in_session(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setsid");
    command.arg(program);
    command
}

impl Host {
    pub(crate) fn start(
        init: &InitCommand,
        name: &str,
        (v4, v6): (Ipv4Addr, Ipv6Addr),
        scratch: &Path,
        shared: &Path,
    ) -> Result<Self> {
        let mut command = init.command(name, scratch, shared);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn_in_new(&mut command)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were piped two lines above");
        };
        let namespaces = Namespaces::of(&PathBuf::from(format!("/proc/{}", child.id())));
        let namespaces = match namespaces {
            Ok(namespaces) => namespaces,
            Err(error) => {
                drop(stdin);
                let _ = child.wait();
                return Err(error);
            }
        };
        let host = Self {
            name: name.to_owned(),
            v4,
            v6,
            scratch: scratch.to_owned(),
            init: child,
            words: Mutex::new(Some((stdin, BufReader::new(stdout)))),
            namespaces,
            children: Mutex::default(),
        };
        host.expect("ready", "get ready", "")?;
        Ok(host)
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address on the link.
    pub fn addr(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its IPv6 address on the link.
    pub fn addr6(&self) -> Ipv6Addr {
        self.v6
    }

    /// Start a program with standard input empty and both outputs collected.
    ///
    /// It starts in `/`. Its pipes lead outside, so it is no candidate for a migration; see
    /// [`Host::spawn_quiet`].
    pub fn spawn(&self, mut command: Command) -> Result<Running> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.start_in(&mut command)
    }

    /// Start a program with all three standard descriptors on `/dev/null`.
    pub fn spawn_quiet(&self, mut command: Command) -> Result<Running> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.start_in(&mut command)
    }

    /// Run a program to its end, which must be a success.
    pub fn run(&self, command: Command) -> Result<Output> {
        let line = line_of(&command);
        succeed(line, self.spawn(command)?.output(RUN)?)
    }

    /// The next process made in this host gets this pid. Nothing else may be started in between.
    pub fn next_pid(&self, pid: i32) -> Result<()> {
        self.ask(&format!("next-pid {pid}"))
    }

    /// Send a signal to any process of this host, also one that was not started from here.
    pub fn signal(&self, pid: i32, signal: Signal) -> Result<()> {
        self.ask(&format!("kill {pid} {}", signal.as_str()))
    }

    /// Every process of this host except its process 1.
    pub fn pids(&self) -> Vec<Process> {
        let Ok(entries) = std::fs::read_dir(self.path("/proc")) else { return Vec::new() };
        let mut processes: Vec<Process> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|&pid| pid != 1)
            .filter_map(|pid| self.process(pid))
            .collect();
        processes.sort_by_key(|process| process.pid);
        processes
    }

    /// One process of this host, if it exists.
    pub fn process(&self, pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(self.path(format!("/proc/{pid}/stat"))).ok()?;
        // A name may hold spaces and brackets; the last bracket is the kernel's.
        let (before, after) = stat.rsplit_once(") ")?;
        let comm = before.split_once('(')?.1.to_owned();
        Some(Process { pid, comm, state: after.chars().next()? })
    }

    /// True if a process of this host has a file of that name open.
    pub(crate) fn has_open(&self, pid: i32, file: &Path) -> bool {
        let open = std::fs::read_dir(self.path(format!("/proc/{pid}/fd"))).into_iter().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .any(|open| open.file_name() == file.file_name())
    }

    /// A path of this host, as this process may open it from outside.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let root = PathBuf::from(format!("/proc/{}/root", self.init.id()));
        root.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// The directory that is this host's own, as the host itself calls it. Both hosts have one of
    /// the same name, each with its own files.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Run a program with this host's network but everyone's pids, for `ip`.
    pub(crate) fn run_on_network(&self, mut command: Command) -> Result<Output> {
        let line = line_of(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.namespaces.spawn_on_network(&mut command)?;
        let output = child
            .wait_with_output()
            .map_err(|source| LabError::Spawn { program: line.clone(), source })?;
        succeed(line, output)
    }

    /// The process folder of process 1, in our own `/proc`.
    pub(crate) fn init_folder(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.init.id()))
    }

    fn start_in(&self, command: &mut Command) -> Result<Running> {
        let line = line_of(command);
        // What a program keeps in its user's home is this host's own, and gone with it.
        if !command.get_envs().any(|(name, _)| name == "HOME") {
            command.env("HOME", &self.scratch);
        }
        command.env_remove("XDG_CONFIG_HOME").env_remove("QMIG_HOME");
        let child = self.namespaces.spawn(command)?;
        // It is not reaped yet, so this file is its own even if it has ended already.
        let path = PathBuf::from(format!("/proc/{}/status", child.id()));
        let status = std::fs::read_to_string(&path).map_err(LabError::file("read", path))?;
        let pid = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last()?.parse().ok())
            .unwrap_or_default();
        let running = Running::new(line, pid, child);
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody else holds have been buried by their owner.
        children.retain(|kept| Arc::strong_count(kept) > 1);
        children.push(running.kept());
        Ok(running)
    }

    fn ask(&self, request: &str) -> Result<()> {
        self.expect("ok", request, &format!("{request}\n"))
    }

    fn expect(&self, wanted: &str, request: &str, words: &str) -> Result<()> {
        let mut guard = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = String::new();
        if let Some((stdin, stdout)) = guard.as_mut() {
            let _ = stdin.write_all(words.as_bytes());
            let _ = stdout.read_line(&mut answer);
        }
        if answer.trim() == wanted {
            return Ok(());
        }
        Err(LabError::Init {
            host: self.name.clone(),
            request: request.to_owned(),
            answer: answer.trim().to_owned(),
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Process 1 cannot end before its parents have buried all who were born into its
        // namespace from outside, and their parent is this process.
        *self.words.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        for kept in self.children.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            kept.bury();
        }
        let _ = self.init.wait();
    }
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn succeed(line: String, output: Output) -> Result<Output> {
    if output.status.success() {
        return Ok(output);
    }
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let output_text = String::from_utf8_lossy(&text).into_owned();
    Err(LabError::Command { line, status: output.status, output: output_text })
}
