//! What a running program writes is told, whatever it does to its mappings, and nothing of the
//! telling stays.
//!
//! The oracle is a copy that is brought up to date round by round: in the end, when nobody runs, it
//! must be what the program's memory is.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{PATIENCE, Subject, can_run, eventually, state};
use pages::{ByteCount, PAGE_SIZE, PageCount, PageRange, PageSet, VirtAddr};
use tracee::dirty::{Touched, outdated};
use tracee::proc::maps;
use tracee::{Features, Held, HostPid, Memory, Pagemap, Tracked, Tracker, Wanted};

const SIZE: ByteCount = ByteCount(8 << 20);
const ROUNDS: usize = 12;
const ROLE: &str = "QMIG_TEST_ROLE";

fn can_track() -> bool {
    if !can_run() {
        return false;
    }
    if tracee::dirty::offered().is_ok() {
        return true;
    }
    // A fact of the kernel, not of how the machine is set up: nothing to install.
    eprintln!("SKIPPED: this kernel cannot note writes");
    false
}

/// A copy of pages of a process.
#[derive(Default)]
struct Mirror {
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Mirror {
    fn copy(&mut self, memory: &Memory, set: &PageSet) {
        for run in set.ranges() {
            let mut bytes = vec![0; usize::try_from(run.bytes().0).expect("64 bit")];
            // Unmapped in between: then it is not in the content at the end.
            let got = memory.read_some(run.start_addr(), &mut bytes).expect("alive") / PAGE_SIZE;
            let pages = (run.start().0..run.end().0).zip(bytes.chunks_exact(PAGE_SIZE)).take(got);
            self.pages.extend(pages.map(|(page, bytes)| (page, bytes.to_vec())));
            // A page that could not be read hides those behind it.
            if let Some(rest) =
                PageRange::between(pages::PageIndex(run.start().0 + got as u64 + 1), run.end())
            {
                self.copy(memory, &[rest].into_iter().collect());
            }
        }
    }

    fn known(&self) -> PageSet {
        let one = |page: &u64| PageRange::new(pages::PageIndex(*page), PageCount(1));
        self.pages.keys().map(|page| one(page).expect("a page")).collect()
    }

    /// The pages that differ from what the process has.
    fn wrong(&self, memory: &Memory, content: &PageSet) -> Vec<u64> {
        let all = content.ranges().iter().flat_map(|run| run.start().0..run.end().0);
        all.filter(|page| {
            let mut now = vec![0; PAGE_SIZE];
            memory.read(pages::PageIndex(*page).address(), &mut now).expect("readable");
            self.pages.get(page) != Some(&now)
        })
        .collect()
    }
}

fn follow(tracker: &mut Tracker) -> Vec<HostPid> {
    let followed = tracker.follow().expect("followed");
    for (pid, stood) in &followed.armed {
        println!("{pid}: one thread stood still for {stood:?}");
    }
    followed.armed.into_iter().map(|(pid, _)| pid).collect()
}

fn area(at: VirtAddr) -> PageRange {
    PageRange::new(at.page(), PageCount::covering(SIZE)).expect("a range")
}

/// Rounds while it runs, a last one while it does not, and the comparison.
fn copied_exactly(kind: &[&str], wanted: Wanted) {
    let mut subject = Subject::writer(kind);
    let range = area(VirtAddr(subject.addresses()[0]));
    let pid = subject.pid();
    let mut tracker = Tracker::of(pid).expect("a kernel that can");
    assert_eq!(follow(&mut tracker), [pid]);
    let memory = Memory::open(pid).expect("ptrace access");
    let mut mirror = Mirror::default();
    let mut told = Vec::new();
    for _ in 0..ROUNDS {
        let space = tracker.space(pid).expect("tracked");
        space.register().expect("registered");
        let written = space.written(range, wanted).expect("told");
        told.push(written.count().0);
        mirror.copy(&memory, &written);
        assert_eq!(follow(&mut tracker), []);
        // It is to have done something in between, however busy the machine is.
        subject.go_on();
        subject.line();
    }
    let held = Held::freeze(pid, PATIENCE).expect("frozen");
    let pagemap = Pagemap::open(pid).expect("readable");
    let at_once =
        pagemap.scan_written(range, Wanted::AnonContent, &mut PageSet::new()).expect("readable");
    let written = tracker.space(pid).expect("tracked").written(range, wanted).expect("told");
    told.push(written.count().0);
    mirror.copy(&memory, &written);
    let content = pagemap.scan(range, wanted).expect("readable");
    if wanted == Wanted::AnonContent {
        assert_eq!((at_once.content, at_once.written), (content.clone(), written), "{kind:?}");
    }
    println!("{kind:?}: told {told:?} of {:?}", content.count());
    assert!(content.count().0 > 100);
    assert_eq!(mirror.wrong(&memory, &content), Vec::<u64>::new(), "{kind:?}");
    let again = tracker.space(pid).expect("tracked").written(range, wanted).expect("told");
    assert_eq!(again.count(), PageCount(0), "nobody runs, so nothing is written");
    held.resume().expect("let go");
}

#[test]
fn every_kind_of_memory_is_copied_exactly() {
    if !can_track() {
        return;
    }
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("tracked-{}", std::process::id()));
    std::fs::write(&file, vec![7; 8 << 20]).expect("writable");
    copied_exactly(&["anon"], Wanted::AnonContent);
    copied_exactly(&["huge"], Wanted::AnonContent);
    copied_exactly(&["shared"], Wanted::Present);
    copied_exactly(&["memfd"], Wanted::Present);
    copied_exactly(&["file", file.to_str().expect("a plain path")], Wanted::CowedFileContent);
    std::fs::remove_file(&file).expect("removed");
}

