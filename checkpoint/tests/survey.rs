//! The survey of real programs: the plan they should have, or exactly the reasons they should get.

mod harness;

use std::os::unix::net::UnixListener;

use checkpoint::SurveyError;
use checkpoint::survey::{SurveyOptions, TcpPolicy, survey};
use harness::{OPTIONS, Subject, can_run};
use image::plan::{PlannedKind, Protocol, Refusal};
use tracee::HostPid;

fn refused(subject: &Subject, options: &SurveyOptions) -> Vec<Refusal> {
    match survey(subject.pid(), options) {
        Err(SurveyError::Refused(refusals)) => refusals,
        other => panic!("expected refusals: {other:?}"),
    }
}

#[test]
fn a_quiet_program_has_a_plain_plan() {
    if !can_run() {
        return;
    }
    let subject = Subject::start(&["quiet"]);
    let plan = survey(subject.pid(), &OPTIONS).expect("nothing to refuse");
    assert_eq!(plan.root.0, subject.pid().0.unsigned_abs());
    assert!(plan.command.starts_with("subject"), "{}", plan.command);
    assert_eq!((plan.tasks.len(), plan.thread_count()), (1, 1));
    assert_eq!(plan.architecture, "x86_64");
    assert_eq!(plan.vdso.len(), 16);
    assert!(plan.resident.0 > 100 << 10, "{}", plan.resident);
    assert_eq!((plan.ghosts.0, plan.shell_job, plan.highest_fd), (0, false, 3));
    assert!(plan.listeners.is_empty() && plan.unix_names.is_empty());

    let file = |end: &str| plan.files.iter().find(|file| file.path.ends_with(end));
    let null = file("/dev/null").expect("its stdin");
    assert_eq!(null.kind, PlannedKind::CharDevice);
    assert_eq!(null.rdev, Some(nix::sys::stat::makedev(1, 3)));
    let program = plan.files.iter().find(|file| file.path.contains("/subject-"));
    assert_eq!(program.expect("its code").build_id.as_ref().map(Vec::len), Some(20));
    let libc = file("libc.so.6").expect("its C library");
    assert!(libc.build_id.is_some() && libc.size.is_some(), "{libc:?}");
    assert_eq!(
        plan.files.iter().find(|file| file.path == "/").expect("cwd").kind,
        PlannedKind::Directory
    );
    let wire = image::Plan::from_bytes(&plan.to_bytes()).expect("the destination understands it");
    assert_eq!(wire, plan);
}

#[test]
fn a_rich_program_has_everything_in_its_plan() {
    if !can_run() {
        return;
    }
    let subject = Subject::start(&["rich"]);
    let plan = survey(subject.pid(), &OPTIONS).expect("nothing to refuse");
    let pids = subject.numbers("pid");
    let tasks: Vec<_> =
        plan.tasks.iter().map(|task| (u64::from(task.id.0), task.threads.len())).collect();
    assert_eq!(tasks[0], (pids[0], 2));
    assert!(tasks.contains(&(pids[1], 1)) && tasks.contains(&(pids[2], 1)), "{tasks:?}");
    assert_eq!(plan.listeners.len(), 1);
    assert_eq!(plan.listeners[0].protocol, Protocol::Tcp);
    assert_eq!(plan.ghosts.0, 4096);
    let data = plan.files.iter().find(|file| file.path.ends_with("/data")).expect("an open file");
    assert_eq!((data.size, data.mode & 0o777), (Some(10), 0o640));
}

/// What is refused, one by one: the subject's argument, words of the object, words of the reason.
const TABLE: &[(&str, &str, &str)] = &[
    ("fanotify", "fd 4 of", "it decides what others may open"),
    ("pidfd", "fd 4 of", "outside the tree"),
    ("packet-pipe", "fd 5 of", "packet mode"),
    ("io-uring", "fd 4 of", "requests in flight belong to this kernel"),
    ("userfaultfd", "fd 4 of", "its memory is served by its holder"),
    ("perf", "fd 4 of", "perf events count on this CPU"),
    ("bpf", "fd 4 of", "a BPF object of this kernel"),
    ("huge-private-memfd", "mapping", "a private mapping of a memfd of huge pages"),
    ("namespace", "fd 4 of", "a namespace"),
    ("device", "fd 4 of", "the device 10:2"),
    ("deleted-fifo", "fd 4 of", "a deleted FIFO"),
    ("lease", "fd 4 of", "a lease"),
    ("hard-link", "fd 4 of", "other names"),
    ("deleted-folder", "fd 4 of", "deleted directory"),
    ("big-ghost", "fd 4 of", "the limit is 1048576"),
    ("aio", "mapping", "io_setup"),
    ("guard", "mapping", "guard pages in shared memory"),
    ("mseal", "mapping", "sealed"),
    ("netlink", "fd 4 of", "generic netlink"),
    ("packet", "fd 4 of", "a ring of a packet socket"),
    ("raw", "fd 4 of", "protocol 2"),
    ("unaccepted", "fd 4 of", "wait to be accepted"),
    ("stale-watch", "fd 4 of", "once fd 5"),
    ("thread-clock", "process", "CPU time of a thread"),
    ("personality", "process", "personality"),
    ("deadline", "process", "class"),
    ("sigtrap", "process", "SIGTRAP"),
    ("uts", "process", "another UTS namespace"),
    ("shared-fs", "process", "CLONE_FS"),
    ("semaphores", "process", "SEM_UNDO"),
    ("unread-inotify", "fd 4 of", "events that the program has not read"),
    ("posix-queue", "fd 4 of", "a POSIX message queue"),
    ("thread-parts-fs", "thread", "CLONE_FS"),
    ("thread-parts-files", "thread", "CLONE_FILES"),
    ("thread-parts-uts", "thread", "another UTS namespace"),
    ("shared-memory", "process", "CLONE_VM"),
];

