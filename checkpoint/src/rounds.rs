//! Rounds of pre-copy: which pages to send while the program runs, and which are left when it does
//! not any more.
//!
//! Private anonymous memory takes part, which is what programs are made of, what private mappings of
//! files hold of their own, and shared memory (`objects`).
//!
//! The pages of a round are told and protected first and read then ([`tracee::dirty`]); a page that
//! changes while it is read is told again. For each process is kept: `sent`, what the destination has
//! a version of; `changed`, what was told and not sent since; `room`, where there is memory; and
//! `made`, where the destination has it, which is what it was told with the last round. What is sent
//! lies always within `made`, and leaving it means being forgotten, when a round tells: then the
//! destination takes that memory away. Not before: memory that went after the last round, and came
//! back before the end, is still there with what was sent into it. Pages of files are put `aside` over
//! there and never forgotten: whatever maps a file at their place in the end has them.

use image::kept::{Extent, beside, kept, kept_in};
use image::outline::{LASTING, Outline, Room, SpaceOutline};
use image::state::{Checkpoint, FileKind, VmaFlags};
use pages::{PageCount, PageIndex, PageRange, PageSet, SpaceId, TaskId};
use tracee::proc::maps::{self, Mapping};
use tracee::{Held, HostPid, Tracked, Tracker, Wanted};
use transport::wire::Features;

use crate::collect::{Collected, PageSource, SpacePages, Waits};
use crate::failure::Cause;
use crate::objects::Objects;
use crate::survey::mapped::{Shows, shows};
use crate::survey::open::is_direct;

/// The memory of a tree, watched while it runs. Dropped, nothing of the watching stays.
pub struct Rounds {
    tracker: Tracker,
    early: Checkpoint,
    waits: Waits,
    extent: Extent,
    files: bool,
    spaces: Vec<Space>,
    objects: Objects,
    /// Pages of all rounds.
    sent: PageCount,
}

/// What a look has told.
pub(crate) struct Look {
    /// Pages that changed and are not among those that no round has had yet.
    pub(crate) dirty: PageCount,
    /// Those, and the ones that no round has had.
    pub(crate) left: PageCount,
}

/// One address space of it.
struct Space {
    task: TaskId,
    pid: HostPid,
    /// As they were when `room` was made of them.
    mappings: Vec<Mapping>,
    room: Vec<Room>,
    /// As of the last round.
    made: Vec<Room>,
    /// Private mappings of files.
    files: PageSet,
    sent: PageSet,
    aside: PageSet,
    changed: PageSet,
}

impl Rounds {
    /// Begins to watch a tree that stands still, and of which `early` was read at this moment. What of
    /// it takes part, the `features` tell that both ends have.
    pub(crate) fn begin(
        held: &mut Held,
        early: Collected,
        features: Features,
    ) -> tracee::Result<Self> {
        let shared = features.contains(Features::SHARED_ROUNDS);
        let whole = features.contains(Features::WHOLE_ROUNDS);
        let extent = if whole { Extent::Whole } else { Extent::Anonymous };
        let root = held.processes().first().map_or(HostPid(0), |process| process.number);
        let mut tracker = Tracker::of(root)?;
        for process in held.processes() {
            tracker.add(Tracked::arm(process.leader())?);
        }
        let spaces = early.spaces.iter().filter_map(|space| match (space.space, &space.source) {
            (SpaceId::Process(task), PageSource::Process(pid)) => Some(Space::new(task, *pid)),
            _ => None,
        });
        let spaces: Vec<Space> = spaces.collect();
        let host = |task| spaces.iter().find(|it| it.task == task).map(|it| it.pid);
        let waits = Waits::of(held, &early.checkpoint, host);
        let memory = early.spaces.into_iter().filter(|_| shared).collect();
        let objects =
            Objects::of(memory, (&early.checkpoint.shared, &early.checkpoint.ghosts), extent);
        let (early, sent) = (early.checkpoint, PageCount(0));
        let files = features.contains(Features::FILE_ROUNDS);
        Ok(Self { tracker, spaces, objects, waits, extent, files, early, sent })
    }

    /// What the tree was when it began.
    pub(crate) fn early(&self) -> &Checkpoint {
        &self.early
    }

