//! The process tree with its pids, sessions and groups: stopped, empty, and gone on drop.
//!
//! ```text
//! Skeleton ── build ──▶ Built ── (pages arrive) ── finish ──▶ Ready ── run ──▶ Running
//!     every one of them but the last: dropped, and nothing is left behind
//! ```
//!
//! A tree belongs to the thread that made it, because ptrace(2) obeys only the tracing thread. That
//! thread must be one of its own for each restore: it is left with a time namespace for its future
//! children, and bound to one CPU as long as the tree is under construction.

mod kill;
mod zombies;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use image::state::{Checkpoint, Clocks, FdTableId};
use nix::libc;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pages::TaskId;
use tracee::host::set_rlimit;
use tracee::host::{CpuSet, SavedAffinity, pin_to_my_cpu, stay_on_this_cpu};
use tracee::net::HostAddress;
use tracee::{HostPid, NewTask, Runner, Seed, enter_time_namespace, fork_in};

use crate::build::channel::Channel;
use crate::build::layout::Hole;
use crate::build::process::{Batch, Process};
use crate::build::ptys::Ptys;
use crate::build::tree::{self, Step};
use crate::build::vdso::Parked;
use crate::build::{mm, signals};
use crate::error::{BadCheckpoint, During, Error, Result, ShapeError};

/// How a tree is to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// The tree stands on a terminal from outside: it gets qmig's own, its session and its group.
    pub shell_job: bool,
    /// The tree gets a PID namespace (and mounts with a /proc to match) of its own.
    pub pidns: bool,
    /// Addresses that come to this host with the tree, the moment it may run.
    pub takeover: &'static [HostAddress],
}

/// Descriptors that a tree that still runs may open until it stands still.
const SPARE_NUMBERS: u32 = 4096;

/// A tree of processes that has its numbers and nothing else.
pub struct Skeleton {
    pub(crate) tree: Tree,
    pub(crate) channel: Channel,
    pub(crate) hole: Hole,
    pub(crate) parked: Parked,
    pub(crate) ptys: Ptys,
    pub(crate) options: BuildOptions,
    /// When its clocks showed what they were to go on from, or a moment later.
    pub(crate) clocks_set: Instant,
}

impl Skeleton {
    /// Makes every process of `from`, helpers for dead leaders included and gone again, and every
    /// zombie. Nothing of the program is in them, and none has run.
    pub fn create(from: &Checkpoint, options: BuildOptions) -> Result<Self> {
        Self::create_for(from, options, false)
    }

    /// The same for a tree that still runs elsewhere, as it was a moment ago: there is room for what
    /// it may come to have until it stands still.
    pub fn create_growing(from: &Checkpoint, options: BuildOptions) -> Result<Self> {
        Self::create_for(from, options, true)
    }

    fn create_for(from: &Checkpoint, options: BuildOptions, growing: bool) -> Result<Self> {
        Ground::lay(from, options, growing)?.grow_up(from)
    }
}

/// The first process of a tree, alone.
pub(crate) struct Ground {
    tree: Tree,
    channel: Channel,
    hole: Hole,
    parked: Parked,
    ptys: Ptys,
    options: BuildOptions,
    clocks_set: Instant,
    steps: Vec<Step>,
}

impl Ground {
    /// Makes it. With `growing` for a tree that still runs elsewhere.
    pub(crate) fn lay(from: &Checkpoint, options: BuildOptions, growing: bool) -> Result<Self> {
        let shapes = tree::shapes(from, options.shell_job)?;
        let steps = tree::steps(&shapes)?;
        let hole = Hole::find(from, growing)?;
        let highest = channel_number(from)?;
        let limit = raise_descriptor_limit(highest)?;
        let spare = if growing { SPARE_NUMBERS } else { 0 };
        let most = u32::try_from(limit).unwrap_or(u32::MAX) - 1;
        let mut channel = Channel::new(highest.saturating_add(spare).min(most))?;
        let ptys = Ptys::make(from)?;
        let mut tree = Tree::new()?;

        if let Err(error) = continue_clocks(from.clocks) {
            tracing::warn!(%error, "the clocks of this host show through");
        }
        let clocks_set = Instant::now();
        let mut first = tree.plant(&hole, &channel, from.root().id, options.pidns)?;
        channel.handed_over();
        let parked = first.prepare(&hole, limit)?;
        if options.pidns {
            first.furnish_namespace()?;
            tree.init = Some(first.process);
        } else {
            tree.tasks.insert(from.root().id.0, first.process);
        }
        Ok(Self { tree, channel, hole, parked, ptys, options, clocks_set, steps })
    }

