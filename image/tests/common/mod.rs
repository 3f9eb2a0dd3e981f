//! A checkpoint with one of everything.

use std::time::Duration;

use image::state::*;
use pages::{PageRange, SharedId, TaskId, VirtAddr};

const ABOVE_THE_MAPPINGS: u64 = 0x7fff_0000_0000;

pub(crate) fn rich() -> Checkpoint {
    Checkpoint {
        clocks: Clocks {
            monotonic: Duration::new(2339, 73_384_545),
            boottime: Duration::new(2400, 999_999_999),
        },
        tasks: vec![
            task(100, None, 1, living(&[100, 101, 102], 1)),
            task(110, Some(100), 2, living(&[110], 1)),
            Task {
                id: TaskId(111),
                parent: Some(TaskId(110)),
                group: TaskId(100),
                session: TaskId(100),
                body: Body::Zombie { comm: "done".into(), status: 0x300 },
            },
        ],
        fd_tables: vec![
            FdTable {
                id: FdTableId(7),
                fds: (1..=11).map(|file| fd(file + 1, file, file % 2 == 0)).collect(),
            },
            FdTable {
                id: FdTableId(9),
                fds: vec![fd(0, 1, false), fd(1, 1, true), fd(5, 12, false), fd(1023, 13, false)],
            },
        ],
        files: files(),
        pipes: vec![
            PipeBuffer { pipe: PipeId(77), capacity: 65_536, bytes: b"in the pipe".to_vec() },
            PipeBuffer { pipe: PipeId(78), capacity: 4096, bytes: b"in the fifo".to_vec() },
        ],
        ghosts: ghosts(),
        shared: vec![
            SharedMemory {
                id: SharedId(1031),
                name: "/dev/zero".into(),
                size: 32_768,
                seals: 1,
                uid: 0,
                gid: 0,
                mode: 0o777,
                sysv: None,
            },
            SharedMemory {
                id: SharedId(1030),
                name: "mymem".into(),
                size: 5000,
                seals: 15,
                uid: 1000,
                gid: 100,
                mode: 0o600,
                sysv: None,
            },
            SharedMemory {
                id: SharedId(98_304),
                name: "SYSV00001267".into(),
                size: 9000,
                seals: 0,
                uid: 1000,
                gid: 100,
                mode: 0o1640,
                sysv: Some(SysV { key: 0x1267, creator: (0, 7) }),
            },
        ],
        semaphores: vec![SemaphoreSet {
            object: IpcObject { id: 7, key: 0x51, uid: 3, gid: 4, creator: (1, 2), mode: 0o640 },
            values: vec![0, 5, 32767],
        }],
        queues: vec![MessageQueue {
            object: IpcObject { id: 0, key: 0, uid: 0, gid: 0, creator: (0, 0), mode: 0o600 },
            capacity: 16384,
            messages: vec![
                Message { kind: 1, bytes: Vec::new() },
                Message { kind: i64::MAX, bytes: b"some bytes".to_vec() },
            ],
        }],
        locks: vec![
            lock(LockKind::Posix, 100, 2, 0, 0),
            lock(LockKind::Posix, 110, 1023, 1 << 30, 512),
            lock(LockKind::Flock, 110, 5, 0, 0),
            lock(LockKind::Ofd, 100, 4, 1, i64::MAX.unsigned_abs()),
        ],
    }
}

fn lock(kind: LockKind, task: u32, fd: u32, start: u64, len: u64) -> FileLock {
    FileLock { kind, exclusive: start != 0, task: TaskId(task), fd, start, len }
}

fn task(id: u32, parent: Option<u32>, table: u32, mut body: Living) -> Task {
    body.fds = FdTableId(if table == 1 { 7 } else { 9 });
    if parent.is_some() {
        body.stopped_by = Some(20);
        body.child_subreaper = true;
        body.mm.thp_disabled = true;
    }
    Task {
        id: TaskId(id),
        parent: parent.map(TaskId),
        group: TaskId(100),
        session: TaskId(100),
        body: Body::Living(Box::new(body)),
    }
}

fn fd(number: u32, file: u32, close_on_exec: bool) -> Fd {
    Fd { number, file: FileId(file), close_on_exec }
}

