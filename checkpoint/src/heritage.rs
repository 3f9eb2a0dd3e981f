//! Finds the memory that processes of a tree share copy on write, while nobody runs: pages at one
//! address that are in one frame.

use std::collections::BTreeMap;

use image::Heritage;
use image::heritage::Common;
use image::kept::{Extent, kept};
use image::outline::{LASTING, Room};
use image::state::{Mm, SharedMemory, Task, Vma, VmaFlags};
use pages::{PageCount, PageIndex, PageRange, PageSet, SpaceId, TaskId};
use tracee::{HostPid, Pagemap};

use crate::collect::{PageSource, SpacePages};
use crate::pump::ReadPages;

/// What must be saved for it to be worth its while: 1 MiB.
const WORTHWHILE: PageCount = PageCount(256);
/// Pages whose frames are compared at once.
const WINDOW: PageCount = PageCount(1 << 14);

/// What is common, and where its pages are read; they count as the root's.
pub(crate) struct Found {
    pub(crate) heritage: Heritage,
    pub(crate) spaces: Vec<SpacePages>,
}

/// A process that may have something in common with others.
struct Member<'a> {
    /// Among the spaces.
    at: usize,
    id: TaskId,
    pid: HostPid,
    mm: &'a Mm,
    /// Private anonymous memory that can be had by birth.
    usable: PageSet,
}

/// A mapping, by the number of its member.
type Holder<'a> = (usize, &'a Vma);

/// Takes what is common out of `spaces`, if that is worth it.
pub(crate) fn take(
    tasks: &[Task],
    shared: &[SharedMemory],
    spaces: &mut [SpacePages],
) -> Result<Option<Found>, ReadPages> {
    let Some(root) = tasks.first().map(|task| SpaceId::Process(task.id)) else { return Ok(None) };
    if tasks.iter().filter(|task| task.living().is_some()).count() < 2 {
        return Ok(None);
    }
    let members = members(tasks, shared, spaces);
    let groups = alike(&members);
    if !pays(&groups, &members, spaces) {
        return Ok(None);
    }
    let failed = |error| ReadPages::of(root, None, error);
    let maps = members.iter().map(|member| Pagemap::open(member.pid));
    let maps: Vec<Pagemap> = maps.collect::<tracee::Result<_>>().map_err(failed)?;
    let mut heritage = Heritage::default();
    let mut read: BTreeMap<usize, PageSet> = BTreeMap::new();
    for ((start, flags), holders) in &groups {
        let end = heritage.rooms.last().map_or(PageIndex(0), |room| room.range.end());
        if *start < end {
            continue; // somebody else has longer memory here
        }
        let of = |holder: &Holder<'_>| &spaces[members[holder.0].at].pages;
        let common = compare(holders, of, &maps).map_err(failed)?;
        let heirs = holders.iter().filter(|(member, _)| common.heirs.contains_key(member));
        let Some(end) = heirs.map(|(_, vma)| vma.range.end()).max() else { continue };
        let Some(range) = PageRange::between(*start, end) else { continue };
        let flags = VmaFlags::from_bits_truncate(*flags);
        heritage.rooms.push(Common { range, flags });
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
        return Ok(None);
    }
    for member in &members {
        if let Some(pages) = heritage.heirs.get(&member.id) {
            spaces[member.at].pages.remove_all(pages);
        }
    }
    let spaces = read.into_iter().map(|(member, pages)| SpacePages {
        space: root,
        pages,
        source: PageSource::Process(members[member].pid),
    });
    Ok(Some(Found { spaces: spaces.collect(), heritage }))
}

fn members<'a>(
    tasks: &'a [Task],
    shared: &[SharedMemory],
    spaces: &[SpacePages],
) -> Vec<Member<'a>> {
    let one = |(at, space): (usize, &SpacePages)| {
        let (SpaceId::Process(id), PageSource::Process(pid)) = (space.space, &space.source) else {
            return None;
        };
        let mm = &tasks.iter().find(|task| task.id == id)?.living()?.mm;
        let not = VmaFlags::LOCKED | VmaFlags::GROWS_DOWN;
        let free = mm.vmas.iter().filter(|vma| !vma.flags.intersects(not));
        let rooms: Vec<Room> = free.filter_map(Room::of).collect();
        // Not where segments of System V are attached: over whatever is there.
        let usable = kept(&rooms, mm, shared, Extent::Whole);
        Some(Member { at, id, pid: *pid, mm, usable })
    };
    spaces.iter().enumerate().filter_map(one).collect()
}

/// Mappings of several processes that begin at one place and are of one kind, in order.
fn alike<'a>(members: &[Member<'a>]) -> BTreeMap<(PageIndex, u32), Vec<Holder<'a>>> {
    let mut groups: BTreeMap<(PageIndex, u32), Vec<Holder<'a>>> = BTreeMap::new();
    for (number, member) in members.iter().enumerate() {
        let mm: &'a Mm = member.mm;
        let whole = |vma: &&Vma| member.usable.within(vma.range).any(|run| run == vma.range);
        for vma in mm.vmas.iter().filter(|vma| Room::of(vma).is_some()).filter(whole) {
            let key = (vma.range.start(), (vma.flags & LASTING).bits());
            groups.entry(key).or_default().push((number, vma));
        }
    }
    groups.retain(|_, holders| holders.len() > 1);
    groups
}

/// True if so much could be common that looking costs less than sending.
fn pays(
    groups: &BTreeMap<(PageIndex, u32), Vec<Holder<'_>>>,
    members: &[Member<'_>],
    spaces: &[SpacePages],
) -> bool {
    let mut most = 0;
    for holders in groups.values() {
        let content = holders.iter().map(|(member, vma)| {
            let pages = &spaces[members[*member].at].pages;
            pages.within(vma.range).map(|run| run.count().0).sum::<u64>()
        });
        let content: Vec<u64> = content.collect();
        most += content.iter().sum::<u64>() - content.iter().max().copied().unwrap_or(0);
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
fn compare<'s>(
    holders: &[Holder<'_>],
    content: impl Fn(&Holder<'_>) -> &'s PageSet,
    maps: &[Pagemap],
) -> tracee::Result<Same> {
    let mut same = Same::default();
    let longest = holders.iter().map(|(_, vma)| vma.range).max_by_key(|range| range.count());
    for window in longest.iter().flat_map(|range| range.pieces(WINDOW)) {
        let mut seen: Vec<(PageIndex, u64, usize)> = Vec::new();
        for holder in holders {
            let Some(part) = holder.1.range.intersect(window) else { continue };
            for run in content(holder).within(part) {
                let frames = maps[holder.0].frames(run)?;
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
    Ok(same)
}
