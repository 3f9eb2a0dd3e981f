//! What a round of pre-copy needs room for, while the program still runs.
//!
//! Before each round the source tells where private anonymous memory is *now*, so that the
//! destination can make (and take away) room for it; and how many pages of each process the round
//! brings. Everything else an address space has (files, shared memory, the kernel's own pages) is
//! mapped when the program stands still, from the images.
//!
//! When it does, both ends must know which of the pages that were sent are still where they were put:
//! [`kept`] tells, and both ask it.

use pages::{PAGE_SIZE, PageCount, PageRange, PageSet, SharedId, TaskId};
use prost::Message;

use crate::error::{BadField, Flaw};
use crate::state::check::{page_range, task_id};
use crate::state::{Mm, SharedMemory, Vma, VmaFlags, VmaKind};

/// Bytes of the longest outline: some 700 000 mappings.
pub const LONGEST_OUTLINE: usize = 16 << 20;
/// The name that CRIU's format gives to anonymous shared memory.
const ANONYMOUS: &str = "/dev/zero";
/// The blob with the outline of round `n` is called this and `n`.
pub const OUTLINE: &str = "round-";

/// What one round brings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Each process once.
    pub spaces: Vec<SpaceOutline>,
    /// Each object of shared memory that takes part, once.
    pub shared: Vec<SharedOutline>,
}

/// What one round brings for one object of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedOutline {
    /// Which: as the tree had it when rounds began.
    pub id: SharedId,
    /// Pages that follow, all of them within the size it had then.
    pub pages: PageCount,
}

/// True if what was brought into the object `early` is good for the one that the tree has `now`.
pub fn same_object(early: &SharedMemory, now: &SharedMemory) -> bool {
    // Anonymous shared memory has the size it was made with.
    let resizable = now.name != ANONYMOUS;
    early.id == now.id
        && early.name == now.name
        && early.sysv.is_none()
        && now.sysv.is_none()
        && (resizable || early.size == now.size)
}

/// What one round brings for one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceOutline {
    /// Which.
    pub task: TaskId,
    /// All its private anonymous memory, ascending and disjoint.
    pub room: Vec<Room>,
    /// Pages that follow, all of them inside `room`.
    pub pages: PageCount,
}

/// A piece of private anonymous memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Where.
    pub range: PageRange,
    /// PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4.
    pub prot: u32,
    /// Of these only [`LASTING`] matter.
    pub flags: VmaFlags,
}

/// Flags that a mapping has from its beginning: one made without them must be made again.
pub const LASTING: VmaFlags = VmaFlags::GROWS_DOWN.union(VmaFlags::NO_RESERVE);

impl Room {
    /// The room a mapping takes; `None` unless it is private anonymous memory.
    pub fn of(vma: &Vma) -> Option<Self> {
        let flags = vma.flags & LASTING;
        (vma.kind == VmaKind::Anon).then_some(Self { range: vma.range, prot: vma.prot, flags })
    }
}

/// Where pages that were put into `room` are still as they were put, in the address space `mm`.
///
/// Nowhere if it has segments of System V: they are attached whole, over whatever is there.
pub fn kept(room: &[Room], mm: &Mm) -> PageSet {
    if mm.vmas.iter().any(|vma| matches!(vma.kind, VmaKind::SysV { .. })) {
        return PageSet::new();
    }
    kept_in(room, mm.vmas.iter().filter_map(Room::of))
}

/// The same where there is room `now`, ascending.
pub fn kept_in(room: &[Room], now: impl IntoIterator<Item = Room>) -> PageSet {
    let mut kept = PageSet::new();
    let mut rest = room.iter().peekable();
    for now in now {
        while let Some(had) = rest.peek() {
            if let Some(both) = had.range.intersect(now.range)
                && had.flags == now.flags
            {
                kept.insert(both);
            }
            if had.range.end() > now.range.end() {
                break; // the next mapping may have the rest of it
            }
            rest.next();
        }
    }
    kept
}

/// An outline that cannot be: the fault of whoever sent it.
#[derive(Debug, thiserror::Error)]
pub enum BadOutline {
    /// It is no message.
    #[error("the outline of a round is not a protobuf message")]
    Message(#[from] prost::DecodeError),
    /// A field says what cannot be.
    #[error("the outline's {field} {flaw}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong.
        flaw: Flaw,
    },
}

