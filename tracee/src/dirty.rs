//! Which pages a running process writes to.
//!
//! Its memory is registered with a userfaultfd that notes writes and lets them go on (WP_ASYNC, Linux
//! 6.7): a page that is *protected* loses the protection with the first write, which costs the program
//! 0.8 µs, and nothing after that. A scan of the page map tells the pages that are not protected and
//! protects them, each in one step: so whoever scans first and copies then misses no write.
//!
//! The process is stopped once, one thread of it, for as long as it takes to have it make the
//! userfaultfd; everything else is done from outside while it runs. Nothing of it stays: closing the
//! descriptor, or the death of whoever holds it, lifts every protection.
//!
//! # What is followed, and how
//!
//! - New mappings, and those that have moved or grown, begin unregistered: all of them are registered
//!   again before each round ([`Tracked::register`]), and what no one has protected counts as written.
//! - The child of a fork has memory of its own in which nothing is registered; execve(2) makes new
//!   memory too: [`Tracker::follow`] finds both and registers them. So all that is in it is told.
//! - Huge pages stay huge until they are written to; then their 512 pages are told one by one.
//!
//! # What is not noted
//!
//! - *A page that goes away* (MADV_DONTNEED, or unmapped and mapped again) is not written to, and yet
//!   what was copied of it is no longer true. So the last round, when nobody runs any more, must
//!   compare the pages that were ever copied with those that have content now ([`crate::Pagemap`]):
//!   [`outdated`].
//! - *Writes to a shared object through a descriptor* (write(2) on a memfd) do not pass any mapping.
//!   They change the times of the object: [`Touched`] tells; then all of it must be taken again.
//! - Devices that write to memory by themselves (O_DIRECT, io_uring's registered buffers) while the
//!   program runs. They have come to rest when a tree is frozen for good, but a page they wrote to
//!   after it was copied is not told. Whoever has such files open must not be copied while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;
use pages::{PageCount, PageRange, PageSet};

use crate::host::{Kcmp, same_object};
use crate::proc::children;
use crate::proc::maps::{self, Mapping};
use crate::proc::stat::Stat;
use crate::uffd::{Faults, Mode};
use crate::{
    Borrowed, Error, Features, HostPid, Memory, Pagemap, Result, Stopped, Uffd, Wanted, find_gate,
};

/// Bytes of vdso in which a `syscall` instruction is looked for.
const VDSO_MOST: PageCount = PageCount(64);

/// One address space whose writes are noted, until this is dropped.
#[derive(Debug)]
pub struct Tracked {
    pid: HostPid,
    uffd: Uffd,
    pagemap: Pagemap,
}

/// Fails by name where this kernel cannot note writes.
pub fn offered() -> Result<()> {
    if Features::of_this_kernel().contains(Features::TRACK) {
        return Ok(());
    }
    Err(Error::Untrackable { lacks: "userfaultfd with WP_ASYNC (Linux 6.7)" })
}

impl Tracked {
    /// Has a stopped thread (of the source) make what is needed. Nothing is noted before the first
    /// [`register`](Self::register), and the first [`written`](Self::written) tells all there is.
    pub fn arm(task: &mut Stopped) -> Result<Self> {
        offered()?;
        let pid = HostPid(crate::proc::status::Status::read(task.tid())?.tgid);
        let pid = children::shown_as(pid);
        let gate = gate_of(pid)?;
        let mut loan = Borrowed::enter(task)?;
        let uffd = Uffd::create_in(loan.task(), gate, Faults::UserOnly, Features::TRACK);
        loan.leave()?;
        Ok(Self { pid, uffd: uffd?, pagemap: Pagemap::open(pid)? })
    }

    /// The process, as /proc shows it.
    pub fn pid(&self) -> HostPid {
        self.pid
    }

    /// False once the address space is gone: the process has ended, or has become another program,
    /// whose memory is not tracked.
    pub fn is_alive(&self) -> bool {
        self.uffd.is_alive()
    }

    /// Has writes noted to everything that is mapped now; to be done before each round. Returns what
    /// is mapped.
    ///
    /// What is registered reaches from one mapping that cannot be to the next, over all between and
    /// the holes around those: the ends of mappings may have moved since they were read, and to
    /// register a part of a mapping would make two of it, of which mremap(2) then refuses to move
    /// both at once. (The same is true for a mapping made since the last round right beside another:
    /// until the next round the two are not one.)
    pub fn register(&self) -> Result<Vec<Mapping>> {
        let mappings = maps::read(self.pid)?;
        for (span, range) in spans(&mappings) {
            if self.uffd.register(range, Mode::WP).is_err() {
                self.register_span(span);
            }
        }
        Ok(mappings)
    }

