//! Whole trees are frozen however they try to grow, and all of it goes on afterwards.

mod common;

use std::collections::BTreeSet;
use std::time::Instant;

use common::{PATIENCE, Subject, can_run, eventually, state};
use tracee::proc::children;
use tracee::{Held, HostPid};

/// Everything below `root`, by another way than the one under test: every parent of every process.
fn tree(root: HostPid) -> BTreeSet<HostPid> {
    let mut all = BTreeSet::from([root]);
    loop {
        let before = all.len();
        for entry in std::fs::read_dir("/proc").expect("readable").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
            if let Ok(stat) = tracee::proc::stat::Stat::read(HostPid(pid))
                && all.contains(&HostPid(stat.ppid))
            {
                all.insert(HostPid(pid));
            }
        }
        if all.len() == before {
            return all;
        }
    }
}

#[test]
fn a_tree_that_keeps_growing_is_frozen_whole() {
    if !can_run() {
        return;
    }
    let storm = Subject::ready(&["storm"]);
    for round in 0..30 {
        let start = Instant::now();
        let mut held = Held::freeze(storm.pid(), PATIENCE).expect("frozen");
        let took = start.elapsed();
        let (zombies, count) = (held.zombies().to_vec(), held.processes().len());
        let mut known: BTreeSet<HostPid> = zombies.iter().copied().collect();
        for process in held.processes() {
            known.insert(process.pid);
            assert_eq!(process.leader().tid(), process.pid);
            let tids: BTreeSet<HostPid> = process.threads.iter().map(|task| task.tid()).collect();
            let listed = children::threads(process.pid).expect("alive");
            assert_eq!(tids.into_iter().collect::<Vec<_>>(), listed, "a thread got away");
            for tid in listed {
                assert_eq!(state(tid), 't');
            }
        }
        assert_eq!(tree(storm.pid()), known, "a process got away");
        if round == 0 {
            println!("storm: {count} processes, {} zombies in {took:?}", zombies.len());
        }
        if round % 2 == 0 { drop(held) } else { held.resume().expect("resumed") }
    }
    // It still storms.
    let last = std::fs::read_to_string("/proc/sys/kernel/ns_last_pid").expect("readable");
    eventually("new tasks", || {
        std::fs::read_to_string("/proc/sys/kernel/ns_last_pid").expect("readable") != last
    });
    let held = Held::freeze(storm.pid(), PATIENCE).expect("frozen");
    held.kill().expect("killed");
    eventually("the tree to be gone", || {
        tree(storm.pid()).iter().all(|pid| matches!(state(*pid), 'Z' | 'X'))
    });
}

#[test]
fn a_thousand_threads_are_frozen_and_go_on() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::ready(&["threads", "1000"]);
    for _ in 0..3 {
        let start = Instant::now();
        let mut held = Held::freeze(subject.pid(), PATIENCE).expect("frozen");
        let frozen = start.elapsed();
        assert_eq!(held.processes()[0].threads.len(), 1000);
        let start = Instant::now();
        held.resume().expect("resumed");
        println!("1000 threads: frozen in {frozen:?}, resumed in {:?}", start.elapsed());
        subject.go_on();
        assert_eq!(subject.line(), "alive");
    }
    drop(Held::freeze(subject.pid(), PATIENCE).expect("frozen"));
    subject.go_on();
    assert_eq!(subject.line(), "alive");
    Held::freeze(subject.pid(), PATIENCE).expect("frozen").kill().expect("killed");
    eventually("its death", || matches!(state(subject.pid()), 'Z' | 'X'));
}