    /// True if files of memory take part.
    pub(crate) fn with_files(&self) -> bool {
        self.files
    }

    /// The waits it was in then.
    pub(crate) fn waits(&self) -> &Waits {
        &self.waits
    }

    /// Pages that were sent in rounds.
    pub(crate) fn sent(&self) -> PageCount {
        self.sent
    }

    /// Looks what has changed since the last look.
    pub(crate) fn look(&mut self) -> Result<Look, Cause> {
        let before = self.left();
        for space in &mut self.spaces {
            // A process that has ended or become another: the tree is not the same any more, and
            // everything will be sent at the end.
            let Some(tracked) = self.tracker.space(space.pid) else { continue };
            match space.look(tracked, self.extent) {
                Err(error) if error.is_gone() => {}
                looked => looked.map_err(Cause::Watch)?,
            }
        }
        self.objects.look().map_err(Cause::Compare)?;
        let left = self.left();
        Ok(Look { dirty: PageCount(left.0.saturating_sub(before.0)), left })
    }

    /// Pages to be sent now.
    fn left(&self) -> PageCount {
        let private: PageCount = self.spaces.iter().map(|space| space.changed.count()).sum();
        private + self.objects.left()
    }

    /// The next round: where there must be room, and what to send into it, at most `most` pages.
    pub(crate) fn next(&mut self, most: PageCount) -> (Outline, Vec<SpacePages>) {
        let mut outline = Outline::default();
        let mut pages = Vec::new();
        let mut room_for = most.0;
        for space in &mut self.spaces {
            let changed = space.changed.take_first(PageCount(room_for));
            room_for -= changed.count().0;
            space.tell(&changed);
            outline.spaces.push(SpaceOutline {
                task: space.task,
                room: space.made.clone(),
                beside: space.files.clone(),
                stale: PageSet::new(),
                pages: changed.count(),
            });
            self.sent = self.sent + changed.count();
            if !changed.is_empty() {
                pages.push(SpacePages {
                    space: SpaceId::Process(space.task),
                    pages: changed,
                    source: PageSource::Running(space.pid),
                });
            }
        }
        let (shared, objects) = self.objects.next(PageCount(room_for));
        self.sent = self.sent + shared.iter().map(|object| object.pages).sum();
        outline.shared = shared;
        pages.extend(objects);
        (outline, pages)
    }

    /// No round will bring what has changed: a last one, without pages, has what is old of it taken
    /// away while the program still runs, for which it would stand still otherwise.
    pub(crate) fn part(&mut self) -> Option<Outline> {
        /// Far below what an outline may have; the rest is taken away at the end.
        const MOST: usize = 500_000;
        if self.extent != Extent::Whole {
            return None;
        }
        let mut left = MOST;
        let (mut outline, _) = self.next(PageCount(0));
        for (space, told) in self.spaces.iter().zip(&mut outline.spaces) {
            let old = space.changed.intersect(&space.sent);
            told.stale = old.ranges().iter().take(left).copied().collect();
            left -= told.stale.ranges().len();
        }
        Some(outline)
    }

    fn tracks(&self, pid: HostPid) -> bool {
        self.tracker.space(pid).is_some()
    }

    /// The tree stands still for good: takes out of `collected` the pages that the destination has
    /// already, and puts in those that it has and must not have any more. If it is not the tree it
    /// was, the destination begins anew, and everything is sent.
    pub(crate) fn finish(&self, collected: &mut Collected) -> Result<(), Cause> {
        if !collected.checkpoint.same_tree(&self.early) {
            return Ok(());
        }
        // Opened since: a device may have written to a page after it was sent, which nobody tells.
        let unseen = collected.checkpoint.files.iter().any(|file| match file.kind {
            FileKind::Regular(_) => is_direct(file.flags),
            _ => false,
        });
        for space in &self.spaces {
            let task = collected.checkpoint.tasks.iter().find(|task| task.id == space.task);
            let living = task.and_then(|task| task.living());
            let left =
                collected.spaces.iter_mut().find(|left| left.space == SpaceId::Process(space.task));
            let (Some(living), Some(left)) = (living, left) else { continue };
            let shared = &collected.checkpoint.shared;
            let there = kept(&space.made, &living.mm, shared, self.extent);
            let mut there = there.intersect(&space.sent);
            there.add_all(&beside(&living.mm).intersect(&space.aside));
            let written = collected.written.get(&space.task);
            let changed = match written.filter(|_| !unseen && self.tracks(space.pid)) {
                Some(written) => {
                    let mut changed = space.changed.clone();
                    changed.add_all(written);
                    changed
                }
                // Anything may have changed; or another program, or an end and a new beginning under the same number.
                None => there.clone(),
            };
            left.pages = remaining(&left.pages, &there, &changed);
        }
        self.objects.finish(collected).map_err(Cause::Compare)
    }
}

