//! Pages that come late: whatever the program does meanwhile, it finds what it would have found.

mod common;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Subject, can_run, eventually, work_in};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, VirtAddr};
use tracee::uffd::{Faults, Mode};
use tracee::{Borrowed, Copied, Features, Stopped, Uffd, UffdEvent};

const PAGES: u64 = 64;

fn pages(first: u64, count: u64) -> PageRange {
    PageRange::new(PageIndex(first), PageCount(count)).expect("a range")
}

/// What page `page` of the subject is full of.
fn byte(page: u64) -> u8 {
    u8::try_from(page + 1).expect("64 pages")
}

fn watch(subject: &Subject, range: PageRange) -> Uffd {
    let mut task = Stopped::seize(subject.pid()).expect("seized");
    let mut loan = Borrowed::enter(&mut task).expect("on loan");
    let uffd = Uffd::create_in(loan.task(), subject.gate(), Faults::All, Features::LAZY)
        .expect("a userfaultfd");
    uffd.register(range, Mode::MISSING).expect("registered");
    loan.leave().expect("given back");
    task.detach().expect("let go");
    let left = std::fs::read_dir(format!("/proc/{}/fd", subject.pid())).expect("alive").flatten();
    let left = left.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    assert!(left.filter(|to| to.to_string_lossy().contains("userfaultfd")).count() == 0);
    uffd
}

/// One address space: what is missing where. Zero stands for a page of zeros.
struct Space {
    uffd: Uffd,
    missing: HashMap<u64, u8>,
}

impl Space {
    fn page(&self, page: u64) -> Option<u8> {
        self.missing.get(&page).copied()
    }

    fn serve(&self, page: u64) {
        let range = pages(page, 1);
        let Some(byte) = self.page(page) else { return self.uffd.wake(range).expect("woken") };
        let copied = match byte {
            0 => self.uffd.zero(range),
            byte => self.uffd.copy(range, &[byte; PAGE_SIZE]),
        };
        match copied.expect("an answer") {
            // A change came in between: the fault is told again after it.
            Copied::Installed | Copied::NotMapped | Copied::TaskGone => {}
            Copied::AlreadyThere | Copied::Again(_) => self.uffd.wake(range).expect("woken"),
        }
    }
}

/// A program whose pages are served as it asks, and what it did.
struct Lazy {
    subject: Subject,
    base: u64,
    spaces: Vec<Space>,
    log: Vec<&'static str>,
}

impl Lazy {
    fn start(kind: &str, action: &str) -> Self {
        let mut subject = Subject::lazy(&[kind, action]);
        let base = VirtAddr(subject.addresses()[0]).page().0;
        subject.sleeping_in(libc::SYS_read);
        let uffd = watch(&subject, pages(base, PAGES));
        let missing = (0..PAGES).map(|page| (base + page, byte(page))).collect();
        Self { subject, base, spaces: vec![Space { uffd, missing }], log: Vec::new() }
    }

    fn uffd(&self) -> &Uffd {
        &self.spaces[0].uffd
    }

    /// Serves until there was something of this kind to be read.
    fn readable(&self) {
        eventually("something to read", || {
            let mut fds = [PollFd::new(self.uffd().as_fd(), PollFlags::POLLIN)];
            matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
        });
    }

    fn turn(spaces: &mut Vec<Space>, log: &mut Vec<&'static str>) {
        let mut fds: Vec<_> =
            spaces.iter().map(|it| PollFd::new(it.uffd.as_fd(), PollFlags::POLLIN)).collect();
        let _ = poll(&mut fds, PollTimeout::from(5_u8));
        let mut born = Vec::new();
        for space in &mut *spaces {
            let mut events = Vec::new();
            space.uffd.read_events(&mut events).expect("readable");
            for event in events {
                match event {
                    UffdEvent::Pagefault { page, .. } => {
                        log.push("fault");
                        space.serve(page.0);
                    }
                    UffdEvent::Fork { child } => {
                        log.push("fork");
                        born.push(Space { uffd: child, missing: space.missing.clone() });
                    }
                    UffdEvent::Remap { from, to } => {
                        log.push("remap");
                        for page in 0..from.count().0 {
                            let moved = space.missing.remove(&(from.start().0 + page));
                            moved.map(|byte| space.missing.insert(to.0 + page, byte));
                        }
                    }
                    UffdEvent::Remove { range } => {
                        log.push("remove");
                        let pages = range.start().0..range.end().0;
                        space.missing.extend(pages.map(|page| (page, 0)));
                    }
                    UffdEvent::Unmap { range } => {
                        log.push("unmap");
                        space.missing.retain(|page, _| !range.contains(PageIndex(*page)));
                    }
                }
            }
        }
        spaces.extend(born);
    }

    /// Serves as long as `meanwhile` takes.
    fn served<T>(&mut self, meanwhile: impl FnOnce(&mut Subject) -> T) -> T {
        let over = AtomicBool::new(false);
        let Self { subject, spaces, log, .. } = self;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    Self::turn(spaces, log);
                }
            });
            let result = meanwhile(subject);
            over.store(true, Ordering::Relaxed);
            result
        })
    }

    fn did(&self, what: &str) -> usize {
        self.log.iter().filter(|it| **it == what).count()
    }
}

/// Lets the program do it, served, and expects it to be content `oks` times.
fn done(kind: &str, action: &str, oks: usize) -> Option<Lazy> {
    if !can_run() {
        return None;
    }
    let mut lazy = Lazy::start(kind, action);
    lazy.served(|subject| {
        subject.go_on();
        for _ in 0..oks {
            assert_eq!(subject.line(), "ok", "{kind} {action}");
        }
    });
    Some(lazy)
}

