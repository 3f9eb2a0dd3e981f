//! State made again, judged by the program that has it.

mod world;

use std::time::{Duration, Instant};

use image::state::*;
use nix::libc;
use pages::{SharedId, SpaceId, TaskId, VirtAddr};
use restore::BuildOptions;
use world::{
    AGAIN, TABLE, World, alone, can_run, free_ids, open_fds, regular, thread, verdict, vma,
};

fn file(id: u32, flags: i32, kind: FileKind) -> File {
    File { id: FileId(id), flags: flags.cast_unsigned(), owner: Owner::default(), kind }
}

fn at(mut file: File, position: u64) -> File {
    if let FileKind::Regular(regular) = &mut file.kind {
        regular.position = Some(position);
    }
    file
}

fn unix(inode: u32, peer: u32, queue: &[&[u8]]) -> FileKind {
    FileKind::Unix(UnixSocket {
        inode,
        peer,
        kind: 1,
        state: SocketState::Established,
        name: Vec::new(),
        name_dir: None,
        deleted: false,
        node: None,
        backlog: 0,
        shutdown: 0,
        options: SocketOptions::default(),
        queue: queue.iter().map(|packet| image::state::Packet::plain(*packet)).collect(),
    })
}

fn watch(fd: u32, data: u64) -> EpollTarget {
    EpollTarget { fd, events: 1, data, dev: 0, inode: 0, position: 0 }
}

#[test]
fn descriptors_are_what_and_where_they_were() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let fds = open_fds();
    let path = std::env::temp_dir().join(format!("qmig-digits-{}", std::process::id()));
    std::fs::write(&path, "0123456789").expect("written");
    let path = path.to_str().expect("text");
    let (id, rw) = (free_ids(2), libc::O_RDWR);
    let mut world = World::new();
    world.process(id, None, 1, 0);
    let pipe = || FileKind::Pipe { pipe: PipeId(1) };
    world.checkpoint.pipes =
        vec![PipeBuffer { pipe: PipeId(1), capacity: 65536, bytes: b"hello".to_vec() }];
    world.fd(id, 3, file(10, libc::O_RDONLY | libc::O_NONBLOCK, pipe()));
    world.fd(id, 4, file(11, libc::O_WRONLY, pipe()));
    let digits = at(regular(12, path, libc::O_RDONLY), 3);
    world.fd(id, 5, digits.clone());
    world.fd(id, 6, digits);
    world.fd(id, 40, at(regular(13, path, libc::O_RDONLY), 0));
    let counter = FileKind::EventFd { counter: 3, semaphore: false };
    world.fd(id, 7, file(14, rw | libc::O_NONBLOCK, counter));
    world.fd(id, 8, file(15, rw, FileKind::Epoll { targets: vec![watch(7, 77), watch(9, 99)] }));
    world.fd(id, 9, file(16, rw, FileKind::Epoll { targets: vec![watch(3, 33)] }));
    let left = Duration::from_secs(100);
    let timer = IntervalTimer { interval: Duration::ZERO, left };
    let timer = TimerFd { clock: 1, ticks: 0, settime_flags: 0, timer };
    world.fd(id, 10, file(17, rw, FileKind::TimerFd(timer)));
    world.fd(id, 11, file(18, rw | libc::O_NONBLOCK, FileKind::SignalFd { mask: 1 << 39 }));
    world.fd(id, 12, file(19, rw, FileKind::Memfd { shared: SharedId(1), position: 2 }));
    world.fd(id, 13, file(20, rw | libc::O_NONBLOCK, unix(1, 2, &[b"wait"])));
    world.fd(id, 14, file(21, rw, unix(2, 1, &[])));
    let mut ghost = regular(22, "/tmp/qmig-gone", libc::O_RDWR | libc::O_NOFOLLOW);
    if let FileKind::Regular(regular) = &mut ghost.kind {
        (regular.ghost, regular.position) = (Some(GhostId(1)), Some(0));
    }
    world.checkpoint.ghosts = vec![Ghost {
        named: false,
        paged: None,
        huge: None,
        id: GhostId(1),
        uid: 0,
        gid: 0,
        mode: 0o100_600,
        size: 4,
        accessed: (0, 0),
        modified: (0, 0),
        body: GhostBody { chunks: vec![(0, b"gone".to_vec())] },
    }];
    world.fd(id, 15, ghost);
    world.fd(id, 500, regular(23, "/dev/null", rw));
    world.checkpoint.shared = vec![SharedMemory {
        id: SharedId(1),
        name: "shared".into(),
        size: 4096,
        seals: 3,
        uid: 0,
        gid: 0,
        mode: 0o600,
        huge: None,
        sysv: None,
    }];
    world.checkpoint.shared.push(SharedMemory {
        id: SharedId(2),
        name: "/dev/zero".into(),
        size: 8192,
        seals: 1,
        uid: 0,
        gid: 0,
        mode: 0o777,
        huge: None,
        sysv: None,
    });
    world.checkpoint.files.push(file(24, rw, FileKind::Memfd { shared: SharedId(2), position: 0 }));
    let mut anonymous = b"anonymous".to_vec();
    anonymous.resize(8192, 0);
    world.pages.push((SpaceId::Shared(SharedId(2)), 0, anonymous));
    let mut content = b"abcdef".to_vec();
    content.resize(4096, 0);
    world.pages.push((SpaceId::Shared(SharedId(1)), 0, content));
    let living = world.living(id);
    living.threads[0].blocked = SigSet(1 << 39);
    let shared = VmaKind::Memfd { file: FileId(19), offset: 0, shared: true, access: 2 };
    living.mm.vmas.insert(2, vma(0x70_0000, 0x70_1000, 3, shared));
    let shared = VmaKind::Memfd { file: FileId(24), offset: 0, shared: true, access: 2 };
    living.mm.vmas.insert(3, vma(0x70_2000, 0x70_4000, 3, shared));
    assert_eq!(world.verdict(), 0, "the number of the failed check is in the high byte");
    assert_eq!(open_fds(), fds);
    std::fs::remove_file(path).expect("removed");
}

