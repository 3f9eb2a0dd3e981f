//! New processes and threads with chosen numbers, made by a program with many threads.

mod common;

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::{PATIENCE, can_run, eventually, gate_of, state};
use pages::VirtAddr;
use tracee::group::kill_and_reap;
use tracee::proc::children;
use tracee::proc::stat::Stat;
use tracee::proc::status::Status;
use tracee::remote::{BegunWait, begin_wait};
use tracee::{
    Error, HostPid, NewTask, Regs, Runner, Seed, Skeleton, Stopped, enter_time_namespace, fork_in,
    gate_call, threads_in, wait_reap,
};

const BASE: VirtAddr = VirtAddr(0x10_0000);

/// A skeleton that is killed and reaped when the test is over, however it ends.
struct Subject {
    skeleton: Option<Skeleton>,
    pid: HostPid,
}

impl Subject {
    fn with(ids: NewTask) -> Self {
        let seed = Seed::at(BASE).expect("a seed");
        let skeleton = seed.spawn(ids, &[]).expect("spawned");
        let pid = skeleton.task.tid();
        Self { skeleton: Some(skeleton), pid }
    }

    fn parts(&mut self) -> (&mut Stopped, VirtAddr) {
        let skeleton = self.skeleton.as_mut().expect("not taken");
        (&mut skeleton.task, skeleton.gate)
    }

    fn take(&mut self) -> Stopped {
        self.skeleton.take().expect("not taken").task
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = tracee::host::kill(self.pid, libc::SIGKILL);
        if let Some(skeleton) = self.skeleton.take() {
            skeleton.task.forget();
        }
        let _ = wait_reap(self.pid, PATIENCE);
    }
}

/// The numbers of process groups and sessions: taken as long as somebody is in one, though its leader
/// may be gone.
fn groups_and_sessions() -> HashSet<i32> {
    let stats = std::fs::read_dir("/proc")
        .expect("processes")
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    let numbers = |stat: String| -> Vec<i32> {
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        fields.skip(2).take(2).filter_map(|number| number.parse().ok()).collect()
    };
    stats.flat_map(numbers).collect()
}

/// Numbers nobody has: far from those given out next, and apart for each test.
fn free_pids(place: i32, count: usize) -> Vec<i32> {
    let groups = groups_and_sessions();
    let free = |pid: &i32| {
        !std::path::Path::new(&format!("/proc/{pid}")).exists() && !groups.contains(pid)
    };
    let last = std::fs::read_to_string("/proc/sys/kernel/ns_last_pid").expect("the newest number");
    let begin = last.trim().parse::<i32>().expect("a number") + 12_000 + place;
    (begin..).map(|number| 1_000 + number % 31_000).filter(free).take(count).collect()
}

fn call(task: &mut Stopped, gate: VirtAddr, nr: libc::c_long) -> u64 {
    gate_call(task, gate, nr, &[]).expect("ran").expect("answered")
}

