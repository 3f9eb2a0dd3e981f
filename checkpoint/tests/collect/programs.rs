//! Programs in special circumstances.

use std::fs;
use std::time::{Duration, Instant};

use checkpoint::collect::Collected;
use checkpoint::survey::{SurveyOptions, TcpPolicy, survey};
use image::state::{FileKind, SocketState};
use pages::{SpaceId, TaskId};
use tracee::HostPid;

use crate::harness::{OPTIONS, Subject, can_run};
use crate::{collected, collected_with, living, pages_of};

#[test]
fn a_stopped_program_is_told_from_a_running_one() {
    if !can_run() {
        return;
    }
    let subject = Subject::start(&["quiet"]);
    let pid = nix::unistd::Pid::from_raw(subject.pid().0);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).expect("stop");
    let until = Instant::now() + Duration::from_secs(5);
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    while !state().contains(") T ") {
        assert!(Instant::now() < until, "{}", state());
        std::thread::yield_now();
    }
    let (Collected { checkpoint, .. }, ..) = collected(subject.pid());
    let root = living(checkpoint.root());
    assert_eq!(root.stopped_by, Some(19));
    assert_eq!(checkpoint.root().id, TaskId(subject.pid().0.unsigned_abs()));
    while !state().contains(") T ") {
        assert!(Instant::now() < until, "it is stopped again: {}", state());
        std::thread::yield_now();
    }
    nix::sys::signal::kill(pid, nix::sys::signal::SIGCONT).expect("continue");
}

/// Threads, children, pipes between them, imported libraries: an interpreter as it comes.
#[test]
fn an_interpreter_with_threads_and_children_is_read_and_goes_on() {
    if !can_run() {
        return;
    }
    let folder = Subject::folder();
    let script = folder.join("script.py");
    fs::write(&script, SCRIPT).expect("a script");
    let mut subject =
        Subject::run(folder, std::process::Command::new("setsid").arg("python3").arg(&script));
    let pid = HostPid(i32::try_from(subject.numbers("pid")[0]).expect("a pid"));
    let (Collected { checkpoint, spaces, .. }, _, took) = collected(pid);
    eprintln!("collect of python3 with 3 threads and a child: {took:?}");
    assert_eq!(checkpoint.tasks.len(), 2);
    assert_eq!(living(checkpoint.root()).threads.len(), 3);
    assert_eq!(checkpoint.pipes.len(), 1);
    assert!(pages_of(&spaces, SpaceId::Process(checkpoint.root().id)).pages.count().0 > 500);
    // Both children of the pipe go on counting.
    let beats = subject.told().matches("beat").count();
    let until = Instant::now() + Duration::from_secs(20);
    while subject.told().matches("beat").count() < beats + 5 {
        assert!(Instant::now() < until, "{}", subject.told());
        std::thread::sleep(Duration::from_millis(5));
    }
    subject.wait_for("beat");
}

const SCRIPT: &str = r#"
import os, sys, threading, time
for fd in range(3, 256):
    try: os.close(fd)
    except OSError: pass
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.close(reader)
    while True:
        os.write(writer, b"x")
        time.sleep(0.01)
os.close(writer)
out = open(os.path.dirname(sys.argv[0]) + "/told", "w", buffering=1)
def sleeper():
    while True: time.sleep(0.003)
for _ in range(2): threading.Thread(target=sleeper, daemon=True).start()
out.write("pid %d child %d\n" % (os.getpid(), child))
out.write("ready\n")
while True:
    os.read(reader, 1)
    out.write("beat\n")
"#;

#[test]
fn the_clocks_are_those_of_the_program_s_time_namespace() {
    if !can_run() {
        return;
    }
    let subject = Subject::start_under(
        &["unshare", "--time", "--monotonic", "1000000", "--boottime", "5", "--fork"],
        &["quiet"],
    );
    let inner = subject.numbers("self")[0];
    let pid = HostPid(i32::try_from(inner).expect("a pid"));
    let (Collected { checkpoint, .. }, frozen, _) = collected(pid);
    let shifted = |seconds| Duration::from_secs(seconds);
    assert_eq!(checkpoint.clocks.monotonic, frozen.monotonic + shifted(1_000_000));
    assert_eq!(checkpoint.clocks.boottime, frozen.boottime + shifted(5));
}

#[test]
fn a_shared_descriptor_table_is_one_table() {
    if !can_run() {
        return;
    }
    let subject = Subject::start(&["shared-table"]);
    let (Collected { checkpoint, .. }, ..) = collected(subject.pid());
    let tables: Vec<_> = checkpoint.tasks.iter().map(|task| living(task).fds).collect();
    assert_eq!(tables.len(), 2);
    assert_eq!(tables[0], tables[1]);
    assert_eq!(checkpoint.fd_tables.len(), 1);
}

#[test]
fn a_dropped_connection_is_a_closed_socket_and_stays_alive_here() {
    if !can_run() {
        return;
    }
    let subject = Subject::start(&["established"]);
    let allowed = SurveyOptions { tcp: TcpPolicy::Close, ..OPTIONS };
    let (Collected { checkpoint, .. }, ..) = collected_with(subject.pid(), &allowed);
    let sockets = checkpoint.files.iter().filter_map(|file| match &file.kind {
        FileKind::Inet(socket) => Some(socket),
        _ => None,
    });
    let sockets: Vec<_> = sockets.collect();
    assert_eq!(sockets.len(), 2);
    for socket in sockets {
        assert_eq!((socket.state, socket.source.port()), (SocketState::Closed, 0));
        assert_eq!(socket.destination, None);
    }
    let refused = survey(subject.pid(), &OPTIONS);
    assert!(refused.is_err(), "on the source both ends are still connected");
}