#[test]
fn mappings_that_come_and_go_are_followed() {
    if !can_track() {
        return;
    }
    let mut subject = Subject::writer(&["churn"]);
    let base = VirtAddr(subject.addresses()[0]);
    let range = PageRange::new(base.page(), PageCount(16 * 64)).expect("a range");
    let pid = subject.pid();
    let mut tracker = Tracker::of(pid).expect("a kernel that can");
    follow(&mut tracker);
    let memory = Memory::open(pid).expect("ptrace access");
    let mut mirror = Mirror::default();
    for _ in 0..60 {
        let space = tracker.space(pid).expect("tracked");
        for mapping in space.register().expect("registered") {
            let Some(part) = mapping.range().and_then(|it| it.intersect(range)) else { continue };
            mirror.copy(&memory, &space.written(part, Wanted::AnonContent).expect("told"));
        }
        subject.go_on();
        subject.line();
    }
    let held = Held::freeze(pid, PATIENCE).expect("frozen");
    let space = tracker.space(pid).expect("tracked");
    let written = space.written(range, Wanted::AnonContent).expect("told");
    mirror.copy(&memory, &written);
    let pagemap = Pagemap::open(pid).expect("readable");
    let content = pagemap.scan(range, Wanted::AnonContent).expect("readable");
    let gone = outdated(&mirror.known(), &content);
    println!("{:?} at the end, {:?} of {} gone", written.count(), gone.count(), mirror.pages.len());
    assert_eq!(mirror.wrong(&memory, &content), Vec::<u64>::new());
    held.resume().expect("let go");
}

