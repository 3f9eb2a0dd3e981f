//! Trees whose processes are born with memory in common.

mod world;

use image::Heritage;
use image::heritage::{Common, HERITAGE};
use image::kept::Extent;
use image::outline::Room;
use image::state::VmaFlags;
use pages::{PageCount, PageIndex, PageRange, PageSet, SpaceId, TaskId, VirtAddr};
use restore::{BuildOptions, Built, Running, Trunk};
use tracee::{HostPid, Memory, Pagemap};
use world::{HEAP, World, alone, can_run, exists, free_ids, open_fds, verdict};

fn pages(at: u64, count: u64) -> PageRange {
    PageRange::new(VirtAddr(HEAP + at).page(), PageCount(count)).expect("pages")
}

/// A root and two children: pages 1 to 3 of the heap are common to the first two, page 2 to all.
fn family(root: u32) -> (World, Heritage) {
    let mut world = World::new();
    world.process(root, None, 0, 42);
    world.process(root + 1, Some(root), 6, 0);
    world.process(root + 2, Some(root), 6, 0);
    let range = pages(0, 16);
    let (three, one) = (pages(0x1000, 3), pages(0x2000, 1));
    let set = |range: PageRange| -> PageSet { [range].into_iter().collect() };
    let heirs = [(root, three), (root + 1, three), (root + 2, one)];
    let heirs = heirs.into_iter().map(|(id, range)| (TaskId(id), set(range))).collect();
    let rooms = vec![Common { range, flags: VmaFlags::empty() }];
    (world, Heritage { rooms, pages: set(three), heirs })
}

fn built(world: &World, heritage: &Heritage, options: BuildOptions) -> Built {
    let told = Heritage::from_bytes(&heritage.to_bytes(), &world.checkpoint).expect("sound");
    assert_eq!(told, *heritage);
    let mut trunk = Trunk::plant(world.checkpoint.clone(), told, options).expect("planted");
    let (space, count) = trunk.due();
    assert_eq!((space, count), (SpaceId::Process(world.checkpoint.root().id), PageCount(3)));
    let sink = trunk.sink().expect("a sink");
    sink.write(pages(0x1000, 3), &[7; 3 * 4096]).expect("written");
    assert!(sink.write(pages(0x1_0000, 1), &[7; 4096]).is_err(), "outside of what is common");
    drop(sink);
    let (built, _) = trunk.into_built().expect("built");
    fill(world, built)
}

fn fill(world: &World, built: Built) -> Built {
    for (space, page, bytes) in &world.pages {
        let count = PageCount((bytes.len() / 4096) as u64);
        let run = PageRange::new(PageIndex(*page), count).expect("pages");
        built.sink(*space).expect("a sink").write(run, bytes).expect("written");
    }
    built
}

fn run(world: &World, built: Built) -> Running {
    built.finish(&world.checkpoint).expect("finished").run().expect("runs")
}

#[test]
fn common_pages_are_one_and_others_are_nobodys() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (fds, root) = (open_fds(), free_ids(3));
    let (world, heritage) = family(root);
    let built = built(&world, &heritage, BuildOptions::default());
    let host = |number: u32| HostPid((root + number).cast_signed());
    let frames = |number| {
        let map = Pagemap::open(host(number)).expect("alive");
        map.frames(pages(0, 5)).expect("read")
    };
    let [first, second, third] = [0, 1, 2].map(frames);
    assert!(first[1..4].iter().all(Option::is_some) && first[0].is_none() && first[4].is_none());
    assert_eq!(first, second);
    assert_eq!(third, [None, None, first[2], None, None]);
    // A copy is made as soon as somebody writes.
    let sink = built.sink(SpaceId::Process(TaskId(root + 1))).expect("a sink");
    sink.write(pages(0x2000, 1), &[9; 4096]).expect("written");
    for (number, expected) in [(0, 7), (1, 9), (2, 7)] {
        let mut byte = [0];
        let memory = Memory::open(host(number)).expect("alive");
        memory.read(VirtAddr(HEAP + 0x2fff), &mut byte).expect("read");
        assert_eq!(byte, [expected], "of process {number}");
    }
    drop(sink);
    assert_eq!(verdict(run(&world, built)), 42 << 8);
    for number in 1..3 {
        let _ = tracee::host::kill(host(number), 9);
    }
    assert_eq!(open_fds(), fds);
}