fn info(signal: i32, code: i32, value: u64) -> SigInfo {
    let mut raw = Box::new([0; 128]);
    raw[..4].copy_from_slice(&signal.to_le_bytes());
    raw[8..12].copy_from_slice(&code.to_le_bytes());
    raw[24..32].copy_from_slice(&value.to_le_bytes());
    SigInfo(raw)
}

#[test]
fn everything_a_process_is_comes_back() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let id = free_ids(1);
    let mut world = World::new();
    let living = world.process(id, None, 2, 0);
    let leader = &mut living.threads[0];
    leader.comm = "judge me".into();
    leader.clear_child_tid = VirtAddr(0x60_2040);
    leader.robust_list = Some(RobustList { head: VirtAddr(0x60_2000), len: 24 });
    leader.rseq = Some(Rseq { area: VirtAddr(0x60_2100), size: 32, signature: 0x5305_3053 });
    leader.altstack = AltStack { base: VirtAddr(0x60_1000), size: 8192, flags: 0 };
    leader.blocked = SigSet(!(1 << 33 | 1 << 8 | 1 << 18));
    leader.pending = vec![info(12, -6, 0)];
    leader.pdeath_signal = 12;
    leader.sched = Sched { policy: 0, priority: 0, nice: 5 };
    leader.creds = Creds {
        uids: [1001, 1002, 1003, 1002],
        gids: [2001, 2002, 2003, 2002],
        groups: vec![11, 12],
        cap_inheritable: 0x400,
        cap_permitted: 0x480,
        cap_effective: 0x400,
        cap_bounding: world::creds().cap_bounding & !(1 << 21),
        cap_ambient: 0x400,
        securebits: 0x10,
        no_new_privs: true,
    };
    living.pending = vec![info(10, 0, 0), info(40, -1, 0x1234)];
    living.sigactions[4] = SigAction { handler: 1, ..SigAction::default() };
    // Signal 34: two of those before it have no entry.
    living.sigactions[31] =
        SigAction { handler: 0x40_0010, flags: 0, restorer: 0, mask: SigSet(8) };
    let left = |seconds, interval| IntervalTimer {
        interval: Duration::from_secs(interval),
        left: Duration::from_secs(seconds),
    };
    living.itimers[0] = left(50, 7);
    living.posix_timers = [5, 777]
        .map(|id| PosixTimer {
            id,
            clock: 1,
            signal: 34,
            notify: 0,
            value: 0,
            overrun: 0,
            timer: left(60, 0),
            notify_thread: None,
        })
        .to_vec();
    living.rlimits[7] = Rlimit { soft: 600, hard: 700 };
    living.rlimits[4] = Rlimit { soft: 0, hard: 0 };
    living.mm.dumpable = 0;
    living.personality = 0x4_0000;
    assert_eq!(world.verdict(), 0, "the number of the failed check is in the high byte");
}