#[test]
fn threads_find_their_pages() {
    for kind in ["anon", "shared", "memfd"] {
        let Some(lazy) = done(kind, "touch", 1) else { return };
        assert!(lazy.did("fault") >= 64, "{kind}: {:?}", lazy.log);
    }
}

#[test]
fn children_and_grandchildren_miss_what_their_parents_missed() {
    for kind in ["anon", "shared"] {
        let Some(lazy) = done(kind, "fork", 2) else { return };
        assert_eq!(lazy.did("fork"), 2, "{kind}");
        assert_eq!(lazy.spaces.len(), 3);
        eventually("the end of the children's memory", || {
            lazy.spaces[1..].iter().all(|space| !space.uffd.is_alive())
        });
    }
}

#[test]
fn pages_are_missing_where_they_were_moved() {
    for kind in ["anon", "memfd"] {
        let Some(lazy) = done(kind, "mremap", 2) else { return };
        assert_eq!(lazy.did("remap"), 1, "{kind}");
    }
}

#[test]
fn unmapped_pages_are_missed_by_nobody() {
    let Some(lazy) = done("anon", "munmap", 1) else { return };
    assert_eq!(lazy.did("unmap"), 1);
    let gone = lazy.uffd().copy(pages(lazy.base + 60, 1), &[1; PAGE_SIZE]);
    assert!(matches!(gone, Ok(Copied::NotMapped | Copied::TaskGone)), "{gone:?}");
}

#[test]
fn dropped_pages_are_zero() {
    for (kind, action) in [("anon", "dontneed"), ("shared", "remove"), ("anon", "free")] {
        let Some(lazy) = done(kind, action, 1) else { return };
        assert_eq!(lazy.did("remove"), 1, "{kind} {action}");
    }
}

#[test]
fn system_calls_and_mlock_find_their_pages() {
    for kind in ["anon", "memfd"] {
        for action in ["call", "mlock"] {
            if done(kind, action, 1).is_none() {
                return;
            }
        }
    }
}

#[test]
fn a_program_that_goes_away_takes_its_memory_along() {
    for (action, oks) in [("exec", 2), ("exit", 1)] {
        let Some(lazy) = done("anon", action, oks) else { return };
        eventually("the end of its memory", || !lazy.uffd().is_alive());
        let gone = lazy.uffd().copy(pages(lazy.base + 60, 1), &[1; PAGE_SIZE]);
        assert_eq!(gone.expect("an answer"), Copied::TaskGone, "{action}");
    }
}

#[test]
fn no_page_is_copied_while_a_change_waits_to_be_read() {
    if !can_run() {
        return;
    }
    let mut lazy = Lazy::start("anon", "dontneed");
    let last = pages(lazy.base + 63, 1);
    assert_eq!(lazy.uffd().copy(last, &[64; PAGE_SIZE]).expect("served"), Copied::Installed);
    lazy.subject.go_on();
    lazy.readable();
    let one = pages(lazy.base + 40, 1);
    let copied = lazy.uffd().copy(one, &[41; PAGE_SIZE]).expect("an answer");
    assert_eq!(copied, Copied::Again(PageCount(0)));
    assert_eq!(lazy.uffd().zero(one).expect("an answer"), Copied::Again(PageCount(0)));
    lazy.served(|subject| assert_eq!(subject.line(), "ok"));
}

#[test]
fn copies_tell_how_far_they_got() {
    if !can_run() {
        return;
    }
    let mut lazy = Lazy::start("anon", "touch");
    let (uffd, base) = (lazy.uffd(), lazy.base);
    let fill = |first: u64, count: u64| {
        let bytes: Vec<u8> = (first..first + count).flat_map(|it| [byte(it); 4096]).collect();
        uffd.copy(pages(base + first, count), &bytes).expect("an answer")
    };
    assert_eq!(fill(5, 1), Copied::Installed);
    assert_eq!(fill(0, 10), Copied::Again(PageCount(5)));
    assert_eq!(fill(5, 5), Copied::AlreadyThere);
    assert_eq!(fill(6, 4), Copied::Installed);
    assert_eq!(uffd.zero(pages(base + 9, 2)).expect("an answer"), Copied::AlreadyThere);
    let beyond = uffd.zero(pages(1 << 20, 1)).expect("an answer");
    assert_eq!(beyond, Copied::NotMapped);
    lazy.served(|subject| {
        subject.go_on();
        assert_eq!(subject.line(), "ok");
    });
}

#[test]
fn lost_pages_are_reported_to_who_needs_them() {
    if !can_run() || !Features::of_this_kernel().contains(Features::POISON) {
        return;
    }
    let mut lazy = Lazy::start("anon", "poison");
    lazy.subject.go_on();
    lazy.readable();
    let lost = pages(lazy.base + 5, PAGES - 5);
    assert_eq!(lazy.uffd().poison(lost).expect("an answer"), Copied::Installed);
    lazy.served(|subject| {
        assert_eq!(subject.line(), "bus");
        assert_eq!(subject.line(), "ok");
    });
}

#[test]
fn who_waits_can_be_held_and_killed() {
    if !can_run() {
        return;
    }
    let mut lazy = Lazy::start("anon", "one");
    lazy.subject.go_on();
    lazy.readable();
    let mut task = Stopped::seize(lazy.subject.pid()).expect("seized");
    work_in(&mut task, lazy.subject.gate()).expect("worked");
    task.detach().expect("let go");
    lazy.served(|subject| assert_eq!(subject.line(), "ok"));

    let mut lazy = Lazy::start("anon", "call");
    lazy.subject.go_on();
    lazy.readable();
    lazy.subject.signal(libc::SIGKILL);
    assert_eq!(lazy.subject.rest(), "");
    eventually("the end of its memory", || !lazy.uffd().is_alive());
}
