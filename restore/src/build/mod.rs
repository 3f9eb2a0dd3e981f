//! From an empty skeleton to a tree that is one instruction from running.
//!
//! One file per noun, each making what `image::state` says and `checkpoint::collect` reads.

mod aside;
pub(crate) mod channel;
mod creds;
mod events;
mod fanotify;
mod files;
mod fresh;
mod ghosts;
mod grow;
mod huge;
mod inotify;
mod ipc;
pub(crate) mod layout;
mod lazy;
mod locks;
mod memfds;
pub(crate) mod mm;
mod paged;
mod pipes;
pub(crate) mod process;
pub(crate) mod ptys;
mod ready;
mod seccomp;
mod settings;
pub(crate) mod signals;
mod sink;
pub(crate) mod sockets;
mod sysv;
mod table;
mod terminal;
mod threads;
mod timers;
pub(crate) mod tree;
mod trunk;
pub(crate) mod vdso;

use std::collections::HashMap;
use std::sync::Arc;

use image::state::{Checkpoint, Creds, FdTable, FdTableId, File, Living, Task};
use nix::libc;
use nix::unistd::Pid;
use pages::{PageCount, PageSet, SpaceId, TaskId};
use tracee::HostPid;
use tracee::proc::status::Status;

use crate::error::{BadCheckpoint, Error, Result};
use crate::skeleton::{BuildOptions, Skeleton, Tree};
use events::Clockwork;
use files::{Files, View};
use fresh::Fresh;
pub use grow::Grown;
pub(crate) use huge::huge_size_of;
use inotify::Watchers;
use ipc::IpcObjects;
use memfds::Memfds;
use process::{Batch, Process};
pub use ready::{Ready, Running};
pub use sink::Sink;
use sockets::Sockets;
use terminal::Terminal;
pub use trunk::Trunk;

/// A tree whose address spaces exist, and whose descriptors are in place: pages can arrive.
pub struct Built {
    tree: Tree,
    /// Living tasks in the checkpoint's order.
    order: Vec<u32>,
    spaces: HashMap<SpaceId, Space>,
    memfds: Memfds,
    clockwork: Clockwork,
    watchers: Watchers,
    sockets: Sockets,
    terminal: Option<Terminal>,
    objects: IpcObjects,
    options: BuildOptions,
}

/// Where the pages of one space go.
type Space = sink::Place;

impl Skeleton {
    /// Gives every process its address space and its descriptors.
    ///
    /// `from` is the checkpoint the skeleton was made from.
    pub fn build(self, from: &Checkpoint) -> Result<Built> {
        self.build_around(from, &HashMap::new(), Memfds::default())
    }

    /// The same where private anonymous memory is there already (`kept`, by task), and shared.
    fn build_around(
        self,
        from: &Checkpoint,
        kept: &HashMap<TaskId, PageSet>,
        early: Memfds,
    ) -> Result<Built> {
        let none = PageSet::new();
        let Self { mut tree, channel, hole, parked, ptys, options, .. } = self;
        let terminal = if options.shell_job { Terminal::of_qmig() } else { None };
        let order: Vec<u32> = from
            .tasks
            .iter()
            .filter(|task| task.living().is_some())
            .map(|task| task.id.0)
            .collect();
        let root = order.first().copied().unwrap_or_default();
        let hosts = tree.hosts();
        let maker = task(&mut tree, root)?;
        let view = View::of(maker, options.pidns);
        let mut files =
            Files::open_all(from, view, terminal, &hosts, &ptys, options.takeover, (early, maker))?;
        let objects = IpcObjects::make(from, task(&mut tree, root)?)?;
        let mut spaces = HashMap::new();
        for (living, id) in living(from) {
            let process = task(&mut tree, id.0)?;
            let whole = (&living.mm, &living.fs);
            let kept = kept.get(&id).unwrap_or(&none);
            mm::map(process, whole, kept, &mut files, &channel, (&hole, &parked))?;
            spaces.insert(SpaceId::Process(id), sink::Place::of_process(process.host, &living.mm));
        }
        let paged = from.ghosts.iter().filter_map(|ghost| ghost.paged);
        for id in from.shared.iter().map(|object| object.id).chain(paged) {
            spaces.insert(SpaceId::Shared(id), sink::Place::Shared);
        }
        files.close_extra();
        place_descriptors(&mut tree, from, &files, &channel)?;
        for (living, id) in living(from) {
            if living.threads.first().is_none_or(|leader| leader.id != id) {
                return Err(BadCheckpoint::NoLeader(id).into());
            }
            threads::make(task(&mut tree, id.0)?, &living.threads)?;
        }
        files.close_all();
        let (memfds, clockwork, watchers, sockets, terminal) = files.into_parts();
        Ok(Built {
            tree,
            order,
            spaces,
            memfds,
            clockwork,
            watchers,
            sockets,
            terminal,
            objects,
            options,
        })
    }
}