    /// Where it is not possible nothing is noted, and what is there is told every time.
    fn register_span(&self, span: &[Mapping]) {
        let (Some(first), Some(last)) = (span.first(), span.last()) else { return };
        let Some(range) = PageRange::from_addrs(first.start, last.end) else { return };
        if self.uffd.register(range, Mode::WP).is_err() && span.len() > 1 {
            // One among them cannot be (MAP_DROPPABLE, a device), or came since.
            let (low, high) = span.split_at(span.len() / 2);
            self.register_span(low);
            self.register_span(high);
        }
    }

    /// The wanted pages of `range` that were written to since they were last told, or never were.
    /// Copy them after this returns, not before. What is not mapped is passed over.
    pub fn written(&self, range: PageRange, wanted: Wanted) -> Result<PageSet> {
        self.pagemap.take_written(range, wanted)
    }

    /// Of the wanted pages of `range`, those that [`written`](Self::written) has told and that are since
    /// then as they were. A page that went away is not among them, also if there is another by now. To be
    /// asked before the next [`register`](Self::register).
    pub fn untouched(&self, range: PageRange, wanted: Wanted) -> Result<PageSet> {
        self.pagemap.untouched(range, wanted)
    }
}

/// Mappings between two that cannot be noted, and all there is between those two.
fn spans(mappings: &[Mapping]) -> Vec<(&[Mapping], PageRange)> {
    let mut spans = Vec::new();
    let mut before = None;
    for span in mappings.split_inclusive(|mapping| !can_be_noted(mapping)) {
        let (noted, after) = match span.split_last() {
            Some((last, noted)) if !can_be_noted(last) => (noted, Some(last)),
            _ => (span, None),
        };
        if let (Some(first), Some(last)) = (noted.first(), noted.last()) {
            let start = before.map_or(first.start, |before: &Mapping| before.end);
            let end = after.map_or(last.end, |after| after.start);
            spans.extend(PageRange::from_addrs(start, end).map(|range| (noted, range)));
        }
        before = after;
    }
    spans
}

/// False for the kernel's own mappings and for shared ones that nobody can write to: the kernel
/// refuses a range with one of them in it.
fn can_be_noted(mapping: &Mapping) -> bool {
    let kernels = matches!(mapping.special(), Some(name) if name.starts_with("[v"));
    let read_only = mapping.shared && mapping.prot & 2 == 0;
    !kernels && !read_only
}

/// A `syscall` instruction of the process.
fn gate_of(pid: HostPid) -> Result<pages::VirtAddr> {
    let lacks = Error::Untrackable { lacks: "a vdso in the process" };
    let mappings = maps::read(pid)?;
    let vdso = mappings.iter().find(|mapping| mapping.special() == Some("[vdso]"));
    let Some(range) = vdso.and_then(Mapping::range) else { return Err(lacks) };
    let (first, _) = range.split_at(VDSO_MOST);
    let mut code = vec![0; usize::try_from(first.bytes().0).unwrap_or(0)];
    Memory::open(pid)?.read(first.start_addr(), &mut code)?;
    find_gate(&code, first.start_addr()).ok_or(lacks)
}

/// The memory of a whole tree, followed while it grows and shrinks.
#[derive(Debug)]
pub struct Tracker {
    root: HostPid,
    spaces: BTreeMap<HostPid, Tracked>,
}

/// What [`Tracker::follow`] found.
#[derive(Debug, Default)]
pub struct Followed {
    /// Address spaces that are tracked from now on, and for how long one thread of each stood still.
    /// Nothing of them was told before, also if the process had another before.
    pub armed: Vec<(HostPid, Duration)>,
    /// Processes that are gone.
    pub gone: Vec<HostPid>,
}

impl Tracker {
    /// Nothing is tracked before the first [`follow`](Self::follow) or [`add`](Self::add).
    pub fn of(root: HostPid) -> Result<Self> {
        offered()?;
        Ok(Self { root, spaces: BTreeMap::new() })
    }

    /// Takes an address space in that was armed while its tree stood still.
    pub fn add(&mut self, tracked: Tracked) {
        self.spaces.insert(tracked.pid, tracked);
    }

