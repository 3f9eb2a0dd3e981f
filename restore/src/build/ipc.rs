//! Semaphores and message queues of System V: made once under their ids, by a task of the tree, which
//! shows as who used them last.

use image::state::{Checkpoint, IpcObject, MessageQueue, SemaphoreSet};
use nix::errno::Errno;
use nix::libc;
use tracee::ipc::Object;

use super::process::{Batch, Process};
use crate::error::{Error, Result, errno_of};

/// Where the kernel is told which id comes next (CONFIG_CHECKPOINT_RESTORE, Linux 3.8).
const NEXT_SEMAPHORES: &str = "/proc/sys/kernel/sem_next_id";
const NEXT_QUEUE: &str = "/proc/sys/kernel/msg_next_id";
/// `struct semid64_ds` and `struct msqid64_ds` with their `struct ipc64_perm`, bytes, and where of that
/// IPC_SET reads owner, group, mode, and how much a queue takes (asm-generic/msgbuf.h).
const SEMID_DS: usize = 104;
const MSQID_DS: usize = 120;
const CAPACITY: usize = 48 + 5 * 8;

/// The objects made here. Dropped before the tree runs, they are removed again.
#[derive(Default)]
pub(crate) struct IpcObjects {
    made: Vec<Object>,
}

impl IpcObjects {
    /// Makes those of `from`, through `maker`.
    pub(crate) fn make(from: &Checkpoint, maker: &mut Process) -> Result<Self> {
        let mut all = Self::default();
        for set in &from.semaphores {
            all.semaphores(set, maker)?;
        }
        for queue in &from.queues {
            all.queue(queue, maker)?;
        }
        Ok(all)
    }

    fn semaphores(&mut self, set: &SemaphoreSet, maker: &mut Process) -> Result<()> {
        let object = &set.object;
        next_is(NEXT_SEMAPHORES, object)?;
        let args = [u64::from(object.key), set.values.len() as u64, how(object)];
        let got =
            made(maker.call("make semaphores", libc::SYS_semget, &args), "semaphores", object)?;
        self.made.push(Object::Semaphores(got));
        is_its_own(got, "semaphores", object)?;
        let id = id(object);
        let perm = maker.put(&owned(object, SEMID_DS))?;
        let values: Vec<u8> = set.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let values = maker.put(&values)?;
        let mut batch = Batch::default();
        let args = [id, 0, command(libc::SETALL), values];
        batch.must("set semaphores", libc::SYS_semctl, &args);
        let args = [id, 0, command(libc::IPC_SET), perm];
        batch.must("give semaphores their owner", libc::SYS_semctl, &args);
        maker.run(0, batch)?;
        Ok(())
    }

    fn queue(&mut self, queue: &MessageQueue, maker: &mut Process) -> Result<()> {
        let object = &queue.object;
        next_is(NEXT_QUEUE, object)?;
        let args = [u64::from(object.key), how(object)];
        let got = maker.call("make a message queue", libc::SYS_msgget, &args);
        let got = made(got, "a message queue", object)?;
        self.made.push(Object::Queue(got));
        is_its_own(got, "a message queue", object)?;
        let mut wanted = owned(object, MSQID_DS);
        let capacity = u64::from(queue.capacity).to_le_bytes();
        wanted[CAPACITY..CAPACITY + 8].copy_from_slice(&capacity);
        let wanted = maker.put(&wanted)?;
        let args = [id(object), command(libc::IPC_SET), wanted];
        maker.call("give a message queue its owner", libc::SYS_msgctl, &args)?;
        if queue.messages.is_empty() {
            return mark(object, maker);
        }
        for message in &queue.messages {
            let mut bytes = message.kind.to_le_bytes().to_vec();
            bytes.extend(&message.bytes);
            let at = maker.put(&bytes)?;
            let args = [id(object), at, message.bytes.len() as u64, no_wait()];
            maker.call("queue a message", libc::SYS_msgsnd, &args)?;
        }
        Ok(())
    }

    /// The tree runs: they are its own.
    pub(crate) fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for IpcObjects {
    fn drop(&mut self) {
        for object in &self.made {
            // It may be gone already, which is as good.
            let _ = object.remove();
        }
    }
}

/// A queue without messages is known to be the tree's by who sent one last: one comes and goes.
fn mark(object: &IpcObject, maker: &mut Process) -> Result<()> {
    let message = maker.put(&1_u64.to_le_bytes())?;
    let mut batch = Batch::default();
    let id = id(object);
    batch.may("send a message", libc::SYS_msgsnd, &[id, message, 0, no_wait()]);
    batch.may("take it away", libc::SYS_msgrcv, &[id, message, 0, 0, no_wait()]);
    maker.run(0, batch)?;
    Ok(())
}

fn next_is(file: &str, object: &IpcObject) -> Result<()> {
    std::fs::write(file, object.id.to_string()).map_err(|error| Error::Path {
        act: "write",
        path: file.into(),
        errno: errno_of(&error),
    })
}

fn how(object: &IpcObject) -> u64 {
    u64::from((libc::IPC_CREAT | libc::IPC_EXCL).cast_unsigned() | object.mode & 0o777)
}

fn no_wait() -> u64 {
    command(libc::IPC_NOWAIT)
}

fn command(number: i32) -> u64 {
    u64::from(number.cast_unsigned())
}

fn id(object: &IpcObject) -> u64 {
    u64::from(object.id.cast_unsigned())
}

fn occupied(what: &'static str, object: &IpcObject) -> Error {
    Error::Ipc { what, id: object.id, key: object.key, errno: Errno::EEXIST }
}

fn made(answer: Result<u64>, what: &'static str, object: &IpcObject) -> Result<i32> {
    match answer {
        Err(Error::Call { errno: Errno::EEXIST, .. }) => Err(occupied(what, object)),
        other => Ok(i32::try_from(other?).unwrap_or(-1)),
    }
}

/// The kernel gives another number if this one is taken.
fn is_its_own(got: i32, what: &'static str, object: &IpcObject) -> Result<()> {
    if got == object.id { Ok(()) } else { Err(occupied(what, object)) }
}

/// `struct ipc64_perm` at the head of what IPC_SET reads.
fn owned(object: &IpcObject, size: usize) -> Vec<u8> {
    let words = [object.key, object.uid, object.gid, 0, 0, object.mode & 0o777];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize(size, 0);
    bytes
}