impl From<BadField> for BadOutline {
    fn from(BadField { field, flaw }: BadField) -> Self {
        Self::Field { field, flaw }
    }
}

#[derive(Clone, PartialEq, Message)]
struct OutlineMessage {
    #[prost(message, repeated, tag = "1")]
    spaces: Vec<SpaceMessage>,
    #[prost(message, repeated, tag = "2")]
    shared: Vec<SharedMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct SharedMessage {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint64, tag = "2")]
    pages: u64,
}

#[derive(Clone, PartialEq, Message)]
struct SpaceMessage {
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(uint64, tag = "2")]
    pages: u64,
    /// For each room: pages from the end of the last, pages, protection and flags.
    #[prost(uint64, repeated, tag = "3")]
    gaps: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    counts: Vec<u64>,
    #[prost(uint32, repeated, tag = "5")]
    kinds: Vec<u32>,
}

impl Outline {
    /// All pages that follow.
    pub fn pages(&self) -> PageCount {
        let private: PageCount = self.spaces.iter().map(|space| space.pages).sum();
        private + self.shared.iter().map(|object| object.pages).sum()
    }

    /// As it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        let spaces = self.spaces.iter().map(SpaceMessage::from).collect();
        let shared = self.shared.iter();
        let shared =
            shared.map(|object| SharedMessage { id: object.id.0, pages: object.pages.0 }).collect();
        OutlineMessage { spaces, shared }.encode_to_vec()
    }

    /// Checks and understands what came; the caller sees to it that it is not longer than
    /// [`LONGEST_OUTLINE`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadOutline> {
        let message = OutlineMessage::decode(bytes)?;
        let spaces = message.spaces.iter().map(SpaceOutline::try_from);
        let shared = message.shared.iter();
        let shared = shared
            .map(|it| SharedOutline { id: SharedId(it.id), pages: PageCount(it.pages) })
            .collect();
        Ok(Self { spaces: spaces.collect::<Result<_, BadField>>()?, shared })
    }
}

impl From<&SpaceOutline> for SpaceMessage {
    fn from(space: &SpaceOutline) -> Self {
        let mut message = Self { task: space.task.0, pages: space.pages.0, ..Self::default() };
        let mut end = 0;
        for room in &space.room {
            message.gaps.push(room.range.start().0 - end);
            message.counts.push(room.range.count().0);
            message.kinds.push(room.prot & 7 | room.flags.bits());
            end = room.range.end().0;
        }
        message
    }
}

impl TryFrom<&SpaceMessage> for SpaceOutline {
    type Error = BadField;

    fn try_from(message: &SpaceMessage) -> Result<Self, BadField> {
        let rooms = message.gaps.len();
        for (field, got) in [("counts", message.counts.len()), ("kinds", message.kinds.len())] {
            if got != rooms {
                return Err(BadField::value(field, got as u64, "as many as there are gaps"));
            }
        }
        let mut end = 0_u64;
        let numbers = message.gaps.iter().zip(&message.counts).zip(&message.kinds);
        let room = numbers.map(|((gap, count), kind)| {
            let bytes = |pages: u64| pages.saturating_mul(PAGE_SIZE as u64);
            let start = end.saturating_add(*gap);
            let after = start.saturating_add(*count);
            let range = page_range("counts", bytes(start), bytes(after))?;
            end = after;
            Ok(Room { range, prot: kind & 7, flags: VmaFlags::from_bits_truncate(*kind) & LASTING })
        });
        let room = room.collect::<Result<Vec<_>, BadField>>()?;
        let most: PageCount = room.iter().map(|room| room.range.count()).sum();
        if message.pages > most.0 {
            return Err(BadField::value("pages", message.pages, "no more than there is room for"));
        }
        let task = task_id("task", message.task)?;
        Ok(Self { task, room, pages: PageCount(message.pages) })
    }
}

#[cfg(test)]
mod tests {
    use pages::{PageIndex, VirtAddr};

    use super::*;
    use crate::state::{Advice, FileId};

