//! A checkpoint with one of everything.

mod files;
mod memory;
mod tasks;

use std::time::Duration;

use image::state::*;
use pages::{SharedId, TaskId};

use files::{files, ghosts};
use tasks::{living, task};

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
                huge: None,
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
                huge: HugeSize::of_bytes(1 << 30),
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
                huge: None,
                sysv: Some(SysV { key: 0x1267, creator: (0, 7), told: 9000 }),
            },
            SharedMemory {
                id: SharedId(98_305),
                name: "SYSV00001268".into(),
                size: 4 << 20,
                seals: 0,
                uid: 0,
                gid: 0,
                mode: 0o600,
                huge: HugeSize::of_bytes(2 << 20),
                sysv: Some(SysV { key: 0x1268, creator: (0, 0), told: (4 << 20) - 5 }),
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

fn fd(number: u32, file: u32, close_on_exec: bool) -> Fd {
    Fd { number, file: FileId(file), close_on_exec }
}
