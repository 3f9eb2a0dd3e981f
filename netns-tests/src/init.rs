//! Process 1 of a host.
//!
//! It is born in the host's new namespaces, furnishes them (own `/proc`, private scratch), reaps
//! orphans, obeys a few words on its standard input, and ends when that input does. The end of
//! process 1 is the end of the host: the kernel kills everything in it, and network, mounts and
//! processes are gone, however the owner of the other end of the pipe died.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read, sethostname};

/// The program that becomes process 1 of a host; it must call [`init_main`].
#[derive(Clone, Debug)]
pub struct InitCommand {
    program: PathBuf,
    args: Vec<OsString>,
}

impl InitCommand {
    /// `program args… NAME SCRATCH SHARED`: the last three are added by the lab.
    pub fn new(
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self { program: program.into(), args: args.into_iter().map(Into::into).collect() }
    }

    /// `lab-init` as cargo builds it: beside this executable, or one folder up for tests (which
    /// live in `deps/`). The variable `QMIG_LAB_INIT` overrides.
    pub fn beside_current_exe() -> crate::Result<Self> {
        if let Some(path) = std::env::var_os("QMIG_LAB_INIT") {
            return Ok(Self::new(path, [] as [OsString; 0]));
        }
        beside_current_exe("lab-init").map(|path| Self::new(path, [] as [OsString; 0])).ok_or_else(
            || crate::LabError::Missing {
                what: "lab-init beside this executable".to_owned(),
                hint: "cargo build -p netns-tests --bins, or set QMIG_LAB_INIT".to_owned(),
            },
        )
    }

    pub(crate) fn command(&self, name: &str, scratch: &Path, shared: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).arg(name).arg(scratch).arg(shared);
        command
    }
}

pub(crate) fn beside_current_exe(name: &str) -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    exe.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Be process 1 of a host until standard input ends.
///
/// `args` are the three words the lab appends: the host's name, its private scratch directory, and
/// the directory both hosts share (which is removed when the lab vanishes without saying goodbye).
pub fn init_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let [name, scratch, shared] = args.as_slice() else {
        eprintln!("usage: NAME SCRATCH SHARED (this program is started by the lab)");
        return ExitCode::from(2);
    };
    match Init::furnish(name, scratch.as_ref()).and_then(Init::serve) {
        Ok(()) => {
            // Everyone else in this host is about to die; the lab may be dead already.
            let _ = std::fs::remove_dir_all(shared);
            ExitCode::SUCCESS
        }
        Err((act, errno)) => {
            eprintln!("lab-init {}: failed to {act}: {errno}", name.display());
            ExitCode::FAILURE
        }
    }
}

type Act<T> = std::result::Result<T, (&'static str, nix::errno::Errno)>;

/// Process 1, furnished: its namespaces are private and its signals come by descriptor.
struct Init {
    deaths: SignalFd,
}

impl Init {
    fn furnish(name: &OsString, scratch: &Path) -> Act<Self> {
        const NONE: Option<&str> = None;
        if std::process::id() != 1 {
            return Err(("be process 1 of a new pid namespace", nix::errno::Errno::EPERM));
        }
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(|e| ("block SIGCHLD", e))?;
        let deaths = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|e| ("make a signalfd", e))?;

        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
            .map_err(|e| ("make mounts private", e))?;
        let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("proc"), "/proc", Some("proc"), plain | MsFlags::MS_NOEXEC, NONE)
            .map_err(|e| ("mount /proc", e))?;
        mount(Some("lab"), scratch, Some("tmpfs"), plain, Some("mode=1777"))
            .map_err(|e| ("mount the scratch directory", e))?;
        mount(Some("lab"), "/dev/shm", Some("tmpfs"), plain, Some("mode=1777"))
            .map_err(|e| ("mount /dev/shm", e))?;
        sethostname(name).map_err(|e| ("set the host name", e))?;
        Ok(Self { deaths })
    }

    fn serve(self) -> Act<()> {
        let stdin = std::io::stdin();
        let mut heard = Vec::new();
        answer("ready");
        loop {
            let mut fds = [
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.deaths.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut fds, PollTimeout::NONE).map_err(|e| ("poll", e))?;
            let readable = |fd: &PollFd<'_>| fd.revents().is_some_and(|bits| !bits.is_empty());
            let (words, deaths) = (readable(&fds[0]), readable(&fds[1]));
            if deaths {
                self.reap();
            }
            if words {
                let mut bytes = [0; 256];
                match read(&stdin, &mut bytes).map_err(|e| ("read standard input", e))? {
                    0 => return Ok(()),
                    n => heard.extend_from_slice(&bytes[..n]),
                }
                while let Some(end) = heard.iter().position(|&b| b == b'\n') {
                    let line: Vec<u8> = heard.drain(..=end).collect();
                    answer(&obey(String::from_utf8_lossy(&line).trim()));
                }
            }
        }
    }

    /// Bury every orphan that has died; one SIGCHLD may stand for many.
    fn reap(&self) {
        while let Ok(Some(_)) = self.deaths.read_signal() {}
        let everyone = Pid::from_raw(-1);
        while !matches!(
            waitpid(everyone, Some(WaitPidFlag::WNOHANG)),
            Err(_) | Ok(WaitStatus::StillAlive)
        ) {}
    }
}

/// `next-pid N` makes the next process of this host get pid N; `kill PID SIGNAL` sends a signal.
fn obey(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let done = match words.as_slice() {
        ["next-pid", pid] => next_pid(pid),
        ["kill", pid, signal] => send(pid, signal),
        _ => Err(format!("unknown request {line:?}")),
    };
    done.map_or_else(|why| format!("no: {why}"), |()| "ok".to_owned())
}

fn next_pid(pid: &str) -> std::result::Result<(), String> {
    let pid: i32 = pid.parse().map_err(|_| "not a pid".to_owned())?;
    // The kernel takes the namespace of the writer, so only a process in here can do this.
    std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).map_err(|e| e.to_string())
}

fn send(pid: &str, signal: &str) -> std::result::Result<(), String> {
    let pid: i32 = pid.parse().map_err(|_| "not a pid".to_owned())?;
    let signal: Signal = signal.parse().map_err(|_| "not a signal".to_owned())?;
    if pid <= 1 {
        return Err("will not signal process 1 or a group".to_owned());
    }
    kill(Pid::from_raw(pid), signal).map_err(|e| e.to_string())
}

fn answer(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // Nobody listening means the lab is gone; standard input says so next.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
