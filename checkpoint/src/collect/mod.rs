//! Reads everything about a held tree except the content of its pages.
//!
//! Three files share each noun: `image::state` says what the state is, the file here reads it from
//! the kernel, `restore::build` makes it again. Beside the nouns: `waits` tells how much of a
//! sleep was left, `asked` has the tasks ask what only they can, `pipes`, `ghosts`, `shared`, `locks`
//! and `terminal` read what is behind descriptors, `advised` the flags of mappings, and `contents` tells
//! which pages hold something.
//!
//! The order matters in three places. Registers, rseq and switch counts are read before anything
//! runs in a task; mappings before our scratch memory is among them; pending signals after the
//! timers, whose signals they may be.

mod advised;
mod asked;
mod carried;
mod contents;
mod creds;
mod described;
mod ended;
mod files;
mod ghosts;
mod groups;
mod inet;
mod interrupted;
mod ipc;
mod lags;
mod locks;
mod mm;
mod netlink;
mod options;
mod packet;
mod pipes;
pub(crate) mod queues;
mod raw;
mod seccomp;
mod segments;
pub(crate) mod settings;
mod shared;
mod signals;
pub(crate) mod sockets;
mod standing;
pub(crate) mod streams;
mod terminal;
mod threads;
mod timers;
mod tree;
mod waits;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use image::plan::{Plan, Refusal, SYSTEM_V_IPC};
use image::state::{Checkpoint, FdTableId};
use pages::{ByteCount, PageSet, SpaceId, TaskId};
use tracee::host::{Kcmp, same_object};
use tracee::proc::stat::Stat;
use tracee::{Held, HostPid};

pub(crate) use advised::Advised;
pub use contents::MemoryLook;
pub use interrupted::Waits;

pub use timers::Moment;
pub(crate) use timers::timer_clock;
pub(crate) use tree::comm;
pub use waits::Clockwork;

use crate::doomed::Ties;
use crate::error::CollectError;
use crate::fingerprints::Fingerprints;
use crate::survey::TcpPolicy;
use crate::survey::refusals::{Trouble, Whose};
use crate::survey::task::{self, Judge};
pub(crate) use carried::Carried;
use files::Files;
pub(crate) use ipc::IpcObjects;
pub(crate) use locks::Locks;
pub(crate) use segments::Segments;
pub(crate) use shared::data_pages as shared_data;
pub(crate) use streams::{Connections, Doors};

/// What the state of a held tree is, and where its pages are.
#[derive(Debug)]
pub struct Collected {
    /// Everything but the pages.
    pub checkpoint: Checkpoint,
    /// The pages, space by space: processes first, parents before children.
    pub spaces: Vec<SpacePages>,
    /// Of watched memory, what was written to since it was last told.
    pub(crate) written: HashMap<TaskId, PageSet>,
    /// What it parts with here.
    pub(crate) ties: Ties,
}

/// The pages of one space that must travel.
#[derive(Debug)]
pub struct SpacePages {
    /// Which space.
    pub space: SpaceId,
    /// Which pages; the others are as the destination's kernel makes them.
    pub pages: PageSet,
    /// Where to read them.
    pub source: PageSource,
}

/// Where the pages of a space are read.
#[derive(Debug)]
pub enum PageSource {
    /// [`tracee::Memory`] of this process.
    Process(HostPid),
    /// The same while the process runs: what it has given up meanwhile reads as zeros.
    Running(HostPid),
    /// The same of pages that stay shared copy on write.
    Common(HostPid),
    /// pread(2), by byte offset.
    Shared {
        /// The object, opened for reading.
        file: OwnedFd,
    },
    /// The same while it may be written to, where what was read is noted.
    Noted {
        /// The object, opened for reading.
        file: Arc<File>,
        /// Where.
        prints: Arc<Fingerprints>,
    },
}

/// What was allowed, and what was noted around the freeze.
#[derive(Clone, Copy, Debug)]
pub struct CollectOptions<'a> {
    /// What becomes of TCP connections.
    pub tcp: TcpPolicy,
    /// Most bytes of one deleted file.
    pub ghost_limit: ByteCount,
    /// Sampled immediately before the freeze.
    pub clockwork: &'a Clockwork,
    /// When the freeze was complete.
    pub frozen: Moment,
    /// What of its memory is asked.
    pub memory: MemoryLook,
    /// Files of memory that come along give their content as pages, where that pays.
    pub paged: bool,
}

/// What cannot be carried after all.
#[derive(Default)]
struct Refusals(Vec<Refusal>);

