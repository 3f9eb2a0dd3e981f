//! What this host's kernel tells of System V's objects: sysvipc(7). All of it needs no task to be
//! stopped.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use crate::sys::ipc::{self, Ask};
use crate::{Error, HostPid, Result, sys};

/// Something of System V that has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A segment of shared memory.
    Segment(i32),
    /// A set of semaphores.
    Semaphores(i32),
    /// A message queue.
    Queue(i32),
}

impl Object {
    /// Removes it: a segment now or with its last mapping, everything else now.
    pub fn remove(self) -> nix::Result<()> {
        match self {
            Self::Segment(id) => ipc::remove_segment(id),
            Self::Semaphores(id) => ipc::remove_semaphores(id),
            Self::Queue(id) => ipc::remove_queue(id),
        }
    }
}

/// Who used a semaphore last, by the number of the process; `None` if nobody has yet, or it is gone.
pub fn semaphore_user(set: i32, number: u32) -> Option<i32> {
    ipc::semaphore(set, number, Ask::User).ok().filter(|pid| *pid != 0)
}

/// The value of a semaphore.
pub fn semaphore_value(set: i32, number: u32) -> nix::Result<u16> {
    let value = ipc::semaphore(set, number, Ask::Value)?;
    u16::try_from(value).map_err(|_| Errno::ERANGE)
}

/// Does any thread of this host sleep on the semaphore? Those that are stopped do not.
pub fn semaphore_is_awaited(set: i32, number: u32) -> nix::Result<bool> {
    let to_rise = ipc::semaphore(set, number, Ask::WaitingToRise)?;
    Ok(to_rise > 0 || ipc::semaphore(set, number, Ask::WaitingForZero)? > 0)
}

/// Might something be undone on semaphores when the thread ends (SEM_UNDO, semop(2))?
///
/// The kernel tells whether a thread has a list of what to undo, and not what is on it. A thread gets
/// one with its first SEM_UNDO; threads of one process share theirs, so that a process with threads
/// has one in any case.
pub fn may_undo(thread: HostPid) -> Result<bool> {
    const KCMP_SYSVSEM: i32 = 6;
    // One that surely has none to compare with: this thread, which does nothing on semaphores.
    let act = "part with what it would undo";
    unshare(CloneFlags::CLONE_SYSVSEM).map_err(|errno| Error::Own { act, errno })?;
    let own = nix::unistd::gettid().as_raw();
    let answer = sys::process::kcmp(own, thread.0, KCMP_SYSVSEM, 0, 0);
    Ok(answer.map_err(Error::os("compare", thread))? != 0)
}

/// How many bytes a message queue takes.
pub fn queue_capacity(queue: i32) -> nix::Result<u64> {
    ipc::queue_capacity(queue)
}

/// Message `number` of a queue, of at most `longest` bytes: its type, and its bytes; `None` if there are
/// not so many. The queue is left as it is.
pub fn peek_message(
    queue: i32,
    number: u32,
    longest: usize,
) -> nix::Result<Option<(i64, Vec<u8>)>> {
    let mut words = vec![0; 1 + longest.div_ceil(8)];
    match ipc::peek_message(queue, number, &mut words) {
        Ok(length) => {
            let (kind, bytes) = words.split_first().ok_or(Errno::EINVAL)?;
            let mut bytes: Vec<u8> = bytes.iter().flat_map(|word| word.to_ne_bytes()).collect();
            bytes.truncate(length);
            Ok(Some((kind.cast_signed(), bytes)))
        }
        Err(Errno::ENOMSG) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_may_have_something_to_undo() {
        std::thread::spawn(|| ()).join().expect("a thread");
        let own = HostPid(nix::unistd::gettid().as_raw());
        assert!(!may_undo(own).expect("kcmp"), "this thread has parted with it");
        let main = HostPid(std::process::id().cast_signed());
        assert!(may_undo(main).expect("kcmp"), "the thread that made the threads of the tests");
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("a child");
        let may = may_undo(HostPid(child.id().cast_signed()));
        child.kill().and_then(|()| child.wait()).expect("ended");
        assert!(!may.expect("kcmp"));
    }
}
