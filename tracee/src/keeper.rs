//! A tiny process that outlives qmig by as long as it takes to kill a tree whose pages are not all
//! there.
//!
//! The last close of a userfaultfd makes every missing page read as zeros ([`crate::uffd`]), and a
//! qmig that dies closes everything it has: the program would run on, with holes in its memory, and
//! nobody would know. So a second process holds every userfaultfd too, and a pidfd of each process.
//! When qmig's end of their socket closes without a word, it kills the tree, and lets go only when
//! no process has any of the address spaces any more; until then, whoever touches a missing page
//! sleeps.
//!
//! It is qmig's own program under another name, in a session of its own, deaf to every signal but
//! SIGKILL, with nothing open but the socket and what it was given to hold.
//!
//! One moment is not covered: the userfaultfd of a new child belongs to whoever reads the event of
//! its birth, alone, until it has been given to the keeper as well.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::proc::children;
use crate::proc::stat::Stat;
use crate::uffd::{Uffd, UffdEvent};
use crate::{Error, HostPid, Result, host, sys};

/// The name the keeper is started under.
const NAME: &str = "qmig-keeper";
/// An argument that no other program takes: should the executable not be one that calls
/// [`called_for`], it refuses rather than does who knows what.
const FLAG: &str = "--keep-what-is-missing";
/// How long the keeper may take to answer.
const PATIENCE: i64 = 20;
/// Descriptors in one message; the kernel allows 253 (SCM_MAX_FD, net/scm.h).
const MOST: usize = 200;

/// Words of one byte; HOLD and WATCH come with descriptors, and each but DONE is answered.
const HOLD: u8 = b'h';
const WATCH: u8 = b'w';
const DONE: u8 = b'd';
const YES: u8 = b'y';
const NO: u8 = b'n';

/// The keeper process, as qmig sees it.
///
/// **Dropping it without [`done`](Self::done) kills the tree it watches**, as the death of this
/// process does.
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
    process: Child,
}

impl Keeper {
    /// Starts one: this very executable again, whose `main` must ask [`called_for`] first.
    pub fn start() -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(NAME).arg(FLAG);
        Self::start_as(&mut command)
    }

    /// Starts one by another command, which must end in [`run`].
    pub fn start_as(command: &mut Command) -> Result<Self> {
        let failed = |errno: Errno| keeper("start", errno.into());
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(failed)?;
        let patience = TimeVal::seconds(PATIENCE);
        nix::sys::socket::setsockopt(&ours, sockopt::ReceiveTimeout, &patience).map_err(failed)?;
        let process = command
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| keeper("start", source))?;
        let keeper = Self { socket: ours, process };
        // The command has a copy of its end of the socket; without it, a keeper that fails is seen.
        command.stdin(Stdio::null());
        keeper.answered("start")?;
        Ok(keeper)
    }

    /// From now on it holds these userfaultfds, and knows these processes (by pidfd) as those to
    /// kill. Returns when it does.
    pub fn hold(&self, uffds: &[&Uffd], processes: &[BorrowedFd<'_>]) -> Result<()> {
        let uffds: Vec<_> = uffds.iter().map(|uffd| uffd.as_raw_fd()).collect();
        let processes: Vec<_> = processes.iter().map(AsRawFd::as_raw_fd).collect();
        for (word, all) in [(HOLD, uffds), (WATCH, processes)] {
            for fds in all.chunks(MOST) {
                let rights = [ControlMessage::ScmRights(fds)];
                let word = [io::IoSlice::new(std::slice::from_ref(&word))];
                let flags = MsgFlags::MSG_NOSIGNAL;
                sendmsg::<()>(self.socket.as_raw_fd(), &word, &rights, flags, None)
                    .map_err(|errno| keeper("give more to", errno.into()))?;
                self.answered("give more to")?;
            }
        }
        Ok(())
    }

    /// Its number, for those who look at processes.
    pub fn pid(&self) -> HostPid {
        HostPid(self.process.id().cast_signed())
    }

    /// Nothing is missing any more: it forgets all and ends.
    pub fn done(mut self) -> Result<()> {
        let word = [io::IoSlice::new(&[DONE])];
        sendmsg::<()>(self.socket.as_raw_fd(), &word, &[], MsgFlags::MSG_NOSIGNAL, None)
            .map_err(|errno| keeper("end", errno.into()))?;
        let status = self.process.wait().map_err(|source| keeper("end", source))?;
        match status.success() {
            true => Ok(()),
            false => Err(keeper("end", io::Error::other(status.to_string()))),
        }
    }

    fn answered(&self, act: &'static str) -> Result<()> {
        let failed = |kind: io::ErrorKind| Err(keeper(act, kind.into()));
        match sys::socket::receive(self.socket.as_fd()) {
            Ok((Some(YES), _)) => Ok(()),
            Ok((Some(_), _)) => failed(io::ErrorKind::QuotaExceeded),
            Ok((None, _)) => failed(io::ErrorKind::BrokenPipe),
            Err(errno) => Err(keeper(act, errno.into())),
        }
    }
}