/// Whatever it does to its mappings: of pages that count as untouched nothing has changed since they were
/// told, so whoever has read them meanwhile has read one moment's content.
#[test]
fn what_is_untouched_is_as_it_was_when_it_was_told() {
    if !can_track() {
        return;
    }
    for (kind, count) in [("anon", PageCount::covering(SIZE)), ("churn", PageCount(16 * 64))] {
        let mut subject = Subject::writer(&[kind]);
        let base = VirtAddr(subject.addresses()[0]);
        let range = PageRange::new(base.page(), count).expect("a range");
        let pid = subject.pid();
        let mut tracker = Tracker::of(pid).expect("a kernel that can");
        follow(&mut tracker);
        let space = tracker.space(pid).expect("tracked");
        let memory = Memory::open(pid).expect("ptrace access");
        let (mut untouched, mut touched) = (0, 0);
        for _ in 0..ROUNDS {
            // It is to have done something in between, however busy the machine is.
            subject.go_on();
            subject.line();
            space.register().expect("registered");
            let told = space.written(range, Wanted::AnonContent).expect("told");
            // Part by part, so that it cannot have written to all by the time that it is asked about.
            for part in range.pieces(PageCount(64)) {
                let all = [part].into_iter().collect();
                let (mut before, mut after) = (Mirror::default(), Mirror::default());
                before.copy(&memory, &all);
                after.copy(&memory, &all);
                let same = space.untouched(part, Wanted::AnonContent).expect("told");
                for page in same.ranges().iter().flat_map(|run| run.start().0..run.end().0) {
                    let [before, after] = [&before, &after].map(|copy| copy.pages.get(&page));
                    assert!(before.is_some() && before == after, "{kind}: page {page:#x}");
                }
                untouched += same.count().0;
            }
            touched += told.count().0;
        }
        println!("{kind}: {untouched} untouched, {touched} told");
        assert!(touched > 0);
        let held = Held::freeze(pid, PATIENCE).expect("frozen");
        space.written(range, Wanted::AnonContent).expect("told");
        let content = Pagemap::open(pid).expect("readable").scan(range, Wanted::AnonContent);
        let noted: PageSet = space.untouched(range, Wanted::AnonContent).expect("told");
        let content = content.expect("readable");
        assert_eq!(noted.intersect(&content), noted, "nothing that is not there");
        assert!(kind == "churn" || noted == content, "nobody runs, so all is untouched");
        held.resume().expect("let go");
    }
}

#[test]
fn children_and_successors_are_told_whole() {
    if !can_track() {
        return;
    }
    let mut subject = Subject::writer(&["family"]);
    let range = area(VirtAddr(subject.addresses()[0]));
    let pid = subject.pid();
    let mut tracker = Tracker::of(pid).expect("a kernel that can");
    assert_eq!(follow(&mut tracker), [pid]);
    let told = |tracker: &Tracker, pid| {
        let space: &Tracked = tracker.space(pid).expect("tracked");
        space.register().expect("registered");
        space.written(range, Wanted::AnonContent).expect("told").count()
    };
    eventually("its memory to be full", || {
        let all = Pagemap::open(pid).expect("readable").scan(range, Wanted::AnonContent);
        all.expect("readable").count() == range.count()
    });
    subject.sleeping_in(libc::SYS_read);
    assert_eq!(told(&tracker, pid), range.count());
    assert_eq!(told(&tracker, pid), PageCount(0));
    subject.go_on();
    let child = HostPid(subject.line().parse().expect("a pid"));
    assert_eq!(follow(&mut tracker), [child]);
    assert_eq!(told(&tracker, child), range.count(), "a child is news as a whole");
    assert_eq!(told(&tracker, pid), PageCount(0), "its writes are not its parent's");
    subject.go_on();
    // The next program says where it writes.
    let range = area(VirtAddr(subject.addresses()[0]));
    assert!(tracker.space(pid).is_none(), "the memory that was tracked is gone");
    eventually("the end of the child", || matches!(state(child), 'X' | 'Z'));
    let followed = tracker.follow().expect("followed");
    assert_eq!(followed.gone, [child]);
    assert_eq!(followed.armed.len(), 1);
    let space = tracker.space(pid).expect("tracked again");
    eventually("it to write", || {
        space.written(range, Wanted::AnonContent).expect("told").count() > PageCount(0)
    });
}

