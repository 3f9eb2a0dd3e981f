//! Trees made again: numbers, parents, groups, sessions, zombies; and nothing left of those that
//! never ran.

mod world;

use restore::{BuildOptions, Error, Skeleton};
use world::{World, alone, can_run, exists, free_ids, open_fds, verdict};

#[test]
fn a_process_runs_with_its_number_and_exits() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (fds, id) = (open_fds(), free_ids(1));
    let mut world = World::new();
    world.process(id, None, 0, 42);
    assert_eq!(world.verdict(), 42 << 8);
    assert_eq!(open_fds(), fds);
    assert!(!exists(id));
}

/// root, a zombie by exit, one by signal, a session of its own with a child, and a daemon and a job
/// whose session and group leaders are dead.
fn crowd(root: u32) -> World {
    let [exited, killed, leader, below, daemon, job] = [1, 2, 3, 4, 5, 6].map(|n| root + n);
    let shot = root + 7;
    let [dead_session, dead_group] = [root + 8, root + 9];
    let mut world = World::new();
    world.process(root, None, 5, 0);
    world.zombie(exited, root, 200 << 8);
    world.zombie(killed, root, 15);
    world.zombie(shot, root, 9);
    for (id, parent) in [(leader, root), (below, leader), (daemon, root), (job, root)] {
        world.process(id, Some(parent), 6, 0);
    }
    for (id, group, session) in [
        (leader, leader, leader),
        (below, below, leader),
        (daemon, dead_session, dead_session),
        (job, dead_group, root),
    ] {
        let task = world.task(id);
        (task.group, task.session) = (pages::TaskId(group), pages::TaskId(session));
    }
    let mut rows = Vec::new();
    for task in &world.checkpoint.tasks[1..] {
        let status = match &task.body {
            image::state::Body::Zombie { status, .. } => *status,
            image::state::Body::Living(_) => -1,
        };
        rows.extend([task.id.0, task.group.0, task.session.0].map(u32::cast_signed));
        rows.push(status);
    }
    rows.insert(0, 7);
    world.table(root, &rows);
    world
}

#[test]
fn sessions_groups_and_zombies_are_as_they_were() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (fds, root) = (open_fds(), free_ids(10));
    let running = crowd(root).run(BuildOptions::default()).expect("runs");
    assert_eq!(verdict(running), 0, "the number of the failed check is in the high byte");
    for id in [3, 4, 5, 6].map(|n| root + n) {
        assert!(exists(id), "{id} runs on");
        tracee::host::kill(tracee::HostPid(id.cast_signed()), 9).expect("killed");
    }
    assert!(!exists(root + 8) && !exists(root + 9), "helpers must be gone");
    assert_eq!(open_fds(), fds);
}

#[test]
fn dropping_any_stage_leaves_nothing() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (fds, root) = (open_fds(), free_ids(10));
    let gone = |stage: &str| {
        for id in root..root + 10 {
            assert!(!exists(id), "{stage}: {id} is still there");
        }
        assert_eq!(open_fds(), fds, "{stage}");
    };
    let world = crowd(root);
    let options = BuildOptions::default();
    let skeleton = Skeleton::create(&world.checkpoint, options).expect("a skeleton");
    assert!((root..root + 8).all(exists));
    drop(skeleton);
    gone("skeleton");
    let skeleton = Skeleton::create(&world.checkpoint, options).expect("a skeleton");
    drop(skeleton.build(&world.checkpoint).expect("built"));
    gone("built");
    drop(crowd(root).ready(options).expect("ready"));
    gone("ready");
    let options = BuildOptions { pidns: true, ..options };
    drop(crowd(root).ready(options).expect("ready"));
    gone("ready in its own namespace");
}

#[test]
fn a_taken_number_is_named_and_nothing_is_left() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let mut other = std::process::Command::new("sleep").arg("100").spawn().expect("sleeps");
    let fds = open_fds();
    let root = free_ids(3);
    let mut world = World::new();
    world.process(root, None, 6, 0);
    world.process(other.id(), Some(root), 6, 0);
    match world.run(BuildOptions::default()) {
        Err(Error::PidTaken { task }) => assert_eq!(task.0, other.id()),
        other => panic!("{other:?}"),
    }
    assert!(!exists(root));
    assert_eq!(open_fds(), fds);
    other.kill().expect("killed");
    other.wait().expect("reaped");
}

#[test]
fn a_namespace_of_its_own_frees_any_number() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (fds, me) = (open_fds(), std::process::id());
    // Numbers that are taken out here; the root exits with 200 if its pid is right and its parent 1.
    let mut world = World::new();
    world.process(me, None, 9, u64::from(me));
    world.process(me + 1, Some(me), 6, 0);
    let options = BuildOptions { pidns: true, ..BuildOptions::default() };
    let running = world.run(options).expect("runs");
    assert_ne!(running.child, running.root);
    let root = running.root;
    assert_eq!(verdict(running), 200 << 8);
    assert!(!exists(root.0.cast_unsigned()), "the namespace ends with its root");
    assert_eq!(open_fds(), fds);
}

#[test]
fn a_shell_job_joins_our_session_and_group() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let root = free_ids(2);
    let mut world = World::new();
    world.process(root, None, 6, 0);
    world.process(root + 1, Some(root), 6, 0);
    for id in [root, root + 1] {
        let task = world.task(id);
        (task.group, task.session) = (pages::TaskId(4), pages::TaskId(3));
    }
    match world.run(BuildOptions::default()) {
        Err(error @ Error::Shape(_)) => assert!(error.to_string().contains("--shell-job")),
        other => panic!("{other:?}"),
    }
    let options = BuildOptions { shell_job: true, ..BuildOptions::default() };
    let running = world.run(options).expect("runs");
    let session = nix::unistd::getsid(None).expect("a session").as_raw();
    for id in [root + 1, root] {
        let host = tracee::HostPid(id.cast_signed());
        let stat = tracee::proc::stat::Stat::read(host).expect("runs");
        assert_eq!((stat.session, stat.pgrp), (session, nix::unistd::getpgrp().as_raw()));
        tracee::host::kill(host, 9).expect("killed");
    }
    assert_eq!(verdict(running), 9);
}

#[test]
fn a_namespace_ends_as_its_root_is_killed() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let mut world = World::new();
    world.process(1000, None, 6, 0);
    world.process(1001, Some(1000), 6, 0);
    let options = BuildOptions { pidns: true, ..BuildOptions::default() };
    let running = world.run(options).expect("runs");
    tracee::host::kill(running.root, 9).expect("killed");
    assert_eq!(verdict(running), (128 + 9) << 8);
}

#[test]
fn clocks_go_on_where_they_were() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let mut world = World::new();
    let id = free_ids(1);
    world.process(id, None, 8, 5_000_000);
    world.checkpoint.clocks.monotonic = std::time::Duration::from_secs(5_000_000);
    // The offset is inherited by whatever this thread makes later: so a thread of its own.
    let verdict = std::thread::spawn(move || world.verdict()).join().expect("a verdict");
    assert_eq!(verdict, 0);
}