    /// The process: the root, or the init of its namespace.
    pub(crate) fn first(&mut self, root: TaskId) -> Result<&mut Process> {
        let Tree { init, tasks, .. } = &mut self.tree;
        let first = init.as_mut().or_else(|| tasks.get_mut(&root.0));
        Ok(first.ok_or(ShapeError::Parent { task: root.0, parent: root.0 })?)
    }

    /// Where it will be one of many.
    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Makes all the others, who have what it has.
    pub(crate) fn grow_up(self, from: &Checkpoint) -> Result<Skeleton> {
        let Self { mut tree, channel, hole, parked, ptys, options, clocks_set, steps } = self;
        let shared_tables = shared_tables(from)?;
        tree.root_under_init(from.root().id.0)?;
        for step in steps {
            tree.take(step, &shared_tables, &ptys)?;
        }
        tree.bury_zombies(from)?;
        Ok(Skeleton { tree, channel, hole, parked, ptys, options, clocks_set })
    }
}

/// Every task under construction; dropping it kills and reaps them all.
pub(crate) struct Tree {
    /// By the number the program knows. Helpers and zombies are among them for a while.
    pub(crate) tasks: HashMap<u32, Process>,
    /// pid 1 of the tree's own PID namespace.
    pub(crate) init: Option<Process>,
    /// Ended, and not reaped: for their parents to find.
    pub(crate) zombies: Vec<(TaskId, HostPid)>,
    /// The CPUs qmig may use, and so the tree.
    pub(crate) cpus: CpuSet,
    _here: SavedAffinity,
    _orphans: Subreaper,
}

/// The first process, whose children inherit what is done to it.
struct First {
    process: Process,
    found: Vec<tracee::SpecialMapping>,
    others: Vec<tracee::SpecialMapping>,
}

impl Tree {
    fn new() -> Result<Self> {
        let me = HostPid(nix::unistd::gettid().as_raw());
        let cpus = tracee::host::affinity(me)?;
        Ok(Self {
            tasks: HashMap::new(),
            init: None,
            zombies: Vec::new(),
            cpus,
            _here: stay_on_this_cpu()?,
            _orphans: Subreaper::begin()?,
        })
    }

    /// Spawns the first process: the root itself, or the init of its namespace.
    fn plant(&self, hole: &Hole, channel: &Channel, root: TaskId, pidns: bool) -> Result<First> {
        let seed = Seed::at(hole.seed)?;
        let namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        let (id, ids) = match pidns {
            true => {
                let namespaces = u64::from(namespaces.cast_unsigned());
                (TaskId(1), NewTask { pid: Some(1), namespaces })
            }
            false => (root, NewTask { pid: Some(root.0.cast_signed()), namespaces: 0 }),
        };
        let number = channel.number().cast_signed();
        let keep: Vec<_> = channel.theirs().into_iter().map(|fd| (fd, number)).collect();
        let made = seed.spawn(ids, &keep).map_err(|error| Error::making(error, id))?;
        if !pidns {
            hasten(made.task.tid());
        }
        Ok(First {
            process: Process {
                id,
                host: made.task.tid(),
                threads: vec![made.task],
                ids: vec![id],
                runner: None,
                gate: made.gate,
            },
            found: made.vdso,
            others: made.others,
        })
    }

    /// Every process by the number the program knows, zombies too.
    pub(crate) fn hosts(&self) -> HashMap<TaskId, HostPid> {
        let living = self.tasks.iter().map(|(id, process)| (TaskId(*id), process.host));
        living.chain(self.zombies.iter().copied()).collect()
    }