fn many_threads(count: u32) -> World {
    let id = free_ids(count + 1);
    let mut world = World::new();
    let living = world.process(id, None, 3, u64::from(count));
    let stacks = 0x1000_0000_u64;
    for number in 1..=count {
        let top = stacks + u64::from(number) * 0x2000;
        living.threads.push(thread(id + number, 4, u64::from(id + number), top));
    }
    let end = stacks + u64::from(count + 1) * 0x2000;
    living.mm.vmas.insert(3, vma(stacks, end, 3, VmaKind::Anon));
    world
}

#[test]
fn a_thousand_threads_each_with_its_number() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    for count in [0, 1000] {
        let mut world = many_threads(count);
        let options = BuildOptions::default();
        let began = Instant::now();
        let skeleton = restore::Skeleton::create(&world.checkpoint, options).expect("skeleton");
        let made = began.elapsed();
        let built = skeleton.build(&world.checkpoint).expect("built");
        let shown = began.elapsed() - made;
        for (space, page, bytes) in &world.pages {
            let run = pages::PageRange::new(
                pages::PageIndex(*page),
                pages::PageCount((bytes.len() / 4096) as u64),
            );
            built.sink(*space).expect("a sink").write(run.expect("pages"), bytes).expect("written");
        }
        let filled = Instant::now();
        let ready = built.finish(&world.checkpoint).expect("ready");
        let finished = filled.elapsed();
        let go = Instant::now();
        let running = ready.run().expect("runs");
        let ran = go.elapsed();
        assert_eq!(verdict(running), 0);
        eprintln!(
            "{count} more threads: create {made:?} build {shown:?} finish {finished:?} run {ran:?}"
        );
        world.pages.clear();
    }
}

