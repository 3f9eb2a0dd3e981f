//! Synthetic checkpoints around a small program that judges itself, and what tests ask of them.
#![allow(dead_code)] // every test file uses its own part

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use image::state::*;
use nix::libc;
use pages::{PageCount, PageIndex, PageRange, SpaceId, TaskId, VirtAddr};
use restore::{BuildOptions, Running, Skeleton};
use tracee::HostPid;
use tracee::proc::status::Status;

/// Where the subject is linked to.
pub(crate) const CODE: u64 = 0x40_0000;
/// A call to be made again, in the subject.
pub(crate) const AGAIN: u64 = CODE + 0x20;
/// Anonymous memory.
pub(crate) const DATA: u64 = 0x60_0000;
/// Where a subject's argument table is.
pub(crate) const TABLE: u64 = 0x61_0000;
pub(crate) const HEAP: u64 = 0x8f_0000;
const STACK: u64 = 0x7ffd_0000_0000;
const VDSO: u64 = 0x7ffd_1000_0000;

/// Trees are made one at a time: what is counted is counted for the whole process.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says why a test cannot run here, or fails where it must.
pub(crate) fn can_run() -> bool {
    let why = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if subject().is_none() {
        "no gcc to build the subject"
    } else {
        return true;
    };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot run: {why}");
    eprintln!("SKIPPED: {why}");
    false
}

/// The subject's code.
pub(crate) fn subject() -> Option<&'static [u8]> {
    static CODE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    CODE.get_or_init(|| {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/subject");
        let out = std::env::temp_dir().join(format!("qmig-subject-{}", std::process::id()));
        let flags = "-O1 -ffreestanding -nostdlib -static -fno-stack-protector -fno-pic -fno-pie -no-pie \
                     -mno-red-zone -mgeneral-regs-only -fcf-protection=none -Wl,--oformat=binary \
                     -Wl,--build-id=none";
        let built = Command::new("gcc")
            .args(flags.split_whitespace())
            .arg(format!("-Wl,-T,{here}/subject.ld"))
            .arg(format!("{here}/subject.c"))
            .arg("-o")
            .arg(&out)
            .status();
        assert!(built.ok()?.success(), "the subject must compile");
        let code = std::fs::read(&out).expect("built");
        std::fs::remove_file(out).expect("removed");
        Some(code)
    })
    .as_deref()
}

/// `count` numbers in a row that no task, group or session uses, far from those given out next.
pub(crate) fn free_ids(count: u32) -> u32 {
    let used: BTreeSet<u32> = std::fs::read_dir("/proc")
        .expect("proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .flat_map(|pid: i32| {
            let threads = tracee::proc::children::threads(HostPid(pid)).unwrap_or_default();
            let stat = tracee::proc::stat::Stat::read(HostPid(pid)).unwrap_or_default();
            let tids = threads.into_iter().map(|tid| tid.0);
            tids.chain([stat.pgrp, stat.session]).map(i32::cast_unsigned).collect::<Vec<_>>()
        })
        .collect();
    let load = std::fs::read_to_string("/proc/loadavg").expect("loadavg");
    let last: u32 = load.split_whitespace().last().and_then(|pid| pid.parse().ok()).expect("a pid");
    let mut start = if last < 14_000 { 24_000 } else { 4_000 };
    while let Some(taken) = used.range(start..start + count).next_back() {
        start = taken + 1;
    }
    start
}

/// A checkpoint under construction.
pub(crate) struct World {
    pub(crate) checkpoint: Checkpoint,
    /// (space, page, bytes).
    pub(crate) pages: Vec<(SpaceId, u64, Vec<u8>)>,
}

fn range(start: u64, end: u64) -> PageRange {
    PageRange::from_addrs(VirtAddr(start), VirtAddr(end)).expect("a range")
}

pub(crate) fn vma(start: u64, end: u64, prot: u32, kind: VmaKind) -> Vma {
    let (flags, advice) = (VmaFlags::empty(), Advice::empty());
    Vma { range: range(start, end), prot, kind, flags, advice, name: None }
}

pub(crate) fn regular(id: u32, path: &str, flags: i32) -> File {
    File {
        id: FileId(id),
        flags: flags.cast_unsigned(),
        owner: Owner::default(),
        kind: FileKind::Regular(Regular {
            path: path.into(),
            position: None,
            size: None,
            mode: None,
            rdev: None,
            ghost: None,
        }),
    }
}

const EXE: FileId = FileId(1);
const TMP: FileId = FileId(2);
const ROOT: FileId = FileId(3);