    fn root_under_init(&mut self, root: u32) -> Result<()> {
        let Some(init) = self.init.as_mut() else { return Ok(()) };
        let made = fork(init, root, 0)?;
        hasten(made.host);
        self.tasks.insert(root, made);
        Ok(())
    }

    fn task(&mut self, id: u32) -> Result<&mut Process> {
        Ok(self.tasks.get_mut(&id).ok_or(ShapeError::Parent { task: id, parent: id })?)
    }

    fn take(&mut self, step: Step, shared: &HashMap<u32, u32>, ptys: &Ptys) -> Result<()> {
        match step {
            Step::Fork { by, child, sibling } => {
                let mut flags = if sibling { libc::CLONE_PARENT } else { 0 };
                if shared.get(&child) == Some(&by) {
                    flags |= libc::CLONE_FILES;
                } else if shared.contains_key(&child) {
                    return Err(ShapeError::SharedTable { task: child }.into());
                }
                let made = fork(self.task(by)?, child, u64::from(flags.cast_unsigned()))?;
                self.tasks.insert(child, made);
            }
            Step::Setsid(id) => {
                let leader = self.task(id)?;
                leader.call("begin its session", libc::SYS_setsid, &[])?;
                ptys.control(leader)?;
            }
            Step::Join { task, group } => {
                let group =
                    group.unwrap_or_else(|| nix::unistd::getpgrp().as_raw().cast_unsigned());
                let args = [0, u64::from(group)];
                self.task(task)?.call("join its group", libc::SYS_setpgid, &args)?;
            }
            Step::Remove { helper, parent } => {
                if let Some(mut process) = self.tasks.remove(&helper) {
                    kill::end(&mut process);
                }
                let args = [u64::from(helper), 0, libc::__WALL.cast_unsigned().into(), 0];
                self.task(parent)?.call("reap a helper", libc::SYS_wait4, &args)?;
            }
        }
        Ok(())
    }
}

/// The root, and with it all that it forks, is to be built fast also on a busy host: each call that it
/// makes for us would wait for its turn otherwise, while nobody runs. What each shall be it becomes in
/// the end.
fn hasten(root: HostPid) {
    if let Err(error) = tracee::host::prefer(root) {
        tracing::debug!(%error, "it is built as others run");
    }
}

/// A child (or with CLONE_PARENT a sibling) of `parent`, with the same small address space.
fn fork(parent: &mut Process, child: u32, flags: u64) -> Result<Process> {
    let (gate, id) = (parent.gate, TaskId(child));
    let (leader, runner) = parent.leader_and_runner()?;
    let made = fork_in(leader, runner, child, flags);
    runner.reset();
    let made = made.map_err(|error| Error::making(error, id))?;
    Ok(Process {
        id,
        host: made.tid(),
        runner: Some(runner.of_fork(&made)),
        threads: vec![made],
        ids: vec![id],
        gate,
    })
}

impl First {
    /// Does what all tasks inherit: scratch memory, default signals, room for descriptors, the vdso
    /// out of the way, one CPU with its tracer.
    fn prepare(&mut self, hole: &Hole, limit: u64) -> Result<Parked> {
        let process = &mut self.process;
        let size = usize::try_from(hole.scratch.bytes().0).unwrap_or(usize::MAX);
        let at = Some(hole.scratch.start_addr());
        // Bound together they take turns on one CPU: ten times faster than waking each other across.
        std::mem::forget(pin_to_my_cpu(process.host)?);
        process.runner = Some(Runner::install(&mut process.threads[0], process.gate, at, size)?);
        set_rlimit(process.host, libc::RLIMIT_NOFILE, limit, limit)?;
        signals::defaults(process)?;
        let mut batch = Batch::default();
        for part in &self.others {
            let args = [part.range.start_addr().0, part.range.bytes().0];
            batch.must("take its first stack away", libc::SYS_munmap, &args);
        }
        process.run(0, batch)?;
        Parked::park(process, &self.found, hole)
    }

