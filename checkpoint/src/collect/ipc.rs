//! Semaphores and message queues of System V: what a held tree has of them, and what is left when it is
//! dead.

use image::state::{Checkpoint, Message, MessageQueue, SemaphoreSet};
use nix::errno::Errno;
use tracee::HostPid;
use tracee::ipc::{self, Object};

use super::Refusals;
use crate::error::CollectError;
use crate::survey::ipc::{Found, What, lives, of_tree, undoes};
use crate::survey::refusals::Trouble;

/// Objects that are a tree's alone.
#[derive(Debug, Default)]
pub(crate) struct IpcObjects(Vec<Object>);

impl IpcObjects {
    /// Removes them once the tree is dead: nobody else would, and its next copy here wants the same
    /// numbers.
    pub(crate) fn remove(&self) {
        for object in &self.0 {
            match object.remove() {
                Ok(()) | Err(Errno::EINVAL | Errno::EIDRM) => {}
                Err(errno) => tracing::warn!(?object, %errno, "an object of System V is left"),
            }
        }
    }
}

/// Reads what is the tree's alone into `checkpoint`; tells what is not. `planned`: the destination knows
/// that there are some.
pub(super) fn read(
    members: &[HostPid],
    planned: bool,
    checkpoint: &mut Checkpoint,
    refusals: &mut Refusals,
) -> Result<IpcObjects, CollectError> {
    let member = |pid: i32| members.contains(&HostPid(pid));
    let (own, troubles) = of_tree(Found::all(members), member, lives, || undoes(members));
    for (trouble, user) in troubles {
        refusals.add(trouble, format!("process {user}"));
    }
    if let Some(new) = own.first().filter(|_| !planned) {
        let reason = "the tree has used it only since it was looked at";
        let user = new.user(member).unwrap_or_default();
        let trouble = Trouble::new(new.place(), reason).but("try again");
        refusals.add(trouble, format!("process {user}"));
    }
    if refusals.len() > 0 {
        return Ok(IpcObjects::default());
    }
    for found in &own {
        let read = match found.what {
            What::Semaphores { count } => semaphores(found, count)
                .map(|values| values.map(|values| checkpoint.semaphores.push(values))),
            What::Queue { .. } => {
                messages(found).map(|queue| queue.map(|queue| checkpoint.queues.push(queue)))
            }
        };
        let act = "read semaphores and message queues";
        let source = |errno: Errno| std::io::Error::from(errno);
        match read.map_err(|errno| CollectError::Host { act, source: source(errno) })? {
            Ok(()) => {}
            Err(trouble) => {
                let user = found.user(member).unwrap_or_default();
                refusals.add(trouble, format!("process {user}"));
            }
        }
    }
    Ok(IpcObjects(own.iter().map(Found::number).collect()))
}

type Read<T> = nix::Result<Result<T, Trouble>>;

fn semaphores(found: &Found, count: u32) -> Read<SemaphoreSet> {
    let id = found.object.id;
    let mut values = Vec::new();
    for number in 0..count {
        // Nobody of the tree does: who is stopped does not wait.
        if ipc::semaphore_is_awaited(id, number)? {
            let reason = "a process outside the tree waits for it";
            return Ok(Err(Trouble::new(found.place(), reason)));
        }
        values.push(ipc::semaphore_value(id, number)?);
    }
    Ok(Ok(SemaphoreSet { object: found.object, values }))
}

fn messages(found: &Found) -> Read<MessageQueue> {
    let id = found.object.id;
    let longest = std::fs::read_to_string("/proc/sys/kernel/msgmax").ok();
    let longest = longest.and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or(8192);
    let longest = longest.min(Message::LONGEST);
    let capacity = u32::try_from(ipc::queue_capacity(id)?).unwrap_or(u32::MAX);
    let mut messages = Vec::new();
    let (mut number, mut total) = (0, 0);
    loop {
        match ipc::peek_message(id, number, longest) {
            Ok(Some((kind, bytes))) => {
                total += bytes.len();
                messages.push(Message { kind, bytes });
            }
            Ok(None) => break,
            Err(Errno::EINVAL) => {
                let reason = format!("a message of more than {longest} bytes");
                return Ok(Err(Trouble::new(found.place(), reason)));
            }
            Err(errno) => return Err(errno),
        }
        if total > MessageQueue::MOST_BYTES || messages.len() > MessageQueue::MOST_MESSAGES {
            let reason = "somebody outside the tree fills it";
            return Ok(Err(Trouble::new(found.place(), reason)));
        }
        number += 1;
    }
    Ok(Ok(MessageQueue { object: found.object, capacity, messages }))
}