#[test]
fn a_seed_grows_with_the_pid_and_descriptors_it_is_given() {
    if !can_run() {
        return;
    }
    // Company: clone3 must work for a program with other threads, which hold locks all the time.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let others: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(std::hint::black_box(vec![0_u8; 100]));
                }
            })
        })
        .collect();
    let pid = free_pids(0, 1)[0];
    let seed = Seed::at(BASE).expect("a seed");
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    let mut writer = File::from(writer);
    writer.write_all(b"x").expect("writable");
    let ids = NewTask { pid: Some(pid), ..NewTask::default() };
    // Crosswise: each number is in use by the other one here, or by something else.
    let keep = [(reader.as_fd(), 3), (writer.as_fd(), 40), (reader.as_fd(), 41)];
    let skeleton = seed.spawn(ids, &keep).expect("spawned");
    let mut subject = Subject { pid: skeleton.task.tid(), skeleton: Some(skeleton) };
    assert_eq!(subject.pid, HostPid(pid));
    assert_eq!(state(subject.pid), 't');
    let stat = Stat::read(subject.pid).expect("alive");
    assert_eq!(stat.ppid, std::process::id().cast_signed());
    let mut fds: Vec<i32> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("readable")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().parse().expect("fd"))
        .collect();
    fds.sort_unstable();
    assert_eq!(fds, [3, 40, 41]);
    let link = |fd: i32| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("a link");
    assert_eq!(link(3), link(41));
    let same = tracee::host::same_file((subject.pid, 3), (subject.pid, 40)).expect("compared");
    assert_ne!(same, std::cmp::Ordering::Equal, "two ends of a pipe");

    let (task, gate) = subject.parts();
    assert_eq!(call(task, gate, libc::SYS_getpid), u64::from(pid.unsigned_abs()));
    // Somebody has that number now.
    let again = seed.spawn(ids, &[]).map(drop).expect_err("taken");
    assert!(matches!(again, Error::PidTaken { pid: taken } if taken == pid), "{again}");

    let skeleton = subject.skeleton.as_ref().expect("not taken");
    let names: Vec<&str> = skeleton.vdso.iter().map(|map| map.name.as_str()).collect();
    let expected: &[&str] = if kernel_has_vvar_vclock() {
        &["[vvar]", "[vvar_vclock]", "[vdso]"]
    } else {
        &["[vvar]", "[vdso]"]
    };
    assert_eq!(names, expected);
    assert!(skeleton.others.iter().any(|map| map.name == "[stack]"), "{:?}", skeleton.others);
    assert_eq!(skeleton.seed.start_addr(), BASE);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    others.into_iter().for_each(|other| other.join().expect("no panic"));
}

fn kernel_has_vvar_vclock() -> bool {
    let me = HostPid(std::process::id().cast_signed());
    let all = tracee::proc::maps::read(me).expect("our own");
    all.iter().any(|map| map.special() == Some("[vvar_vclock]"))
}