    /// Mounts of its own, with a /proc that shows the new PID namespace.
    fn furnish_namespace(&mut self) -> Result<()> {
        let process = &mut self.process;
        let root = process.put(b"/\0")?;
        let proc = process.put(b"/proc\0")?;
        let kind = process.put(b"proc\0")?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let quiet = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let name = process.put(b"qmig-init\0")?;
        let mut batch = Batch::default();
        batch.must("make its mounts private", libc::SYS_mount, &[0, root, 0, private, 0]);
        batch.must("mount its /proc", libc::SYS_mount, &[kind, proc, kind, quiet, 0]);
        let set_name = u64::from(libc::PR_SET_NAME.cast_unsigned());
        batch.must("set its name", libc::SYS_prctl, &[set_name, name, 0, 0, 0]);
        process.run(0, batch)?;
        Ok(())
    }
}

/// Whose descriptor table is whose parent's: child to parent.
fn shared_tables(from: &Checkpoint) -> Result<HashMap<u32, u32>> {
    let table_of: HashMap<TaskId, FdTableId> =
        from.tasks.iter().filter_map(|task| Some((task.id, task.living()?.fds))).collect();
    let mut seen: HashMap<FdTableId, TaskId> = HashMap::new();
    let mut shared = HashMap::new();
    for task in &from.tasks {
        let Some(table) = table_of.get(&task.id) else { continue };
        if seen.insert(*table, task.id).is_none() {
            continue;
        }
        match task.parent.filter(|parent| table_of.get(parent) == Some(table)) {
            Some(parent) => shared.insert(task.id.0, parent.0),
            None => return Err(ShapeError::SharedTable { task: task.id.0 }.into()),
        };
    }
    Ok(shared)
}

/// A descriptor number above all that any task needs at any moment.
pub(crate) fn channel_number(from: &Checkpoint) -> Result<u32> {
    let highest = from.fd_tables.iter().flat_map(|table| &table.fds).map(|fd| fd.number).max();
    let mapped = from.tasks.iter().filter_map(|task| task.living());
    let mapped = mapped.map(|living| mm::descriptors(&living.mm)).max().unwrap_or(0);
    let mapped = u32::try_from(mapped).unwrap_or(u32::MAX);
    let above = highest.unwrap_or(0).max(mapped).checked_add(1);
    above.filter(|number| i32::try_from(*number).is_ok()).ok_or_else(|| {
        let size = u64::from(highest.unwrap_or(0));
        BadCheckpoint::TooLarge { what: "a descriptor number", size }.into()
    })
}

/// qmig itself opens everything once, and its children start with its limit: as high as it goes.
fn raise_descriptor_limit(highest: u32) -> Result<u64> {
    let act = "raise the limit of open files";
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).during(act)?;
    if u64::from(highest) >= hard {
        return Err(Error::TooManyFds { number: highest.into(), limit: hard });
    }
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).during(act)?;
    }
    Ok(hard)
}

/// CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from where they were (time_namespaces(7)).
fn continue_clocks(clocks: Clocks) -> Result<()> {
    let ahead = |clock, then: std::time::Duration| -> Result<i128> {
        let now = tracee::host::sys_clock(clock)?;
        Ok(i128::try_from(then.as_nanos()).unwrap_or(0)
            - i128::try_from(now.as_nanos()).unwrap_or(0))
    };
    let monotonic = ahead(libc::CLOCK_MONOTONIC, clocks.monotonic)?;
    let boottime = ahead(libc::CLOCK_BOOTTIME, clocks.boottime)?;
    Ok(enter_time_namespace(monotonic, boottime)?)
}

/// Orphans of the tree come to qmig as long as this lives, so that all can be reaped
/// (prctl(2), PR_SET_CHILD_SUBREAPER: one attribute for the whole of qmig, hence the count).
struct Subreaper;

static SUBREAPERS: AtomicUsize = AtomicUsize::new(0);

impl Subreaper {
    fn begin() -> Result<Self> {
        SUBREAPERS.fetch_add(1, Ordering::SeqCst);
        set_child_subreaper(true).during("become the parent of orphans")?;
        Ok(Self)
    }
}

impl Drop for Subreaper {
    fn drop(&mut self) {
        if SUBREAPERS.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = set_child_subreaper(false);
        }
    }
}
