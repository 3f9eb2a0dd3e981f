//! Looks at the processes of a tree one by one, and gathers what the plan says of them all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::PathBuf;

use image::plan::{Listener, PlannedTask, Refusal};
use tracee::HostPid;
use tracee::net::NetworkLock;
use tracee::proc::children::{self, shown_as};
use tracee::proc::maps::{self, Mapping};
use tracee::proc::stat::Stat;
use tracee::proc::status::Status;
use tracee::proc::timers;

use super::guards::Guards;
use super::host::vdso_hash;
use super::huge::HugePages;
use super::mapped::{MappedFiles, Shows, shows};
use super::named::{Named, named};
use super::needed::{Needed, Use};
use super::outside::Ends;
use super::refusals::{SHELL_JOB, TCP_CLOSE, Trouble, Whose};
use super::task::{self, Judge};
use super::{SurveyError, SurveyOptions, planned};
use super::{ipc, policies, sysv};
use crate::collect::sockets::SocketTables;

/// What has been seen of a tree so far.
pub(crate) struct Look<'o> {
    pub(crate) options: &'o SurveyOptions,
    judge: Judge,
    pub(crate) sockets: SocketTables,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) tasks: Vec<PlannedTask>,
    pub(crate) needed: Needed,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) unix_names: BTreeSet<Vec<u8>>,
    /// TCP connections that go along.
    pub(crate) connections: usize,
    pub(crate) hard_limits: [u64; 16],
    pub(crate) highest_fd: u32,
    /// Bytes.
    pub(crate) resident: u64,
    /// A terminal is open.
    pub(crate) terminal: bool,
    pub(crate) vdso: Vec<u8>,
    /// Pipes and unix sockets whose other ends must be in the tree.
    pub(crate) ends: Ends,
    /// Segments of System V shared memory, and how many mappings of the tree show each.
    attached: BTreeMap<i32, u64>,
    /// Semaphores and message queues of System V that go along.
    pub(crate) objects: usize,
    /// Interfaces that sockets name.
    pub(crate) interfaces: BTreeSet<String>,
    guards: Guards,
    pub(crate) huge: HugePages,
    /// Under which numbers /proc shows the processes.
    shown: HashMap<HostPid, HostPid>,
}

impl<'o> Look<'o> {
    /// Nothing seen yet.
    pub(crate) fn new(root: HostPid, options: &'o SurveyOptions) -> Result<Self, SurveyError> {
        crate::collect::settings::learn();
        let sockets = SocketTables::read();
        Ok(Self {
            options,
            judge: Judge::new(shown_as(root)),
            sockets: sockets
                .map_err(|source| SurveyError::Host { act: "ask for all sockets", source })?,
            refusals: Vec::new(),
            tasks: Vec::new(),
            needed: Needed::default(),
            listeners: Vec::new(),
            unix_names: BTreeSet::new(),
            connections: 0,
            hard_limits: [0; 16],
            highest_fd: 0,
            resident: 0,
            terminal: false,
            vdso: Vec::new(),
            ends: Ends::default(),
            attached: BTreeMap::new(),
            objects: 0,
            interfaces: BTreeSet::new(),
            guards: Guards::default(),
            huge: HugePages::default(),
            shown: HashMap::new(),
        })
    }

    pub(crate) fn refuse(&mut self, trouble: Trouble, object: impl Into<String>) {
        self.refusals.push(trouble.of(object));
    }

    /// A tree that qmig itself is part of would stop qmig.
    pub(crate) fn is_not_qmig(&mut self, root: HostPid, stat: &Stat) {
        let mut above = HostPid(std::process::id().cast_signed());
        while above.0 != 0 {
            if above == root {
                let whose = Whose { pid: root, comm: stat.comm.clone() };
                self.refuse(Trouble::new("", "qmig itself runs under it"), whose.process());
                return;
            }
            above = Stat::read(above).map_or(HostPid(0), |stat| HostPid(stat.ppid));
        }
    }

