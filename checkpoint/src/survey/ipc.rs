//! Semaphores and message queues of System V: they belong to the host, and nothing but the number of
//! whoever used one last tells whose they are.

use std::fs;

use image::state::{IpcObject, SemaphoreSet};
use nix::libc;
use tracee::HostPid;
use tracee::ipc::Object;
use tracee::proc::children;
use tracee::proc::syscall::{self, Doing};

use super::refusals::Trouble;

/// A set of semaphores or a message queue, from its line under /proc/sysvipc (proc_sysvipc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) object: IpcObject,
    pub(crate) what: What,
    /// Who used it last, each process once; some may be gone.
    users: Vec<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// How many.
    Semaphores { count: u32 },
    /// How many messages wait, and their bytes.
    Queue { messages: u64, bytes: u64 },
}

impl Found {
    /// Everything of this IPC namespace; whoever of `pids` waits for something uses it.
    pub(crate) fn all(pids: &[HostPid]) -> Vec<Self> {
        let text = |file| fs::read_to_string(format!("/proc/sysvipc/{file}")).unwrap_or_default();
        let asked = |id, count| {
            (0..count).filter_map(move |at| tracee::ipc::semaphore_user(id, at)).collect()
        };
        let mut all = semaphores(&text("sem"), asked);
        all.extend(queues(&text("msg")));
        if all.is_empty() {
            return all;
        }
        for pid in pids {
            let threads = children::threads(*pid).unwrap_or_default();
            for waited in threads.into_iter().filter_map(|tid| waited_for(*pid, tid)) {
                let found = all.iter_mut().filter(|one| one.number() == waited);
                found.for_each(|one| one.users.push(pid.0));
            }
        }
        all
    }

    /// What it is called in messages.
    pub(crate) fn place(&self) -> String {
        let what = match self.what {
            What::Semaphores { .. } => "semaphores",
            What::Queue { .. } => "message queue",
        };
        format!("System V {what} {} (key {:#x})", self.object.id, self.object.key)
    }

    /// By its number.
    pub(crate) fn number(&self) -> Object {
        match self.what {
            What::Semaphores { .. } => Object::Semaphores(self.object.id),
            What::Queue { .. } => Object::Queue(self.object.id),
        }
    }

    /// A process of the tree that used it.
    pub(crate) fn user(&self, member: impl Fn(i32) -> bool) -> Option<i32> {
        self.users.iter().copied().find(|user| member(*user))
    }
}

/// Those of `all` that a tree uses, and why some cannot go along, each with a process of the tree that
/// it is about. `member` tells who belongs to the tree, `lives` which processes there are, `undoes` finds
/// one of the tree that may have something to undo on semaphores.
pub(crate) fn of_tree(
    all: Vec<Found>,
    member: impl Fn(i32) -> bool,
    lives: impl Fn(i32) -> bool,
    undoes: impl FnOnce() -> Option<i32>,
) -> (Vec<Found>, Vec<(Trouble, i32)>) {
    let own: Vec<Found> = all.into_iter().filter(|one| one.user(&member).is_some()).collect();
    let mut troubles = Vec::new();
    for one in &own {
        let Some(user) = one.user(&member) else { continue };
        if let Some(other) = one.users.iter().find(|user| !member(**user) && lives(**user)) {
            let reason = format!("the tree uses it, and so does process {other} outside of it");
            troubles.push((Trouble::new(one.place(), reason).but(INCLUDE), user));
        } else if let Some(reason) = too_large(one) {
            troubles.push((Trouble::new(one.place(), reason), user));
        }
    }
    let set = own.iter().find(|one| matches!(one.what, What::Semaphores { .. }));
    if let Some((set, task)) = set.and_then(|set| Some((set, undoes()?))) {
        let reason = "it has threads, or has used SEM_UNDO: what would be undone when it ends, no \
                      interface of the kernel tells";
        troubles.push((Trouble::new(set.place(), reason).but(REMOVE), task));
    }
    (own, troubles)
}

/// What a thread waits for, if that is a semaphore or a message.
fn waited_for(pid: HostPid, tid: HostPid) -> Option<Object> {
    let Ok(Doing::Call { nr, args, .. }) = syscall::read(pid, tid) else { return None };
    let id = i32::try_from(args[0]).ok()?;
    match nr {
        libc::SYS_semop | libc::SYS_semtimedop => Some(Object::Semaphores(id)),
        libc::SYS_msgrcv | libc::SYS_msgsnd => Some(Object::Queue(id)),
        _ => None,
    }
}

const INCLUDE: &str = "include that process, or end it first";
const REMOVE: &str = "remove it if nobody needs it any more (ipcrm -s)";

fn too_large(one: &Found) -> Option<String> {
    use image::state::MessageQueue;
    match one.what {
        What::Semaphores { count } if count as usize > SemaphoreSet::MOST => {
            Some(format!("{count} semaphores; at most {} go along", SemaphoreSet::MOST))
        }
        What::Queue { messages, .. } if messages > MessageQueue::MOST_MESSAGES as u64 => {
            Some(format!("{messages} messages; at most {} go along", MessageQueue::MOST_MESSAGES))
        }
        What::Queue { bytes, .. } if bytes > MessageQueue::MOST_BYTES as u64 => {
            Some(format!("{bytes} bytes; at most {} go along", MessageQueue::MOST_BYTES))
        }
        _ => None,
    }
}

