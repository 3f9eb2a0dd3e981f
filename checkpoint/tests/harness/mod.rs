//! Starts the program in `subjects/subject.c` and reads what it tells.
#![allow(dead_code)] // each test file uses its part

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use checkpoint::survey::{SurveyOptions, TcpPolicy};
use pages::ByteCount;
use tracee::HostPid;

/// What tests allow: small deleted files only.
pub(crate) const OPTIONS: SurveyOptions =
    SurveyOptions { shell_job: false, tcp: TcpPolicy::Refuse, ghost_limit: ByteCount(1 << 20) };

/// True if the test can run; says so if not, and is a failure where CI promised that it can.
pub(crate) fn can_run() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "CI must run as root");
    eprintln!("SKIPPED: ptrace and map_files need root");
    false
}

/// A running subject with a folder of its own; ended, with its children, when dropped.
pub(crate) struct Subject {
    child: Child,
    pub(crate) folder: PathBuf,
}

impl Subject {
    /// Starts it with the state `what` names, and waits until it is there.
    pub(crate) fn start(what: &[&str]) -> Self {
        Self::start_in(Self::folder(), what, Stdio::null())
    }

    /// The same with its output going to a pipe that this process reads.
    pub(crate) fn start_with_output(what: &[&str]) -> Self {
        Self::start_in(Self::folder(), what, Stdio::piped())
    }

    /// A fresh folder.
    pub(crate) fn folder() -> PathBuf {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let nth = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("qmig-subject-{}-{nth}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// Starts it with a folder that has something in it already.
    pub(crate) fn start_in(folder: PathBuf, what: &[&str], output: Stdio) -> Self {
        let mut command = Command::new(program());
        command.arg(&folder).args(what);
        Self::spawn(folder, command.stdout(output))
    }

    /// Starts it by another program, which the words before its arguments name.
    pub(crate) fn start_under(starter: &[&str], what: &[&str]) -> Self {
        let folder = Self::folder();
        let mut command = Command::new(starter[0]);
        command.args(&starter[1..]).arg(program()).arg(&folder).args(what);
        Self::spawn(folder, command.stdout(Stdio::null()))
    }

    /// Starts another program that tells in `folder` what it has to tell.
    pub(crate) fn run(folder: PathBuf, command: &mut Command) -> Self {
        Self::spawn(folder, command.stdout(Stdio::null()))
    }

    fn spawn(folder: PathBuf, command: &mut Command) -> Self {
        let child = command
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the subject");
        let mut subject = Self { child, folder };
        subject.wait_for("ready");
        subject
    }

    pub(crate) fn pid(&self) -> HostPid {
        HostPid(i32::try_from(self.child.id()).expect("a pid"))
    }

    pub(crate) fn told(&self) -> String {
        fs::read_to_string(self.folder.join("told")).unwrap_or_default()
    }

    /// Sends SIGUSR1 until it tells a line that begins so: a program that waits by pause(2) loses a
    /// signal whose handler runs just before the call, or in another of its threads.
    pub(crate) fn wake_until(&mut self, line: &str) {
        let pid = nix::unistd::Pid::from_raw(self.pid().0);
        self.wait_while(line, || {
            nix::sys::signal::kill(pid, nix::sys::signal::SIGUSR1).expect("signal");
            std::thread::sleep(Duration::from_millis(20));
        });
    }

    /// Waits until it tells a line that begins so.
    pub(crate) fn wait_for(&mut self, line: &str) {
        self.wait_while(line, || {});
    }

    fn wait_while(&mut self, line: &str, mut again: impl FnMut()) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let told = self.told();
            assert!(!told.contains("failed "), "the subject: {told}");
            if told.lines().any(|have| have.starts_with(line)) {
                return;
            }
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("the subject ended with {status} (signal {:?}): {told}", status.signal());
            }
            assert!(Instant::now() < until, "the subject never told {line:?}: {told}");
            again();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The words behind the first word of a line.
    pub(crate) fn words(&self, first: &str) -> Vec<String> {
        let told = self.told();
        let line = told.lines().find(|line| line.split(' ').next() == Some(first));
        let line = line.unwrap_or_else(|| panic!("a line {first:?} in {told}"));
        line.split(' ').skip(1).map(str::to_owned).collect()
    }

    /// Numbers, decimal or 0x…, behind the first word of a line.
    pub(crate) fn numbers(&self, first: &str) -> Vec<u64> {
        let words = self.words(first);
        let number = |word: &String| match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => word.parse().ok(),
        };
        words.iter().filter_map(number).collect()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let told = self.told();
        let others = told.lines().filter_map(|line| {
            line.split_once("child ")
                .map_or_else(|| line.strip_prefix("self "), |(_, pid)| Some(pid))
        });
        for pid in others {
            let pid = pid.trim().parse().map(nix::unistd::Pid::from_raw);
            let _ = pid.map(|pid| nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for id in told.lines().filter_map(|line| line.strip_prefix("semaphores ")) {
            let _ = std::process::Command::new("ipcrm").args(["-s", id.trim()]).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Compiles the subject, once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/subjects/subject.c");
        let program =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("subject-{}", std::process::id()));
        let status = Command::new("cc")
            .args(["-O1", "-pthread", "-Wl,--build-id", "-o"])
            .arg(&program)
            .arg(source)
            .status()
            .expect("a C compiler");
        assert!(status.success(), "the subject must compile");
        program
    })
}