impl World {
    /// An empty world with the files every process needs.
    pub(crate) fn new() -> Self {
        let clock = |id| tracee::host::sys_clock(id).expect("a clock");
        Self {
            checkpoint: Checkpoint {
                clocks: Clocks {
                    monotonic: clock(libc::CLOCK_MONOTONIC),
                    boottime: clock(libc::CLOCK_BOOTTIME),
                },
                tasks: Vec::new(),
                fd_tables: Vec::new(),
                files: vec![
                    regular(EXE.0, "/bin/sh", libc::O_RDONLY),
                    regular(TMP.0, "/tmp", libc::O_RDONLY | libc::O_DIRECTORY),
                    regular(ROOT.0, "/", libc::O_RDONLY | libc::O_DIRECTORY),
                ],
                pipes: Vec::new(),
                ghosts: Vec::new(),
                shared: Vec::new(),
                semaphores: Vec::new(),
                queues: Vec::new(),
                locks: Vec::new(),
            },
            pages: Vec::new(),
        }
    }

    /// Adds a process that looks at `what` with `argument`.
    pub(crate) fn process(
        &mut self,
        id: u32,
        parent: Option<u32>,
        what: u64,
        argument: u64,
    ) -> &mut Living {
        let table = FdTableId(id);
        self.checkpoint.fd_tables.push(FdTable { id: table, fds: Vec::new() });
        let group = TaskId(parent.unwrap_or(id));
        self.checkpoint.tasks.push(Task {
            id: TaskId(id),
            parent: parent.map(TaskId),
            group,
            session: group,
            body: Body::Living(Box::new(living(id, table, what, argument))),
        });
        let code = subject().expect("checked").to_vec();
        let whole = code.len().next_multiple_of(4096);
        let mut padded = code;
        padded.resize(whole, 0);
        self.pages.push((SpaceId::Process(TaskId(id)), CODE / 4096, padded));
        self.living(id)
    }

    pub(crate) fn zombie(&mut self, id: u32, parent: u32, status: i32) {
        let session = TaskId(parent);
        self.checkpoint.tasks.push(Task {
            id: TaskId(id),
            parent: Some(TaskId(parent)),
            group: session,
            session,
            body: Body::Zombie { comm: format!("z{id}"), status },
        });
    }

    pub(crate) fn task(&mut self, id: u32) -> &mut Task {
        self.checkpoint.tasks.iter_mut().find(|task| task.id.0 == id).expect("added")
    }

    pub(crate) fn living(&mut self, id: u32) -> &mut Living {
        match &mut self.task(id).body {
            Body::Living(living) => living,
            Body::Zombie { .. } => panic!("{id} is a zombie"),
        }
    }

    /// Puts 32-bit words where the subject finds its table.
    pub(crate) fn table(&mut self, id: u32, words: &[i32]) {
        let mut page: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        page.resize(page.len().next_multiple_of(4096), 0);
        self.pages.push((SpaceId::Process(TaskId(id)), TABLE / 4096, page));
    }

    /// Adds a file and a descriptor of `task` on it.
    pub(crate) fn fd(&mut self, task: u32, number: u32, file: File) {
        let id = file.id;
        if self.checkpoint.file(id).is_none() {
            self.checkpoint.files.push(file);
        }
        let table = self.living(task).fds;
        let table = self.checkpoint.fd_tables.iter_mut().find(|have| have.id == table);
        table.expect("added").fds.push(Fd { number, file: id, close_on_exec: number == 500 });
    }

    /// Builds, fills and finishes it.
    pub(crate) fn ready(
        &mut self,
        options: BuildOptions,
    ) -> restore::Result<restore::build::Ready> {
        for table in &mut self.checkpoint.fd_tables {
            table.fds.sort_by_key(|fd| fd.number);
        }
        let built = Skeleton::create(&self.checkpoint, options)?.build(&self.checkpoint)?;
        for (space, page, bytes) in &self.pages {
            let count = PageCount((bytes.len() / 4096) as u64);
            let run = PageRange::new(PageIndex(*page), count).expect("pages");
            built.sink(*space)?.write(run, bytes)?;
        }
        built.finish(&self.checkpoint)
    }

    pub(crate) fn run(&mut self, options: BuildOptions) -> restore::Result<Running> {
        self.ready(options)?.run()
    }

    /// Runs it and tells how it ended.
    pub(crate) fn verdict(&mut self) -> i32 {
        let running = self.run(BuildOptions::default()).expect("runs");
        verdict(running)
    }
}

pub(crate) fn verdict(running: Running) -> i32 {
    let patience = Duration::from_secs(60);
    tracee::wait_reap(running.child, patience).expect("our child").expect("ends in time")
}