/// A process of `pids` with a thread that may have something to undo.
pub(crate) fn undoes(pids: &[HostPid]) -> Option<i32> {
    let may = |tid: &HostPid| tracee::ipc::may_undo(*tid).unwrap_or(false);
    let found = pids.iter().find(|pid| {
        let threads = children::threads(**pid).unwrap_or_default();
        threads.iter().any(may)
    });
    found.map(|pid| pid.0)
}

/// True if there is such a process.
pub(crate) fn lives(pid: i32) -> bool {
    pid > 0 && fs::exists(format!("/proc/{pid}")).unwrap_or(true)
}

/// `key semid perms nsems uid gid cuid cgid …`; `users` asks who used each of a set.
fn semaphores(text: &str, users: impl Fn(i32, u32) -> Vec<i32>) -> Vec<Found> {
    let set = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let object = object(&words, 4)?;
        let count = words.get(3)?.parse().ok()?;
        let users = users(object.id, count);
        Some(Found { object, what: What::Semaphores { count }, users })
    };
    text.lines().skip(1).filter_map(set).collect()
}

/// `key msqid perms cbytes qnum lspid lrpid uid gid cuid cgid …`.
fn queues(text: &str) -> Vec<Found> {
    let queue = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| words.get(at)?.parse::<u64>().ok();
        let user = |at: usize| words.get(at)?.parse::<i32>().ok();
        Some(Found {
            object: object(&words, 7)?,
            what: What::Queue { bytes: number(3)?, messages: number(4)? },
            users: vec![user(5)?, user(6)?],
        })
    };
    text.lines().skip(1).filter_map(queue).collect()
}

/// `key id perms`, and from word `ids` on owner, group and those of the maker.
fn object(words: &[&str], ids: usize) -> Option<IpcObject> {
    let number = |at: usize| words.get(at)?.parse().ok();
    Some(IpcObject {
        key: words.first()?.parse::<i32>().ok()?.cast_unsigned(),
        id: words.get(1)?.parse().ok()?,
        mode: u32::from_str_radix(words.get(2)?, 8).ok()? & 0o777,
        uid: number(ids)?,
        gid: number(ids + 1)?,
        creator: (number(ids + 2)?, number(ids + 3)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_used_one_last_is_asked() {
        let set = semaphores("heads\n 4711 3 600 2 10 11 12 13 0 0\n", |id, count| {
            vec![id, 70, count.cast_signed()]
        })
        .remove(0);
        let object =
            IpcObject { key: 4711, id: 3, mode: 0o600, uid: 10, gid: 11, creator: (12, 13) };
        assert_eq!((set.object, &set.users[..]), (object, &[3, 70, 2][..]));
        let queue = queues("heads\n 5 1 600 9 1 70 80 10 11 12 13 0 0 0\n").remove(0);
        assert_eq!(queue.object, IpcObject { key: 5, id: 1, ..object });
        struct Case {
            what: &'static str,
            members: &'static [i32],
            gone: &'static [i32],
            undoes: Option<i32>,
            own: usize,
            troubles: &'static [(i32, &'static str)],
        }
        let both = || vec![set.clone(), queue.clone()];
        for Case { what, members, gone, undoes, own, troubles } in [
            Case {
                what: "nobody's",
                members: &[],
                gone: &[],
                undoes: Some(1),
                own: 0,
                troubles: &[],
            },
            Case {
                what: "somebody else's too",
                members: &[80],
                gone: &[],
                undoes: Some(80),
                own: 1,
                troubles: &[(80, "process 70 outside")],
            },
            Case {
                what: "the other is gone",
                members: &[80],
                gone: &[70],
                undoes: None,
                own: 1,
                troubles: &[],
            },
            Case {
                what: "all of them",
                members: &[2, 3, 70, 80],
                gone: &[],
                undoes: None,
                own: 2,
                troubles: &[],
            },
            Case {
                what: "something is undone",
                members: &[2, 3, 70, 80],
                gone: &[],
                undoes: Some(70),
                own: 2,
                troubles: &[(70, "SEM_UNDO")],
            },
        ] {
            let (found, told) = of_tree(
                both(),
                |pid| members.contains(&pid),
                |pid| !gone.contains(&pid),
                || undoes,
            );
            assert_eq!(found.len(), own, "{what}");
            assert_eq!(told.len(), troubles.len(), "{what}: {told:?}");
            for ((trouble, pid), (wanted, words)) in told.iter().zip(troubles) {
                assert!(pid == wanted && trouble.reason.contains(words), "{what}: {trouble:?}");
            }
        }
        let huge = queues("heads\n 5 1 600 17000000 1 70 80 10 11 12 13 0 0 0\n");
        let (_, told) = of_tree(huge, |pid| pid > 0, |_| true, || None);
        assert!(told[0].0.reason.contains("17000000 bytes"), "{told:?}");
    }
}
