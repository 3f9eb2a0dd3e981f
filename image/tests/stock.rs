//! Images of a real CRIU are read and written back byte for byte, and a real CRIU restores ours.
//!
//! Needs root and a `criu` (of 4.1 or later: 3.17 does not run on Linux 6.13 and later) in `$PATH`,
//! or named by `$QMIG_CRIU` (several with `:` between).

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image::state::Checkpoint;
use image::{ImageSet, Limits, NamespaceIds, PagesReader, PagesWriter};
use pages::{PAGE_SIZE, SharedId, SpaceId, TaskId};

/// Every CRIU to test with; none if this test cannot run here.
fn criu() -> Vec<PathBuf> {
    if !nix_is_root() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run this as root");
        println!("SKIPPED: CRIU needs root");
        return Vec::new();
    }
    let named = std::env::var_os("QMIG_CRIU");
    let candidates: Vec<PathBuf> = match &named {
        Some(named) => std::env::split_paths(named).collect(),
        None => vec!["criu".into()],
    };
    let works = |criu: &PathBuf| {
        let check = Command::new(criu).arg("check").output();
        check.is_ok_and(|check| check.status.success())
    };
    let working: Vec<PathBuf> = candidates.iter().filter(|it| works(it)).cloned().collect();
    if named.is_some() {
        assert_eq!(working, candidates, "every CRIU of $QMIG_CRIU must work here");
    } else if working.is_empty() {
        println!("SKIPPED: no criu that works here; name one with QMIG_CRIU=PATH");
    }
    working
}

fn nix_is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc(5)");
    status.lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