/// What is left to be sent of `content`, if the destination has versions of the pages `there`, of
/// which those `changed` are old. Pages that have no content any more are among it: they read as
/// zeros here, and must do so over there.
fn remaining(content: &PageSet, there: &PageSet, changed: &PageSet) -> PageSet {
    let mut good = there.intersect(content);
    good.remove_all(changed);
    let mut left = content.clone();
    left.remove_all(&good);
    left.add_all(&tracee::dirty::outdated(there, content));
    left
}

impl Space {
    fn new(task: TaskId, pid: HostPid) -> Self {
        let (mappings, room, made) = (Vec::new(), Vec::new(), Vec::new());
        let [files, sent, aside, changed] = [const { PageSet::new() }; 4];
        Self { task, pid, mappings, room, made, files, sent, aside, changed }
    }

    /// A round tells where there is room now, and brings `pages`.
    fn tell(&mut self, pages: &PageSet) {
        self.sent = self.sent.intersect(&kept_in(&self.made, self.room.iter().copied()));
        self.made.clone_from(&self.room);
        let aside = pages.intersect(&self.files);
        self.sent.add_all(pages);
        self.sent.remove_all(&aside);
        self.aside.add_all(&aside);
    }

    fn look(&mut self, tracked: &Tracked, extent: Extent) -> tracee::Result<()> {
        let mappings = tracked.register()?;
        if mappings != self.mappings {
            // Only smaps tells the flags, and to write it the kernel looks at every page.
            let flagged = maps::read_with_flags(self.pid)?;
            let room = disjoint(flagged.iter().filter_map(room_of));
            let mut all: PageSet = room.iter().map(|room| room.range).collect();
            let files = flagged.iter().filter(|_| extent == Extent::Whole);
            let mut files: PageSet = files.filter_map(file_of).collect();
            files.remove_all(&all);
            all.add_all(&files);
            self.changed = self.changed.intersect(&all);
            (self.mappings, self.room, self.files) = (mappings, room, files);
        }
        for range in joined(self.room.iter().copied()) {
            self.changed.add_all(&tracked.written(range, Wanted::AnonContent)?);
        }
        for range in self.files.ranges() {
            self.changed.add_all(&tracked.written(*range, Wanted::CowedFileContent)?);
        }
        Ok(())
    }
}

/// As it is without the watching.
fn unwatched(mapping: &Mapping) -> Mapping {
    let mut plain = mapping.clone();
    plain.flags.retain(|flag| flag != b"uw");
    plain
}

/// Where a private mapping of a file is, of a kind that can be moved.
fn file_of(mapping: &Mapping) -> Option<PageRange> {
    let private = !mapping.shared && matches!(shows(&unwatched(mapping)), Ok(None));
    mapping.range().filter(|_| private)
}

/// The room a mapping takes, if it is private anonymous memory of a kind that can be moved.
fn room_of(mapping: &Mapping) -> Option<Room> {
    let Ok(Some(Shows::Anon)) = shows(&unwatched(mapping)) else { return None };
    let flag = |name, flag| if mapping.has_flag(name) { flag } else { VmaFlags::empty() };
    let flags = flag(b"gd", VmaFlags::GROWS_DOWN) | flag(b"nr", VmaFlags::NO_RESERVE);
    Some(Room { range: mapping.range()?, prot: mapping.prot, flags: flags & LASTING })
}