impl Drop for Keeper {
    /// After [`Keeper::done`] there is nothing left to do; otherwise the socket closes now, and the
    /// keeper does what it is for. It is not waited for: it ends when the tree is dead.
    fn drop(&mut self) {
        let _ =
            nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

impl AsFd for Keeper {
    /// Readable once the keeper has died: then it is time to start another.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn keeper(act: &'static str, source: io::Error) -> Error {
    Error::Keeper { act, source }
}

/// True if this process was started to be the keeper: then `main` returns [`run`] and does nothing
/// else.
pub fn called_for() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

/// Is the keeper, from beginning to end.
pub fn run() -> ExitCode {
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Descriptor 0 is the socket.
fn keep() -> nix::Result<()> {
    sys::process::close_all_from(3);
    let os = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(os)?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(os)?;
    nix::unistd::dup2_stdin(&null)?;
    drop(null);
    // It is no group leader, so it can have a session of its own, which no terminal and no kill(2)
    // of qmig's group reaches.
    nix::unistd::setsid()?;
    for signal in Signal::iterator().filter(|it| !matches!(it, Signal::SIGKILL | Signal::SIGSTOP)) {
        sys::process::set_disposition(signal, SigHandler::SigIgn)?;
    }
    nix::unistd::chdir("/")?;
    nix::sys::prctl::set_name(c"qmig-keeper")?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;

    let say = |word: u8| {
        let word = [word];
        let word = [io::IoSlice::new(&word)];
        sendmsg::<()>(socket.as_raw_fd(), &word, &[], MsgFlags::MSG_NOSIGNAL, None).map(drop)
    };
    let (mut uffds, mut tree) = (Vec::new(), Tree::default());
    let mut heard = say(YES);
    // Whatever goes wrong between us is the end of qmig as far as the tree is concerned.
    while heard.is_ok() {
        let said = match sys::socket::receive(socket.as_fd()) {
            Ok((Some(HOLD), fds)) => {
                uffds.extend(fds.into_iter().map(Uffd::adopt));
                YES
            }
            Ok((Some(WATCH), fds)) => {
                fds.into_iter().for_each(|fd| tree.add(fd));
                YES
            }
            Ok((Some(DONE), _)) => return Ok(()),
            Err(Errno::EMFILE) => NO,
            Ok(_) | Err(_) => break,
        };
        heard = say(said);
    }
    tree.end(uffds);
    Ok(())
}

/// The processes to kill, by number; the pidfds say that the numbers are still theirs.
#[derive(Default)]
struct Tree {
    processes: BTreeMap<HostPid, OwnedFd>,
}

impl Tree {
    fn add(&mut self, process: OwnedFd) {
        if let Some(pid) = host::pid_of(process.as_fd()) {
            self.processes.insert(pid, process);
        }
    }

    /// Kills everybody; returns when nobody has any of the address spaces any more.
    fn end(&mut self, mut uffds: Vec<Uffd>) {
        let mut nap = Duration::from_micros(500);
        loop {
            self.stop_all();
            for process in self.processes.values() {
                let _ = sys::process::pidfd_send_signal(process.as_fd(), libc::SIGKILL);
            }
            uffds.retain(Uffd::is_alive);
            if uffds.is_empty() && self.processes.values().all(|process| ended(process.as_fd())) {
                return;
            }
            // A fork that waits for its event to be read cannot be killed before it is; and the
            // child's pages must not become zeros either.
            let mut events = Vec::new();
            for uffd in &uffds {
                let _ = uffd.read_events(&mut events);
            }
            uffds.extend(events.into_iter().filter_map(|event| match event {
                UffdEvent::Fork { child } => Some(child),
                _ => None,
            }));
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(50));
        }
    }

    /// Stops all of them and finds their children, until there are no new ones: killed at once, a
    /// parent would hand its children to somebody among whose they could not be told.
    fn stop_all(&mut self) {
        let mut fresh: Vec<HostPid> = self.processes.keys().copied().collect();
        while let Some(pid) = fresh.pop() {
            let Some(process) = self.processes.get(&pid) else { continue };
            if sys::process::pidfd_send_signal(process.as_fd(), libc::SIGSTOP).is_err() {
                continue;
            }
            let threads = children::threads(pid).unwrap_or_default();
            let born = threads.iter().filter_map(|tid| children::of_thread(pid, *tid).ok());
            for child in born.flatten().collect::<Vec<_>>() {
                // Opened first and looked at then: the number may be another's by now.
                let Ok(opened) = host::pidfd_open(child) else { continue };
                let ours = Stat::read(child).is_ok_and(|stat| HostPid(stat.ppid) == pid);
                if ours && !ended(opened.as_fd()) && !self.processes.contains_key(&child) {
                    self.processes.insert(child, opened);
                    fresh.push(child);
                }
            }
        }
    }
}

/// True once the process is dead.
fn ended(process: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut ended = [PollFd::new(process, PollFlags::POLLIN)];
    !matches!(poll(&mut ended, PollTimeout::ZERO), Ok(0))
}
