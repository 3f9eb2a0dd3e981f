//! Plans survive the wire; lies and damage are told.

use std::array;

use pages::{ByteCount, TaskId};

use super::*;

fn plan() -> Plan {
    let task = |id, parent: Option<u32>, threads: &[u32]| PlannedTask {
        id: TaskId(id),
        parent: parent.map(TaskId),
        comm: format!("task{id}"),
        threads: threads.iter().copied().map(TaskId).collect(),
    };
    Plan {
        qmig_version: "0.1.0".into(),
        kernel: "6.18.0".into(),
        architecture: "x86_64".into(),
        page_size: 4096,
        hostname: "left".into(),
        cpu: Cpu { features: 0x2e7, xsave_size: 2696, vendor: "GenuineIntel".into() },
        vdso: vec![7; 32],
        root: TaskId(10),
        command: "task10".into(),
        tasks: vec![task(10, None, &[10, 11]), task(12, Some(10), &[12])],
        files: vec![PlannedFile {
            path: "/bin/sh".into(),
            kind: PlannedKind::Regular,
            size: Some(125_688),
            mode: 0o100_755,
            build_id: Some(vec![1; 20]),
            rdev: None,
            used_as: "program of 10".into(),
        }],
        listeners: vec![
            Listener {
                protocol: Protocol::Tcp,
                address: "127.0.0.1:6379".parse().expect("an address"),
                v6_only: false,
            },
            Listener {
                protocol: Protocol::Udp,
                address: "[::1]:53".parse().expect("an address"),
                v6_only: true,
            },
        ],
        unix_names: vec![b"\0abstract".to_vec(), b"/run/x".to_vec()],
        hard_limits: array::from_fn(|index| index as u64),
        highest_fd: 1023,
        resident: ByteCount(1 << 30),
        ghosts: ByteCount(17),
        shell_job: true,
        needs: vec!["rseq".into()],
    }
}

#[test]
fn comes_back_as_it_was_sent() {
    assert_eq!(Plan::from_bytes(&plan().to_bytes()).expect("a plan"), plan());
}

#[test]
fn tells_people_what_travels() {
    let mut plan = plan();
    plan.hostname = "evil\u{1b}[2J".into();
    let text = plan.to_string();
    let first = "10 (task10) from evil\\u{1b}[2J: 3 threads in 2 processes, 1.0 GiB resident";
    assert_eq!(text.lines().next(), Some(first));
    assert!(text.contains("  file /bin/sh: program of 10\n"), "{text}");
    assert!(text.contains("  udp socket on [::1]:53\n"), "{text}");
    assert!(text.contains("  unix socket \\x00abstract\n"), "{text}");
}

#[test]
fn lies_are_named() {
    type Lie = fn(&mut Plan);
    let lies: [(Lie, &str); 9] = [
        (|plan| plan.root = TaskId(12), "root"),
        (|plan| plan.root = TaskId(0), "root"),
        (|plan| plan.tasks.clear(), "root"),
        (|plan| plan.tasks[1].parent = Some(TaskId(99)), "tasks.parent"),
        (|plan| plan.tasks[1].parent = None, "tasks.parent"),
        (|plan| plan.tasks[1].threads.push(TaskId(11)), "tasks.threads"),
        (|plan| plan.files[0].path = "bin/sh".into(), "files.path"),
        (|plan| plan.kernel = "x".repeat(257), "kernel"),
        (|plan| plan.page_size = 0, "page_size"),
    ];
    for (lie, expected) in lies {
        let mut plan = plan();
        lie(&mut plan);
        match Plan::from_bytes(&plan.to_bytes()) {
            Err(BadPlan::Field { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let long = vec![0; LONGEST_PLAN + 1];
    assert!(matches!(Plan::from_bytes(&long), Err(BadPlan::TooLong { .. })));
}

#[test]
fn damaged_bytes_never_panic() {
    let sound = plan().to_bytes();
    for at in 0..sound.len() {
        drop(Plan::from_bytes(&sound[..at]));
        for bit in 0..8 {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << bit;
            drop(Plan::from_bytes(&bytes));
        }
    }
}
