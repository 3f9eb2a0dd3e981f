//! Subjects: small programs that are held, made to work for us, let go, and then tell how it was.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::io::{BufRead, BufReader, Read as _, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pages::VirtAddr;
use tracee::proc::{maps, status::Status, syscall};
use tracee::{Borrowed, HostPid, Memory, Result, Runner, Stopped, find_gate};

/// How long anything may take before a test fails. Nothing here waits that long on purpose.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// True if this machine lets us trace; otherwise says so, and fails where that must not be.
pub fn can_run() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if Command::new("cc").arg("--version").output().is_err() {
        "no C compiler (cc)"
    } else {
        return true;
    };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot run in CI: {reason}");
    eprintln!("SKIPPED: {reason}");
    false
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    compiled("subject", &PROGRAM)
}

/// The subject whose memory is watched.
fn lazy_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    compiled("lazy", &PROGRAM)
}

/// The subject that writes to its memory.
fn writer_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    compiled("writer", &PROGRAM)
}

fn compiled(what: &str, once: &'static OnceLock<PathBuf>) -> &'static Path {
    once.get_or_init(|| {
        let source = format!("{}/tests/common/{what}.c", env!("CARGO_MANIFEST_DIR"));
        let name = format!("{what}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let made = Command::new("cc")
            .args(["-O1", "-pthread", "-Wno-return-type", "-o"])
            .arg(&path)
            .arg(&source)
            .status()
            .expect("cc runs");
        assert!(made.success(), "the subject does not compile");
        path
    })
}

/// A running subject; killed when dropped.
pub struct Subject {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Subject {
    pub fn start(args: &[&str]) -> Self {
        Self::start_by(Command::new(program()).args(args))
    }

    /// The subject whose memory is watched: what it has, what it does.
    pub fn lazy(args: &[&str]) -> Self {
        Self::start_by(Command::new(lazy_program()).args(args))
    }

    /// The subject that writes to its memory: what it has.
    pub fn writer(args: &[&str]) -> Self {
        Self::start_by(Command::new(writer_program()).args(args))
    }

    pub fn start_by(command: &mut Command) -> Self {
        let mut child = command
            // A group whose parent is in another one of the same session: the kernel ignores SIGTSTP
            // for an orphaned group, and that of whoever started the tests may be one.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the subject starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    /// Starts it and waits for its first line, which must be "ready".
    pub fn ready(args: &[&str]) -> Self {
        let mut subject = Self::start(args);
        assert_eq!(subject.line(), "ready");
        subject
    }

    /// The same, and waits until it sleeps for its standard input; with a `syscall` instruction of it.
    pub fn asleep(args: &[&str]) -> (Self, VirtAddr) {
        let subject = Self::ready(args);
        subject.sleeping_in(libc::SYS_read);
        let gate = subject.gate();
        (subject, gate)
    }

    /// Seizes it.
    pub fn seized(&self) -> Stopped {
        Stopped::seize(self.pid()).expect("seized")
    }

    pub fn pid(&self) -> HostPid {
        HostPid(self.child.id().cast_signed())
    }

    /// Its next line.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("readable");
        line.trim_end().to_owned()
    }

    /// Everything it still says; ends when nobody has its standard output any more.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("readable");
        rest
    }

    /// How it ended.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        self.child.wait().expect("a child")
    }

    /// Addresses in its next line.
    pub fn addresses(&mut self) -> Vec<u64> {
        let line = self.line();
        let parse = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
        line.split(' ').map(|word| parse(word).expect("an address")).collect()
    }

    /// Ends what it waits for on its standard input.
    pub fn go_on(&mut self) {
        self.child.stdin.as_mut().expect("piped").write_all(b"\n").expect("writable");
    }

    /// Waits until its main thread sleeps in system call `nr`.
    pub fn sleeping_in(&self, nr: libc::c_long) {
        eventually("sleeping in its system call", || {
            matches!(syscall::read(self.pid(), self.pid()),
                Ok(syscall::Doing::Call { nr: now, .. }) if now == nr)
        });
    }

    pub fn status(&self) -> Status {
        Status::read(self.pid()).expect("alive")
    }

    /// A `syscall` instruction of its vdso.
    pub fn gate(&self) -> VirtAddr {
        gate_of(self.pid())
    }

    pub fn signal(&self, signal: i32) {
        tracee::host::kill(self.pid(), signal).expect("alive");
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `syscall` instruction in the vdso of `pid`.
pub fn gate_of(pid: HostPid) -> VirtAddr {
    let all = maps::read(pid).expect("alive");
    let vdso = all.iter().find(|map| map.special() == Some("[vdso]")).expect("a vdso");
    let mut code = vec![0; usize::try_from(vdso.end.0 - vdso.start.0).expect("small")];
    Memory::open(pid).expect("ptrace access").read(vdso.start, &mut code).expect("readable");
    find_gate(&code, vdso.start).expect("a system call in the vdso")
}

/// Waits for an event the kernel does not tell about otherwise.
pub fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Borrows the thread and has it make calls both ways, then gives it back.
pub fn work_in(task: &mut Stopped, gate: VirtAddr) -> Result<()> {
    let pid = Status::read(task.tid())?.tgid;
    let mut loan = Borrowed::enter(task)?;
    let mut runner = Runner::install(loan.task(), gate, None, 64 << 10)?;
    let mut calls = [tracee::Call::new(libc::SYS_getpid, &[]); 300];
    runner.batch(loan.task(), &mut calls)?;
    for call in calls {
        assert_eq!(call.value().ok(), u64::try_from(pid).ok());
    }
    runner.remove(loan.task(), gate)?;
    loan.leave()
}

/// Borrows the thread, has a runner of its own work for `work`, and gives the thread back.
pub fn lend(task: &mut Stopped, gate: VirtAddr, work: impl FnOnce(&mut Stopped, &mut Runner)) {
    let mut loan = Borrowed::enter(task).expect("borrowed");
    let mut runner = Runner::install(loan.task(), gate, None, 32 << 10).expect("installed");
    work(loan.task(), &mut runner);
    runner.remove(loan.task(), gate).expect("removed");
    loan.leave().expect("left");
}

/// The state letter of a task.
pub fn state(pid: HostPid) -> char {
    Status::read(pid).map_or('X', |status| status.state)
}