    /// Looks who is there now, and arms those that are new, one after the other. A process that
    /// comes or goes meanwhile is found the next time.
    pub fn follow(&mut self) -> Result<Followed> {
        let mut followed = Followed::default();
        let now = living(self.root)?;
        self.spaces.retain(|pid, _| {
            let there = now.contains(pid);
            if !there {
                followed.gone.push(*pid);
            }
            there
        });
        self.spaces.retain(|_, tracked| tracked.is_alive());
        for pid in now {
            // Until it calls execve(2), the child of vfork(2) has its parent's memory.
            let shared = |other: &HostPid| same_object(pid, *other, Kcmp::Vm).unwrap_or(false);
            if self.spaces.contains_key(&pid) || self.spaces.keys().any(shared) {
                continue;
            }
            match seize_and_arm(pid) {
                Ok((tracked, stood)) => {
                    self.add(tracked);
                    followed.armed.push((pid, stood));
                }
                Err(error) if error.is_gone() => {}
                // About to end: nothing that is left of it needs to be tracked.
                Err(_) if Stat::read(pid).map_or(true, |stat| matches!(stat.state, 'Z' | 'X')) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(followed)
    }

    /// The address space of a process; `None` if it has none that is tracked: then everything in it
    /// is news.
    pub fn space(&self, pid: HostPid) -> Option<&Tracked> {
        self.spaces.get(&pid).filter(|tracked| tracked.is_alive())
    }

    /// The root of the tree.
    pub fn root(&self) -> HostPid {
        self.root
    }

    /// Who is tracked.
    pub fn pids(&self) -> impl Iterator<Item = HostPid> {
        self.spaces.keys().copied()
    }
}

fn seize_and_arm(pid: HostPid) -> Result<(Tracked, Duration)> {
    let begun = Instant::now();
    let mut task = Stopped::seize(pid)?;
    let tracked = Tracked::arm(&mut task)?;
    task.detach()?;
    Ok((tracked, begun.elapsed()))
}

/// The processes of a tree that have memory, while they come and go, as /proc shows them.
fn living(root: HostPid) -> Result<BTreeSet<HostPid>> {
    let (mut all, mut seen) = (BTreeSet::new(), BTreeSet::from([root]));
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        let shown = children::shown_as(pid);
        match Stat::read(shown) {
            Ok(stat) if !matches!(stat.state, 'Z' | 'X') => {}
            Ok(_) => continue,
            Err(error) if error.is_gone() => continue,
            Err(error) => return Err(error),
        }
        match children::of_process(pid) {
            Ok(children) => next.extend(children.into_iter().filter(|pid| seen.insert(*pid))),
            Err(error) if error.is_gone() => continue,
            Err(error) => return Err(error),
        }
        all.insert(shown);
    }
    Ok(all)
}

/// Of the pages that were ever copied, those that have no content any more: what was copied of them
/// must be undone. Only to be asked while nobody runs.
pub fn outdated(copied: &PageSet, content: &PageSet) -> PageSet {
    let mut outdated = copied.clone();
    content.ranges().iter().for_each(|run| outdated.remove(*run));
    outdated
}

/// When a shared object was last changed by other means than a mapping of it: by write(2),
/// fallocate(2), ftruncate(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Touched {
    /// As of now. If it differs from an earlier one, all of the object must be taken again. Times
    /// are as coarse as the kernel's tick: take it *before* reading, and take an object whose time is
    /// less than a tick old again.
    pub fn of(object: BorrowedFd<'_>) -> Result<Self> {
        let stat =
            fstat(object).map_err(|errno| Error::Own { act: "look at a shared object", errno })?;
        Ok(Self {
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pages::{PageIndex, VirtAddr};

    #[test]
    fn a_span_reaches_to_what_cannot_be_noted() {
        let mapping = |start: u64, end: u64, shared: bool| Mapping {
            start: VirtAddr(start << 12),
            end: VirtAddr(end << 12),
            prot: 1,
            shared,
            ..Mapping::default()
        };
        let found = |mappings: &[Mapping]| -> Vec<(usize, u64, u64)> {
            let spans = spans(mappings).into_iter();
            spans.map(|(span, all)| (span.len(), all.start().0, all.end().0)).collect()
        };
        let anon = |start, end| mapping(start, end, false);
        let fixed = |start, end| mapping(start, end, true); // read-only and shared
        assert_eq!(found(&[anon(2, 3), anon(5, 6)]), [(2, 2, 6)]);
        let all = [anon(2, 3), fixed(10, 11), anon(20, 21), anon(30, 31), fixed(40, 41)];
        assert_eq!(found(&all), [(1, 2, 10), (2, 11, 40)]);
        assert_eq!(found(&[fixed(1, 2), fixed(2, 3), anon(7, 8)]), [(1, 3, 8)]);
        assert_eq!(found(&[fixed(1, 2)]), []);
    }

    #[test]
    fn what_lost_its_content_is_outdated() {
        let range =
            |start, count| PageRange::new(PageIndex(start), PageCount(count)).expect("a range");
        let copied: PageSet = [range(0, 10), range(20, 5)].into_iter().collect();
        let content: PageSet = [range(2, 3), range(19, 3), range(40, 1)].into_iter().collect();
        assert_eq!(outdated(&copied, &content).ranges(), [range(0, 2), range(5, 5), range(22, 3)]);
    }
}
