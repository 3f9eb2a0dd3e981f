//! Memory that processes of a tree share copy on write: written before a fork, and by nobody since.
//!
//! Only a fork makes such pages, so on the destination they are put into the first process before
//! anybody else is born; then each process takes away what is not its own. A page travels once, ahead
//! of all others.

use std::collections::BTreeMap;

use pages::{PageRange, PageSet, TaskId};
use prost::Message;

use crate::error::{BadField, BadImage};
use crate::outline::{LASTING, Room, ranges, told};
use crate::state::check::task_id;
use crate::state::{Checkpoint, Mm, Vma, VmaFlags, VmaKind};

/// Name of the image that tells of it.
pub const HERITAGE: &str = "heritage.img";

/// PROT_READ and PROT_WRITE.
const WRITABLE: u32 = 3;

/// What of a tree's memory is common to several of its processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heritage {
    /// Where it lies, ascending and disjoint: what mappings with such pages cover together.
    pub rooms: Vec<Common>,
    /// The pages, all of them within rooms.
    pub pages: PageSet,
    /// Which of them each process has.
    pub heirs: BTreeMap<TaskId, PageSet>,
}

/// A piece of private anonymous memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    /// Where.
    pub range: PageRange,
    /// Of these only [`LASTING`] matter.
    pub flags: VmaFlags,
}

impl Common {
    /// True if `vma` can be what is left of this.
    fn is_for(&self, vma: &Vma) -> bool {
        vma.kind == VmaKind::Anon
            && self.range.covers(vma.range)
            && vma.flags & LASTING == self.flags & LASTING
    }
}

#[derive(Clone, PartialEq, Message)]
struct HeritageMessage {
    /// For each room: pages from the end of the last, pages, and flags.
    #[prost(uint64, repeated, tag = "1")]
    room_gaps: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    room_counts: Vec<u64>,
    #[prost(uint32, repeated, tag = "3")]
    room_flags: Vec<u32>,
    #[prost(message, repeated, tag = "4")]
    heirs: Vec<HeirMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct HeirMessage {
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(uint64, repeated, tag = "2")]
    gaps: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    counts: Vec<u64>,
}