/// Fills every descriptor table once, through the first task that has it.
fn place_descriptors(
    tree: &mut Tree,
    from: &Checkpoint,
    files: &Files<'_>,
    channel: &channel::Channel,
) -> Result<()> {
    let tables: HashMap<FdTableId, &FdTable> =
        from.fd_tables.iter().map(|table| (table.id, table)).collect();
    let mut holders: Vec<(FdTableId, u32)> = Vec::new();
    for (living, id) in living(from) {
        if holders.iter().all(|(table, _)| *table != living.fds) {
            let table = tables.get(&living.fds).ok_or(BadCheckpoint::FdTable(living.fds))?;
            table::place(task(tree, id.0)?, table, files, channel)?;
            holders.push((living.fds, id.0));
        }
    }
    events::watch_all(&from.files, &tables, &holders, &mut tree.tasks)
}

fn living(from: &Checkpoint) -> impl Iterator<Item = (&Living, TaskId)> {
    from.tasks.iter().filter_map(|task: &Task| Some((task.living()?, task.id)))
}

fn task(tree: &mut Tree, id: u32) -> Result<&mut Process> {
    Ok(tree.tasks.get_mut(&id).ok_or(BadCheckpoint::NoLeader(TaskId(id)))?)
}

/// While this lives, the thread that builds may run on any CPU again.
#[must_use = "dropped, the thread is bound to its CPU again"]
pub struct Roaming {
    me: HostPid,
    bound: tracee::host::CpuSet,
}

impl Roaming {
    fn begin(tree: &Tree) -> Result<Self> {
        let me = HostPid(nix::unistd::gettid().as_raw());
        let bound = tracee::host::affinity(me)?;
        tracee::host::set_affinity(me, &tree.cpus)?;
        Ok(Self { me, bound })
    }
}

impl Drop for Roaming {
    fn drop(&mut self) {
        let _ = tracee::host::set_affinity(self.me, &self.bound);
    }
}

impl Built {
    /// Lets this thread, and those it starts, use every CPU while pages arrive. Nothing is injected
    /// meanwhile, which is what sharing one CPU with the tasks is for; but receiving and writing
    /// pages on one CPU would take turns.
    pub fn roam(&self) -> Result<Roaming> {
        Roaming::begin(&self.tree)
    }

    /// Prepares for pages of an empty address space, if `coming` are many.
    pub(crate) fn expect(
        &mut self,
        space: SpaceId,
        coming: PageCount,
        from: &Checkpoint,
    ) -> Result<()> {
        let SpaceId::Process(id) = space else { return Ok(()) };
        let found = living(from).find(|(_, living)| *living == id);
        let Some((living, _)) = found.filter(|_| coming >= fresh::WORTHWHILE) else {
            return Ok(());
        };
        // It only saves time: where it is not allowed, pages are written.
        let watched =
            Fresh::watch(task(&mut self.tree, id.0)?, &living.mm).unwrap_or_else(|error| {
                tracing::debug!(task = id.0, %error, "its memory is not filled by userfaultfd");
                None
            });
        if let Some(sink::Place::Process { fresh, .. }) = self.spaces.get_mut(&space) {
            *fresh = watched.map(Arc::new);
        }
        Ok(())
    }

