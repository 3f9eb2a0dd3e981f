//! Finds the memory that processes of a tree share copy on write: pages at one address that are in one
//! frame. While the tree runs that is a guess, which whoever reads them must see come true ([`torn`]).

use std::collections::BTreeMap;

use image::Heritage;
use image::heritage::Common;
use image::kept::{Extent, kept};
use image::outline::{LASTING, Room};
use image::state::{Mm, SharedMemory, Task, Vma, VmaFlags};
use pages::{ByteCount, PageCount, PageIndex, PageRange, PageSet, SpaceId, TaskId};
use tracee::proc::children;
use tracee::proc::rollup::Anonymous;
use tracee::{HostPid, Pagemap};

use crate::collect::{PageSource, SpacePages};

/// What must be saved for it to be worth its while: 1 MiB.
const WORTHWHILE: PageCount = PageCount(256);
/// The same where nothing else would leave before the tree stands still: 4 MiB.
const WORTH_A_LOOK: ByteCount = ByteCount(4 << 20);
/// Pages whose frames are compared at once.
const WINDOW: PageCount = PageCount(1 << 14);

/// What is common.
pub(crate) struct Found {
    pub(crate) heritage: Heritage,
    /// Where its pages are read: each once.
    pub(crate) read: Vec<(HostPid, PageSet)>,
    root: TaskId,
}

impl Found {
    /// Its pages; they count as the root's.
    pub(crate) fn spaces(&self, source: fn(HostPid) -> PageSource) -> Vec<SpacePages> {
        let of = |(pid, pages): &(HostPid, PageSet)| SpacePages {
            space: SpaceId::Process(self.root),
            pages: pages.clone(),
            source: source(*pid),
        };
        self.read.iter().map(of).collect()
    }
}

/// A process that may have something in common with others.
pub(crate) struct Member<'a> {
    id: TaskId,
    pid: HostPid,
    mm: &'a Mm,
    /// Private anonymous memory that can be had by birth.
    usable: PageSet,
    /// Pages that are to be sent.
    content: &'a PageSet,
}

impl<'a> Member<'a> {
    /// A process of a tree with this `shared` memory, and pages of it that are to be sent.
    pub(crate) fn new(
        (id, pid): (TaskId, HostPid),
        mm: &'a Mm,
        shared: &[SharedMemory],
        content: &'a PageSet,
    ) -> Self {
        let not = VmaFlags::LOCKED | VmaFlags::GROWS_DOWN;
        let free = mm.vmas.iter().filter(|vma| !vma.flags.intersects(not));
        let rooms: Vec<Room> = free.filter_map(Room::of).collect();
        // Not where segments of System V are attached: over whatever is there.
        let usable = kept(&rooms, mm, shared, Extent::Whole);
        Self { id, pid, mm, usable, content }
    }
}

/// A mapping, by the number of its member.
type Holder<'a> = (usize, &'a Vma);

/// True if processes of a tree that runs, and is not watched, share so much memory that a look at it
/// pays for itself. May be wrong.
pub(crate) fn is_likely(root: HostPid) -> bool {
    let others = children::tree(root).into_iter().map(|pid| match Anonymous::read(pid) {
        Ok(memory) => memory.others().0,
        Err(_) => 0, // it has ended
    });
    ByteCount(others.sum()) >= WORTH_A_LOOK
}

/// Takes what is common out of `spaces` of a tree that stands still, if that is worth it; of mappings
/// that begin `anywhere`, or where others do.
pub(crate) fn take(
    (tasks, shared): (&[Task], &[SharedMemory]),
    spaces: &mut [SpacePages],
    anywhere: bool,
) -> Option<Found> {
    let root = tasks.first()?.id;
    let members = spaces.iter().filter_map(|space| {
        let (SpaceId::Process(id), PageSource::Process(pid)) = (space.space, &space.source) else {
            return None;
        };
        let mm = &tasks.iter().find(|task| task.id == id)?.living()?.mm;
        Some(Member::new((id, *pid), mm, shared, &space.pages))
    });
    let members: Vec<Member<'_>> = members.collect();
    let found = find(root, &members, anywhere)?;
    for space in spaces {
        let SpaceId::Process(id) = space.space else { continue };
        if let Some(pages) = found.heritage.heirs.get(&id) {
            space.pages.remove_all(pages);
        }
    }
    Some(found)
}