#[test]
fn each_thing_that_cannot_be_carried_is_refused_by_name_and_alone() {
    if !can_run() {
        return;
    }
    for (what, object, reason) in TABLE {
        let subject = Subject::start(&[what]);
        let mut refusals = refused(&subject, &OPTIONS);
        if *what == "unaccepted" {
            // The client's end is in the tree too.
            refusals.retain(|refusal| !refusal.reason.contains("established"));
        }
        let [refusal] = &refusals[..] else { panic!("{what}: one refusal: {refusals:#?}") };
        assert!(refusal.object.contains(object), "{what}: {refusal:?}");
        assert!(refusal.reason.contains(reason), "{what}: {refusal:?}");
        assert!(!object.starts_with("fd") || !refusal.place.is_empty(), "{what}: {refusal:?}");
        let whole = format!("{} {}", refusal.object, refusal.place);
        assert!(whole.contains(&subject.pid().to_string()), "{what}: {refusal:?}");
        assert!(refusal.object.contains("subject"), "{what}: {refusal:?}");
    }
}

#[test]
fn everything_is_told_at_once() {
    if !can_run() {
        return;
    }
    let all = ["fanotify", "pidfd", "lease", "aio", "netlink", "thread-clock"];
    let subject = Subject::start(&all);
    assert_eq!(refused(&subject, &OPTIONS).len(), all.len());
}

#[test]
fn connections_are_dropped_where_that_is_allowed() {
    if !can_run() {
        return;
    }
    let subject = Subject::start(&["established"]);
    let refusals = refused(&subject, &OPTIONS);
    assert_eq!(refusals.len(), 2, "both ends: {refusals:#?}");
    for refusal in &refusals {
        assert!(refusal.reason.contains("established"), "{refusal:?}");
        assert!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("--tcp-close")));
        assert!(refusal.place.starts_with("tcp:127.0.0.1:"), "{refusal:?}");
    }
    let options = SurveyOptions { tcp: TcpPolicy::Close, ..OPTIONS };
    let plan = survey(subject.pid(), &options).expect("connections are dropped");
    assert_eq!(plan.listeners, [], "a dropped connection holds no address");
    drop(subject);
    let subject = Subject::start(&["unaccepted"]);
    let plan = survey(subject.pid(), &options).expect("connections are dropped");
    assert_eq!(plan.listeners.len(), 1);
}

#[test]
fn a_terminal_comes_along_with_its_master_and_not_without() {
    if !can_run() {
        return;
    }
    let subject = Subject::start(&["terminal"]);
    let plan = survey(subject.pid(), &OPTIONS).expect("both ends are in the tree");
    assert!(!plan.shell_job, "no terminal from outside");
    let subject = Subject::start(&["slave"]);
    let refusals = refused(&subject, &OPTIONS);
    assert_eq!(refusals.len(), 1, "{refusals:#?}");
    let hint = refusals[0].hint.as_deref().unwrap_or_default();
    assert!(hint.contains("--shell-job"), "{refusals:#?}");
    let options = SurveyOptions { shell_job: true, ..OPTIONS };
    assert!(survey(subject.pid(), &options).expect("the person has another").shell_job);
}

#[test]
fn a_connection_to_a_process_outside_is_refused() {
    if !can_run() {
        return;
    }
    let folder = Subject::folder();
    let listener = UnixListener::bind(folder.join("test.sock")).expect("a listener");
    let subject = Subject::start_in(folder, &["unix-outside"], std::process::Stdio::null());
    let refusals = refused(&subject, &OPTIONS);
    assert!(
        matches!(&refusals[..], [one] if one.reason.contains("has not accepted")),
        "{refusals:#?}"
    );
    let _accepted = listener.accept().expect("accept");
    let refusals = refused(&subject, &OPTIONS);
    assert!(
        matches!(&refusals[..], [one] if one.reason.contains("outside the tree")),
        "{refusals:#?}"
    );
}

#[test]
fn a_pipe_to_a_process_outside_is_refused() {
    if !can_run() {
        return;
    }
    let subject = Subject::start_with_output(&["quiet"]);
    let refusals = refused(&subject, &OPTIONS);
    let own = format!("process {} outside", std::process::id());
    assert!(
        matches!(&refusals[..], [one] if one.object.contains("fd 1 of") && one.reason.contains(&own)),
        "{refusals:#?}"
    );
}

#[test]
fn qmig_itself_its_ancestors_and_nobody_are_refused() {
    if !can_run() {
        return;
    }
    for pid in [std::process::id().cast_signed(), 1] {
        match survey(HostPid(pid), &OPTIONS) {
            Err(SurveyError::Refused(refusals)) => {
                assert!(
                    refusals.iter().any(|one| one.reason.contains("qmig itself")),
                    "{refusals:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(survey(HostPid(0x3f_fff0), &OPTIONS), Err(SurveyError::NoSuchProcess(_))));
}

#[test]
fn every_process_of_this_machine_gets_an_answer() {
    if !can_run() {
        return;
    }
    let tasks = std::fs::read_dir("/proc").expect("proc").flatten();
    let pids = tasks.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut asked = 0;
    for pid in pids.map(HostPid) {
        let answer =
            survey(pid, &SurveyOptions { shell_job: true, tcp: TcpPolicy::Close, ..OPTIONS });
        let kernel = std::fs::read_link(format!("/proc/{pid}/exe")).is_err();
        if let (Ok(plan), false) = (&answer, kernel) {
            assert!(image::Plan::from_bytes(&plan.to_bytes()).is_ok(), "{plan}");
        }
        asked += 1;
    }
    assert!(asked > 10, "{asked} processes");
}
