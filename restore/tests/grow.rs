//! Trees that are filled while the program would still run elsewhere.

mod world;

use image::kept::Extent;
use image::outline::Room;
use image::state::VmaFlags;
use pages::{PageCount, PageIndex, PageRange, PageSet, SpaceId, TaskId, VirtAddr};
use restore::{BuildOptions, Error, Grown, Skeleton};
use world::{CODE, HEAP, World, alone, can_run, exists, free_ids, open_fds, regular, verdict};

fn room(start: u64, end: u64, prot: u32, flags: VmaFlags) -> Room {
    let range = PageRange::from_addrs(VirtAddr(start), VirtAddr(end)).expect("a range");
    Room { range, prot, flags }
}

/// Begins the world as it is now, with room for all its anonymous memory.
fn grown(world: &World) -> Grown {
    let early = &world.checkpoint;
    let skeleton = Skeleton::create_growing(early, BuildOptions::default()).expect("made");
    let mut grown = skeleton.grow(Extent::Whole);
    for task in &early.tasks {
        let Some(living) = task.living() else { continue };
        let room: Vec<_> = living.mm.vmas.iter().filter_map(Room::of).collect();
        grown.make_room(task.id, &room, &PageSet::new()).expect("room");
    }
    grown
}

fn put(grown: &Grown, world: &World, byte: Option<u8>) {
    for (space, page, bytes) in &world.pages {
        let count = PageCount((bytes.len() / 4096) as u64);
        let run = PageRange::new(PageIndex(*page), count).expect("pages");
        let bytes = byte.map_or_else(|| bytes.clone(), |byte| vec![byte; bytes.len()]);
        grown.sink(*space).expect("a sink").write(run, &bytes).expect("written");
    }
}

#[test]
fn pages_put_early_are_there_and_the_newest_wins() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (fds, id) = (open_fds(), free_ids(1));
    let mut world = World::new();
    world.process(id, None, 0, 42);
    let grown = grown(&world);
    put(&grown, &world, Some(0xcc));
    put(&grown, &world, None);
    let built = grown.complete(&world.checkpoint).expect("complete");
    let ready = built.finish(&world.checkpoint).expect("finished");
    assert_eq!(verdict(ready.run().expect("runs")), 42 << 8);
    assert_eq!(open_fds(), fds);
}

#[test]
fn memory_that_came_grew_changed_and_went_is_followed() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let id = free_ids(1);
    let task = TaskId(id);
    let mut world = World::new();
    world.process(id, None, 0, 42);
    let skeleton = Skeleton::create_growing(&world.checkpoint, BuildOptions::default());
    let mut grown = skeleton.expect("made").grow(Extent::Whole);
    let plain = VmaFlags::empty();
    // The code not writable yet; a small heap of another kind; something that will be gone.
    let early = [
        room(CODE, CODE + 0x4000, 5, plain),
        room(HEAP, HEAP + 0x3000, 3, VmaFlags::NO_RESERVE),
        room(0x100_0000, 0x110_0000, 3, plain),
    ];
    grown.make_room(task, &early, &PageSet::new()).expect("room");
    put(&grown, &world, None);
    let write = |grown: &Grown, at: u64, byte: u8| {
        let page = PageRange::new(VirtAddr(at).page(), PageCount(1)).expect("a page");
        grown.sink(SpaceId::Process(task)).expect("a sink").write(page, &[byte; 4096])
    };
    write(&grown, HEAP, 1).expect("written");
    write(&grown, 0x100_0000, 1).expect("written");
    let next = [
        room(CODE, CODE + 0x4000, 0, plain),
        room(HEAP, HEAP + 0x8000, 3, plain),
        room(0x108_0000, 0x120_0000, 1, plain),
    ];
    grown.make_room(task, &next, &PageSet::new()).expect("room");
    write(&grown, HEAP + 0x7000, 2).expect("written");
    write(&grown, 0x11f_0000, 2).expect("written");
    let outside = write(&grown, 0x100_0000, 3).expect_err("gone");
    assert!(matches!(outside, Error::OutsideSpace { .. }), "{outside}");
    let built = grown.complete(&world.checkpoint).expect("complete");
    let host = tracee::HostPid(id.cast_signed());
    let memory = tracee::Memory::open(host).expect("ptrace access");
    let byte = |at: u64| {
        let mut byte = [0];
        memory.read(VirtAddr(at), &mut byte).map(|()| byte[0]).ok()
    };
    assert_eq!(byte(HEAP), Some(0), "it was another mapping");
    assert_eq!(byte(HEAP + 0x7000), Some(2), "it was there already");
    assert_eq!(byte(0x108_0000), None, "it is gone");
    let maps = tracee::proc::maps::read(host).expect("alive");
    for vma in &world.living(id).mm.vmas {
        let found = maps.iter().find(|mapping| mapping.start == vma.range.start_addr());
        let found = found.unwrap_or_else(|| panic!("{vma:?} in {maps:?}"));
        let whole = found.end == vma.range.end_addr() || vma.kind == image::state::VmaKind::Vvar;
        assert!(whole, "{vma:?} is {found:?}");
    }
    let ready = built.finish(&world.checkpoint).expect("finished");
    assert_eq!(verdict(ready.run().expect("runs")), 42 << 8);
}

