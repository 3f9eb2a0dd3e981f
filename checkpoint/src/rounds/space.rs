//! One address space, as rounds see it.

use image::kept::{Extent, kept_in};
use image::outline::{LASTING, Room};
use image::state::{Mm, VmaFlags};
use pages::{PageIndex, PageRange, PageSet, TaskId};
use tracee::proc::maps::{self, Mapping};
use tracee::{HostPid, Tracked, Wanted};

use crate::survey::mapped::{Shows, shows};

/// One address space of a tree that is watched.
pub(super) struct Space {
    pub(super) task: TaskId,
    pub(super) pid: HostPid,
    /// As they were when `room` was made of them.
    mappings: Vec<Mapping>,
    pub(super) room: Vec<Room>,
    /// As of the last round.
    pub(super) made: Vec<Room>,
    /// Private mappings of files.
    pub(super) files: PageSet,
    pub(super) sent: PageSet,
    pub(super) aside: PageSet,
    pub(super) changed: PageSet,
}

impl Space {
    pub(super) fn new(task: TaskId, pid: HostPid) -> Self {
        let (mappings, room, made) = (Vec::new(), Vec::new(), Vec::new());
        let [files, sent, aside, changed] = [const { PageSet::new() }; 4];
        Self { task, pid, mappings, room, made, files, sent, aside, changed }
    }

    /// A round tells where there is room now, and brings `pages`.
    pub(super) fn tell(&mut self, pages: &PageSet) {
        self.sent = self.sent.intersect(&kept_in(&self.made, self.room.iter().copied()));
        self.made.clone_from(&self.room);
        let aside = pages.intersect(&self.files);
        self.sent.add_all(pages);
        self.sent.remove_all(&aside);
        self.aside.add_all(&aside);
    }

    /// Pages to be sent of memory that was there already when the process was what `early` tells.
    pub(super) fn to_send(&self, early: &Mm) -> PageSet {
        let had: Vec<Room> = early.vmas.iter().filter_map(Room::of).collect();
        self.changed.intersect(&kept_in(&had, self.room.iter().copied()))
    }

    /// The destination makes it with such room and with `pages` in it.
    pub(super) fn born_with(&mut self, room: Vec<Room>, pages: &PageSet) {
        self.made = room;
        self.sent.add_all(pages);
        self.changed.remove_all(pages);
    }

    pub(super) fn look(&mut self, tracked: &Tracked, extent: Extent) -> tracee::Result<()> {
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
    use pages::PageCount;

    use super::super::tests::set;
    use super::*;

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
