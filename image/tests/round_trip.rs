//! State to images and back, in memory and by way of a directory; what the bytes are.

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};

use common::rich;
use image::state::{Body, Checkpoint, FileId, FileKind, VmaKind};
use image::{
    BadImage, DirectoryError, ImageSet, ImageSetBuilder, Limits, NamespaceIds, PagesReader,
    PagesWriter,
};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, SharedId, SpaceId, TaskId};

fn written() -> ImageSet {
    rich().to_images(&NamespaceIds::default())
}

/// A set with one image replaced or, with `None`, taken out.
fn with(set: &ImageSet, name: &str, bytes: Option<Vec<u8>>) -> ImageSet {
    let mut out = ImageSetBuilder::new(Limits::default());
    for (other, content) in set.iter().filter(|(other, _)| *other != name) {
        out.insert(other, content.to_vec()).expect("it fitted before");
    }
    if let Some(bytes) = bytes {
        out.insert(name, bytes).expect("it is small");
    }
    out.seal().expect("complete")
}

#[test]
fn everything_comes_back_equal() {
    let checkpoint = rich();
    checkpoint.check().expect("a sound checkpoint");
    let back = Checkpoint::from_images(&written()).expect("our own images");
    assert_eq!(back, checkpoint);
}

#[test]
fn every_image_says_nothing_that_inspect_does_not_know() {
    for (name, bytes) in written().iter() {
        assert_eq!(image::inspect::rewrite(name, bytes).expect(name), bytes, "{name}");
        image::inspect(name, bytes).expect(name);
    }
}

#[test]
fn the_set_has_the_images_that_criu_needs() {
    let set = written();
    let names: Vec<_> = set.iter().map(|(name, _)| name).collect();
    for name in [
        "pstree.img",
        "core-100.img",
        "core-101.img",
        "core-111.img",
        "ids-100.img",
        "mm-110.img",
        "fs-110.img",
        "fdinfo-7.img",
        "files.img",
        "memfd.img",
        "ipcns-shm-3.img",
        "filelocks.img",
        "pipes-data.img",
        "fifo-data.img",
        "sk-queues.img",
        "remap-fpath.img",
        "ghost-file-2.img",
        "ghost-file-1a.img",
        "tty-info.img",
        "timens-0.img",
        "seccomp.img",
    ] {
        assert!(names.contains(&name), "{name} is missing of {names:?}");
    }
    assert!(!names.contains(&"ids-111.img"), "a zombie has no kernel objects");
    assert_eq!(names.last(), Some(&"inventory.img"));
}

#[test]
fn heads_and_first_fields_are_criu_s_byte_for_byte() {
    let set = written();
    let image = |name| set.get(name).expect(name);
    // The magic of inventories alone; 38 bytes; img_version 2, fdinfo_per_id, root_ids.
    assert_eq!(
        image("inventory.img"),
        [
            0x16, 0x31, 0x31, 0x58, 38, 0, 0, 0, 8, 2, 16, 1, 26, 24, 8, 1, 16, 1, 24, 1, 32, 1,
            40, 1, 48, 2, 56, 3, 64, 4, 72, 5, 80, 6, 88, 7, 96, 8, 32, 1, 40, 1, 48, 0, 88, 2
        ]
    );
    // The oldest filter names the next newer one, and is logged.
    assert_eq!(
        image("seccomp.img")[8..],
        *b"\x2c\0\0\0\x0a\x16\x0a\x10\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x10\x01\x18\x02\
           \x0a\x12\x0a\x10\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02"
    );
    // pid 100, ppid 0, pgid 100, sid 100, threads 100, 101, 102 each with its tag.
    assert_eq!(
        image("pstree.img")[..26],
        [
            0x19, 0x43, 0x56, 0x54, 0x30, 0x30, 0x27, 0x50, 14, 0, 0, 0, 8, 100, 16, 0, 24, 100,
            32, 100, 40, 100, 40, 101, 40, 102
        ]
    );
    assert_eq!(image("fs-100.img")[8..], [6, 0, 0, 0, 8, 21, 16, 22, 24, 0o027]);
    // Queued packets follow their entries; the second has no bytes.
    assert_eq!(
        image("sk-queues.img")[8..40],
        *b"\x04\0\0\0\x08\x08\x10\x03one\x04\0\0\0\x08\x08\x10\0\x04\0\0\0\x08\x08\x10\x05three"
    );
    // FL_OFDLCK, F_WRLCK, pid 100, fd 4, start 1, to the last byte there can be.
    assert!(image("filelocks.img").ends_with(&[
        20, 0, 0, 0, 8, 4, 16, 1, 24, 100, 32, 4, 40, 1, 48, 255, 255, 255, 255, 255, 255, 255,
        255, 127
    ]));
    assert!(image("ghost-file-1a.img").ends_with(b"ghost content"));
}