#[test]
fn a_seed_that_cannot_be_executed_is_an_error_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    // Nothing can be mapped there.
    let seed = Seed::at(VirtAddr(0x7fff_ffff_f000)).expect("only a file");
    let pid = free_pids(500, 1)[0];
    let ids = NewTask { pid: Some(pid), ..NewTask::default() };
    let error = seed.spawn(ids, &[]).map(drop).expect_err("not executable");
    assert!(matches!(error, Error::NotStarted { .. } | Error::Own { .. }), "{error}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(Seed::at(VirtAddr(0x1234)).is_err());
    // A descriptor number beyond the limit.
    let seed = Seed::at(BASE).expect("a seed");
    let file = File::open("/dev/null").expect("readable");
    let error = seed.spawn(ids, &[(file.as_fd(), i32::MAX - 1)]).map(drop).expect_err("too high");
    assert!(matches!(error, Error::Own { .. }), "{error}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn children_are_forked_in_a_skeleton_with_their_pids() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::with(NewTask::default());
    let parent = subject.pid;
    let (task, gate) = subject.parts();
    let mut runner = Runner::install(task, gate, None, 64 << 10).expect("installed");
    for pid in free_pids(1_000, 3) {
        let number = pid.unsigned_abs();
        let mut child = fork_in(task, &mut runner, number, 0).expect("forked");
        assert_eq!(child.tid(), HostPid(pid));
        assert_eq!(Stat::read(child.tid()).expect("alive").ppid, parent.0);
        let mut its = runner.of_fork(&child);
        let own = its.call(&mut child, libc::SYS_getpid, &[]).expect("ran");
        assert_eq!(own, Ok(u64::from(number)));
        // It is its own address space: what is put there is not seen here.
        let at = its.put(b"child").expect("room");
        its.flush().expect("written");
        let mut bytes = [0; 5];
        runner.get(at, &mut bytes).expect("readable");
        assert_ne!(&bytes, b"child");
        let taken = fork_in(task, &mut runner, number, 0).map(drop).expect_err("taken");
        assert!(matches!(taken, Error::PidTaken { pid: by } if by == pid), "{taken}");
        tracee::host::kill(child.tid(), libc::SIGKILL).expect("alive");
        child.forget();
        wait_reap(HostPid(pid), PATIENCE).expect("ours").expect("dead");
        let gone = runner.call(task, libc::SYS_wait4, &[u64::MAX, 0, 0, 0]).expect("ran");
        assert_eq!(gone, Ok(u64::from(number)), "the parent reaps its child");
    }
    let pid = free_pids(1_500, 1)[0];
    let sibling = fork_in(task, &mut runner, pid.unsigned_abs(), libc::CLONE_PARENT as u64);
    let sibling = sibling.expect("forked");
    let me = std::process::id().cast_signed();
    assert_eq!(Stat::read(sibling.tid()).expect("alive").ppid, me);
    tracee::host::kill(sibling.tid(), libc::SIGKILL).expect("alive");
    sibling.forget();
    wait_reap(HostPid(pid), PATIENCE).expect("ours").expect("dead");
}

#[test]
fn threads_are_made_in_one_go_with_their_numbers() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::with(NewTask::default());
    let parent = subject.pid;
    let (task, gate) = subject.parts();
    let mut runner = Runner::install(task, gate, None, 128 << 10).expect("installed");
    let clear = runner.room(4096).expect("room");
    runner.flush().expect("written");
    let tids: Vec<(u32, u64)> = free_pids(2_000, 1000)
        .iter()
        .map(|tid| (tid.unsigned_abs(), if tid % 2 == 0 { clear.0 } else { 0 }))
        .collect();
    let start = Instant::now();
    let mut threads = threads_in(task, &mut runner, &tids).expect("made");
    println!("1000 threads made in {:?}", start.elapsed());
    assert_eq!(threads.len(), 1000);
    assert_eq!(children::threads(parent).expect("alive").len(), 1001);
    for (thread, (tid, _)) in threads.iter_mut().zip(&tids).step_by(100) {
        assert_eq!(thread.tid().0.unsigned_abs(), *tid);
        let own = runner.call(thread, libc::SYS_gettid, &[]).expect("ran");
        assert_eq!(own, Ok(u64::from(*tid)));
        assert_eq!(thread.blocked().expect("a mask"), 0);
        let at = runner.call(thread, libc::SYS_set_tid_address, &[0]).expect("ran");
        assert_eq!(at, Ok(u64::from(*tid)));
    }
    let taken = threads_in(task, &mut runner, &tids[..1]).map(drop).expect_err("taken");
    assert!(matches!(taken, Error::PidTaken { .. }), "{taken}");
    // Killed while every thread is held, the leader first: nothing is left, not even a zombie.
    let mut all = threads;
    all.insert(0, subject.take());
    kill_and_reap(all, PATIENCE).expect("killed");
    assert!(!std::path::Path::new(&format!("/proc/{parent}")).exists());
}

#[test]
fn numbers_inside_a_pid_namespace_are_found_outside() {
    if !can_run() {
        return;
    }
    let namespaces = libc::CLONE_NEWPID as u64;
    let mut init = Subject::with(NewTask { namespaces, ..NewTask::default() });
    assert_eq!(Status::read(init.pid).expect("alive").ns_pid, [init.pid.0, 1]);
    let (task, gate) = init.parts();
    assert_eq!(call(task, gate, libc::SYS_getpid), 1);
    let mut runner = Runner::install(task, gate, None, 64 << 10).expect("installed");
    let mut child = fork_in(task, &mut runner, 77, 0).expect("forked");
    assert_eq!(Status::read(child.tid()).expect("alive").ns_pid, [child.tid().0, 77]);
    let mut its = runner.of_fork(&child);
    assert_eq!(its.call(&mut child, libc::SYS_getpid, &[]).expect("ran"), Ok(77));
    let threads = threads_in(&mut child, &mut its, &[(100, 0), (90, 0)]).expect("made");
    for (thread, number) in threads.iter().zip([100, 90]) {
        assert_eq!(Status::read(thread.tid()).expect("alive").ns_pid, [thread.tid().0, number]);
    }
    let taken = fork_in(task, &mut runner, 100, 0).map(drop).expect_err("taken");
    assert!(matches!(taken, Error::PidTaken { pid: 100 }), "{taken}");
    let mut all = threads;
    all.extend([child, init.take()]);
    kill_and_reap(all, PATIENCE).expect("killed");
}