    /// A tree whose root does not lead its session stands on somebody else's terminal.
    pub(crate) fn session(&mut self, root: HostPid, stat: &Stat) {
        /// `PF_KTHREAD`, linux/sched.h: refused for what it is.
        const KERNEL_THREAD: u32 = 0x0020_0000;
        if root.0 == 1 {
            let whose = Whose { pid: root, comm: stat.comm.clone() };
            let why = "it is process 1 of its PID namespace, which ends with it";
            self.refuse(Trouble::new("", why), whose.process());
        }
        let of_kernel = stat.flags & KERNEL_THREAD != 0;
        if HostPid(stat.session) != root && !self.options.shell_job && !of_kernel {
            let whose = Whose { pid: root, comm: stat.comm.clone() };
            let place = format!("session {}", stat.session);
            let trouble = Trouble::new(place, "its session is led by a process outside the tree");
            self.refuse(trouble.but(SHELL_JOB), whose.process());
        }
    }

    /// Connections can go along only where their packets can be held back.
    pub(crate) fn connections_can_be_held(&mut self) {
        if self.connections == 0 {
            return;
        }
        if let Err(error) = NetworkLock::new() {
            let hint = error.hint();
            let refusal =
                Refusal::new("established TCP connections", "this host", error.to_string());
            self.refusals.push(refusal.hint(hint));
        }
        if self.connections > MOST_CONNECTIONS {
            let reason =
                format!("{} of them; at most {MOST_CONNECTIONS} go along", self.connections);
            let trouble = Trouble::new("", reason).but(TCP_CLOSE);
            self.refuse(trouble, "established TCP connections");
        }
    }

    /// Looks at every process.
    pub(crate) fn all(&mut self, pids: &[HostPid]) {
        for (at, pid) in pids.iter().enumerate() {
            if self.process(*pid, &pids[..at]).is_none() {
                // It has ended meanwhile, or it is about to.
                continue;
            }
        }
    }

    /// Looks at the segments of System V shared memory that the tree has or made, and at what else of
    /// System V it uses.
    pub(crate) fn segments(&mut self, pids: &[HostPid]) {
        let member = |pid: i32| pids.contains(&HostPid(pid));
        let mut troubles = sysv::troubles(&sysv::segments(), &self.attached, member);
        let undoes = || ipc::undoes(pids);
        let (own, others) = ipc::of_tree(ipc::Found::all(pids), member, ipc::lives, undoes);
        self.objects = own.len();
        troubles.extend(others);
        for (trouble, maker) in troubles {
            let whose = pids.iter().find(|pid| pid.0 == maker).or_else(|| pids.first());
            let comm = whose.and_then(|pid| crate::collect::comm(*pid).ok()).unwrap_or_default();
            let whose = Whose { pid: whose.copied().unwrap_or(HostPid(0)), comm };
            self.refuse(trouble, whose.process());
        }
    }

    /// Looks at one; `None` if it went away.
    fn process(&mut self, pid: HostPid, earlier: &[HostPid]) -> Option<()> {
        let shown = shown_as(pid);
        self.shown.insert(pid, shown);
        let stat = Stat::read(shown).ok()?;
        let whose = Whose { pid: shown, comm: crate::collect::comm(pid).ok()? };
        let parent = earlier.contains(&HostPid(stat.ppid)).then_some(HostPid(stat.ppid));
        for trouble in self.judge.process(shown, &stat) {
            self.refuse(trouble, whose.process());
        }
        let threads = children::threads(pid).ok()?;
        if stat.state == 'Z' || stat.state == 'X' {
            self.tasks.push(planned(pid, parent, whose.comm, &[pid]));
            return Some(());
        }
        if stat.flags & KERNEL != 0 {
            return Some(());
        }
        for other in earlier {
            let other = self.shown.get(other).copied().unwrap_or(*other);
            for trouble in task::sharing(shown, other) {
                self.refuse(trouble, whose.process());
            }
        }
        let living = threads.iter().filter(|tid| **tid != pid || shown == pid);
        living.for_each(|tid| self.thread(&whose, *tid));
        self.memory(&whose);
        self.places(&whose);
        self.descriptors(&whose);
        self.clocks(&whose);
        if let Ok(limits) = tracee::host::rlimits(shown) {
            for (highest, (_, hard)) in self.hard_limits.iter_mut().zip(limits) {
                *highest = (*highest).max(hard);
            }
        }
        let mut ordered = vec![pid];
        ordered.extend(threads.into_iter().filter(|tid| *tid != pid));
        self.tasks.push(planned(pid, parent, whose.comm, &ordered));
        Some(())
    }