/// The tree has moved on since it was what its first images tell: memory of the second is gone, and its
/// page is another.
#[test]
fn a_tree_that_grows_out_of_it_is_filled_round_by_round() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (fds, root) = (open_fds(), free_ids(3));
    let (world, heritage) = family(root);
    let options = BuildOptions::default();
    let early = world.checkpoint.clone();
    let mut trunk = Trunk::plant_growing(early, heritage, options).expect("planted");
    let sink = trunk.sink().expect("a sink");
    sink.write(pages(0x1000, 3), &[7; 3 * 4096]).expect("written");
    drop(sink);
    let (mut grown, early) = trunk.into_grown(Extent::Whole).expect("grown");
    for task in &early.tasks {
        let vmas = task.living().expect("alive").mm.vmas.iter();
        let room: Vec<Room> = vmas.filter_map(Room::of).collect();
        grown.make_room(task.id, &room, &PageSet::new()).expect("room");
    }
    let host = |number: u32| HostPid((root + number).cast_signed());
    let frames = |number| {
        let map = Pagemap::open(host(number)).expect("alive");
        map.frames(pages(0, 5)).expect("read")
    };
    let [first, second, third] = [0, 1, 2].map(frames);
    assert!(first[1..4].iter().all(Option::is_some), "{first:?}");
    assert_eq!((&first, &third), (&second, &vec![None, None, first[2], None, None]));
    let sink = grown.sink(SpaceId::Process(TaskId(root + 1))).expect("a sink");
    sink.write(pages(0x2000, 1), &[9; 4096]).expect("written");
    drop(sink);
    let stale = [pages(0x3000, 1)].into_iter().collect();
    grown.forget(TaskId(root + 2), &stale).expect("it has none");
    grown.forget(TaskId(root + 1), &stale).expect("forgotten");
    let built = fill(&world, grown.complete(&world.checkpoint).expect("complete"));
    let [now, second, third] = [0, 1, 2].map(frames);
    assert_eq!((now, third[2]), (first.clone(), first[2]), "still one page");
    assert!(second[1] == first[1] && second[2] != first[2] && second[3].is_none(), "{second:?}");
    for (number, expected) in [(0, 7), (1, 9), (2, 7)] {
        let mut byte = [0];
        let memory = Memory::open(host(number)).expect("alive");
        memory.read(VirtAddr(HEAP + 0x2fff), &mut byte).expect("read");
        assert_eq!(byte, [expected], "of process {number}");
    }
    assert_eq!(verdict(run(&world, built)), 42 << 8);
    for number in 1..3 {
        let _ = tracee::host::kill(host(number), 9);
    }
    assert_eq!(open_fds(), fds);
}

#[test]
fn the_first_process_of_a_namespace_keeps_none_of_it() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (world, heritage) = family(1000);
    let options = BuildOptions { pidns: true, ..BuildOptions::default() };
    let running = run(&world, built(&world, &heritage, options));
    let maps = tracee::proc::maps::read(HostPid(running.child.0)).expect("alive");
    assert!(maps.iter().all(|mapping| mapping.start != VirtAddr(HEAP)), "{maps:?}");
    assert_eq!(verdict(running), 42 << 8);
}

#[test]
fn a_trunk_that_is_dropped_leaves_nothing() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (fds, root) = (open_fds(), free_ids(3));
    let (world, heritage) = family(root);
    let trunk = Trunk::plant(world.checkpoint.clone(), heritage, BuildOptions::default());
    assert!(trunk.is_ok() && exists(root));
    drop(trunk);
    assert!(!exists(root));
    assert_eq!(open_fds(), fds);
}

#[test]
fn lies_about_common_memory_are_named() {
    if !can_run() {
        return;
    }
    let (world, sound) = family(1000);
    type Lie = fn(&mut Heritage);
    let lies: [(&str, Lie); 5] = [
        ("heirs.task", |it| drop(it.heirs.insert(TaskId(7), PageSet::new()))),
        ("heirs.counts", |it| it.rooms[0].flags = VmaFlags::NO_RESERVE),
        ("heirs.counts", |it| it.rooms[0].range = pages(0, 4)),
        ("room_counts", |it| it.rooms[0].range = pages(0, 17)),
        ("heirs.counts", |it| {
            it.heirs.insert(TaskId(1000), [pages(0xf000, 2)].into_iter().collect());
        }),
    ];
    for (field, lie) in lies {
        let mut told = sound.clone();
        lie(&mut told);
        let error = Heritage::from_bytes(&told.to_bytes(), &world.checkpoint).expect_err(field);
        let error = error.to_string();
        assert!(error.contains(field) && error.contains(HERITAGE), "{field}: {error}");
    }
}