/// What `members` of the tree under `root` have in common; `None` if it is not worth it.
pub(crate) fn find(root: TaskId, members: &[Member<'_>], anywhere: bool) -> Option<Found> {
    let groups = alike(members, anywhere);
    if !pays(&groups, members) {
        return None;
    }
    // Who has ended has nothing.
    let maps = members.iter().map(|member| Pagemap::open(member.pid).ok());
    let maps: Vec<Option<Pagemap>> = maps.collect();
    let mut heritage = Heritage::default();
    let mut read: BTreeMap<usize, PageSet> = BTreeMap::new();
    for group in &groups {
        let end = heritage.rooms.last().map_or(PageIndex(0), |room| room.range.end());
        if group.range.start() < end {
            continue; // somebody else has memory of another kind here
        }
        let common = compare(group, members, &maps);
        let heirs = group.holders.iter().filter(|(member, vma)| {
            let own = common.heirs.get(member);
            own.is_some_and(|own| own.within(vma.range).next().is_some())
        });
        let rooms: PageSet = heirs.map(|(_, vma)| vma.range).collect();
        let rooms = rooms.ranges().iter();
        heritage.rooms.extend(rooms.map(|range| Common { range: *range, flags: group.flags }));
        for (member, pages) in &common.heirs {
            heritage.heirs.entry(members[*member].id).or_default().add_all(pages);
            heritage.pages.add_all(pages);
        }
        for (member, pages) in &common.read {
            read.entry(*member).or_default().add_all(pages);
        }
    }
    let inherited: PageCount = heritage.heirs.values().map(PageSet::count).sum();
    if inherited.0 - heritage.pages.count().0 < WORTHWHILE.0 {
        return None;
    }
    let read = read.into_iter().map(|(member, pages)| (members[member].pid, pages)).collect();
    Some(Found { heritage, read, root })
}

/// What must be sent again, and to whom, after pages were read of a tree that runs: `read` tells for
/// each that was read of which pages these were, and which of its pages are as they were when all this
/// memory was compared. What is not might be anybody's by now, so nobody has it yet. What an heir writes
/// itself is told of it alone, like any other page.
pub(crate) fn torn(heritage: &Heritage, read: &[(PageSet, PageSet)]) -> BTreeMap<TaskId, PageSet> {
    let mut torn = PageSet::new();
    for (pages, untouched) in read {
        let mut touched = pages.clone();
        touched.remove_all(untouched);
        torn.add_all(&touched);
    }
    let of = |(task, pages): (&TaskId, &PageSet)| (*task, pages.intersect(&torn));
    heritage.heirs.iter().map(of).filter(|(_, pages)| !pages.is_empty()).collect()
}

/// Mappings of several processes that lie over each other, and are of one kind.
struct Group<'a> {
    /// What they cover together.
    range: PageRange,
    flags: VmaFlags,
    holders: Vec<Holder<'a>>,
}

/// Such mappings, in order; those that begin `anywhere`, or where the first of them does.
fn alike<'a>(members: &[Member<'a>], anywhere: bool) -> Vec<Group<'a>> {
    let mut all: Vec<Holder<'a>> = Vec::new();
    for (number, member) in members.iter().enumerate() {
        let mm: &'a Mm = member.mm;
        let whole = |vma: &&Vma| member.usable.within(vma.range).any(|run| run == vma.range);
        let vmas = mm.vmas.iter().filter(|vma| Room::of(vma).is_some()).filter(whole);
        all.extend(vmas.map(|vma| (number, vma)));
    }
    let kind = |vma: &Vma| (vma.flags & LASTING).bits();
    all.sort_by_key(|(member, vma)| (kind(vma), vma.range.start(), *member));
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (member, vma) in all {
        let flags = vma.flags & LASTING;
        match groups.last_mut().filter(|last| last.flags == flags) {
            Some(last) if vma.range.start() < last.range.end() => {
                if anywhere || vma.range.start() == last.range.start() {
                    let end = last.range.end().max(vma.range.end());
                    last.range = PageRange::between(last.range.start(), end).unwrap_or(last.range);
                    last.holders.push((member, vma));
                }
            }
            _ => groups.push(Group { range: vma.range, flags, holders: vec![(member, vma)] }),
        }
    }
    groups.retain(|group| group.holders.iter().any(|(member, _)| *member != group.holders[0].0));
    groups.sort_by_key(|group| group.range.start());
    groups
}