/// A process in a session of its own, without descriptors that others gave it.
fn subject(script: &str) -> Child {
    let close = r#"for fd in /proc/$$/fd/*; do n=${fd##*/}; [ "$n" -gt 2 ] && eval "exec $n>&-"; done"#;
    let child = Command::new("setsid")
        .args(["bash", "-c", &format!("{close}; {script}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setsid and bash");
    child
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn run(criu: &Path, arguments: &[&str], directory: &Path) {
    let output = Command::new(criu)
        .args(arguments)
        .arg("--images-dir")
        .arg(directory)
        .args(["-v2", "--shell-job", "--log-file", "log"])
        .output()
        .expect("criu starts");
    if !output.status.success() {
        let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
        panic!("criu {arguments:?}: {}\n{log}", output.status);
    }
}

fn read(directory: &Path) -> (ImageSet, Checkpoint) {
    let set = ImageSet::from_directory(directory, Limits::default()).expect("images of CRIU");
    for (name, bytes) in set.iter() {
        let same = image::inspect::rewrite(name, bytes).expect(name) == bytes;
        assert!(same, "{name} is not what it was: {:#}", image::inspect(name, bytes).expect(name));
    }
    let checkpoint = Checkpoint::from_images(&set).expect("images of CRIU");
    (set, checkpoint)
}

/// Writes the pages of every space again.
fn copy_pages(checkpoint: &Checkpoint, from: &Path, to: &Path) {
    let tasks = checkpoint.tasks.iter().filter(|task| task.living().is_some());
    let spaces = tasks
        .map(|task| SpaceId::Process(task.id))
        .chain(checkpoint.shared.iter().map(|object| SpaceId::Shared(object.id)));
    let mut buffer = vec![0; 256 * PAGE_SIZE];
    for (number, space) in (1..).zip(spaces) {
        let mut reader = PagesReader::open(from, space).expect("pages of CRIU");
        let mut writer = PagesWriter::create(to, space, number).expect("created");
        while let Some(range) = reader.next(&mut buffer).expect("read") {
            let length = usize::try_from(range.bytes().0).expect("fits");
            writer.push(range, &buffer[..length]).expect("written");
        }
        writer.finish().expect("complete");
    }
}

#[test]
fn a_sleeping_process_goes_through_our_images() {
    for criu in criu() {
        let parent = tempfile::tempdir().expect("a directory");
        let (theirs, ours) = (parent.path().join("theirs"), parent.path().join("ours"));
        std::fs::create_dir(&theirs).expect("a directory");
        let mut child = subject("exec sleep 1000");
        let pid = child.id();
        until("exec", || comm(pid) == "sleep");

        run(&criu, &["dump", "--tree", &pid.to_string()], &theirs);
        child.wait().expect("CRIU killed it");
        let (_, checkpoint) = read(&theirs);
        let root = checkpoint.root();
        assert_eq!(root.id, TaskId(pid));
        let living = root.living().expect("it lives");
        assert_eq!(living.leader().comm, "sleep");
        assert_eq!(living.leader().regs.cs, 0x33);
        assert_eq!(checkpoint.fd_tables[0].fds.len(), 3);

        copy_pages(&checkpoint, &theirs, &ours);
        checkpoint.to_images(&NamespaceIds::default()).to_directory(&ours).expect("written");
        run(&criu, &["restore", "--restore-detached"], &ours);
        assert_eq!(comm(pid), "sleep", "it runs again");
        Command::new("kill").arg(pid.to_string()).status().expect("kill");
        until("the end of the restored process", || !Path::new("/proc").join(pid.to_string()).exists());
    }
}

/// A process with a child, a zombie, pipes, a deleted file, shared memory, and a trap that answers.
#[test]
fn a_busy_process_goes_through_our_images() {
    for criu in criu() {
        let parent = tempfile::tempdir().expect("a directory");
        let (theirs, ours) = (parent.path().join("theirs"), parent.path().join("ours"));
        std::fs::create_dir(&theirs).expect("a directory");
        let path = |name: &str| parent.path().join(name).display().to_string();
        let (ghost, answer, ready) = (path("ghost"), path("answer"), path("ready"));
        let script = format!(
            "exec 5<>{ghost}; echo from the ghost >&5; rm {ghost}
             sleep 1000 & worker=$!
             coproc cat; exec 6<&${{COPROC[0]}} 7>&${{COPROC[1]}}
             trap 'exec 8</proc/self/fd/5; cat <&8 >{answer}.new; kill -0 $worker && echo through the pipe >&7 && read line <&6 && echo $line >>{answer}.new; mv {answer}.new {answer}' USR1
             echo ready >{ready}.new; mv {ready}.new {ready}
             while :; do wait; done"
        );
        let mut child = subject(&script);
        let pid = child.id();
        until("the script to be ready", || Path::new(&ready).exists());

        run(&criu, &["dump", "--tree", &pid.to_string()], &theirs);
        let status = child.wait().expect("CRIU killed it");
        assert_eq!(status.signal(), Some(9));
        let (_, checkpoint) = read(&theirs);
        assert_eq!(checkpoint.tasks.len(), 3, "bash, sleep, cat");
        assert_eq!(checkpoint.ghosts.len(), 1);

        copy_pages(&checkpoint, &theirs, &ours);
        checkpoint.to_images(&NamespaceIds::default()).to_directory(&ours).expect("written");
        let again = ImageSet::from_directory(&ours, Limits::default()).expect("our images");
        assert_eq!(Checkpoint::from_images(&again).expect("our images"), checkpoint);
        run(&criu, &["restore", "--restore-detached"], &ours);
        Command::new("kill").args(["-USR1", &pid.to_string()]).status().expect("kill");
        until("the answer", || Path::new(&answer).exists());
        let text = std::fs::read_to_string(&answer).expect("the answer");
        for task in &checkpoint.tasks {
            Command::new("kill").args(["-9", &task.id.to_string()]).status().expect("kill");
        }
        assert_eq!(text, "from the ghost\nthrough the pipe\n");
    }
}

/// Shared memory of CRIU is read as such; what the engine cannot do is refused by name.
#[test]
fn pages_of_shared_objects_are_found() {
    let parent = tempfile::tempdir().expect("a directory");
    let reader = PagesReader::open(parent.path(), SpaceId::Shared(SharedId(1)));
    let mut buffer = [0; PAGE_SIZE];
    assert!(reader.expect("empty").next(&mut buffer).expect("empty").is_none());
}