fn is_watched(pid: HostPid) -> bool {
    let all = maps::read_with_flags(pid).expect("alive");
    all.iter().any(|mapping| mapping.has_flag(b"uw") || mapping.has_flag(b"um"))
}

fn has_a_userfaultfd(pid: HostPid) -> bool {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("alive").flatten();
    fds.filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .any(|to| to.to_string_lossy().contains("userfaultfd"))
}

/// What the process to be killed does; nothing in an ordinary run.
#[test]
fn a_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (pid, at) = role.split_once(' ').expect("two numbers");
    let pid = HostPid(pid.parse().expect("a pid"));
    let range = area(VirtAddr(at.parse().expect("an address")));
    let mut tracker = Tracker::of(pid).expect("a kernel that can");
    follow(&mut tracker);
    loop {
        let space = tracker.space(pid).expect("tracked");
        space.register().expect("registered");
        space.written(range, Wanted::AnonContent).expect("told");
        println!("tracking");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn nothing_stays_when_it_is_dropped_or_killed() {
    if !can_track() {
        return;
    }
    let mut subject = Subject::writer(&["anon"]);
    let at = VirtAddr(subject.addresses()[0]);
    let pid = subject.pid();
    let mut tracker = Tracker::of(pid).expect("a kernel that can");
    follow(&mut tracker);
    let space = tracker.space(pid).expect("tracked");
    space.register().expect("registered");
    space.written(area(at), Wanted::AnonContent).expect("told");
    assert!(is_watched(pid) && !has_a_userfaultfd(pid));
    drop(tracker);
    assert!(!is_watched(pid) && !has_a_userfaultfd(pid));

    let mut other = Command::new(std::env::current_exe().expect("a name"))
        .args(["--exact", "a_role", "--nocapture"])
        .env(ROLE, format!("{pid} {}", at.0))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(other.stdout.take().expect("piped")).lines();
    assert!(lines.any(|line| line.expect("readable").contains("tracking")));
    assert!(is_watched(pid));
    other.kill().expect("alive");
    other.wait().expect("a child");
    assert!(!is_watched(pid) && !has_a_userfaultfd(pid));
    // It works on.
    subject.go_on();
    let before: u64 = subject.line().parse().expect("a number");
    subject.go_on();
    assert!(subject.line().parse::<u64>().expect("a number") > before);
}

#[test]
fn the_stop_leaves_no_trace_in_a_waiting_thread() {
    if !can_track() {
        return;
    }
    // The kernel would answer EINTR to this one.
    let mut subject = Subject::ready(&["wait", "epoll_wait"]);
    subject.sleeping_in(libc::SYS_epoll_wait);
    let mut tracker = Tracker::of(subject.pid()).expect("a kernel that can");
    assert_eq!(follow(&mut tracker), [subject.pid()]);
    let line = subject.line();
    assert!(line.starts_with("0 0 "), "{line}");
}

#[test]
fn writes_by_descriptor_show_in_the_times_of_the_object() {
    if !can_run() {
        return;
    }
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    let object = memfd_create(c"touched", MFdFlags::MFD_CLOEXEC).expect("a memfd");
    let mut file = std::fs::File::from(object);
    file.write_all(b"one").expect("writable");
    let before = Touched::of(file.as_fd()).expect("an answer");
    assert_eq!(before, Touched::of(file.as_fd()).expect("an answer"));
    eventually("the tick", || {
        use std::os::unix::fs::FileExt as _;
        file.write_all_at(b"two", 0).expect("writable");
        Touched::of(file.as_fd()).expect("an answer") != before
    });
}

#[test]
fn a_kernel_that_cannot_is_named() {
    match (tracee::dirty::offered(), Features::of_this_kernel().contains(Features::TRACK)) {
        (Ok(()), true) => {}
        (Err(error), false) => assert!(error.to_string().contains("WP_ASYNC"), "{error}"),
        other => panic!("{other:?}"),
    }
}
