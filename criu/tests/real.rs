//! Against a real CRIU: what it does at our yes and at our no.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criu::page_server::{PageMaps, Store, Whereabouts};
use criu::{
    Connections, Criu, DumpOptions, Dumped, Error, INVENTORY, RestoreOptions, Scratch, Version,
};
use image::PagesWriter;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};
use pages::{PAGE_SIZE, PageRange, PageSet, SpaceId, TaskId};

/// Where `netns-tests/install-criu.sh` puts it.
const INSTALLED: &str = "/opt/qmig-criu/sbin/criu";
const ROOM: u64 = 64 << 20;

fn criu() -> Option<Criu> {
    let why = match (geteuid().is_root(), Criu::at(Path::new(INSTALLED))) {
        (true, Ok(criu)) => return Some(criu),
        (false, _) => "needs root".to_owned(),
        (_, Err(error)) => format!("{error} (netns-tests/install-criu.sh /opt/qmig-criu)"),
    };
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
    None
}

/// A process in a session of its own, with nothing open; ended and reaped on drop.
struct Subject(Child);

impl Subject {
    fn start() -> Self {
        let mut command = Command::new("setsid");
        command.args(["sleep", "1000"]).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let subject = Self(command.spawn().expect("setsid and sleep"));
        subject.stay();
        // It is in its last program once its name says so.
        wait_for("sleep", || subject.comm() == "sleep" && subject.state() == Some('S'));
        subject
    }