#[test]
fn a_root_of_pid_one_has_a_pid_namespace_of_its_own() {
    let mut checkpoint = rich();
    checkpoint.tasks.truncate(1);
    checkpoint.tasks[0].id = TaskId(1);
    let Body::Living(living) = &mut checkpoint.tasks[0].body else { panic!("it lives") };
    living.threads.truncate(1);
    living.threads[0].id = TaskId(1);
    living.posix_timers.clear();
    checkpoint.fd_tables.truncate(1);
    checkpoint.locks.clear();
    checkpoint.files.retain(|file| !matches!(file.kind, FileKind::PidFd { .. }));
    let set = checkpoint.to_images(&NamespaceIds::default());
    let inventory = image::inspect("inventory.img", set.get("inventory.img").expect("there"));
    assert_eq!(inventory.expect("sound")["entries"][0]["root_ids"]["pid_ns_id"], 2);
    assert_eq!(Checkpoint::from_images(&set).expect("sound"), checkpoint);
}

#[test]
fn images_survive_a_directory() {
    let parent = tempfile::tempdir().expect("a directory");
    let directory = parent.path().join("images");
    let set = written();
    set.to_directory(&directory).expect("written");
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    };
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("core-100.img")), 0o600);
    std::fs::write(directory.join("dump.log"), "not an image").expect("written");
    assert_eq!(ImageSet::from_directory(&directory, Limits::default()).expect("read"), set);

    match set.to_directory(&directory) {
        Err(DirectoryError::Occupied { .. }) => {}
        other => panic!("nothing may be overwritten: {other:?}"),
    }
    let small = Limits { total: 1000, ..Limits::default() };
    match ImageSet::from_directory(&directory, small) {
        Err(DirectoryError::Bad(BadImage::SetTooLarge { most: 1000 })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn links_are_not_followed() {
    let parent = tempfile::tempdir().expect("a directory");
    let directory = parent.path().join("images");
    written().to_directory(&directory).expect("written");
    symlink("/etc/hostname", directory.join("utsns-1.img")).expect("a link");
    match ImageSet::from_directory(&directory, Limits::default()) {
        Err(DirectoryError::Type { path, .. }) => assert!(path.ends_with("utsns-1.img")),
        other => panic!("{other:?}"),
    }
    let link = parent.path().join("link");
    symlink(&directory, &link).expect("a link");
    assert!(matches!(written().to_directory(&link), Err(DirectoryError::Type { .. })));
}

/// A file system of 64 KiB, gone on drop; `None` if this process may not mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(directory.path());
        if mount.output().is_ok_and(|mount| mount.status.success()) {
            return Some(Self(directory));
        }
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must be able to mount");
        println!("SKIPPED: no right to mount a tmpfs");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_named() {
    let Some(disk) = SmallDisk::mount() else { return };
    let space = SpaceId::Process(TaskId(5));
    let mut writer = PagesWriter::create(disk.0.path(), space, 1).expect("there is room");
    writer.push(run(1, 8), &content(run(1, 8))).expect("half of the disk");
    let error = writer.push(run(9, 64), &content(run(9, 64))).expect_err("four times the disk");
    assert!(matches!(error, DirectoryError::Full { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("the file system of ") && text.ends_with("is full: write failed"));
}

fn run(start: u64, count: u64) -> PageRange {
    PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
}

fn content(range: PageRange) -> Vec<u8> {
    (range.start().0..range.end().0)
        .flat_map(|page| [u8::try_from(page % 256).expect("a byte"); PAGE_SIZE])
        .collect()
}

#[test]
fn pages_stream_through_a_directory() {
    let parent = tempfile::tempdir().expect("a directory");
    let directory = parent.path().join("images");
    let (task, shared) = (SpaceId::Process(TaskId(5)), SpaceId::Shared(SharedId(9)));
    let mut writer = PagesWriter::create(&directory, task, 1).expect("created");
    for range in [run(3, 2), run(5, 1), run(100, 7)] {
        writer.push(range, &content(range)).expect("written");
    }
    assert_eq!(writer.finish().expect("complete"), PageCount(10));
    let writer = PagesWriter::create(&directory, shared, 2).expect("created");
    assert_eq!(writer.finish().expect("complete"), PageCount(0));

    let mut reader = PagesReader::open(&directory, task).expect("opened");
    let mut buffer = vec![0; 3 * PAGE_SIZE + 17];
    let mut got = Vec::new();
    while let Some(range) = reader.next(&mut buffer).expect("read") {
        let length = usize::try_from(range.bytes().0).expect("small");
        assert_eq!(buffer[..length], content(range), "{range:?}");
        got.push(range);
    }
    assert_eq!(got, [run(3, 3), run(100, 3), run(103, 3), run(106, 1)], "touching runs are one");

    for space in [shared, SpaceId::Shared(SharedId(10))] {
        let mut empty = PagesReader::open(&directory, space).expect("opened");
        assert_eq!(empty.next(&mut buffer).expect("read"), None);
    }
    match PagesReader::open(&directory, SpaceId::Process(TaskId(6))) {
        Err(DirectoryError::Bad(BadImage::Missing { image })) => assert_eq!(image, "pagemap-6.img"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn missing_pages_are_an_error_not_zeros() {
    let parent = tempfile::tempdir().expect("a directory");
    let space = SpaceId::Process(TaskId(5));
    let mut writer = PagesWriter::create(parent.path(), space, 1).expect("created");
    writer.push(run(1, 4), &content(run(1, 4))).expect("written");
    writer.finish().expect("complete");
    let pages = std::fs::File::options().write(true).open(parent.path().join("pages-1.img"));
    pages.expect("there").set_len(4 * PAGE_SIZE as u64 - 1).expect("cut");
    let mut reader = PagesReader::open(parent.path(), space).expect("opened");
    let mut buffer = vec![0; 2 * PAGE_SIZE];
    assert_eq!(reader.next(&mut buffer).expect("the first two"), Some(run(1, 2)));
    match reader.next(&mut buffer) {
        Err(DirectoryError::Bad(BadImage::Frame { image, offset, .. })) => {
            assert_eq!((image.as_str(), offset), ("pages-1.img", 2 * PAGE_SIZE as u64));
        }
        other => panic!("{other:?}"),
    }
}

/// Every way in which one part of a checkpoint can lie of another, and the field that is named.
#[test]
fn lies_are_named() {
    fn root(checkpoint: &mut Checkpoint) -> &mut image::state::Living {
        match &mut checkpoint.tasks[0].body {
            Body::Living(living) => living,
            Body::Zombie { .. } => panic!("the root lives"),
        }
    }
    type Lie = fn(&mut Checkpoint);
    let lies: &[(&str, &str, Lie)] = &[
        ("pstree.img", "ppid", |c| c.tasks.swap(0, 1)),
        ("pstree.img", "ppid", |c| c.tasks[1].parent = None),
        ("pstree.img", "ppid", |c| c.tasks[1].parent = Some(TaskId(111))),
        ("pstree.img", "threads", |c| root(c).threads[1].id = TaskId(110)),
        ("core-100.img", "tc", |c| root(c).threads.swap(0, 1)),
        ("pstree.img", "pid", |c| c.tasks[2].id = TaskId(1 << 22)),
        ("core-100.img", "tc.sigactions", |c| root(c).sigactions.truncate(61)),
        ("core-100.img", "tc.comm", |c| root(c).threads[0].comm = "x".repeat(16)),
        ("core-101.img", "thread_core.comm", |c| root(c).threads[1].comm = "a\0b".into()),
        ("core-100.img", "tc.timers.posix.notify_thread_id", |c| {
            root(c).posix_timers[0].notify_thread = Some(110);
        }),
        ("core-100.img", "tc.oom_score_adj", |c| root(c).oom_score_adj = 1001),
        ("core-100.img", "thread_core.sched_nice", |c| root(c).threads[0].sched.nice = 20),
        ("fs-100.img", "cwd_id", |c| root(c).fs.cwd = FileId(999)),
        ("fs-100.img", "root_id", |c| root(c).fs.root = FileId(2)),
        ("mm-100.img", "exe_file_id", |c| root(c).mm.exe = FileId(10)),
        ("mm-100.img", "vmas.start", |c| root(c).mm.vmas.swap(0, 1)),
        ("mm-100.img", "vmas.start", |c| {
            root(c).mm.vmas[0].range = run(0x1000_0000 >> 12, 1);
        }),
        ("mm-100.img", "vmas.start", |c| root(c).mm.vmas[5].range = run(1 << 45, 1)),
        ("mm-100.img", "vmas.shmid", |c| {
            let vma = &mut root(c).mm.vmas[0];
            vma.kind = VmaKind::File { file: FileId(10), offset: 0, shared: false, access: 0 };
        }),
        ("mm-100.img", "vmas.shmid", |c| {
            let vma = &mut root(c).mm.vmas[0];
            vma.kind = VmaKind::Memfd { file: FileId(20), offset: 0, shared: false, access: 0 };
        }),
        ("mm-100.img", "vmas.pgoff", |c| {
            let vma = &mut root(c).mm.vmas[0];
            vma.kind = VmaKind::File { file: FileId(20), offset: 1, shared: false, access: 0 };
        }),
        ("mm-100.img", "vmas.prot", |c| root(c).mm.vmas[0].prot = 8),
        ("mm-100.img", "mm_brk", |c| root(c).mm.brk.0 = u64::MAX),
        ("fdinfo-7.img", "id", |c| c.fd_tables[0].fds[0].file = FileId(999)),
        ("fdinfo-7.img", "fd", |c| c.fd_tables[0].fds[1].number = 2),
        ("files.img", "id", |c| c.files[17].id = FileId(1)),
        ("files.img", "reg.name", |c| {
            let FileKind::Regular(file) = &mut c.files[0].kind else { panic!("not regular") };
            file.path = "dev/null".into();
        }),
        ("files.img", "memfd.inode_id", |c| drop(c.shared.remove(1))),
        ("files.img", "epfd.tfd", |c| {
            c.fd_tables[0].fds.remove(1);
        }),
        ("files.img", "usk.peer", |c| {
            let FileKind::Unix(socket) = &mut c.files[7].kind else { panic!("not unix") };
            socket.peer = 1;
        }),
        ("files.img", "ino", |c| {
            let FileKind::Unix(socket) = &mut c.files[8].kind else { panic!("not unix") };
            socket.inode = 45_373;
        }),
        ("pipes-data.img", "pipe_id", |c| c.pipes[0].pipe.0 = 79),
        ("pipes-data.img", "bytes", |c| c.pipes[0].capacity = 5),
        ("ghost-file-2.img", "off", |c| c.ghosts[0].body.chunks.swap(0, 1)),
        ("ghost-file-2.img", "size", |c| c.ghosts[0].size = 49_999),
        ("ghost-file-2.img", "paged", |c| c.ghosts[0].paged = c.ghosts[2].paged),
        ("ghost-file-1b.img", "paged", |c| c.ghosts[2].paged = Some(c.shared[0].id)),
    ];
    for (number, (image, field, lie)) in lies.iter().enumerate() {
        let mut checkpoint = rich();
        lie(&mut checkpoint);
        let images = checkpoint.to_images(&NamespaceIds::default());
        match Checkpoint::from_images(&images) {
            Err(BadImage::Field { image: got_image, field: got, .. }) => {
                assert_eq!((got_image.as_str(), got), (*image, *field), "lie {number}");
            }
            other => panic!("lie {number} ({image}, {field}): {other:?}"),
        }
    }
}

#[test]
fn a_missing_image_is_named_unless_it_means_nothing_is_there() {
    let set = written();
    for (name, _) in set.iter().filter(|(name, _)| *name != "inventory.img") {
        match Checkpoint::from_images(&with(&set, name, None)) {
            Ok(_) => assert!(
                matches!(
                    name,
                    "pipes-data.img"
                        | "fifo-data.img"
                        | "sk-queues.img"
                        | "filelocks.img"
                        | "ipcns-sem-3.img"
                        | "ipcns-msg-3.img"
                ),
                "{name} cannot be missed"
            ),
            Err(BadImage::Missing { image }) => assert_eq!(image, name),
            Err(BadImage::Field { .. }) => {
                let named =
                    matches!(name, "files.img" | "memfd.img" | "ipcns-shm-3.img" | "tty-info.img");
                // Without descriptors, locks are held through none; filters are named by threads.
                let named = named || name == "seccomp.img";
                assert!(named || name.starts_with("fdinfo-"), "{name}")
            }
            Err(other) => panic!("{name}: {other}"),
        }
    }
}