impl Heritage {
    /// As it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (room_gaps, room_counts) = told(self.rooms.iter().map(|room| room.range));
        let heirs = self.heirs.iter().map(|(task, pages)| {
            let (gaps, counts) = told(pages.ranges().iter().copied());
            HeirMessage { task: task.0, gaps, counts }
        });
        let room_flags = self.rooms.iter().map(|room| room.flags.bits()).collect();
        let heirs = heirs.collect();
        HeritageMessage { room_gaps, room_counts, room_flags, heirs }.encode_to_vec()
    }

    /// Checks and understands what came with the images of `tree`.
    pub fn from_bytes(bytes: &[u8], tree: &Checkpoint) -> Result<Self, BadImage> {
        Self::read(bytes, tree).map_err(|lie| lie.at(HERITAGE, 1))
    }

    fn read(bytes: &[u8], tree: &Checkpoint) -> Result<Self, BadField> {
        let message = HeritageMessage::decode(bytes);
        let message = message.map_err(|_| BadField::unsupported("heritage", "another format"))?;
        let spans = ranges(("room_counts", &message.room_gaps, &message.room_counts))?;
        if message.room_flags.len() != spans.len() {
            let got = message.room_flags.len();
            return Err(BadField::count("room_flags", got, "as many as there are rooms"));
        }
        let rooms = spans.into_iter().zip(&message.room_flags);
        let rooms: Vec<Common> = rooms
            .map(|(range, flags)| Common {
                range,
                flags: VmaFlags::from_bits_truncate(*flags) & LASTING,
            })
            .collect();
        let mut all = Self { rooms, ..Self::default() };
        for heir in &message.heirs {
            let task = task_id("heirs.task", heir.task)?;
            let pages: PageSet =
                ranges(("heirs.counts", &heir.gaps, &heir.counts))?.into_iter().collect();
            all.pages.add_all(&pages);
            if all.heirs.insert(task, pages).is_some() {
                return Err(BadField::twice("heirs.task", "heir", heir.task));
            }
        }
        all.check(tree)?;
        Ok(all)
    }

    /// Every heir lives and has such memory where its pages are; every room is as long as somebody's.
    fn check(&self, tree: &Checkpoint) -> Result<(), BadField> {
        let living = |id: &TaskId| {
            let task = tree.tasks.iter().find(|task| task.id == *id);
            task.and_then(|task| task.living())
        };
        let mut somebodys = PageSet::new();
        for (task, pages) in &self.heirs {
            let living = living(task);
            let mm =
                &living.ok_or_else(|| BadField::unresolved("heirs.task", "process", task.0))?.mm;
            let kept = self.kept(*task, mm);
            if pages.intersect(&kept) != *pages {
                return Err(BadField::value(
                    "heirs.counts",
                    u64::from(task.0),
                    "pages within memory of its own",
                ));
            }
            somebodys.add_all(&kept);
        }
        let rooms: PageSet = self.rooms.iter().map(|room| room.range).collect();
        match rooms == somebodys {
            true => Ok(()),
            false => {
                let count = rooms.count().0;
                Err(BadField::value("room_counts", count, "rooms that heirs have whole"))
            }
        }
    }

    /// Where a process keeps what it was born with: its mappings with at least one such page.
    pub fn kept(&self, task: TaskId, mm: &Mm) -> PageSet {
        self.kept_rooms(task, mm).into_iter().map(|room| room.range).collect()
    }

    /// The same with what lasts of these mappings. They can be written to, whatever the process has made
    /// of them.
    pub fn kept_rooms(&self, task: TaskId, mm: &Mm) -> Vec<Room> {
        let Some(own) = self.heirs.get(&task) else { return Vec::new() };
        let kept = mm.vmas.iter().filter(|vma| {
            let at = self.rooms.partition_point(|room| room.range.end() <= vma.range.start());
            let room = self.rooms.get(at).filter(|room| room.is_for(vma));
            room.is_some() && own.within(vma.range).next().is_some()
        });
        kept.filter_map(|vma| Some(Room { prot: WRITABLE, ..Room::of(vma)? })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outline::tests::{memory, range};

    fn mm(vmas: &[(u64, u64, VmaFlags)]) -> Mm {
        let anon =
            |(start, count, flags): &(u64, u64, VmaFlags)| (*start, *count, VmaKind::Anon, *flags);
        memory(&vmas.iter().map(anon).collect::<Vec<_>>())
    }

    #[test]
    fn a_process_keeps_what_lies_in_a_room_and_has_some_of_it() {
        let plain = VmaFlags::empty();
        let room = |start, count| Common { range: range(start, count), flags: plain };
        let own: PageSet = [range(101, 2), range(300, 1)].into_iter().collect();
        let heritage = Heritage {
            rooms: vec![room(100, 10), room(200, 10), room(300, 10), room(400, 10)],
            pages: own.clone(),
            heirs: [(TaskId(7), own)].into(),
        };
        let whole = mm(&[(100, 8, plain), (200, 10, plain), (300, 10, VmaFlags::NO_RESERVE)]);
        assert_eq!(heritage.kept(TaskId(7), &whole).ranges(), [range(100, 8)]);
        assert_eq!(heritage.kept(TaskId(8), &whole).ranges(), []);
        let other = mm(&[(99, 8, plain), (300, 11, plain)]);
        assert_eq!(heritage.kept(TaskId(7), &other).ranges(), []);
        let parts = mm(&[(100, 2, plain), (102, 8, plain), (205, 5, plain), (299, 1, plain)]);
        assert_eq!(heritage.kept(TaskId(7), &parts).ranges(), [range(100, 10)]);
        let parts = mm(&[(100, 1, plain), (102, 1, plain), (103, 7, plain), (300, 2, plain)]);
        assert_eq!(heritage.kept(TaskId(7), &parts).ranges(), [range(102, 1), range(300, 2)]);
    }
}
