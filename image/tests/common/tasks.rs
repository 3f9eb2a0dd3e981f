//! A process and its threads.

use std::time::Duration;

use image::state::*;
use pages::{TaskId, VirtAddr};

use super::memory::mm;

const ABOVE_THE_MAPPINGS: u64 = 0x7fff_0000_0000;

pub(super) fn task(id: u32, parent: Option<u32>, table: u32, mut body: Living) -> Task {
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

pub(super) fn living(threads: &[u32], seed: u64) -> Living {
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