fn living(threads: &[u32], seed: u64) -> Living {
    let timer = |seconds, micros: u32| IntervalTimer {
        interval: Duration::new(seconds, micros * 1000),
        left: Duration::new(seconds + 1, micros * 1000),
    };
    Living {
        threads: threads.iter().map(|id| thread(*id, *id == threads[0])).collect(),
        stopped_by: None,
        mm: mm(),
        fs: Fs { cwd: FileId(21), root: FileId(22), umask: 0o027 },
        fds: FdTableId(0),
        sigactions: (0..62)
            .map(|number| SigAction {
                handler: 0x40_0000 + number,
                flags: 0x0400_0000,
                restorer: 0x7000_0000,
                mask: SigSet(number),
            })
            .collect(),
        pending: vec![signal(10), signal(34)],
        itimers: [timer(3, 14), timer(0, 0), timer(5, 999_999)],
        posix_timers: vec![PosixTimer {
            id: 3,
            clock: 1,
            signal: 14,
            notify: 4,
            value: 0xdead_beef_0000 + seed,
            overrun: 2,
            timer: timer(9, 1),
            notify_thread: Some(threads[threads.len() - 1]),
        }],
        rlimits: std::array::from_fn(|index| Rlimit { soft: index as u64, hard: u64::MAX }),
        oom_score_adj: -500,
        membarrier: 4 | 64,
        settings: vec![Setting { what: SettingKind::LockFuture, value: 6 }],
        child_subreaper: false,
        personality: 0x0004_0000,
        flags: 0x40_0000,
    }
}

fn signal(number: u8) -> SigInfo {
    let mut raw = [0; 128];
    raw[0] = number;
    raw[16] = 0xba;
    SigInfo(Box::new(raw))
}

fn thread(id: u32, leader: bool) -> Thread {
    let number = u64::from(id);
    let mut legacy = Box::new([0; 512]);
    for (index, byte) in legacy.iter_mut().enumerate() {
        *byte = u8::try_from(index % 251).expect("below 251");
    }
    let component = |number: u8, length: usize| XComponent { number, bytes: vec![number; length] };
    Thread {
        id: TaskId(id),
        comm: format!("thread-{id}"),
        regs: Regs {
            r15: number,
            ip: 0x40_1000,
            sp: ABOVE_THE_MAPPINGS,
            cs: 0x33,
            ss: 0x2b,
            orig_ax: u64::MAX,
            fs_base: 0x7f00_0000_0000,
            ..Regs::default()
        },
        fp: FpState {
            legacy,
            in_use: 0b111 | 1 << 9 | 1 << 18,
            components: vec![
                component(2, 256),
                component(5, 64),
                component(6, 512),
                component(7, 1024),
                component(9, 8),
                component(17, 64),
                component(18, 8192),
            ],
        },
        clear_child_tid: VirtAddr(0x7f00_0000_02d0),
        robust_list: leader.then_some(RobustList { head: VirtAddr(0x7f00_0000_02e0), len: 24 }),
        rseq: leader.then_some(Rseq {
            area: VirtAddr(0x7f00_0000_09a0),
            size: 32,
            signature: 0x5305_3053,
        }),
        blocked: SigSet(0x200 + number),
        pending: if leader { vec![] } else { vec![signal(12)] },
        altstack: AltStack { base: VirtAddr(0), size: 0, flags: 2 },
        creds: Creds {
            uids: [1000, 1001, 1002, 1003],
            gids: [100, 101, 102, 103],
            groups: vec![4, 24, 27],
            cap_inheritable: 1,
            cap_permitted: 0x1ff_ffff_ffff,
            cap_effective: 0x1_0000_0000,
            cap_bounding: u64::MAX,
            cap_ambient: 0,
            securebits: 3,
            no_new_privs: !leader,
        },
        sched: match leader {
            true => Sched { policy: 0, priority: 0, nice: -7 },
            false => Sched { policy: 2, priority: 42, nice: 0 },
        },
        pdeath_signal: if leader { 15 } else { 0 },
        settings: vec![Setting { what: SettingKind::Slice, value: 3_000_000 }],
        wait_left: leader.then_some(Duration::new(12, 345_678_901)),
        seccomp: match leader {
            true => Seccomp::Strict,
            false => filters(),
        },
        placement: Placement {
            cpus: if leader { vec![0, 3, 70] } else { Vec::new() },
            io_priority: if leader { 16390 } else { 0 },
            timer_slack: if leader { 123_456 } else { Placement::USUAL_SLACK },
        },
    }
}