/// True if so much could be common that looking costs less than sending.
fn pays(groups: &[Group<'_>], members: &[Member<'_>]) -> bool {
    let mut most = 0;
    for group in groups {
        let mut content: BTreeMap<usize, u64> = BTreeMap::new();
        for (member, vma) in &group.holders {
            let pages = members[*member].content.within(vma.range);
            *content.entry(*member).or_default() += pages.map(|run| run.count().0).sum::<u64>();
        }
        most += content.values().sum::<u64>() - content.values().max().copied().unwrap_or(0);
    }
    most >= WORTHWHILE.0
}

/// What mappings have in common.
#[derive(Default)]
struct Same {
    /// By member, what it has of it.
    heirs: BTreeMap<usize, PageSet>,
    /// By member, what of it is read there.
    read: BTreeMap<usize, PageSet>,
}

/// Of pages that are in several frames, the one that most have counts.
fn compare(group: &Group<'_>, members: &[Member<'_>], maps: &[Option<Pagemap>]) -> Same {
    let mut same = Same::default();
    for window in group.range.pieces(WINDOW) {
        let mut seen: Vec<(PageIndex, u64, usize)> = Vec::new();
        for holder in &group.holders {
            let Some(part) = holder.1.range.intersect(window) else { continue };
            let Some(map) = &maps[holder.0] else { continue };
            for run in members[holder.0].content.within(part) {
                let Ok(frames) = map.frames(run) else { break };
                let pages = (run.start().0..).map(PageIndex).zip(frames);
                seen.extend(pages.filter_map(|(page, frame)| Some((page, frame?, holder.0))));
            }
        }
        seen.sort_unstable();
        for of_page in seen.chunk_by(|one, next| one.0 == next.0) {
            let frames = of_page.chunk_by(|one, next| one.1 == next.1);
            let Some(most) = frames.max_by_key(|frame| frame.len()) else { continue };
            let Some(page) = PageRange::new(most[0].0, PageCount(1)) else { continue };
            if most.len() > 1 {
                same.read.entry(most[0].2).or_default().insert(page);
                most.iter().for_each(|(.., heir)| {
                    same.heirs.entry(*heir).or_default().insert(page);
                });
            }
        }
    }
    same
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::tests::set;

    #[test]
    fn what_was_not_as_it_was_when_it_was_read_is_nobodys() {
        let heirs = [(1, set(&[(0, 10)])), (2, set(&[(0, 4), (8, 2)])), (3, set(&[(5, 3)]))];
        let heirs = heirs.map(|(task, pages)| (TaskId(task), pages)).into();
        let heritage = Heritage { pages: set(&[(0, 10)]), heirs, ..Heritage::default() };
        type Pages = &'static [(u64, u64)];
        type Read = &'static [(Pages, Pages)];
        // Pages read of one, and of these (and others) the untouched; then what 1, 2 and 3 get again.
        let table: [(Read, [Pages; 3]); 6] = [
            (&[(&[(0, 10)], &[(0, 20)])], [&[], &[], &[]]),
            (&[(&[(0, 10)], &[])], [&[(0, 10)], &[(0, 4), (8, 2)], &[(5, 3)]]),
            (&[(&[(0, 10)], &[(0, 3), (4, 6)])], [&[(3, 1)], &[(3, 1)], &[]]),
            (&[(&[(0, 10)], &[(0, 4), (6, 2)])], [&[(4, 2), (8, 2)], &[(8, 2)], &[(5, 1)]]),
            // What one has written matters only where it was read of that one.
            (&[(&[(0, 5)], &[(0, 5)]), (&[(5, 5)], &[(5, 5)])], [&[], &[], &[]]),
            (&[(&[(0, 5)], &[(0, 9)]), (&[(5, 5)], &[(0, 9)])], [&[(9, 1)], &[(9, 1)], &[]]),
        ];
        for (read, wanted) in table {
            let sets = read.iter().map(|(pages, untouched)| (set(pages), set(untouched)));
            let again = torn(&heritage, &sets.collect::<Vec<_>>());
            let wanted = (1..).map(TaskId).zip(wanted.map(set));
            let wanted = wanted.filter(|(_, pages)| !pages.is_empty()).collect();
            assert_eq!(again, wanted, "{read:?}");
        }
    }
}