impl Refusals {
    fn add(&mut self, trouble: Trouble, object: impl Into<String>) {
        self.0.push(trouble.of(object));
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Reads the state of a tree that `plan` was made of. The tree is changed in nothing: it may be
/// resumed, whether this succeeds or not.
pub fn collect(
    held: &mut Held,
    plan: &Plan,
    options: &CollectOptions,
) -> Result<Collected, CollectError> {
    let mut refusals = Refusals::default();
    let family = Family::of(held)?;
    let members: Vec<HostPid> = family.members.iter().map(|member| member.number).collect();
    let mut files = Files::new(options, plan.shell_job, members.iter().copied());
    let judge = Judge::new(family.root);
    let mut checkpoint = Checkpoint {
        clocks: options.frozen.inside(family.root),
        tasks: Vec::new(),
        fd_tables: Vec::new(),
        files: Vec::new(),
        pipes: Vec::new(),
        ghosts: Vec::new(),
        shared: Vec::new(),
        semaphores: Vec::new(),
        queues: Vec::new(),
        locks: Vec::new(),
    };
    let (mut spaces, mut written) = (Vec::new(), HashMap::new());
    let mut tables: Vec<(HostPid, FdTableId)> = Vec::new();
    let mut ids: HashMap<HostPid, TaskId> = HashMap::new();
    for member in &family.members {
        let pid = member.pid;
        let Some(at) = member.at else {
            checkpoint.tasks.push(tree::zombie(member)?);
            continue;
        };
        let whose = Whose { pid, comm: tree::comm(pid)? };
        for trouble in judge.process(pid, &member.stat) {
            refusals.add(trouble, whose.process());
        }
        if let Some(parent) = family.parent(member) {
            for trouble in task::sharing(pid, parent) {
                refusals.add(trouble, whose.process());
            }
        }
        let table = match shared_table(pid, &tables)? {
            Some(table) => table,
            None => files.table(&whose, &mut refusals)?,
        };
        tables.push((pid, table));
        let rules = judge.rules;
        let process = tree::Living { member, whose: &whose, table, rules };
        let held = &mut held.processes()[at];
        if let Some((task, found)) = process.read(held, &mut files, &mut refusals, options)? {
            spaces.push(SpacePages {
                space: SpaceId::Process(task.id),
                pages: found.pages,
                source: PageSource::Process(pid),
            });
            written.insert(task.id, found.written);
            ids.insert(pid, task.id);
            checkpoint.tasks.push(task);
        }
    }
    let headless = family.members.iter().filter(|member| member.number != member.pid);
    let headless: Vec<TaskId> = headless.map(|member| tree::id(member.number)).collect();
    for (trouble, task) in ended::troubles(&checkpoint.tasks, &headless) {
        refusals.add(trouble, format!("process {}", task.0));
    }
    files.read_queues(&mut refusals)?;
    let segments = files.settle_segments(&mut refusals);
    let objects = ipc::read(
        &members,
        plan.needs.iter().any(|need| need == SYSTEM_V_IPC),
        &mut checkpoint,
        &mut refusals,
    )?;
    files.settle_terminals(family.members.iter().map(|member| &member.stat), &mut refusals);
    if !refusals.0.is_empty() {
        return Err(CollectError::Refused(refusals.0));
    }
    let mut found = files.finish();
    let connections = Connections::read(found.streams, &mut found.files)?;
    checkpoint.fd_tables = found.tables;
    checkpoint.files = found.files;
    checkpoint.pipes = found.pipes;
    checkpoint.ghosts = found.ghosts;
    checkpoint.shared = found.shared;
    checkpoint.locks = found.locks.state(|pid| ids.get(&pid).copied());
    spaces.extend(found.contents.into_iter().map(|(id, pages, file)| SpacePages {
        space: SpaceId::Shared(id),
        pages,
        source: PageSource::Shared { file },
    }));
    let ties = Ties {
        locks: found.locks,
        segments,
        objects,
        carried: found.carried,
        connections,
        ..Ties::default()
    };
    Ok(Collected { checkpoint, spaces, written, ties })
}

/// The table of a process that shares it with one already read (CLONE_FILES).
fn shared_table(
    pid: HostPid,
    tables: &[(HostPid, FdTableId)],
) -> Result<Option<FdTableId>, CollectError> {
    for (other, table) in tables {
        if same_object(pid, *other, Kcmp::Files)? {
            return Ok(Some(*table));
        }
    }
    Ok(None)
}

/// One process of the tree.
struct Member {
    /// Under which /proc shows it ([`tracee::HeldProcess::pid`]).
    pid: HostPid,
    number: HostPid,
    /// Its number.
    parent: Option<HostPid>,
    stat: Stat,
    /// Index among the held processes; `None` for a zombie.
    at: Option<usize>,
}

/// The tree by parents, which may have changed since the processes were found.
struct Family {
    /// Under which /proc shows it.
    root: HostPid,
    /// Parents before children.
    members: Vec<Member>,
}

impl Family {
    fn of(held: &mut Held) -> Result<Self, CollectError> {
        let living: Vec<_> =
            held.processes().iter().map(|process| (process.number, process.pid)).collect();
        let all = living.iter().enumerate().map(|(at, numbers)| (*numbers, Some(at)));
        let all = all.chain(held.zombies().iter().map(|pid| ((*pid, *pid), None)));
        let mut orphans: HashMap<HostPid, Vec<Member>> = HashMap::new();
        let mut members: Vec<Member> = Vec::new();
        let (first, root) =
            *living.first().ok_or(CollectError::Nonsense { what: "the tree", pid: HostPid(0) })?;
        for ((number, pid), at) in all {
            let stat = Stat::read(pid)?;
            let parent = HostPid(stat.ppid);
            if number == first {
                members.push(Member { pid, number, parent: None, stat, at });
            } else {
                let member = Member { pid, number, parent: Some(parent), stat, at };
                orphans.entry(parent).or_default().push(member);
            }
        }
        let mut next = 0;
        while let Some(member) = members.get(next) {
            let children = orphans.remove(&member.number);
            members.extend(children.into_iter().flatten());
            next += 1;
        }
        match orphans.into_values().flatten().next() {
            Some(lost) => Err(CollectError::Nonsense { what: "the parent", pid: lost.pid }),
            None => Ok(Self { root, members }),
        }
    }

    /// Under which number /proc shows the parent of a member.
    fn parent(&self, member: &Member) -> Option<HostPid> {
        let parent = member.parent?;
        self.members.iter().find(|other| other.number == parent).map(|other| other.pid)
    }
}

/// The eight bytes at `at`.
fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The low half of a word.
fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).expect("32 bits")
}

/// The four bytes at `at`.
fn int(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
