//! What other writers leave out, write differently, or know and we do not.

mod common;

use common::rich;
use image::frame::{FrameReader, FrameWriter};
use image::messages::{
    CoreEntry, FdType, FdinfoEntry, FileEntry, FileLockEntry, InventoryEntry, IpcShmEntry, MmEntry,
    PacketRing, PstreeEntry, RemapFilePathEntry, SkPacketEntry, TaskKobjIdsEntry, TimensEntry,
    VmaEntry,
};
use image::state::{Body, Checkpoint, FileKind, Living, VmaKind};
use image::{BadImage, ImageKind, ImageSet, ImageSetBuilder, Limits, NamespaceIds};
use pages::{SharedId, TaskId};
use prost::Message;

/// The images of [`rich`], to be changed one at a time.
struct Images(Vec<(String, Vec<u8>)>);

impl Images {
    fn new() -> Self {
        let set = rich().to_images(&NamespaceIds::default());
        Self(set.iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect())
    }

    fn put(&mut self, name: &str, bytes: Vec<u8>) -> &mut Self {
        self.0.retain(|(other, _)| other != name);
        self.0.push((name.to_owned(), bytes));
        self
    }

    /// Changes the entries of an image without raw bytes.
    fn edit<M: Message + Default>(
        &mut self,
        name: &str,
        edit: impl FnOnce(&mut Vec<M>),
    ) -> &mut Self {
        let (kind, _) = ImageKind::of_name(name).expect("a known image");
        let bytes = self.0.iter().find(|(other, _)| other == name).expect(name).1.clone();
        let mut frame = FrameReader::open(name, kind, &*bytes).expect("our own image");
        let mut entries = Vec::new();
        while let Some(entry) = frame.message().expect("our own image") {
            entries.push(entry);
        }
        edit(&mut entries);
        let mut image = FrameWriter::new(kind);
        for entry in &entries {
            image.entry(entry);
        }
        self.put(name, image.finish())
    }

    fn one<M: Message + Default>(&mut self, name: &str, edit: impl FnOnce(&mut M)) -> &mut Self {
        self.edit(name, |entries: &mut Vec<M>| edit(&mut entries[0]))
    }

    fn file(&mut self, id: u32, edit: impl FnOnce(&mut FileEntry)) -> &mut Self {
        self.edit("files.img", |files: &mut Vec<FileEntry>| {
            edit(files.iter_mut().find(|file| file.id == id).expect("a file"));
        })
    }

    fn set(&self) -> ImageSet {
        let mut set = ImageSetBuilder::new(Limits::default());
        for (name, bytes) in &self.0 {
            set.insert(name, bytes.clone()).expect("small");
        }
        set.seal().expect("complete")
    }

    fn read(&self) -> Result<Checkpoint, BadImage> {
        Checkpoint::from_images(&self.set())
    }
}

fn root(checkpoint: &mut Checkpoint) -> &mut Living {
    match &mut checkpoint.tasks[0].body {
        Body::Living(living) => living,
        Body::Zombie { .. } => panic!("the root lives"),
    }
}

#[test]
fn unknown_fields_are_passed_over() {
    let mut images = Images::new();
    for (name, bytes) in &mut images.0 {
        let (kind, _) = ImageKind::of_name(name).expect("a known image");
        if matches!(kind, ImageKind::Ids | ImageKind::Fs | ImageKind::Mm | ImageKind::Core) {
            // Field 9999, a varint, at the end of the only entry.
            let length = u32::try_from(bytes.len() - 12 + 4).expect("small");
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            bytes.extend([0xf8, 0xf0, 0x04, 0x2a]);
        }
    }
    assert!(images.read().expect("sound") == rich());
}

#[test]
fn what_criu_leaves_out_has_its_meaning() {
    let mut images = Images::new();
    images.one("core-100.img", |core: &mut CoreEntry| {
        let thread = core.thread_core.as_mut().expect("there");
        thread.comm = None;
        thread.blk_sigset = None;
        thread.sas = None;
        thread.rseq_entry = None;
        thread.sched_policy = None;
        thread.sched_nice = None;
        let tc = core.tc.as_mut().expect("there");
        (tc.loginuid, tc.oom_score_adj, tc.signals_s, tc.cg_set) = (None, None, None, None);
        core.thread_info.as_mut().expect("there").fpregs.as_mut().expect("there").xsave = None;
    });
    images.one("mm-100.img", |mm: &mut MmEntry| {
        (mm.dumpable, mm.thp_disabled) = (None, None);
        mm.mm_saved_auxv.clear();
    });
    images.edit("pstree.img", |tree: &mut Vec<PstreeEntry>| tree[2].threads = vec![0x9546_2260]);
    images.one("inventory.img", |inventory: &mut InventoryEntry| {
        (inventory.ns_per_id, inventory.lsmtype, inventory.network_lock_method) =
            (None, None, None);
    });

    let mut expected = rich();
    let living = root(&mut expected);
    living.threads[0].rseq = None;
    living.threads[0].sched.nice = 0;
    living.threads[0].fp.in_use = 3;
    living.threads[0].fp.components.clear();
    living.pending.clear();
    living.oom_score_adj = 0;
    living.mm.auxv.clear();
    assert!(images.read().expect("sound") == expected);
}

