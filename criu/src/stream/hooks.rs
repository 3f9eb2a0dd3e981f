//! The program that CRIU runs before each of its steps (`--action-script`), and whom it asks.
//!
//! It is this program under another name. It says which step it is, waits for a byte, and ends well
//! if that is a yes. If we end without an answer, that is a no.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;

use super::Door;
use crate::rpc::Hook;

/// Its name in the directory.
const NAME: &str = "qmig-hook";
/// Where it asks, beside itself.
const SOCKET: &str = "qmig-hook.sock";
/// Longest question.
const LONGEST: u64 = 128;
/// A hook says its question at once.
const SOON: Duration = Duration::from_secs(10);
const YES: u8 = b'y';

/// True if this process was started by a CRIU, as its action script.
pub fn called_for() -> bool {
    me().is_some_and(|path| path.file_name().is_some_and(|name| name == NAME))
}

fn me() -> Option<PathBuf> {
    std::env::args_os().next().map(PathBuf::from)
}

/// Asks. Success means yes.
pub fn run() -> ExitCode {
    let ask = || -> io::Result<bool> {
        let folder = me().and_then(|me| me.parent().map(Path::to_owned)).unwrap_or_default();
        let var = |name| std::env::var(name).unwrap_or_default();
        let mut way = UnixStream::connect(folder.join(SOCKET))?;
        let (hook, root) = (var("CRTOOLS_SCRIPT_ACTION"), var("CRTOOLS_INIT_PID"));
        writeln!(way, "{hook} {root}")?;
        let mut answer = [0];
        way.read_exact(&mut answer)?;
        Ok(answer[0] == YES)
    };
    match ask() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// Whom hooks ask.
#[derive(Debug)]
pub(super) struct Hooks {
    door: Door,
    program: PathBuf,
}

/// A question. Dropped, it is answered with no.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) hook: Hook,
    /// The root of the tree, as this host knows it, if it is known.
    pub(super) root: Option<i32>,
    /// CRIU itself.
    pub(super) criu: Option<i32>,
    way: UnixStream,
}

impl Hooks {
    pub(super) fn listen(folder: &Path) -> io::Result<Self> {
        let door = Door::open(folder.join(SOCKET))?;
        let program = folder.join(NAME);
        let _ = std::fs::remove_file(&program);
        std::os::unix::fs::symlink(std::env::current_exe()?, &program)?;
        Ok(Self { door, program })
    }

    pub(super) fn program(&self) -> PathBuf {
        self.program.clone()
    }

    /// The next question.
    pub(super) fn next(&self) -> io::Result<Asked> {
        let (way, _) = self.door.listener.accept()?;
        way.set_read_timeout(Some(SOON))?;
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new((&way).take(LONGEST)), &mut line)?;
        let mut words = line.split_whitespace();
        let hook = Hook::named(words.next().unwrap_or_default());
        let root = words.next().and_then(|word| word.parse().ok()).filter(|pid| *pid > 0);
        let criu = parent(socket_peercred(&way)?.pid.as_raw_pid());
        tracing::debug!(%hook, "CRIU asks");
        Ok(Asked { hook, root, criu, way })
    }
}

/// Who has started a process: of a hook, CRIU.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split_whitespace().nth(1)?.parse().ok().filter(|pid| *pid > 0)
}

impl AsFd for Hooks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.door.listener.as_fd()
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.program);
    }
}

impl Asked {
    /// Yes or no. Whether it is heard is CRIU's affair: one that ended has decided already.
    pub(crate) fn answer(mut self, go_on: bool) {
        let _ = self.way.write_all(&[if go_on { YES } else { b'n' }]);
    }
}