/// Two pieces that have pages each, and then something new between them: one mapping all the same.
#[test]
fn what_the_kernel_cannot_join_is_joined() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let id = free_ids(1);
    let task = TaskId(id);
    let mut world = World::new();
    world.process(id, None, 0, 42);
    let skeleton = Skeleton::create_growing(&world.checkpoint, BuildOptions::default());
    let mut grown = skeleton.expect("made").grow(Extent::Whole);
    let plain = VmaFlags::empty();
    let pieces =
        [room(HEAP, HEAP + 0x3000, 3, plain), room(HEAP + 0x6000, HEAP + 0x9000, 3, plain)];
    grown.make_room(task, &pieces, &PageSet::new()).expect("room");
    let sink = grown.sink(SpaceId::Process(task)).expect("a sink");
    for (at, byte) in [(HEAP + 0x1000, 1), (HEAP + 0x8000, 2)] {
        let page = PageRange::new(VirtAddr(at).page(), PageCount(1)).expect("a page");
        sink.write(page, &[byte; 4096]).expect("written");
    }
    let built = grown.complete(&world.checkpoint).expect("complete");
    let host = tracee::HostPid(id.cast_signed());
    let maps = tracee::proc::maps::read(host).expect("alive");
    let heap = maps.iter().find(|mapping| mapping.start == VirtAddr(HEAP)).expect("the heap");
    assert_eq!(heap.end, VirtAddr(HEAP + 0x1_0000), "{maps:?}");
    let memory = tracee::Memory::open(host).expect("ptrace access");
    for (at, expected) in [(0, 0), (0x1000, 1), (0x5000, 0), (0x8fff, 2), (0x9000, 0)] {
        let mut byte = [9];
        memory.read(VirtAddr(HEAP + at), &mut byte).expect("readable");
        assert_eq!(byte, [expected], "at {at:#x}");
    }
    for (space, page, bytes) in &world.pages {
        let count = PageCount((bytes.len() / 4096) as u64);
        let run = PageRange::new(PageIndex(*page), count).expect("pages");
        built.sink(*space).expect("a sink").write(run, bytes).expect("written");
    }
    let ready = built.finish(&world.checkpoint).expect("finished");
    assert_eq!(verdict(ready.run().expect("runs")), 42 << 8);
}

#[test]
fn what_outgrew_its_tree_is_refused_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (fds, id) = (open_fds(), free_ids(1));
    let mut world = World::new();
    world.process(id, None, 0, 42);
    let many = grown(&world);
    let early = world.checkpoint.clone();
    world.fd(id, 9000, regular(50, "/dev/null", 0));
    let error = many.complete(&world.checkpoint).err().expect("too high a number");
    assert!(matches!(error, Error::Outgrown { .. }), "{error}");
    assert!(!exists(id));

    let mut wide = Skeleton::create_growing(&early, BuildOptions::default())
        .expect("made")
        .grow(Extent::Whole);
    let everything = [room(0x20_0000, 0x7000_0000_0000, 0, VmaFlags::NO_RESERVE)];
    let error =
        wide.make_room(TaskId(id), &everything, &PageSet::new()).expect_err("qmig is there");
    assert!(matches!(error, Error::Outgrown { .. }), "{error}");
    drop(wide);
    assert!(!exists(id));
    assert_eq!(open_fds(), fds);
}

#[test]
fn trees_are_the_same_by_who_is_where() {
    if !can_run() {
        return;
    }
    let mut world = World::new();
    world.process(100, None, 0, 1);
    world.process(101, Some(100), 0, 1);
    let early = world.checkpoint.clone();
    world.living(101).mm.dumpable = 0;
    world.fd(101, 3, regular(50, "/dev/null", 0));
    assert!(world.checkpoint.same_tree(&early), "files and memory may change");
    world.task(101).group = TaskId(101);
    assert!(!world.checkpoint.same_tree(&early));
    world.task(101).group = TaskId(100);
    let table = world.living(100).fds;
    world.living(101).fds = table;
    assert!(!world.checkpoint.same_tree(&early), "they share their descriptors now");
    world.checkpoint = early.clone();
    world.zombie(102, 100, 0);
    assert!(!world.checkpoint.same_tree(&early));
}