fn filters() -> Seccomp {
    let filter = |byte, log| Filter { program: vec![byte; 16], log };
    Seccomp::Filters(vec![filter(1, true), filter(2, false)].into())
}

fn vma(start: u64, end: u64, prot: u32, kind: VmaKind) -> Vma {
    Vma {
        name: (start == 0x40_0000).then(|| "arena".to_owned()),
        range: PageRange::from_addrs(VirtAddr(start), VirtAddr(end)).expect("a range"),
        prot,
        kind,
        flags: VmaFlags::empty(),
        advice: Advice::empty(),
    }
}

fn mm() -> Mm {
    let file = |shared, access| VmaKind::File { file: FileId(20), offset: 4096, shared, access };
    let memfd = |file, shared| VmaKind::Memfd { file: FileId(file), offset: 0, shared, access: 2 };
    let mut stack = vma(0x7ffe_0000_0000, 0x7ffe_0002_1000, 3, VmaKind::Anon);
    stack.flags = VmaFlags::GROWS_DOWN | VmaFlags::LOCKED;
    let mut heap = vma(0x1000_0000, 0x1002_1000, 3, VmaKind::Anon);
    heap.flags = VmaFlags::NO_RESERVE;
    heap.advice = Advice::DONT_FORK | Advice::NO_HUGE_PAGE;
    Mm {
        start_code: VirtAddr(0x40_0000),
        end_code: VirtAddr(0x40_1155),
        start_data: VirtAddr(0x40_3db0),
        end_data: VirtAddr(0x40_4018),
        start_stack: VirtAddr(0x7ffe_0002_0d50),
        start_brk: VirtAddr(0x1000_0000),
        brk: VirtAddr(0x1002_1000),
        arg_start: VirtAddr(0x7ffe_0002_08f3),
        arg_end: VirtAddr(0x7ffe_0002_0924),
        env_start: VirtAddr(0x7ffe_0002_0924),
        env_end: VirtAddr(0x7ffe_0002_0fcf),
        auxv: vec![33, 0x7fff_0000_2000, 51, 3376, 0, 0],
        exe: FileId(20),
        guards: vec![PageRange::from_addrs(VirtAddr(0x1000), VirtAddr(0x3000)).expect("a range")],
        vmas: vec![
            vma(0x40_0000, 0x40_2000, 5, file(false, 0)),
            heap,
            vma(0x7f00_0000_0000, 0x7f00_0000_1000, 1, file(true, 2)),
            vma(0x7f00_0000_1000, 0x7f00_0000_9000, 3, memfd(23, true)),
            vma(0x7f00_0000_9000, 0x7f00_0000_a000, 3, memfd(10, false)),
            vma(
                0x7ffd_0000_0000,
                0x7ffd_0000_2000,
                1,
                VmaKind::SysV { shared: SharedId(98_304), offset: 4096, access: 2 },
            ),
            stack,
            vma(0x7fff_0000_0000, 0x7fff_0000_2000, 1, VmaKind::Vvar),
            vma(0x7fff_0000_2000, 0x7fff_0000_4000, 5, VmaKind::Vdso),
            vma(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000, 4, VmaKind::Vsyscall),
        ],
        dumpable: 1,
        thp_disabled: false,
    }
}

fn options() -> SocketOptions {
    SocketOptions {
        send_buffer: 212_992,
        receive_buffer: 131_072,
        buffer_lock: 3,
        send_timeout: (1, 500_000),
        receive_timeout: (0, 1),
        reuse_address: true,
        reuse_port: true,
        broadcast: true,
        keep_alive: true,
        pass_credentials: true,
        oob_inline: true,
        no_route: true,
        priority: 6,
        receive_low_water: 4,
        mark: 99,
        linger: Some(5),
        bound_device: Some("eth0".into()),
        tcp_keep: Some([9, 77, 75]),
        more: vec![
            SocketOption { level: 0, name: 2, value: vec![33, 0, 0, 0] },
            SocketOption { level: 6, name: 13, value: b"reno".to_vec() },
        ],
    }
}