#[test]
fn clocks_of_a_restored_tree_are_those_of_its_namespace() {
    let mut images = Images::new();
    let own = |ids: &mut TaskKobjIdsEntry| ids.time_ns_id = Some(12);
    images.one("ids-100.img", own).one("ids-110.img", own);
    assert_eq!(images.read().expect("sound").clocks, rich().clocks, "only timens-0 is there");
    let mut entry = TimensEntry::default();
    entry.monotonic.tv_sec = 17;
    let mut image = FrameWriter::new(ImageKind::TimeNs);
    image.entry(&entry);
    images.put("timens-12.img", image.finish());
    assert_eq!(images.read().expect("sound").clocks.monotonic.as_secs(), 17);
}

#[test]
fn the_older_form_of_shared_memory_becomes_a_memfd() {
    let mut images = Images::new();
    for task in ["mm-100.img", "mm-110.img"] {
        images.one(task, |mm: &mut MmEntry| {
            let vma = &mut mm.vmas[3];
            (vma.status, vma.flags, vma.shmid, vma.fdflags) = (0x101, 0x21, 4711, None);
            vma.pgoff = 0x2000;
        });
    }
    let checkpoint = images.read().expect("sound");
    let object = checkpoint.shared.iter().find(|object| object.id == SharedId(4711));
    let object = object.expect("an object of its own");
    assert_eq!((object.name.as_str(), object.size, object.seals), ("/dev/zero", 0xa000, 1));
    let files =
        checkpoint.tasks.iter().filter_map(|task| task.living()).map(|living| {
            match living.mm.vmas[3].kind {
                VmaKind::Memfd { file, shared: true, offset: 0x2000, .. } => file,
                other => panic!("{other:?}"),
            }
        });
    let files: Vec<_> = files.collect();
    assert_eq!(files[0], files[1], "both map one object");
    match checkpoint.file(files[0]).expect("it is there").kind {
        FileKind::Memfd { shared: SharedId(4711), .. } => {}
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn keep_alive_times_are_found_where_older_versions_kept_them() {
    let mut images = Images::new();
    images.file(12, |file| {
        let socket = file.isk.as_mut().expect("a socket");
        let tcp = socket.tcp_opts.take().expect("of TCP");
        socket.opts.tcp_keepcnt = tcp.keepcnt;
        socket.opts.tcp_keepidle = tcp.keepidle;
        socket.opts.tcp_keepintvl = tcp.keepintvl;
    });
    let checkpoint = images.read().expect("sound");
    match &checkpoint.files[11].kind {
        FileKind::Inet(socket) => assert_eq!(socket.options.tcp_keep, Some([9, 77, 75])),
        other => panic!("{other:?}"),
    }
}

/// State that CRIU carries and qmig's engine does not: never lost in silence.
#[test]
fn what_we_cannot_carry_is_refused_by_name() {
    fn thread(images: &mut Images, edit: impl FnOnce(&mut image::messages::ThreadCoreEntry)) {
        images.one("core-101.img", |core: &mut CoreEntry| {
            edit(core.thread_core.as_mut().expect("there"));
        });
    }
    fn vma(images: &mut Images, edit: impl FnOnce(&mut VmaEntry)) {
        images.one("mm-100.img", |mm: &mut MmEntry| edit(&mut mm.vmas[1]));
    }
    fn type_of(images: &mut Images, kind: FdType) {
        images.file(6, |file| file.r#type = kind as i32);
        images.edit("fdinfo-7.img", |fds: &mut Vec<FdinfoEntry>| fds[5].r#type = kind as i32);
    }
    type Change = fn(&mut Images);
    let changes: &[(&str, Change)] = &[
        ("security module", |i| {
            thread(i, |thread| {
                thread.creds.as_mut().expect("there").lsm_profile = Some("apparmor:x".into());
            });
        }),
        ("scheduling class", |i| thread(i, |thread| thread.sched_policy = Some(6))),
        ("membarrier", |i| {
            i.one("core-100.img", |core: &mut CoreEntry| {
                core.tc.as_mut().expect("there").membarrier_registration_mask = Some(1);
            });
        }),
        ("32-bit", |i| {
            i.one("core-101.img", |core: &mut CoreEntry| {
                let info = core.thread_info.as_mut().expect("there");
                info.gpregs.as_mut().expect("there").mode = Some(2);
            });
        }),
        ("another architecture", |i| {
            i.one("core-101.img", |core: &mut CoreEntry| core.mtype = 3);
        }),
        ("droppable memory", |i| vma(i, |vma| vma.flags |= 0x8)),
        ("no pagemap", |i| {
            i.edit("ipcns-shm-3.img", |segments: &mut Vec<IpcShmEntry>| {
                segments[0].in_pagemaps = None;
            });
        }),
        ("asynchronous I/O", |i| vma(i, |vma| vma.status = 0x2000)),
        ("network namespace", |i| {
            i.one("ids-110.img", |ids: &mut TaskKobjIdsEntry| ids.net_ns_id = Some(77));
        }),
        ("pid namespace", |i| {
            i.one("ids-110.img", |ids: &mut TaskKobjIdsEntry| ids.pid_ns_id = Some(77));
        }),
        ("BPF map", |i| type_of(i, FdType::Bpfmap)),
        ("handle alone", |i| {
            i.file(18, |file| file.ify.as_mut().expect("it").wd[0].f_handle.path = None);
        }),
        ("marked file that is known by its handle", |i| {
            i.file(101, |file| {
                file.ffy.as_mut().expect("it").mark[1].me.as_mut().expect("a mount").path = None;
            });
        }),
        ("process that is gone", |i| {
            i.file(19, |file| file.pidfd.as_mut().expect("it").nspid = -1);
        }),
        ("ring of a packet socket", |i| {
            i.file(100, |file| {
                file.psk.as_mut().expect("a socket").rx_ring = Some(PacketRing::default());
            });
        }),
        ("fanout by a program", |i| {
            i.file(100, |file| file.psk.as_mut().expect("a socket").fanout = Some(6 << 16));
        }),
        ("netlink", |i| {
            i.file(99, |file| file.nlsk.as_mut().expect("a socket").protocol = 12);
        }),
        ("being made", |i| {
            i.file(12, |file| file.isk.as_mut().expect("a socket").state = 2);
        }),
        ("peer is outside", |i| {
            i.file(8, |file| file.usk.as_mut().expect("a socket").uflags = 1);
        }),
        ("other links", |i| {
            i.edit("remap-fpath.img", |remaps: &mut Vec<RemapFilePathEntry>| {
                remaps[0].remap_type = Some(0);
            });
        }),
        ("lock", |i| {
            let mut image = FrameWriter::new(ImageKind::FileLocks);
            image.entry(&FileLockEntry::default());
            i.put("filelocks.img", image.finish());
        }),
        ("in flight", |i| {
            let mut image = FrameWriter::new(ImageKind::SocketQueues);
            let scm = vec![image::messages::ScmEntry { r#type: 2, rights: vec![1] }];
            image.entry(&SkPacketEntry { id_for: 8, scm, ..SkPacketEntry::default() });
            i.put("sk-queues.img", image.finish());
        }),
        ("plugin", |i| {
            i.one("inventory.img", |inventory: &mut InventoryEntry| {
                let plugins = vec!["amdgpu".into()];
                inventory.plugins_entry = Some(image::messages::PluginsEntry { plugins });
            });
        }),
    ];
    for (what, change) in changes {
        let mut images = Images::new();
        change(&mut images);
        match images.read() {
            Err(error) => {
                assert!(error.is_unsupported(), "{what}: {error}");
                assert!(error.to_string().contains(what), "{what}: {error}");
            }
            Ok(_) => panic!("{what} was lost in silence"),
        }
    }
}

#[test]
fn inspect_shows_fields_by_name() {
    let set = Images::new().set();
    let of = |name| image::inspect(name, set.get(name).expect(name)).expect(name);
    let tree = of("pstree.img");
    assert_eq!(tree["kind"], "Pstree");
    assert_eq!(tree["entries"][1]["ppid"], 100);
    let fds = of("fdinfo-7.img");
    assert_eq!(fds["entries"][0]["type"], "Reg", "enumerations have names");
    let pipe = of("pipes-data.img");
    assert_eq!(pipe["entries"][0]["raw"]["hex"], "696e207468652070697065");
    let fs = of("fs-100.img").to_string();
    assert!(fs.ends_with(r#"[{"cwd_id":21,"root_id":22,"umask":23}]}"#), "{fs}");
    let inventory = of("inventory.img");
    assert_eq!(inventory["entries"][0]["dump_uptime"], serde_json::Value::Null, "absent");
    assert!(!inventory.to_string().contains("dump_uptime"));
    assert_eq!(rich().root().id, TaskId(100));
}

#[test]
fn locks_that_nobody_can_have_are_lies() {
    type Change = fn(&mut FileLockEntry);
    let changes: &[(&str, Change)] = &[
        ("pid", |lock| lock.pid = 77),
        ("pid", |lock| lock.pid = 111), // a zombie
        ("pid", |lock| lock.pid = -1),
        ("fd", |lock| lock.fd = 500),
        ("fd", |lock| lock.fd = -1),
        ("start", |lock| lock.start = -1),
        ("start", |lock| lock.len = -1),
        ("len", |lock| (lock.start, lock.len) = (2, i64::MAX)),
    ];
    for (field, change) in changes {
        let mut images = Images::new();
        images.one("filelocks.img", *change);
        let error = images.read().expect_err(field).to_string();
        assert!(error.contains("filelocks.img") && error.contains(field), "{field}: {error}");
    }
    let mut images = Images::new();
    images.edit("filelocks.img", |locks: &mut Vec<FileLockEntry>| locks[2].len = 7);
    assert!(images.read().is_err(), "flock(2) knows no ranges");
}