/// Mappings and position of this host's vdso, moved to where the test wants it.
fn vdso() -> Vec<Vma> {
    let maps = tracee::proc::maps::read(HostPid(std::process::id().cast_signed())).expect("maps");
    let special = |name: &str| {
        let found = maps.iter().find(|mapping| mapping.special() == Some(name))?;
        found.range()
    };
    let code = special("[vdso]").expect("a vdso");
    let moved = |part: PageRange, kind| {
        let start = VDSO + part.start_addr().0 - code.start_addr().0;
        vma(start, start + part.bytes().0, 5, kind)
    };
    let data = ["[vvar]", "[vvar_vclock]"].into_iter().filter_map(special);
    let mut all: Vec<Vma> = data.map(|part| moved(part, VmaKind::Vvar)).collect();
    all.push(moved(code, VmaKind::Vdso));
    all.sort_by_key(|vma| vma.range.start());
    all
}

pub(crate) fn thread(id: u32, what: u64, argument: u64, stack_top: u64) -> Thread {
    let mut legacy = Box::new([0; 512]);
    legacy[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
    legacy[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    Thread {
        id: TaskId(id),
        comm: format!("t{id}"),
        regs: Regs {
            ip: CODE,
            di: what,
            si: argument,
            sp: stack_top - 8,
            cs: 0x33,
            ss: 0x2b,
            flags: 0x202,
            orig_ax: u64::MAX,
            ..Regs::default()
        },
        fp: FpState { legacy, in_use: 3, components: Vec::new() },
        clear_child_tid: VirtAddr(0),
        robust_list: None,
        rseq: None,
        blocked: SigSet(0),
        pending: Vec::new(),
        altstack: AltStack { base: VirtAddr(0), size: 0, flags: 2 },
        creds: creds(),
        sched: Sched { policy: 0, priority: 0, nice: 0 },
        pdeath_signal: 0,
        settings: Vec::new(),
        wait_left: None,
        seccomp: image::state::Seccomp::Off,
        placement: image::state::Placement::default(),
    }
}

/// Who we are.
pub(crate) fn creds() -> Creds {
    let status = Status::read(HostPid(nix::unistd::gettid().as_raw())).expect("status");
    Creds {
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
    }
}

fn living(id: u32, fds: FdTableId, what: u64, argument: u64) -> Living {
    let limits = tracee::host::rlimits(HostPid(std::process::id().cast_signed())).expect("limits");
    let mut vmas = vec![
        vma(CODE, CODE + 0x4000, 7, VmaKind::Anon),
        vma(DATA, DATA + 0x2_0000, 3, VmaKind::Anon),
        vma(HEAP, HEAP + 0x1_0000, 3, VmaKind::Anon),
        vma(STACK - 0x2_0000, STACK, 3, VmaKind::Anon),
    ];
    vmas[3].flags = VmaFlags::GROWS_DOWN;
    vmas.extend(vdso());
    Living {
        threads: vec![thread(id, what, argument, STACK)],
        stopped_by: None,
        mm: Mm {
            start_code: VirtAddr(CODE),
            end_code: VirtAddr(CODE + 0x4000),
            start_data: VirtAddr(DATA),
            end_data: VirtAddr(DATA + 0x1000),
            start_stack: VirtAddr(STACK - 16),
            start_brk: VirtAddr(HEAP),
            brk: VirtAddr(HEAP + 0x1_0000),
            arg_start: VirtAddr(DATA),
            arg_end: VirtAddr(DATA),
            env_start: VirtAddr(DATA),
            env_end: VirtAddr(DATA),
            auxv: vec![6, 4096, 0, 0],
            exe: EXE,
            guards: Vec::new(),
            vmas,
            dumpable: 1,
            thp_disabled: false,
        },
        fs: Fs { cwd: TMP, root: ROOT, umask: 0o27 },
        fds,
        sigactions: vec![SigAction::default(); 62],
        pending: Vec::new(),
        itimers: [IntervalTimer::default(); 3],
        posix_timers: Vec::new(),
        rlimits: limits.map(|(soft, hard)| Rlimit { soft, hard }),
        membarrier: 0,
        settings: Vec::new(),
        oom_score_adj: 0,
        child_subreaper: false,
        personality: 0,
        flags: 0,
    }
}

/// Open descriptors of this process.
pub(crate) fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("fds").count()
}

/// True if a task of this number exists, dead or alive.
pub(crate) fn exists(id: u32) -> bool {
    std::path::Path::new(&format!("/proc/{id}")).exists()
}