fn regular(path: &str) -> Regular {
    Regular {
        path: path.into(),
        position: Some(0),
        size: None,
        mode: None,
        rdev: None,
        ghost: None,
    }
}

fn files() -> Vec<File> {
    let unix = |inode, peer, queue: &[&[u8]]| UnixSocket {
        inode,
        peer,
        kind: 1,
        state: SocketState::Established,
        name: vec![],
        name_dir: None,
        deleted: false,
        node: None,
        backlog: 0,
        shutdown: 2,
        options: SocketOptions { receive_low_water: 1, ..SocketOptions::default() },
        queue: queue.iter().map(|packet| Packet::plain(*packet)).collect(),
    };
    let kinds = vec![
        (
            1,
            FileKind::Regular(Regular {
                mode: Some(0o20_666),
                rdev: Some(0x103),
                position: None,
                ..regular("/dev/null")
            }),
        ),
        (2, FileKind::Pipe { pipe: PipeId(77) }),
        (3, FileKind::Pipe { pipe: PipeId(77) }),
        (4, FileKind::EventFd { counter: 5, semaphore: true }),
        (
            5,
            FileKind::Epoll {
                targets: vec![EpollTarget {
                    fd: 3,
                    events: 0x8000_0019,
                    data: u64::MAX,
                    dev: 15,
                    inode: 45_372,
                    position: 7,
                }],
            },
        ),
        (6, FileKind::SignalFd { mask: 0x200 }),
        (
            7,
            FileKind::TimerFd(TimerFd {
                clock: 1,
                ticks: 3,
                settime_flags: 1,
                timer: IntervalTimer {
                    interval: Duration::new(1, 5),
                    left: Duration::new(998, 3_843_359),
                },
            }),
        ),
        (8, FileKind::Unix(unix(45_373, 45_374, &[b"one", b"", b"three"]))),
        (9, FileKind::Unix(unix(45_374, 45_373, &[]))),
        (10, FileKind::Memfd { shared: SharedId(1030), position: 5000 }),
        (
            11,
            FileKind::Regular(Regular {
                position: Some(13),
                size: Some(13),
                mode: Some(0o100_644),
                ghost: Some(GhostId(26)),
                ..regular("/tmp/small ghost")
            }),
        ),
        (
            12,
            FileKind::Inet(InetSocket {
                inode: 45_375,
                family: 2,
                kind: 1,
                protocol: 6,
                state: SocketState::Listening,
                source: "127.0.0.1:45671".parse().expect("an address"),
                destination: None,
                backlog: 5,
                v6_only: false,
                free_bind: true,
                no_delay: true,
                cork: true,
                shutdown: 0,
                options: options(),
                stream: None,
                groups: Vec::new(),
                queue: Vec::new(),
            }),
        ),
        (
            99,
            FileKind::Netlink(NetlinkSocket {
                inode: 45_377,
                kind: 2,
                protocol: 15,
                port: 4711,
                groups: vec![1, 2, 64],
                destination: Some((0, 2)),
                options: SocketOptions { tcp_keep: None, ..options() },
            }),
        ),
        (
            13,
            FileKind::Inet(InetSocket {
                inode: 45_376,
                family: 10,
                kind: 2,
                protocol: 17,
                state: SocketState::Established,
                source: "[fe80::1%3]:53".parse().expect("an address"),
                destination: Some("[2001:db8::7]:5353".parse().expect("an address")),
                backlog: 0,
                v6_only: true,
                free_bind: false,
                no_delay: false,
                cork: false,
                shutdown: 1,
                options: SocketOptions { tcp_keep: None, ..options() },
                stream: None,
                groups: vec![Group {
                    group: "ff02::77".parse().expect("an address"),
                    device: "lo".into(),
                    include: true,
                    sources: vec!["fe80::9".parse().expect("an address")],
                }],
                queue: vec![Packet {
                    from: Some("[2001:db8::1]:53".parse().expect("an address")),
                    ..Packet::plain(*b"waits")
                }],
            }),
        ),
        (
            24,
            FileKind::Inet(InetSocket {
                inode: 0x1_abcd,
                family: 10,
                kind: 1,
                protocol: 6,
                state: SocketState::LastAck,
                source: "[::ffff:192.0.2.1]:80".parse().expect("an address"),
                destination: Some("[::ffff:192.0.2.2]:40000".parse().expect("an address")),
                backlog: 0,
                v6_only: false,
                free_bind: false,
                no_delay: false,
                cork: false,
                shutdown: 0,
                options: options(),
                groups: Vec::new(),
                queue: Vec::new(),
                stream: Some(Box::new(TcpStream {
                    received: b"in".to_vec(),
                    receive_next: u32::MAX,
                    written: b"out of it".to_vec(),
                    unsent: 4,
                    write_next: 7,
                    segment: 1448,
                    sack: true,
                    scales: Some((7, 14)),
                    timestamp: Some(77),
                    window: Some(TcpWindow {
                        snd_wl1: 1,
                        snd_wnd: 2,
                        max_window: 3,
                        rcv_wnd: 4,
                        rcv_wup: 5,
                    }),
                })),
            }),
        ),
        (
            14,
            FileKind::Tty(Tty {
                path: "/dev/pts/3".into(),
                index: 3,
                rdev: 136 << 8 | 3,
                session: 100,
                foreground: 100,
                modes: [0x500, 5, 0xbf, 0x8a3b],
                control: (1..=19).collect(),
                window: [50, 132, 0, 0],
            }),
        ),
        (
            40,
            FileKind::Tty(Tty {
                path: "/dev/ptmx".into(),
                index: 3,
                rdev: 5 << 8 | 2,
                session: 100,
                foreground: 100,
                modes: [0x500, 5, 0xbf, 0x8a3b],
                control: (1..=19).collect(),
                window: [50, 132, 0, 0],
            }),
        ),
        (
            15,
            FileKind::Unix(UnixSocket {
                state: SocketState::Listening,
                kind: 5,
                name: b"run/sock\0".to_vec(),
                name_dir: Some("/var".into()),
                deleted: true,
                node: Some((0o140_755, 1000, 100)),
                backlog: 3,
                ..unix(45_378, 0, &[])
            }),
        ),
        (16, FileKind::Regular(Regular { ghost: Some(GhostId(2)), ..regular("/tmp/big ghost") })),
        (
            17,
            FileKind::Fifo(Fifo {
                pipe: PipeId(78),
                path: "/run/queue".into(),
                mode: Some(0o10_600),
            }),
        ),
        (
            18,
            FileKind::Inotify {
                watches: [(1, "/etc"), (7, "/etc/passwd")]
                    .map(|(number, path)| Watch {
                        number,
                        mask: 0x4000_0fce,
                        path: path.into(),
                        inode: 77,
                        dev: 0x80_0001,
                    })
                    .to_vec(),
            },
        ),
        (19, FileKind::PidFd { task: TaskId(111) }),
        (
            20,
            FileKind::Regular(Regular {
                size: Some(17_584),
                mode: Some(0o100_755),
                ..regular("/usr/bin/python3.11")
            }),
        ),
        (21, FileKind::Regular(regular("/root"))),
        (22, FileKind::Regular(regular("/"))),
        (23, FileKind::Memfd { shared: SharedId(1031), position: 0 }),
    ];
    let owner = Owner { uid: 1, euid: 2, signal: 29, pid_type: 1, pid: 100 };
    kinds
        .into_iter()
        .map(|(id, kind)| File {
            id: FileId(id),
            flags: if id == 3 { 1 } else { 0o100_002 },
            owner: if id == 2 || id == 17 { owner } else { Owner::default() },
            kind,
        })
        .collect()
}

fn ghosts() -> Vec<Ghost> {
    let ghost = |id, size, chunks| Ghost {
        named: id == 2,
        id: GhostId(id),
        uid: 1000,
        gid: 100,
        mode: 0o100_644,
        size,
        accessed: (1_795_442_885, 843_524),
        modified: (1_795_442_886, 1),
        body: GhostBody { chunks },
    };
    vec![
        ghost(2, 50_000, vec![(0, vec![1; 10]), (20_480, vec![2; 4096]), (49_999, vec![3])]),
        ghost(26, 13, vec![(0, b"ghost content".to_vec())]),
    ]
}