    /// All pages that were expected have come.
    fn settle(&mut self) -> Result<()> {
        for place in self.spaces.values_mut() {
            if let sink::Place::Process { fresh, .. } = place
                && let Some(fresh) = fresh.take()
            {
                fresh.settle()?;
            }
        }
        Ok(())
    }

    /// Where to write the pages of `space`; for any thread.
    pub fn sink(&self, space: SpaceId) -> Result<Sink> {
        let place = self.spaces.get(&space).ok_or_else(|| unknown(space))?;
        place.open(space, &self.memfds)
    }

    /// Every space of the tree, in no order.
    pub fn spaces(&self) -> impl Iterator<Item = SpaceId> {
        self.spaces.keys().copied()
    }

    /// Gives every task all that is not memory, now that the memory is filled.
    ///
    /// `from` is the checkpoint it was built from. On error nothing of the tree is left.
    pub fn finish(mut self, from: &Checkpoint) -> Result<Ready> {
        self.settle()?;
        self.memfds.seal()?;
        self.memfds.paged.settle(from)?;
        self.memfds.segments.settle();
        let me = baseline()?;
        let mut regs = HashMap::new();
        let mut owed = Vec::new();
        for (living, id) in living(from) {
            let cpus = self.tree.cpus.clone();
            let process = task(&mut self.tree, id.0)?;
            finish(process, living, from, &me)?;
            locks::take(process, &from.locks, &mut owed)?;
            let adjust = living.oom_score_adj;
            if let Err(error) = write_oom(process.host, adjust) {
                tracing::warn!(task = id.0, adjust, %error, "oom_score_adj is not restored");
            }
            regs.insert(id.0, seal(process, living, &cpus)?);
        }
        self.clockwork.arm()?;
        self.watchers.begin()?;
        self.clockwork.close_all();
        self.memfds.close_all();
        for (living, id) in living(from) {
            let process = task(&mut self.tree, id.0)?;
            let all = regs.remove(&id.0).unwrap_or_default();
            for ((task, regs), thread) in process.threads.iter_mut().zip(&all).zip(&living.threads)
            {
                threads::load(task, regs, thread)?;
            }
        }
        self.start_init(from)?;
        if let Some(terminal) = &mut self.terminal {
            let hosts = &self.tree.tasks;
            terminal.take_over(|group| foreground(from, hosts, group))?;
        }
        let stopped = living(from).filter(|(living, _)| living.stopped_by.is_some());
        let stopped = stopped.map(|(_, id)| id.0).collect();
        let segments = std::mem::take(&mut self.memfds.segments);
        let Self { tree, order, sockets, terminal, objects, .. } = self;
        Ok(Ready { tree, order, stopped, sockets, terminal, segments, objects, owed })
    }

    /// The namespace's pid 1 begins to do what pid 1 must: reap, and end with the root.
    fn start_init(&mut self, from: &Checkpoint) -> Result<()> {
        let Some(init) = self.tree.init.as_mut().filter(|_| self.options.pidns) else {
            return Ok(());
        };
        let code = reaper::code(from.root().id.0);
        let at = init.put(&code)?;
        let state = init.room(8)?;
        init.call("let go of everything", libc::SYS_close_range, &[0, u64::from(u32::MAX), 0])?;
        // The batch has put the code there; nothing is put over it any more.
        let regs = tracee::Regs {
            rip: at,
            rbx: state,
            orig_rax: tracee::Regs::NO_CALL,
            ..init.threads[0].regs()?
        };
        init.threads[0].set_regs(&regs)?;
        init.threads[0].set_blocked(0)?;
        Ok(())
    }
}

mod reaper;

pub(crate) fn unknown(space: SpaceId) -> Error {
    match space {
        SpaceId::Process(task) => BadCheckpoint::NoLeader(task).into(),
        SpaceId::Shared(id) => BadCheckpoint::Shared(id).into(),
    }
}

