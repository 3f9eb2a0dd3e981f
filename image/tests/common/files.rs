//! Open files, one of each kind, and files without a name.

use std::time::Duration;

use image::state::fanotify::{Mark, MarkOn};
use image::state::packet::{Device, Membership};
use image::state::*;
use pages::{SharedId, TaskId};

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
        filter: vec![6, 0, 0, 0, 0xff, 0xff, 0, 0],
        filter_locked: true,
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

pub(super) fn files() -> Vec<File> {
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
            98,
            FileKind::Inet(InetSocket {
                inode: 45_378,
                family: 10,
                kind: 3,
                protocol: 58,
                state: SocketState::Closed,
                source: "[::]:0".parse().expect("an address"),
                destination: Some("[::1]:0".parse().expect("an address")),
                backlog: 0,
                v6_only: false,
                free_bind: false,
                no_delay: false,
                cork: false,
                shutdown: 0,
                options: SocketOptions {
                    tcp_keep: None,
                    more: vec![SocketOption { level: 58, name: 1, value: vec![0xfe; 32] }],
                    ..options()
                },
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
            101,
            FileKind::Fanotify(Fanotify {
                flags: 0x12,
                event_flags: 0x8000,
                marks: [
                    (MarkOn::Inode { inode: 77, dev: 0xfe0_0000 }, "/srv/file"),
                    (MarkOn::Mount { number: 31 }, "/srv"),
                    (MarkOn::FileSystem { dev: 0xfe0_0001 }, "/"),
                ]
                .map(|(on, path)| Mark {
                    on,
                    path: path.into(),
                    flags: 0x40,
                    mask: 0x3b,
                    ignored: 1,
                })
                .to_vec(),
            }),
        ),
        (
            100,
            FileKind::Packet(PacketSocket {
                kind: 3,
                protocol: 0x0608,
                device: Some(Device { index: 7, name: Some("eth0".into()) }),
                memberships: vec![
                    Membership {
                        device: Device { index: 1, name: None },
                        kind: 1,
                        address: Vec::new(),
                    },
                    Membership {
                        device: Device { index: 7, name: Some("eth0".into()) },
                        kind: 0,
                        address: vec![1, 0, 0x5e, 0, 0, 7],
                    },
                ],
                fanout: Some(0x0001_0007),
                options: SocketOptions {
                    tcp_keep: None,
                    more: vec![SocketOption { level: 263, name: 8, value: vec![1, 0, 0, 0] }],
                    ..options()
                },
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
        (27, FileKind::Regular(Regular { ghost: Some(GhostId(27)), ..regular("/dev/shm/table") })),
        (28, FileKind::Regular(Regular { ghost: Some(GhostId(28)), ..regular("/mnt/huge/table") })),
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

pub(super) fn ghosts() -> Vec<Ghost> {
    let ghost = |id, size, chunks| Ghost {
        named: id == 2,
        paged: None,
        huge: None,
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
        Ghost { paged: Some(SharedId(1041)), ..ghost(27, 1 << 20, Vec::new()) },
        Ghost {
            paged: Some(SharedId(1042)),
            huge: HugeSize::of_bytes(2 << 20),
            ..ghost(28, 4 << 20, Vec::new())
        },
    ]
}
