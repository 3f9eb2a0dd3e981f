//! The memory of a tree whose pages come after it: who waits for which page, and what becomes of
//! pages that arrive.
//!
//! One owner, one thread: events of the address spaces, arrivals and wishes meet here and nowhere
//! else, so "asked for once, installed once" is kept in this file. The rules of the kernel that shape
//! it are told in [`tracee::uffd`]. The two that bite:
//!
//! - No page can be copied into an address space while a change of its mappings waits to be read. So
//!   a copy that gets nowhere reads the events first and then looks again *where* the page belongs.
//! - A page that is not in the ledger is a page of zeros here: it never existed at the source, or the
//!   program has dropped it since. It must be answered too, or its thread sleeps for ever.
//!
//! And in the end nothing is taken back piece by piece: a mapping of which one part is watched and
//! another is not is two, of which mremap(2) refuses to move both at once, and what has grown by
//! mremap(2) is watched as far as nobody knows. All is answered until the keeper has let go, and then
//! every descriptor is closed, which ends the watching of each address space in one step.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet, SpaceId};
use tracee::uffd::{Copied, Uffd, UffdEvent};
use tracee::{Error, Keeper, Result};
use transport::encode::Content;
use transport::latency::Latencies;
use transport::wire::Wanted;

use crate::ledger::Ledger;

/// Descriptors looked at in one go.
const AT_ONCE: usize = 64;

/// One address space with missing pages.
struct Lazy {
    /// Whose pages they are at the source: a child's are its parent's.
    origin: SpaceId,
    uffd: Uffd,
    ledger: Ledger,
    /// Places that mremap(2) has emptied, and whose unmapping is still to be told. By then something
    /// else may have been moved there.
    emptied: Vec<PageRange>,
}

/// An address space that is about to become lazy.
pub(crate) struct Opening {
    pub(crate) origin: SpaceId,
    pub(crate) uffd: Uffd,
    /// What is missing.
    pub(crate) owed: PageSet,
}

/// Every address space of the tree with missing pages.
pub struct Faults {
    /// In the order of their births.
    spaces: BTreeMap<u64, Lazy>,
    next_id: u64,
    ready: Epoll,
    /// Asked for and not here, by its number at the source.
    wanted: HashMap<(SpaceId, PageIndex), Instant>,
    latencies: Latencies,
    arrived: u64,
    /// Pages asked for at a time, where that many are missing in a row.
    reach: PageCount,
    /// Until nothing is missing any more.
    keeper: Option<Keeper>,
    /// Readable once it has let go: from then to the end.
    let_go: Option<EventFd>,
}

/// What `ready` calls the news that the keeper has let go.
const LET_GO: u64 = u64::MAX;

impl Faults {
    /// Watches over `spaces`, as `keeper` does.
    pub(crate) fn watch(spaces: Vec<Opening>, keeper: Keeper) -> Result<Self> {
        let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(own("watch faults"))?;
        let mut faults = Self {
            spaces: BTreeMap::new(),
            next_id: 0,
            ready,
            wanted: HashMap::new(),
            latencies: Latencies::default(),
            arrived: 0,
            reach: PageCount(1),
            keeper: Some(keeper),
            let_go: None,
        };
        for Opening { origin, uffd, owed } in spaces {
            faults.add(Lazy { origin, uffd, ledger: Ledger::new(&owed), emptied: Vec::new() })?;
        }
        Ok(faults)
    }