/// A wait of ten seconds of which 300 ms were left goes on for 300 ms.
#[test]
fn a_timed_wait_goes_on_for_what_was_left_of_it() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    for (nr, args) in [
        (libc::SYS_nanosleep, [TABLE + 16, 0, 0, 0]),
        (libc::SYS_clock_nanosleep, [1, 0, TABLE + 16, 0]),
    ] {
        let id = free_ids(1);
        let mut world = World::new();
        let now = world.checkpoint.clocks.monotonic;
        let leader = &mut world.process(id, None, 0, 0).threads[0];
        let [di, si, dx, r10] = args;
        leader.regs = Regs {
            ip: AGAIN,
            ax: nr.cast_unsigned(),
            r14: 7,
            r15: 300,
            di,
            si,
            dx,
            r10,
            ..leader.regs
        };
        leader.wait_left = Some(Duration::from_millis(300));
        let seconds = i32::try_from(now.as_secs()).expect("booted lately");
        world.table(id, &[seconds, 0, now.subsec_nanos().cast_signed(), 0, 10, 0, 0, 0]);
        let began = Instant::now();
        assert_eq!(world.verdict(), 0, "call {nr}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_stopped_job_stays_stopped_until_continued() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let id = free_ids(1);
    let mut world = World::new();
    world.process(id, None, 0, 3).stopped_by = Some(19);
    let running = world.run(BuildOptions::default()).expect("runs");
    let pid = nix::unistd::Pid::from_raw(running.root.0);
    let flags = nix::sys::wait::WaitPidFlag::WUNTRACED;
    match nix::sys::wait::waitpid(pid, Some(flags)) {
        Ok(nix::sys::wait::WaitStatus::Stopped(..)) => {}
        other => panic!("{other:?}"),
    }
    tracee::host::kill(running.root, libc::SIGCONT).expect("continued");
    assert_eq!(verdict(running), 3 << 8);
}

#[test]
fn tasks_that_share_their_descriptors_still_do() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let root = free_ids(3);
    let mut world = World::new();
    world.process(root, None, 6, 0);
    world.process(root + 1, Some(root), 6, 0);
    world.fd(root, 3, regular(9, "/dev/null", libc::O_RDWR));
    let table = world.living(root).fds;
    world.living(root + 1).fds = table;
    let running = world.run(BuildOptions::default()).expect("runs");
    let [one, two] = [0, 1].map(|n| tracee::HostPid((root + n).cast_signed()));
    assert!(tracee::host::same_object(one, two, tracee::host::Kcmp::Files).expect("compared"));
    for pid in [two, one] {
        tracee::host::kill(pid, libc::SIGKILL).expect("killed");
    }
    assert_eq!(verdict(running), libc::SIGKILL);
    let _ = TaskId(root);
}

#[test]
fn locks_are_taken_at_once_or_when_they_are_free_or_never() {
    use nix::fcntl::{Flock, FlockArg};
    if !can_run() {
        return;
    }
    let _alone = alone();
    let path = std::env::temp_dir().join(format!("qmig-locked-{}", std::process::id()));
    std::fs::write(&path, "content").expect("written");
    let lock = || {
        let file = std::fs::File::open(&path).expect("opened");
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
    };
    let held = |pid: tracee::HostPid| {
        tracee::proc::fdinfo::FdInfo::read(pid, 3).expect("fdinfo").locks.len()
    };
    let id = free_ids(1);
    let mut world = World::new();
    world.process(id, None, 6, 0);
    world.fd(id, 3, regular(9, path.to_str().expect("text"), libc::O_RDWR));
    let task = TaskId(id);
    let one = |kind| FileLock { kind, exclusive: true, task, fd: 3, start: 0, len: 0 };
    let ranges = (0..40).map(|n| FileLock { start: 2 * n, len: 1, ..one(LockKind::Posix) });
    world.checkpoint.locks = ranges.chain([one(LockKind::Flock)]).collect();
    let end = |running: restore::Running| {
        tracee::host::kill(running.root, libc::SIGKILL).expect("killed");
        assert_eq!(verdict(running), libc::SIGKILL);
    };

    // At once: before it runs.
    let ready = world.ready(BuildOptions::default()).expect("ready");
    assert_eq!(held(ready.root().expect("a root")), 41);
    assert!(lock().is_err(), "somebody else could have it");
    end(ready.run().expect("runs"));

    // When whoever has it lets it go.
    let mine = lock().expect("free");
    let ready = world.ready(BuildOptions::default()).expect("ready");
    assert_eq!(held(ready.root().expect("a root")), 40);
    drop(mine);
    let running = ready.run().expect("runs");
    assert_eq!(held(running.root), 41);
    end(running);

    // Never: it runs all the same.
    let mine = lock().expect("free");
    let begun = Instant::now();
    let running = world.run(BuildOptions::default()).expect("runs");
    assert!(begun.elapsed() >= Duration::from_secs(1), "it has waited");
    assert_eq!(held(running.root), 40);
    end(running);
    drop(mine);
    std::fs::remove_file(&path).expect("clean");
}