    #[test]
    fn what_was_brought_early_is_good_for_the_same_object() {
        let object = |id, name: &str, size| SharedMemory {
            id: SharedId(id),
            name: name.to_owned(),
            size,
            seals: 0,
            uid: 0,
            gid: 0,
            mode: 0o600,
            sysv: None,
        };
        let table = [
            (object(1, "a", 4096), object(1, "a", 8192), true),
            (object(1, "a", 4096), object(2, "a", 4096), false),
            (object(1, "a", 4096), object(1, "b", 4096), false),
            (object(1, ANONYMOUS, 4096), object(1, ANONYMOUS, 4096), true),
            (object(1, ANONYMOUS, 4096), object(1, ANONYMOUS, 8192), false),
        ];
        for (early, now, good) in table {
            assert_eq!(same_object(&early, &now), good, "{early:?} {now:?}");
        }
    }

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
    }

    fn room(start: u64, count: u64, flags: VmaFlags) -> Room {
        Room { range: range(start, count), prot: 3, flags }
    }

    fn mm(vmas: &[(u64, u64, VmaKind, VmaFlags)]) -> Mm {
        let none = VirtAddr(0);
        let vma = |(start, count, kind, flags): &(u64, u64, VmaKind, VmaFlags)| Vma {
            name: None,
            range: range(*start, *count),
            prot: 1,
            kind: *kind,
            flags: *flags,
            advice: Advice::empty(),
        };
        Mm {
            start_code: none,
            end_code: none,
            start_data: none,
            end_data: none,
            start_stack: none,
            start_brk: none,
            brk: none,
            arg_start: none,
            arg_end: none,
            env_start: none,
            env_end: none,
            auxv: Vec::new(),
            exe: FileId(1),
            guards: Vec::new(),
            vmas: vmas.iter().map(vma).collect(),
            dumpable: 1,
            thp_disabled: false,
        }
    }

    #[test]
    fn what_travels_comes_back() {
        let rooms = [
            room(5, 3, VmaFlags::empty()),
            room(8, 1, VmaFlags::NO_RESERVE),
            room(900, 2, VmaFlags::GROWS_DOWN),
        ];
        let space = SpaceOutline { task: TaskId(7), room: rooms.into(), pages: PageCount(6) };
        let shared = vec![SharedOutline { id: SharedId(0x7f00_0001), pages: PageCount(3) }];
        let outline = Outline { spaces: vec![space], shared };
        assert_eq!(Outline::from_bytes(&outline.to_bytes()).expect("sound"), outline);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let good =
            SpaceMessage { task: 7, pages: 3, gaps: vec![1], counts: vec![3], kinds: vec![3] };
        let table = [
            (SpaceMessage { task: 0, ..good.clone() }, "task"),
            (SpaceMessage { pages: 4, ..good.clone() }, "pages"),
            (SpaceMessage { counts: vec![0], ..good.clone() }, "counts"),
            (SpaceMessage { counts: vec![u64::MAX], ..good.clone() }, "counts"),
            (SpaceMessage { gaps: vec![u64::MAX], ..good.clone() }, "counts"),
            (SpaceMessage { gaps: vec![1, 2], ..good.clone() }, "counts"),
            (SpaceMessage { kinds: vec![], ..good.clone() }, "kinds"),
        ];
        for (space, wrong) in table {
            let bytes = OutlineMessage { spaces: vec![space], shared: Vec::new() }.encode_to_vec();
            match Outline::from_bytes(&bytes) {
                Err(BadOutline::Field { field, .. }) => assert_eq!(field, wrong),
                other => panic!("{wrong}: {other:?}"),
            }
        }
        assert!(Outline::from_bytes(b"\xff\xff\xff").is_err());
    }

    #[test]
    fn pages_are_kept_where_the_same_memory_still_is() {
        let (plain, nr) = (VmaFlags::empty(), VmaFlags::NO_RESERVE);
        let file = VmaKind::File { file: FileId(1), offset: 0, shared: false, access: 0 };
        let rooms =
            [room(0, 10, plain), room(20, 10, plain), room(30, 10, nr), room(50, 10, plain)];
        let now = mm(&[
            (2, 3, VmaKind::Anon, plain),
            (7, 5, VmaKind::Anon, plain | VmaFlags::LOCKED),
            (25, 10, VmaKind::Anon, plain), // both what was there and something new
            (36, 2, VmaKind::Anon, nr),
            (50, 10, file, plain),
        ]);
        let ranges = [range(2, 3), range(7, 3), range(25, 5), range(36, 2)];
        assert_eq!(kept(&rooms, &now).ranges(), ranges);
        assert_eq!(kept(&rooms, &mm(&[])).ranges(), []);
        assert_eq!(kept(&[], &now).ranges(), []);
    }
}