/// What is read while it changes may overlap: what came first is right.
fn disjoint(read: impl Iterator<Item = Room>) -> Vec<Room> {
    let mut all: Vec<Room> = Vec::new();
    for room in read {
        let end = all.last().map_or(PageIndex(0), |last| last.range.end());
        let rest = PageRange::between(end.max(room.range.start()), room.range.end());
        all.extend(rest.map(|range| Room { range, ..room }));
    }
    all
}

/// Neighbours are one question.
fn joined(room: impl Iterator<Item = Room>) -> Vec<PageRange> {
    room.map(|room| room.range).collect::<PageSet>().ranges().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> PageSet {
        let range = |(start, count): &(u64, u64)| {
            PageRange::new(PageIndex(*start), PageCount(*count)).expect("a range")
        };
        ranges.iter().map(range).collect()
    }

    #[test]
    fn what_is_left_is_what_changed_what_is_new_and_what_is_gone() {
        let content = set(&[(0, 10), (20, 10), (40, 1)]);
        let there = set(&[(0, 15), (25, 10)]);
        let changed = set(&[(2, 1), (12, 1), (26, 2), (40, 1)]);
        let left = remaining(&content, &there, &changed);
        // 2 changed; 10–14 are gone; 20–24 were never sent; 26–27 changed; 30–34 are gone; 40 is new.
        assert_eq!(left, set(&[(2, 1), (10, 5), (20, 5), (26, 2), (30, 5), (40, 1)]));
    }

    #[test]
    fn nothing_there_leaves_everything() {
        let content = set(&[(3, 4)]);
        assert_eq!(remaining(&content, &PageSet::new(), &content), content);
        assert_eq!(remaining(&content, &content, &PageSet::new()), PageSet::new());
    }

    #[test]
    fn memory_that_went_is_forgotten_only_when_that_is_told() {
        let range = set(&[(0, 10)]).ranges()[0];
        let here = Room { range, prot: 3, flags: VmaFlags::empty() };
        let there = |space: &Space| kept_in(&space.made, [here]).intersect(&space.sent);
        let mut space = Space::new(TaskId(1), HostPid(1));
        space.room = vec![here];
        space.tell(&set(&[(2, 3)]));
        // Unmapped at the last look, and there again, empty, at the end.
        space.room.clear();
        assert_eq!(there(&space), set(&[(2, 3)]), "it has old pages over there");
        space.tell(&PageSet::new());
        space.room = vec![here];
        space.tell(&PageSet::new());
        assert_eq!(there(&space), PageSet::new(), "it was taken away and made anew");
    }

    #[test]
    fn room_that_overlaps_is_cut() {
        let room = |start, count| Room {
            range: set(&[(start, count)]).ranges()[0],
            prot: 3,
            flags: VmaFlags::empty(),
        };
        let read = [room(0, 4), room(2, 1), room(3, 3), room(8, 2), room(7, 4)];
        assert_eq!(disjoint(read.into_iter()), [room(0, 4), room(4, 2), room(8, 2), room(10, 1)]);
    }

    #[test]
    fn the_watching_itself_makes_no_other_memory() {
        let mapping = |flags: &[&[u8; 2]]| Mapping {
            start: pages::VirtAddr(0x1000),
            end: pages::VirtAddr(0x3000),
            prot: 3,
            flags: flags.iter().map(|flag| **flag).collect(),
            ..Mapping::default()
        };
        let room = room_of(&mapping(&[b"rd", b"uw", b"nr"])).expect("anonymous");
        assert_eq!((room.range.count(), room.flags), (PageCount(2), VmaFlags::NO_RESERVE));
        assert_eq!(room_of(&mapping(&[b"um"])), None, "somebody else's");
        assert_eq!(room_of(&mapping(&[b"ht"])), None);
        assert_eq!(room_of(&Mapping { inode: 3, ..mapping(&[]) }), None);
        assert!(file_of(&Mapping { inode: 3, ..mapping(&[b"uw"]) }).is_some());
        assert_eq!(file_of(&mapping(&[])), None);
        assert_eq!(file_of(&Mapping { shared: true, inode: 3, ..mapping(&[]) }), None);
        assert_eq!(room_of(&Mapping { shared: true, inode: 3, ..mapping(&[]) }), None);
    }
}