    fn add(&mut self, lazy: Lazy) -> Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, id);
        self.ready.add(&lazy.uffd, event).map_err(own("watch faults"))?;
        self.spaces.insert(id, lazy);
        Ok(id)
    }

    /// True once nothing is watched any more.
    pub(crate) fn is_complete(&self) -> bool {
        self.spaces.is_empty() && self.keeper.is_none() && self.let_go.is_none()
    }

    /// How many pages came and were wanted.
    pub(crate) fn arrived(&self) -> PageCount {
        PageCount(self.arrived)
    }

    /// How long the program waited for pages.
    pub(crate) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// How many pages a wish is for, from the one that is waited for on.
    pub(crate) fn set_reach(&mut self, reach: PageCount) {
        self.reach = reach;
    }

    /// What the source calls the pages that are missing, space by space.
    pub(crate) fn still_missing(&self) -> Vec<(SpaceId, PageSet)> {
        let mut all: HashMap<SpaceId, PageSet> = HashMap::new();
        for lazy in self.spaces.values() {
            let sources = lazy.ledger.sources();
            let sum = all.entry(lazy.origin).or_default();
            sources.ranges().iter().for_each(|range| sum.insert(*range));
        }
        all.into_iter().collect()
    }

    /// Every wish that was not answered, to be said again over a new link.
    pub(crate) fn unanswered(&self) -> Vec<Wanted> {
        let one = |(space, page): &(SpaceId, PageIndex)| {
            Wanted::new(*space, PageRange::new(*page, PageCount(1))?)
        };
        self.wanted.keys().filter_map(one).collect()
    }

    /// Forgets the address spaces that no process has any more: exit and execve(2) tell nothing.
    pub(crate) fn bury(&mut self) {
        let dead = self.spaces.iter().filter(|(_, lazy)| !lazy.uffd.is_alive());
        let dead: Vec<u64> = dead.map(|(id, _)| *id).collect();
        dead.into_iter().for_each(|id| self.gone(id));
    }

    /// Reads everything the address spaces tell; answers what must be asked for.
    pub(crate) fn poll(&mut self) -> Result<Vec<Wanted>> {
        let mut wishes = Vec::new();
        let mut told = [EpollEvent::empty(); AT_ONCE];
        loop {
            let count =
                self.ready.wait(&mut told, EpollTimeout::ZERO).map_err(own("see faults"))?;
            if count == 0 {
                return Ok(wishes);
            }
            for event in &told[..count] {
                match event.data() {
                    LET_GO => self.end(),
                    id => self.read(id, &mut wishes)?,
                }
            }
        }
    }

    /// Installs pages that came, wherever they are missing; what is missing nowhere is dropped.
    pub(crate) fn arrive(
        &mut self,
        origin: SpaceId,
        sources: PageRange,
        content: &Content,
    ) -> Result<Vec<Wanted>> {
        let mut wishes = Vec::new();
        let mut came = 0;
        // A child that is born meanwhile misses them too, and comes last.
        let mut next = 0;
        while let Some(id) = self.first_of(origin, next) {
            let here = self.install(id, sources, content, &mut wishes)?;
            came = came.max(here);
            next = id + 1;
        }
        self.arrived += came;
        if !self.wanted.is_empty() {
            for page in sources.pieces(PageCount(1)) {
                if let Some(since) = self.wanted.remove(&(origin, page.start())) {
                    self.latencies.add(since.elapsed());
                }
            }
        }
        Ok(wishes)
    }

    /// The first address space from `id` on with pages of that origin.
    fn first_of(&self, origin: SpaceId, id: u64) -> Option<u64> {
        let mut of_it = self.spaces.range(id..).filter(|(_, lazy)| lazy.origin == origin);
        of_it.next().map(|(id, _)| *id)
    }

    /// Installs in one address space; tells how many pages were missing there.
    fn install(
        &mut self,
        id: u64,
        sources: PageRange,
        content: &Content,
        wishes: &mut Vec<Wanted>,
    ) -> Result<u64> {
        let mut came = 0;
        let mut stuck = false;
        let mut most = sources.count();
        while let Some(lazy) = self.spaces.get_mut(&id) {
            let Some(segment) = lazy.ledger.places_of(sources).into_iter().next() else { break };
            let place = segment.place.split_at(most).0;
            let first = place.split_at(PageCount(1)).0;
            let copied = match content {
                Content::Zero => lazy.uffd.zero(place)?,
                Content::Bytes(bytes) => {
                    let skipped = segment.source.0 - sources.start().0;
                    let skipped = usize::try_from(skipped).unwrap_or(usize::MAX) * PAGE_SIZE;
                    let length = usize::try_from(place.bytes().0).unwrap_or(usize::MAX);
                    lazy.uffd.copy(place, &bytes[skipped..skipped + length])?
                }
            };
            let settled = match copied {
                Copied::Installed => place,
                Copied::Again(PageCount(done)) if done > 0 => place.split_at(PageCount(done)).0,
                // Somebody was faster, and may have been so before this one began to wait.
                Copied::AlreadyThere => {
                    let _ = lazy.uffd.wake(first);
                    first
                }
                Copied::Again(_) => {
                    self.read(id, wishes)?;
                    continue;
                }
                // Not all of one mapping (mprotect(2) divides them and tells nobody): less at a time.
                Copied::NotMapped if place.count().0 > 1 => {
                    most = PageCount(place.count().0 / 2);
                    continue;
                }
                // Moved or unmapped, which an event tells; if none does it is gone.
                Copied::NotMapped if !stuck => {
                    stuck = true;
                    self.read(id, wishes)?;
                    continue;
                }
                Copied::NotMapped => first,
                Copied::TaskGone => {
                    self.gone(id);
                    break;
                }
            };
            stuck = false;
            most = sources.count();
            came += settled.count().0;
            lazy.ledger.settle(settled);
        }
        self.let_go_if_all_came()?;
        Ok(came)
    }

    /// Reads and follows what one address space tells.
    fn read(&mut self, id: u64, wishes: &mut Vec<Wanted>) -> Result<()> {
        let mut events = Vec::new();
        match self.spaces.get(&id) {
            Some(lazy) => lazy.uffd.read_events(&mut events)?,
            None => return Ok(()),
        };
        for event in events {
            let Some(lazy) = self.spaces.get_mut(&id) else { break };
            match event {
                UffdEvent::Pagefault { page, .. } => self.fault(id, page, wishes)?,
                UffdEvent::Fork { child } => {
                    if let Some(keeper) = &self.keeper {
                        keeper.hold(&[&child], &[])?;
                    }
                    let (origin, ledger) = (lazy.origin, lazy.ledger.clone());
                    self.add(Lazy { origin, uffd: child, ledger, emptied: Vec::new() })?;
                }
                UffdEvent::Remap { from, to } => {
                    lazy.ledger.moved(from, to);
                    lazy.emptied.push(from);
                    let _ = lazy.uffd.wake(from);
                }
                UffdEvent::Remove { range } => {
                    lazy.ledger.settle(range);
                    // Who waits for a page of it asks again, and is given zeros.
                    let _ = lazy.uffd.wake(range);
                }
                UffdEvent::Unmap { range } => {
                    match lazy.emptied.iter().position(|emptied| *emptied == range) {
                        Some(at) => drop(lazy.emptied.swap_remove(at)),
                        None => lazy.ledger.settle(range),
                    }
                    let _ = lazy.uffd.wake(range);
                }
            }
        }
        self.let_go_if_all_came()
    }

    /// A thread waits for a page.
    fn fault(&mut self, id: u64, page: PageIndex, wishes: &mut Vec<Wanted>) -> Result<()> {
        let Some(lazy) = self.spaces.get_mut(&id) else { return Ok(()) };
        let Some(segment) = lazy.ledger.from(page, self.reach) else { return self.zero(id, page) };
        let (origin, sources) = (lazy.origin, segment.sources());
        if self.wanted.contains_key(&(origin, segment.source)) {
            return Ok(()); // asked for; the copy will wake this one too
        }
        self.wanted.insert((origin, segment.source), Instant::now());
        wishes.extend(Wanted::new(origin, sources));
        Ok(())
    }

    /// Gives a page of zeros where nothing was.
    fn zero(&mut self, id: u64, page: PageIndex) -> Result<()> {
        let Some(lazy) = self.spaces.get(&id) else { return Ok(()) };
        let range = PageRange::new(page, PageCount(1)).expect("the kernel told of it");
        match lazy.uffd.zero(range)? {
            Copied::Installed => {}
            Copied::TaskGone => self.gone(id),
            // There already, or no more, or about to change: whoever waits shall look again.
            Copied::AlreadyThere | Copied::NotMapped | Copied::Again(_) => {
                let _ = lazy.uffd.wake(range);
            }
        }
        Ok(())
    }

    /// No process has this address space any more.
    fn gone(&mut self, id: u64) {
        if let Some(lazy) = self.spaces.remove(&id) {
            let _ = self.ready.delete(&lazy.uffd);
        }
        if let Err(error) = self.let_go_if_all_came() {
            tracing::warn!(%error, "the keeper is not told that it may end");
        }
    }

    /// Nothing is missing any more, so the keeper may forget it all. It is another process: nobody
    /// here waits for its end, and until then everything is answered.
    fn let_go_if_all_came(&mut self) -> Result<()> {
        let all_came = self.spaces.values().all(|lazy| lazy.ledger.missing().0 == 0);
        if !all_came || self.keeper.is_none() {
            return Ok(());
        }
        let let_go =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(own("wait for the keeper"))?;
        let tell = let_go.as_fd().try_clone_to_owned();
        let tell = tell.map_err(|_| own("wait for the keeper")(nix::errno::Errno::EMFILE))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, LET_GO);
        self.ready.add(&let_go, event).map_err(own("wait for the keeper"))?;
        self.let_go = Some(let_go);
        let Some(keeper) = self.keeper.take() else { return Ok(()) };
        std::thread::spawn(move || {
            if let Err(error) = keeper.done() {
                tracing::warn!(%error, "the keeper did not end well");
            }
            let _ = nix::unistd::write(tell, &1_u64.to_ne_bytes());
        });
        Ok(())
    }

    /// From here on every address space is the kernel's again.
    fn end(&mut self) {
        self.spaces.clear();
        if let Some(let_go) = self.let_go.take() {
            let _ = self.ready.delete(&let_go);
        }
    }
}

impl AsRawFd for Faults {
    /// Readable when an address space has something to tell.
    fn as_raw_fd(&self) -> RawFd {
        self.ready.0.as_raw_fd()
    }
}

fn own(act: &'static str) -> impl FnOnce(nix::errno::Errno) -> Error {
    move |errno| Error::Own { act, errno }
}