#[test]
fn dropped_skeletons_do_not_run() {
    if !can_run() {
        return;
    }
    let seed = Seed::at(BASE).expect("a seed");
    let mut skeleton = seed.spawn(NewTask::default(), &[]).expect("spawned");
    let pid = skeleton.task.tid();
    let mut runner = Runner::install(&mut skeleton.task, skeleton.gate, None, 4096).expect("in");
    let number = free_pids(3_500, 1)[0];
    let child = fork_in(&mut skeleton.task, &mut runner, number.unsigned_abs(), 0);
    let child = child.expect("forked");
    drop((skeleton, child));
    for pid in [pid, HostPid(number)] {
        eventually("its death", || matches!(state(pid), 'Z' | 'X'));
    }
    wait_reap(HostPid(number), PATIENCE).expect("ours").expect("dead");
    wait_reap(pid, PATIENCE).expect("ours").expect("dead");
}

#[test]
fn a_wait_begun_for_a_task_ends_when_it_should() {
    if !can_run() {
        return;
    }
    const LEFT: Duration = Duration::from_millis(250);
    let spec = |time: Duration| {
        [time.as_secs(), u64::from(time.subsec_nanos())].map(u64::to_le_bytes).concat()
    };
    for kind in ["nanosleep", "poll", "futex"] {
        let mut subject = Subject::with(NewTask::default());
        let (task, gate) = subject.parts();
        let mut runner = Runner::install(task, gate, None, 4096).expect("installed");
        let time = runner.put(&spec(LEFT)).expect("room").0;
        let word = runner.room(4).expect("room").0;
        runner.flush().expect("written");
        let (nr, args) = match kind {
            "nanosleep" => (libc::SYS_nanosleep, [time, 0, 0, 0]),
            "poll" => (libc::SYS_poll, [0, 0, 250, 0]),
            _ => (libc::SYS_futex, [word, 0, 0, time]),
        };
        let start = Instant::now();
        let begun = begin_wait(task, gate, nr, &args).expect("begun");
        assert_eq!(begun, BegunWait::Waiting, "{kind}");
        assert!(start.elapsed() < LEFT / 2);
        // Other work does not touch it.
        let own = runner.call(task, libc::SYS_getpid, &[]).expect("ran");
        assert!(own.is_ok());
        // Behind the gate stands a breakpoint: its end is the end of the wait.
        let regs = task.regs().expect("readable");
        task.set_regs(&Regs {
            rip: gate.0 + 2,
            orig_rax: nr.cast_unsigned(),
            rax: BegunWait::RESTART,
            ..regs
        })
        .expect("settable");
        task.set_blocked(0).expect("settable");
        subject.take().detach().expect("let go");
        let status = wait_reap(subject.pid, PATIENCE).expect("ours").expect("ended");
        let took = start.elapsed();
        assert_eq!(status & 0x7f, libc::SIGTRAP, "{kind}");
        assert!(took >= LEFT - Duration::from_millis(1), "{kind} after {took:?}");
        assert!(took < LEFT + Duration::from_millis(100), "{kind} after {took:?}");
    }
    // A futex that has another value by now ends at once.
    let mut subject = Subject::with(NewTask::default());
    let (task, gate) = subject.parts();
    let args = [gate.0 & !3, 0, 0x1234_5678, 0];
    let begun = begin_wait(task, gate, libc::SYS_futex, &args).expect("begun");
    assert_eq!(begun, BegunWait::Ended(Err(nix::errno::Errno::EAGAIN)));
}