    fn thread(&mut self, whose: &Whose, tid: HostPid) {
        let Ok(status) = Status::read(tid) else { return };
        let mut troubles = task::thread(&status, self.judge.rules);
        troubles.extend(task::traced(&status));
        if let Ok((policy, ..)) = tracee::host::sched(tid) {
            troubles.extend(task::scheduling(policy));
        }
        troubles.extend(task::special_scheduling(tid));
        if tid != whose.pid {
            troubles.extend(task::apart(whose.pid, tid));
            troubles.extend(self.judge.namespaces(tid));
        }
        for trouble in troubles {
            self.refuse(trouble, whose.thread(tid));
        }
        if tid == whose.pid {
            self.resident += (status.vm_rss + status.vm_swap) << 10;
        }
    }

    fn memory(&mut self, whose: &Whose) {
        let Ok(mappings) = maps::read_with_flags(whose.pid) else { return };
        let mut files = MappedFiles::default();
        for mapping in &mappings {
            if let Some(trouble) = self.mapping(whose, mapping, &mut files) {
                self.refuse(trouble, whose.mapping(mapping.start.0, mapping.end.0));
            }
        }
        if let Some(trouble) = policies::trouble(whose.pid) {
            self.refuse(trouble, whose.process());
        }
        if let Some(mapping) = self.guards.find(whose.pid, &mappings) {
            let trouble =
                Trouble::new(super::mapped::place(mapping), "guard pages in shared memory");
            self.refuse(trouble, whose.mapping(mapping.start.0, mapping.end.0));
        }
    }

    fn mapping(
        &mut self,
        whose: &Whose,
        mapping: &Mapping,
        files: &mut MappedFiles,
    ) -> Option<Trouble> {
        match shows(mapping) {
            Err(trouble) => return Some(trouble),
            Ok(Some(Shows::Vdso)) if self.vdso.is_empty() => {
                self.vdso = vdso_hash(whose.pid, mapping.start, mapping.end);
            }
            Ok(Some(Shows::Huge(size))) => self.huge.private(whose.pid, size, mapping),
            Ok(Some(_)) => {}
            Ok(None) => match files.behind(whose.pid, mapping, self.options.ghost_limit.0)? {
                Err(trouble) => return Some(trouble.clone()),
                Ok(file) => {
                    let how = if mapping.prot & EXECUTE != 0 { Use::Code } else { Use::Data };
                    let used_as = || format!("mapped by {} ({})", whose.pid, whose.comm);
                    match &file.shows {
                        Shows::File(named) => {
                            if let Named::Carried(path) = named {
                                let object = whose.mapping(mapping.start.0, mapping.end.0);
                                self.ends.memory(path, object);
                            }
                            self.huge.file(&file.way, &file.stat, named);
                            self.needed.add(named, &file.stat, how, used_as);
                        }
                        Shows::SysV(id) => {
                            self.huge.shared(&file.way, &file.stat);
                            *self.attached.entry(*id).or_default() += 1;
                        }
                        Shows::Memfd(_) => self.huge.shared(&file.way, &file.stat),
                        _ => {}
                    }
                }
            },
        }
        None
    }

    /// Program, working directory, root.
    fn places(&mut self, whose: &Whose) {
        let places = [
            ("exe", "program", Use::Code),
            ("cwd", "working directory", Use::Place),
            ("root", "root directory", Use::Place),
        ];
        for (file, name, how) in places {
            let way = PathBuf::from(format!("/proc/{}/{file}", whose.pid.0));
            let looked: io::Result<_> = fs::read_link(&way).and_then(|link| {
                let stat = fs::metadata(&way)?;
                Ok((link, stat))
            });
            let Ok((link, stat)) = looked else { continue };
            match named(&link, &stat, self.options.ghost_limit.0) {
                Ok(found) => {
                    self.needed
                        .add(&found, &stat, how, || format!("{name} of {}", whose.process()));
                }
                Err(trouble) => self.refuse(trouble, format!("{name} of {}", whose.process())),
            }
        }
    }

    fn clocks(&mut self, whose: &Whose) {
        for timer in timers::read(whose.pid).unwrap_or_default() {
            if let Err(trouble) = crate::collect::timer_clock(&timer) {
                self.refuse(trouble, whose.process());
            }
        }
    }
}

/// Each is an image of its own, and a migration has at most 4096 of these.
const MOST_CONNECTIONS: usize = 3500;
/// PF_KTHREAD, linux/sched.h.
const KERNEL: u32 = 0x0020_0000;
/// PROT_EXEC.
const EXECUTE: u32 = 4;
