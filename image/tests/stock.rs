//! Images of a real CRIU are read and written back byte for byte, and a real CRIU restores ours.
//!
//! Needs root and a `criu` of 4.1 or later (3.17 does not run on Linux 6.13 and later): named by
//! `$QMIG_CRIU` (several with `:` between), installed by `netns-tests/install-criu.sh`, or in `$PATH`.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image::state::{Body, Checkpoint, FileKind};
use image::{ImageKind, ImageSet, Limits, NamespaceIds, PagesReader, PagesWriter};
use pages::{PAGE_SIZE, SpaceId, TaskId};

/// Where netns-tests/install-criu.sh puts it.
const INSTALLED: &str = "/opt/qmig-criu/sbin/criu";

/// Every CRIU to test with; none if this test cannot run here.
fn criu() -> Vec<PathBuf> {
    let skip = |why: &str| {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must not skip this: {why}");
        println!("SKIPPED: {why}");
        Vec::new()
    };
    if !is_root() {
        return skip("CRIU needs root");
    }
    let works = |criu: &PathBuf| {
        let check = Command::new(criu).arg("check").output();
        check.is_ok_and(|check| check.status.success())
    };
    if let Some(named) = std::env::var_os("QMIG_CRIU") {
        let named: Vec<PathBuf> = std::env::split_paths(&named).collect();
        assert!(named.iter().all(works), "{named:?} of $QMIG_CRIU must work here");
        return named;
    }
    match [INSTALLED, "criu"].map(PathBuf::from).into_iter().find(works) {
        Some(criu) => vec![criu],
        None => skip("no criu that works here; name one with QMIG_CRIU=PATH"),
    }
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc(5)");
    status.lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

/// A process in a session of its own, without descriptors that others gave it.
fn subject(script: &str) -> Child {
    let close =
        r#"for fd in /proc/$$/fd/*; do n=${fd##*/}; [ "$n" -gt 2 ] && eval "exec $n>&-"; done"#;
    Command::new("setsid")
        .args(["bash", "-c", &format!("{close}; {script}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setsid and bash")
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

fn log(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("log")).unwrap_or_default()
}

fn criu_command(program: &Path, verb: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(verb).arg("--images-dir").arg(directory);
    command.args(["-v2", "--shell-job", "--log-file", "log"]).stdin(Stdio::null());
    command
}

fn dump(criu: &Path, pid: u32, directory: &Path) {
    std::fs::create_dir(directory).expect("a directory");
    let output = criu_command(criu, "dump", directory).args(["--tree", &pid.to_string()]).output();
    let output = output.expect("criu starts");
    assert!(output.status.success(), "dump: {}\n{}", output.status, log(directory));
}

/// A restored tree in a pid namespace of its own, where its pids are free; ended on drop.
struct Restored {
    unshare: Child,
    directory: PathBuf,
}

impl Restored {
    fn start(criu: &Path, directory: &Path) -> Self {
        let mut unshare = Command::new("unshare");
        let criu = criu_command(criu, "restore", directory);
        unshare.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        unshare.arg(criu.get_program()).args(criu.get_args());
        unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let unshare = unshare.spawn().expect("unshare of util-linux");
        Self { unshare, directory: directory.to_owned() }
    }

    /// Runs a command among the restored processes until it succeeds.
    fn until(&mut self, command: &[&str]) -> String {
        let own = self.unshare.id();
        let mut answer = String::new();
        until(&format!("{command:?}"), || {
            let ended = self.unshare.try_wait().expect("our child");
            assert_eq!(ended, None, "criu restore ended: {}", log(&self.directory));
            let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
            let Some(init) =
                children.ok().and_then(|all| all.split_whitespace().next().map(str::to_owned))
            else {
                return false;
            };
            let mut enter = Command::new("nsenter");
            enter.args(["--target", &init, "--pid", "--mount"]).args(command);
            let output = enter.output().expect("nsenter of util-linux");
            answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success()
        });
        answer
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// Every image, of which nothing is unknown.
fn known(directory: &Path) -> ImageSet {
    let set = ImageSet::from_directory(directory, Limits::default()).expect("images of CRIU");
    for (name, bytes) in set.iter() {
        let same = image::inspect::rewrite(name, bytes).expect(name) == bytes;
        assert!(same, "{name} is not what it was: {:#}", image::inspect(name, bytes).expect(name));
        assert!(ImageKind::of_name(name).is_some(), "{name} is of no known kind");
    }
    set
}

fn read(directory: &Path) -> (ImageSet, Checkpoint) {
    let set = known(directory);
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

/// What containers have beyond other trees: qmig cannot restore it itself, but knows every byte of it,
/// and which processes there are.
#[test]
fn nothing_is_unknown_in_a_tree_with_namespaces_of_its_own() {
    for criu in criu() {
        let parent = tempfile::tempdir().expect("a directory");
        let (images, ready) = (parent.path().join("images"), parent.path().join("ready"));
        let script = format!(
            "exec unshare --pid --uts --ipc --net --fork setsid bash -c 'hostname boxed; \
             ip link set lo up; ip addr add 10.9.9.9/24 dev lo; ip link add a type veth peer name b; \
             ip route add 10.10.0.0/16 dev lo; echo >{0}.new; mv {0}.new {0}; exec sleep 1000'",
            ready.display()
        );
        let mut unshare = subject(&script);
        until("the namespaces to be furnished", || ready.exists());
        let own = unshare.id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        let root: u32 = children.expect("children").trim().parse().expect("one child");
        until("exec", || comm(root) == "sleep");

        std::fs::create_dir(&images).expect("a directory");
        let mut dump = criu_command(&criu, "dump", &images);
        dump.args(["--tree", &root.to_string(), "--network-lock", "skip"]);

        let output = dump.output().expect("criu starts");
        unshare.wait().expect("its child is dead");
        assert!(output.status.success(), "dump: {}\n{}", output.status, log(&images));

        let set = known(&images);
        let there = |kind: ImageKind| {
            set.iter().any(|(name, _)| ImageKind::of_name(name).is_some_and(|(it, _)| it == kind))
        };
        for kind in [
            ImageKind::NetNs,
            ImageKind::NetDevices,
            ImageKind::Addresses,
            ImageKind::Routes,
            ImageKind::UtsNs,
            ImageKind::IpcVariables,
        ] {
            assert!(there(kind), "no {kind:?}");
        }
        assert!(Checkpoint::from_images(&set).expect_err("not ours to restore").is_unsupported());
        let tasks = image::tasks_of(&set).expect("its processes");
        assert_eq!(tasks.iter().map(|task| task.id).collect::<Vec<_>>(), [TaskId(1)]);
        assert_eq!(tasks[0].living().expect("it lives").leader().comm, "sleep");
    }
}

#[test]
fn a_sleeping_process_goes_through_our_images() {
    for criu in criu() {
        let parent = tempfile::tempdir().expect("a directory");
        let (theirs, ours) = (parent.path().join("theirs"), parent.path().join("ours"));
        let mut child = subject("exec sleep 1000");
        let pid = child.id();
        until("exec", || comm(pid) == "sleep");

        dump(&criu, pid, &theirs);
        child.wait().expect("CRIU killed it");
        let (_, checkpoint) = read(&theirs);
        let root = checkpoint.root();
        assert_eq!(root.id, TaskId(pid));
        let living = root.living().expect("it lives");
        assert_eq!(living.leader().comm, "sleep");
        assert_eq!(living.leader().regs.cs, 0x33);
        assert_eq!(checkpoint.fd_tables[0].fds.len(), 3);

        copy_pages(&checkpoint, &theirs, &ours);
        // CRIU passes over the fields that are qmig's own.
        let mut checkpoint = checkpoint;
        if let Body::Living(living) = &mut checkpoint.tasks[0].body {
            living.threads[0].wait_left = Some(Duration::from_secs(500));
        }
        if let FileKind::Regular(null) = &mut checkpoint.files[0].kind {
            null.rdev = Some(0x103);
        }
        checkpoint.to_images(&NamespaceIds::default()).to_directory(&ours).expect("written");
        let mut restored = Restored::start(&criu, &ours);
        // Running again: in clock_nanosleep (230), not in a restorer on its way there.
        let stat = format!("grep -q '^230 ' /proc/{pid}/syscall && cat /proc/{pid}/comm");
        assert_eq!(restored.until(&["sh", "-c", &stat]), "sleep");
    }
}

/// A process with a child, a zombie, pipes, a deleted file, shared memory, and a trap that answers.
#[test]
fn a_busy_process_goes_through_our_images() {
    for criu in criu() {
        let parent = tempfile::tempdir().expect("a directory");
        let (theirs, ours) = (parent.path().join("theirs"), parent.path().join("ours"));
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

        dump(&criu, pid, &theirs);
        let status = child.wait().expect("CRIU killed it");
        assert_eq!(status.signal(), Some(9));
        let (_, checkpoint) = read(&theirs);
        assert_eq!(checkpoint.tasks.len(), 3, "bash, sleep, cat");
        assert_eq!(checkpoint.ghosts.len(), 1);

        copy_pages(&checkpoint, &theirs, &ours);
        checkpoint.to_images(&NamespaceIds::default()).to_directory(&ours).expect("written");
        let again = ImageSet::from_directory(&ours, Limits::default()).expect("our images");
        assert_eq!(Checkpoint::from_images(&again).expect("our images"), checkpoint);
        let mut restored = Restored::start(&criu, &ours);
        let running = format!("grep -q '^61 ' /proc/{pid}/syscall && kill -USR1 {pid}");
        restored.until(&["sh", "-c", &running]);
        until("the answer", || Path::new(&answer).exists());
        let text = std::fs::read_to_string(&answer).expect("the answer");
        assert_eq!(text, "from the ghost\nthrough the pipe\n");
    }
}