#[test]
fn a_skeleton_dies_with_its_tracer_and_is_reaped_by_its_parent() {
    if !can_run() {
        return;
    }
    // The tracer is a thread: when it ends, its tracees die.
    let pid = std::thread::spawn(|| {
        let seed = Seed::at(BASE).expect("a seed");
        let skeleton = seed.spawn(NewTask::default(), &[]).expect("spawned");
        let pid = skeleton.task.tid();
        skeleton.task.forget();
        pid
    });
    let pid = pid.join().expect("no panic");
    eventually("its death", || matches!(state(pid), 'Z' | 'X'));
    let status = wait_reap(pid, PATIENCE).expect("ours").expect("ended");
    assert_eq!(status & 0x7f, libc::SIGKILL);
}

#[test]
fn clocks_of_a_time_namespace_are_ahead() {
    if !can_run() {
        return;
    }
    // The namespace is the thread's for good: take one that is not the test's.
    let made = std::thread::spawn(|| {
        let hour = 3_600_000_000_000_i128;
        enter_time_namespace(hour, 2 * hour).expect("entered");
        let mut subject = Subject::with(NewTask::default());
        let (task, gate) = subject.parts();
        let mut runner = Runner::install(task, gate, None, 4096).expect("installed");
        let mut read = |clock: i32| {
            let at = runner.room(16).expect("room");
            let args = [u64::from(clock.unsigned_abs()), at.0];
            runner.call(task, libc::SYS_clock_gettime, &args).expect("ran").expect("read");
            let mut time = [0; 16];
            runner.get(at, &mut time).expect("readable");
            u64::from_le_bytes(time[..8].try_into().expect("eight bytes"))
        };
        (read(libc::CLOCK_MONOTONIC), read(libc::CLOCK_BOOTTIME))
    });
    let (monotonic, boottime) = made.join().expect("no panic");
    let here = |clock| tracee::host::sys_clock(clock).expect("a clock").as_secs();
    assert!((3590..3605).contains(&(monotonic - here(libc::CLOCK_MONOTONIC))));
    assert!((7190..7205).contains(&(boottime - here(libc::CLOCK_BOOTTIME))));
}

#[test]
fn the_vdso_of_a_skeleton_is_a_gate_too_and_can_be_moved() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::with(NewTask::default());
    let pid = subject.pid;
    let vdso = subject.skeleton.as_ref().expect("not taken").vdso.clone();
    let seed = subject.skeleton.as_ref().expect("not taken").seed;
    let (task, gate) = subject.parts();
    let scratch = VirtAddr(0x2000_0000);
    let mut runner = Runner::install(task, gate, Some(scratch), 64 << 10).expect("installed");
    assert_eq!(runner.scratch().start_addr(), scratch);
    let again = Runner::install(task, gate, Some(scratch), 4096).map(drop).expect_err("occupied");
    assert!(matches!(again, Error::Injected { errno: nix::errno::Errno::EEXIST, .. }), "{again}");
    const FLAGS: i32 = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let mut to = 0x4000_0000_u64;
    for map in &vdso {
        let len = map.range.bytes().0;
        let args = [map.range.start_addr().0, len, len, u64::from(FLAGS.cast_unsigned()), to];
        let moved = runner.call(task, libc::SYS_mremap, &args).expect("ran");
        assert_eq!(moved, Ok(to), "{}", map.name);
        to += len;
    }
    let args = [seed.start_addr().0, seed.bytes().0];
    runner.call(task, libc::SYS_munmap, &args).expect("ran").expect("unmapped");
    let gate = gate_of(pid);
    assert!(gate.0 >= 0x4000_0000 && gate.0 < to);
    runner.remove(task, gate).expect("removed");
    assert_eq!(call(task, gate, libc::SYS_getpid), u64::from(pid.0.unsigned_abs()));
    let left = tracee::proc::maps::read(pid).expect("alive");
    assert!(left.iter().all(|map| map.special().is_some()), "{left:?}");
    assert!(gate_call(task, gate, libc::SYS_exit_group, &[5]).is_err_and(|error| error.is_gone()));
}