    /// The kernel writes the number of its CPU into its memory (rseq(2)), which must not change.
    fn stay(&self) {
        let pid = Pid::from_raw(self.pid());
        let all = sched_getaffinity(pid).expect("where it may run");
        let first = (0..CpuSet::count()).find(|cpu| all.is_set(*cpu).unwrap_or_default());
        let mut one = CpuSet::new();
        one.set(first.expect("somewhere")).expect("a CPU");
        sched_setaffinity(pid, &one).expect("bound");
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    fn comm(&self) -> String {
        let comm = fs::read_to_string(format!("/proc/{}/comm", self.0.id()));
        comm.unwrap_or_default().trim().to_owned()
    }

    fn state(&self) -> Option<char> {
        state_of(self.pid())
    }

    fn options(&self) -> DumpOptions {
        DumpOptions {
            root: self.pid(),
            shell_job: false,
            tcp: Connections::Refused,
            file_locks: false,
            ghost_limit: 1 << 20,
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn state_of(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !there() {
        assert!(begun.elapsed() < Duration::from_secs(20), "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Keeps pages as they come.
#[derive(Default)]
struct Kept {
    spaces: BTreeMap<SpaceId, Vec<(PageRange, Vec<u8>)>>,
    open: Option<SpaceId>,
}

impl Store for Kept {
    fn open(&mut self, space: SpaceId) -> io::Result<()> {
        self.open = Some(space);
        Ok(())
    }

    fn run(&mut self, _: PageRange, place: Whereabouts) -> io::Result<bool> {
        assert_eq!(place, Whereabouts::Here);
        Ok(true)
    }

    fn bytes(&mut self, pages: PageRange, bytes: &[u8]) -> io::Result<()> {
        let space = self.open.expect("opened");
        self.spaces.entry(space).or_default().push((pages, bytes.to_vec()));
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn dumped<S: Store + Send + 'static>(criu: &Criu, subject: &Subject, store: S) -> (Dumped, S) {
    let images = Scratch::new(ROOM).expect("a scratch directory");
    let dumping = criu.dump(None, subject.options(), images, store).expect("begun");
    dumping.until_images().expect("images")
}

/// A tree that is here no more: its images and its pages.
struct Taken {
    pid: i32,
    images: Vec<(String, Vec<u8>)>,
    kept: Kept,
}

impl Taken {
    fn from_here(criu: &Criu) -> Self {
        let mut subject = Subject::start();
        let pid = subject.pid();
        let (dumped, kept) = dumped(criu, &subject, Kept::default());
        let entries = fs::read_dir(dumped.images().path()).expect("a listing");
        let images = entries
            .map(|entry| entry.expect("an entry"))
            .filter(|entry| entry.file_name().to_string_lossy().ends_with(".img"))
            .map(|entry| {
                let name = entry.file_name().into_string().expect("a name");
                (name, fs::read(entry.path()).expect("an image"))
            });
        let images = images.collect();
        dumped.let_die().expect("ended");
        assert!(!subject.0.wait().expect("reaped").success());
        Self { pid, images, kept }
    }

    /// All of it, for a restore.
    fn laid_out(&self) -> Scratch {
        let images = Scratch::new(ROOM).expect("a scratch directory");
        self.write(&images, |_| true);
        images
    }

    /// Its pages, and those of its images that are wanted by name.
    fn write(&self, to: &Scratch, wanted: impl Fn(&str) -> bool) {
        for (name, bytes) in self.images.iter().filter(|(name, _)| wanted(name)) {
            fs::write(to.path().join(name), bytes).expect("written");
        }
        for ((space, runs), id) in self.kept.spaces.iter().zip(1..) {
            let mut writer = PagesWriter::create(&to.path(), *space, id).expect("created");
            let mut seen = PageSet::new();
            for (pages, bytes) in runs {
                seen.insert(*pages);
                writer.push(*pages, bytes).expect("written");
            }
            assert_eq!(writer.finish().expect("finished"), seen.count());
        }
    }
}

/// A restored process that runs is our child, and ends as any other.
fn ends_when_told(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("sent");
    let ended = waitpid(Pid::from_raw(pid), None).expect("our child");
    assert_eq!(ended, WaitStatus::Signaled(Pid::from_raw(pid), Signal::SIGTERM, false));
}

#[test]
fn it_is_found_and_asked_what_it_can_do() {
    let Some(criu) = criu() else { return };
    assert!(criu.version >= Criu::OLDEST, "{}", criu.version);
    let features = criu.features().expect("features");
    let told = |name: &str| {
        let check = Command::new(INSTALLED).args(["check", "--feature", name]).output();
        check.expect("criu check").status.success()
    };
    assert_eq!(features.mem_track, told("mem_dirty_track"));
    assert_eq!(features.lazy_pages, told("uffd-noncoop"));
}

#[test]
fn other_programs_are_not_criu() {
    let error = Criu::at(Path::new("/bin/true")).expect_err("no CRIU");
    assert!(matches!(error, Error::NotCriu { .. }), "{error}");
    let error = Criu::at(Path::new("/no/such/criu")).expect_err("no CRIU");
    assert!(matches!(error, Error::Start { .. }), "{error}");
}

/// No matter how we say no, the tree runs on.
#[test]
fn a_dump_that_is_not_wanted_leaves_the_tree_running() {
    let Some(criu) = criu() else { return };
    let subject = Subject::start();
    for said in [true, false] {
        let (dumped, maps) = dumped(&criu, &subject, PageMaps::default());
        assert_eq!(subject.state(), Some('t'), "it stands still");
        assert!(dumped.images().path().join("inventory.img").is_file());
        let spaces: Vec<_> = maps.into_spaces().collect();
        let whose = SpaceId::Process(TaskId(subject.0.id()));
        assert!(matches!(&spaces[..], [(space, set)] if *space == whose && !set.is_empty()));
        if said {
            dumped.let_run().expect("let run");
        } else {
            drop(dumped);
        }
        wait_for("tree that runs", || subject.state() == Some('S'));
    }
}

/// What the page map says is what the tree has while it stands still.
#[test]
fn the_pages_can_be_read_from_the_tree_itself() {
    let Some(criu) = criu() else { return };
    let subject = Subject::start();
    let (dumped, kept) = dumped(&criu, &subject, Kept::default());
    let memory = fs::File::open(format!("/proc/{}/mem", subject.pid())).expect("its memory");
    let mut compared = 0;
    for (pages, bytes) in kept.spaces.values().flatten() {
        let mut now = vec![0; bytes.len()];
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut now, pages.start_addr().0)
            .expect("read");
        assert!(now == *bytes, "{pages:?}");
        compared += bytes.len() / PAGE_SIZE;
    }
    assert!(compared > 10, "{compared} pages");
    drop(dumped);
}

#[test]
fn a_refusal_says_why() {
    let Some(criu) = criu() else { return };
    let images = Scratch::new(ROOM).expect("a scratch directory");
    // Our own parent's session is not in the tree that begins with us.
    let mut sleep = Command::new("sleep");
    sleep.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let subject = Subject(sleep.spawn().expect("sleep"));
    let dumping = criu.dump(None, subject.options(), images, PageMaps::default()).expect("begun");
    let Err(error) = dumping.until_images() else { panic!("it cannot be dumped") };
    assert!(matches!(&error, Error::Refused { log, .. } if !log.is_empty()), "{error}");
    assert!(matches!(subject.state(), Some('S' | 'R')), "it runs on");
}

/// Into memory and out of it again, and only our yes lets it run.
#[test]
fn a_restored_tree_runs_when_we_say_so_and_is_gone_if_we_do_not() {
    let Some(criu) = criu() else { return };
    let taken = Taken::from_here(&criu);
    let pid = taken.pid;
    for wanted in [false, true] {
        let images = taken.laid_out();
        let restoring = criu.restore(None, RestoreOptions::default(), images).expect("begun");
        let restored = restoring.until_restored().expect("restored");
        assert_eq!(restored.root(), pid);
        if wanted {
            assert_eq!(restored.run().expect("runs"), pid);
            wait_for("tree that runs", || state_of(pid) == Some('S'));
            ends_when_told(pid);
        } else {
            drop(restored);
            let gone = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            assert_eq!(gone, Err(nix::errno::Errno::ECHILD), "reaped");
            assert_eq!(state_of(pid), None);
        }
    }
}

/// One that waits for its images is through with everything else, and goes on when they are there.
#[test]
fn one_that_stands_by() {
    let Some(criu) = criu() else { return };
    let taken = Taken::from_here(&criu);
    let images = Scratch::new(ROOM).expect("a scratch directory");
    let unwanted = criu.stand_by(RestoreOptions::default(), &images).expect("it waits");
    drop(unwanted);
    fs::remove_file(images.path().join(INVENTORY)).expect("its pipe");
    let standby = criu.stand_by(RestoreOptions::default(), &images).expect("it waits");
    taken.write(&images, |name| name != INVENTORY);
    let inventory = taken.images.iter().find(|(name, _)| name == INVENTORY).expect("an inventory");
    let restoring = standby.restore(images, &inventory.1, 1).expect("begun");
    let mut restored = restoring.until_restored().expect("restored");
    drop(restored.take_lazy());
    assert_eq!(restored.run().expect("runs"), taken.pid);
    ends_when_told(taken.pid);
}

/// Every process of a lazy restore comes with its userfaultfd, before it has run.
#[test]
fn a_lazy_restore_hands_out_who_misses_pages() {
    let Some(criu) = criu() else { return };
    let taken = Taken::from_here(&criu);
    let (pid, images) = (taken.pid, taken.laid_out());
    let options = RestoreOptions { lazy: Some(1), ..RestoreOptions::default() };
    let restoring = criu.restore(None, options, images).expect("begun");
    let mut restored = restoring.until_restored().expect("restored");
    let lazy = restored.take_lazy();
    assert_eq!(lazy.iter().map(|process| process.pid.cast_signed()).collect::<Vec<_>>(), [pid]);
    let what = fs::read_link(format!("/proc/self/fd/{}", lazy[0].uffd.as_raw_fd()));
    assert_eq!(what.expect("open"), Path::new("anon_inode:[userfaultfd]"));
    // Nothing is missing, and nobody will serve: it runs once nobody can wait for us any more.
    drop(lazy);
    assert_eq!(restored.run().expect("runs"), pid);
    ends_when_told(pid);
}

#[test]
fn half_a_set_of_images_is_refused_and_leaves_nothing() {
    let Some(criu) = criu() else { return };
    let images = Scratch::new(ROOM).expect("a scratch directory");
    let restoring = criu.restore(None, RestoreOptions::default(), images).expect("begun");
    let error = restoring.until_restored().expect_err("no images");
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[test]
fn the_version_is_that_of_the_program() {
    let Some(criu) = criu() else { return };
    let Version { major, minor, .. } = criu.version;
    let answer = Command::new(INSTALLED).arg("--version").output().expect("criu");
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(text.contains(&format!("{major}.{minor}")), "{text}");
}