/// Everything about one process that its memory must be there for.
fn finish(process: &mut Process, living: &Living, from: &Checkpoint, me: &Creds) -> Result<()> {
    mm::name(process, &living.mm)?;
    huge::protect(process, &living.mm)?;
    mm::guard(process, &living.mm)?;
    mm::lock(process, &living.mm)?;
    for (at, thread) in living.threads.iter().enumerate() {
        threads::dress(process, at, thread)?;
        settings::of_thread(process, at, &thread.settings)?;
    }
    ptys::choose_foreground(process, from)?;
    signals::drain(process)?;
    signals::set_actions(process, living)?;
    characterise(process, living)?;
    signals::queue(process, living)?;
    timers::arm(process, living)?;
    creds::limit(process.host, &living.rlimits)?;
    seccomp::install(process, living)?;
    for (at, thread) in living.threads.iter().enumerate() {
        creds::become_owner(process, at, me, &thread.creds)?;
        threads::dress_after(process, at, thread)?;
    }
    let mut batch = Batch::default();
    let dumpable = u64::from(living.mm.dumpable == 1);
    let set_dumpable = u64::from(libc::PR_SET_DUMPABLE.cast_unsigned());
    batch.must("say whether it dumps core", libc::SYS_prctl, &[set_dumpable, dumpable, 0, 0, 0]);
    process.run(0, batch)?;
    let owned: Vec<&File> = from.files.iter().filter(|file| table::is_owned(file)).collect();
    if !owned.is_empty() {
        let table = from.fd_tables.iter().find(|table| table.id == living.fds);
        table::own(process, table.ok_or(BadCheckpoint::FdTable(living.fds))?, &owned)?;
    }
    Ok(())
}

fn characterise(process: &mut Process, living: &Living) -> Result<()> {
    let mut batch = Batch::default();
    let personality = u64::from(living.personality);
    batch.must("set its personality", libc::SYS_personality, &[personality]);
    if living.child_subreaper {
        let option = u64::from(libc::PR_SET_CHILD_SUBREAPER.cast_unsigned());
        batch.must("make it a subreaper", libc::SYS_prctl, &[option, 1, 0, 0, 0]);
    }
    process.run(0, batch)?;
    settings::of_process(process, living)
}

fn write_oom(host: HostPid, adjust: i32) -> std::io::Result<()> {
    let path = format!("/proc/{host}/oom_score_adj");
    let now = std::fs::read_to_string(&path)?;
    if now.trim().parse() == Ok(adjust) {
        return Ok(());
    }
    std::fs::write(path, adjust.to_string())
}

/// Scheduling, waits, and the end of the scratch memory: after this the process makes no call for us.
fn seal(
    process: &mut Process,
    living: &Living,
    cpus: &tracee::host::CpuSet,
) -> Result<Vec<tracee::Regs>> {
    let mut regs = Vec::with_capacity(living.threads.len());
    for (at, thread) in living.threads.iter().enumerate() {
        regs.push(threads::ready_regs(process, at, thread)?);
    }
    if let Some(runner) = process.runner.take() {
        runner.remove(&mut process.threads[0], process.gate)?;
    }
    for (task, thread) in process.threads.iter().zip(&living.threads) {
        let sched = thread.sched;
        if tracee::host::sched(task.tid())? != (sched.policy, sched.priority, sched.nice) {
            tracee::host::set_sched(task.tid(), sched.policy, sched.priority, sched.nice)?;
        }
        tracee::host::set_affinity(task.tid(), &threads::cpus(thread, cpus))?;
    }
    Ok(regs)
}

/// Who every task is until its credentials are set: qmig itself.
fn baseline() -> Result<Creds> {
    let status = Status::read(HostPid(nix::unistd::gettid().as_raw()))?;
    Ok(Creds {
        uids: status.uids,
        gids: status.gids,
        groups: status.groups,
        cap_inheritable: status.cap_inheritable,
        cap_permitted: status.cap_permitted,
        cap_effective: status.cap_effective,
        cap_bounding: status.cap_bounding,
        cap_ambient: status.cap_ambient,
        securebits: 0,
        no_new_privs: status.no_new_privs,
    })
}

/// This host's number of the group that had the terminal.
fn foreground(from: &Checkpoint, hosts: &HashMap<u32, Process>, group: u32) -> Option<Pid> {
    if group == from.root().group.0 && from.root().session != from.root().id {
        return Some(nix::unistd::getpgrp());
    }
    hosts.get(&group).map(|process| Pid::from_raw(process.host.0))
}
