//! Locks on files: what fdinfo shows of them, and having a task take them or let them go.
//!
//! Three kinds. A lock of fcntl(2) F_SETLK belongs to a process and a file, and goes with the first
//! descriptor of that file which the process closes; a lock of flock(2) or F_OFD_SETLK belongs to an
//! open file description. Each can be taken and let go through a descriptor of a task that has it.

use pages::{PAGE_SIZE, VirtAddr};

use crate::remote::Answer;
use crate::{Borrowed, Call, Result, Runner, Stopped};

/// Whose a lock is, and which call makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// fcntl(2) F_SETLK: a process's.
    Posix,
    /// flock(2): an open file description's, and of the whole file.
    Flock,
    /// fcntl(2) F_OFD_SETLK (Linux 3.15): an open file description's.
    Ofd,
}

/// A lock held through a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lock {
    /// Whose it is.
    pub kind: LockKind,
    /// For writing; nobody else has a lock there.
    pub exclusive: bool,
    /// Through which descriptor.
    pub fd: u32,
    /// First byte.
    pub start: u64,
    /// How many bytes; zero: to the end of the file, wherever that will be.
    pub len: u64,
}

/// What a task is to do with its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Take them, without waiting for anybody.
    Take,
    /// Let them go.
    LetGo,
}

/// Locks changed in one trip: what a page of scratch memory has room for.
const AT_ONCE: usize = 12;
/// `struct flock` of x86-64.
const FLOCK_BYTES: usize = 32;

impl Lock {
    /// Reads a `lock:` line of the fdinfo of `fd` (proc_pid_fdinfo(5), Linux 4.1), such as
    /// `1: POSIX  ADVISORY  WRITE 77 00:2d:5 0 EOF`. `None` if it is anything else: a lease, a
    /// delegation, a mandatory lock.
    pub fn parse(line: &str, fd: u32) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let kind = match words.next()? {
            "POSIX" => LockKind::Posix,
            "FLOCK" => LockKind::Flock,
            "OFDLCK" => LockKind::Ofd,
            _ => return None,
        };
        if words.next()? != "ADVISORY" {
            return None;
        }
        let exclusive = match words.next()? {
            "WRITE" => true,
            "READ" => false,
            _ => return None,
        };
        let mut words = words.skip(2);
        let start: u64 = words.next()?.parse().ok()?;
        let len = match words.next()? {
            "EOF" => 0,
            last => last.parse::<u64>().ok()?.checked_sub(start)?.checked_add(1)?,
        };
        Some(Self { kind, exclusive, fd, start, len })
    }

    /// The call that changes it; `at` is where its `struct flock` will be.
    fn call(&self, change: Change, at: VirtAddr) -> Call {
        let fd = u64::from(self.fd);
        let command = |command: i32| u64::from(command.unsigned_abs());
        match self.kind {
            LockKind::Posix => Call::new(libc::SYS_fcntl, &[fd, command(libc::F_SETLK), at.0]),
            LockKind::Ofd => Call::new(libc::SYS_fcntl, &[fd, command(libc::F_OFD_SETLK), at.0]),
            LockKind::Flock => {
                let operation = match (change, self.exclusive) {
                    (Change::LetGo, _) => libc::LOCK_UN,
                    (Change::Take, true) => libc::LOCK_EX | libc::LOCK_NB,
                    (Change::Take, false) => libc::LOCK_SH | libc::LOCK_NB,
                };
                Call::new(libc::SYS_flock, &[fd, command(operation)])
            }
        }
    }

    /// `struct flock { short type, whence; off_t start, len; pid_t pid; }`, whence SEEK_SET.
    fn bytes(&self, change: Change) -> [u8; FLOCK_BYTES] {
        let which = match (change, self.exclusive) {
            (Change::LetGo, _) => libc::F_UNLCK,
            (Change::Take, true) => libc::F_WRLCK,
            (Change::Take, false) => libc::F_RDLCK,
        };
        let mut bytes = [0; FLOCK_BYTES];
        bytes[0..4].copy_from_slice(&which.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.start.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }
}

/// Has `task` change `locks`; answers what the kernel said to each (EAGAIN or EACCES: somebody else
/// has it). Forgets what was put into the runner's memory before.
pub fn change_by(
    task: &mut Stopped,
    runner: &mut Runner,
    locks: &[Lock],
    change: Change,
) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(locks.len());
    for some in locks.chunks(AT_ONCE) {
        runner.reset();
        let mut calls = Vec::with_capacity(some.len());
        for lock in some {
            calls.push(lock.call(change, runner.put(&lock.bytes(change))?));
        }
        let done = runner.batch(task, &mut calls);
        runner.reset();
        done?;
        answers.extend(calls.iter().map(Call::value));
    }
    Ok(answers)
}

/// The same in a task that has no runner: everything else of it is afterwards as it was.
pub fn change_in(
    task: &mut Stopped,
    gate: VirtAddr,
    locks: &[Lock],
    change: Change,
) -> Result<Vec<Answer>> {
    let mut borrowed = Borrowed::enter(task)?;
    let mut runner = Runner::install(borrowed.task(), gate, None, PAGE_SIZE)?;
    let answers = change_by(borrowed.task(), &mut runner, locks, change);
    let removed = runner.remove(borrowed.task(), gate);
    let left = borrowed.leave();
    let answers = answers?;
    removed.and(left)?;
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_fdinfo_are_locks() {
        let lock = |kind, exclusive, start, len| Lock { kind, exclusive, fd: 3, start, len };
        let cases = [
            (
                "1: POSIX  ADVISORY  WRITE 77 00:2d:5 100 149",
                Some(lock(LockKind::Posix, true, 100, 50)),
            ),
            ("2: POSIX  ADVISORY  READ 0 00:2d:5 7 EOF", Some(lock(LockKind::Posix, false, 7, 0))),
            ("1: FLOCK  ADVISORY  READ 77 00:2d:5 0 EOF", Some(lock(LockKind::Flock, false, 0, 0))),
            ("1: OFDLCK ADVISORY  WRITE -1 00:2d:5 3 3", Some(lock(LockKind::Ofd, true, 3, 1))),
            ("1: LEASE  ACTIVE    WRITE 77 00:2d:5 0 EOF", None),
            ("1: DELEG  ACTIVE    READ 77 00:2d:5 0 EOF", None),
            ("1: POSIX  MANDATORY WRITE 77 00:2d:5 0 EOF", None),
            ("1: FLOCK  MSNFS     READ 77 00:2d:5 0 EOF", None),
            ("1: ACCESS ADVISORY  READ 77 00:2d:5 0 EOF", None),
            ("1: POSIX  ADVISORY  WRITE 77 00:2d:5 9 7", None),
            ("1: POSIX  ADVISORY", None),
        ];
        for (line, expected) in cases {
            assert_eq!(Lock::parse(line, 3), expected, "{line}");
        }
    }
}
