//! What a round of pre-copy needs room for, while the program still runs.
//!
//! Before each round the source tells where private anonymous memory is *now*, so that the
//! destination can make (and take away) room for it; and how many pages of each process the round
//! brings. Everything else an address space has (files, shared memory, the kernel's own pages) is
//! mapped when the program stands still, from the images. What private mappings of files hold of
//! their own comes in rounds too, and is put aside until they are mapped.
//!
//! When it does, both ends must know which of the pages that were sent are still where they were put:
//! [`crate::kept`] tells, and both ask it.

use pages::{PAGE_SIZE, PageCount, PageRange, PageSet, SharedId, TaskId};
use prost::Message;

use crate::error::{BadField, Flaw};
use crate::state::check::{page_range, task_id};
use crate::state::{Vma, VmaFlags, VmaKind};

/// Bytes of the longest outline: some 700 000 mappings.
pub const LONGEST_OUTLINE: usize = 16 << 20;
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

/// What one round brings for one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceOutline {
    /// Which.
    pub task: TaskId,
    /// All its private anonymous memory, ascending and disjoint.
    pub room: Vec<Room>,
    /// Its private mappings of files. Empty unless both ends put their pages aside.
    pub beside: PageSet,
    /// Pages inside `room` that are old there, and will not come before the end of rounds: to be taken
    /// away while there is time. Empty unless both ends know it.
    pub stale: PageSet,
    /// Pages that follow, all of them inside `room` or `beside`.
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
    /// For each private mapping of a file: pages from the end of the last, and pages.
    #[prost(uint64, repeated, tag = "6")]
    beside_gaps: Vec<u64>,
    #[prost(uint64, repeated, tag = "7")]
    beside_counts: Vec<u64>,
    /// For each run of old pages: pages from the end of the last, and pages.
    #[prost(uint64, repeated, tag = "8")]
    stale_gaps: Vec<u64>,
    #[prost(uint64, repeated, tag = "9")]
    stale_counts: Vec<u64>,
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
        (message.beside_gaps, message.beside_counts) = told(space.beside.ranges().iter().copied());
        (message.stale_gaps, message.stale_counts) = told(space.stale.ranges().iter().copied());
        message
    }
}

/// What [`ranges`] understands.
pub(crate) fn told(ranges: impl Iterator<Item = PageRange>) -> (Vec<u64>, Vec<u64>) {
    let mut end = 0;
    let gaps_and_counts = ranges.map(|range| {
        let gap = range.start().0 - end;
        end = range.end().0;
        (gap, range.count().0)
    });
    gaps_and_counts.unzip()
}

impl TryFrom<&SpaceMessage> for SpaceOutline {
    type Error = BadField;

    fn try_from(message: &SpaceMessage) -> Result<Self, BadField> {
        let spans = ranges(("counts", &message.gaps, &message.counts))?;
        if message.kinds.len() != spans.len() {
            let got = message.kinds.len() as u64;
            return Err(BadField::value("kinds", got, "as many as there are gaps"));
        }
        let room = spans.into_iter().zip(&message.kinds).map(|(range, kind)| Room {
            range,
            prot: kind & 7,
            flags: VmaFlags::from_bits_truncate(*kind) & LASTING,
        });
        let room: Vec<Room> = room.collect();
        let beside = ("beside_counts", &*message.beside_gaps, &*message.beside_counts);
        let beside: PageSet = ranges(beside)?.into_iter().collect();
        let stale = ("stale_counts", &*message.stale_gaps, &*message.stale_counts);
        let stale: PageSet = ranges(stale)?.into_iter().collect();
        let most: PageCount = room.iter().map(|room| room.range.count()).sum();
        let most = most + beside.count();
        if message.pages > most.0 {
            return Err(BadField::value("pages", message.pages, "no more than there is room for"));
        }
        let task = task_id("task", message.task)?;
        Ok(Self { task, room, beside, stale, pages: PageCount(message.pages) })
    }
}

/// Ascending and disjoint, told by the gaps between them; `field` is what a flaw is told of.
pub(crate) fn ranges(
    (field, gaps, counts): (&'static str, &[u64], &[u64]),
) -> Result<Vec<PageRange>, BadField> {
    if counts.len() != gaps.len() {
        return Err(BadField::value(field, counts.len() as u64, "as many as there are gaps"));
    }
    let mut end = 0_u64;
    let ranges = gaps.iter().zip(counts).map(|(gap, count)| {
        let bytes = |pages: u64| pages.saturating_mul(PAGE_SIZE as u64);
        let start = end.saturating_add(*gap);
        end = start.saturating_add(*count);
        page_range(field, bytes(start), bytes(end))
    });
    ranges.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use pages::{PageIndex, VirtAddr};

    use super::*;
    use crate::state::{Advice, FileId, Mm, VmaKind};

    pub(crate) fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
    }

    /// A process with such mappings and nothing else.
    pub(crate) fn memory(vmas: &[(u64, u64, VmaKind, VmaFlags)]) -> Mm {
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

    pub(crate) fn room(start: u64, count: u64, flags: VmaFlags) -> Room {
        Room { range: range(start, count), prot: 3, flags }
    }

    #[test]
    fn what_travels_comes_back() {
        let rooms = [
            room(5, 3, VmaFlags::empty()),
            room(8, 1, VmaFlags::NO_RESERVE),
            room(900, 2, VmaFlags::GROWS_DOWN),
        ];
        let beside = [range(2, 1), range(70, 4)].into_iter().collect();
        let pages = PageCount(10);
        let stale = [range(6, 1), range(901, 1)].into_iter().collect();
        let space = SpaceOutline { task: TaskId(7), room: rooms.into(), beside, stale, pages };
        let shared = vec![SharedOutline { id: SharedId(0x7f00_0001), pages: PageCount(3) }];
        let outline = Outline { spaces: vec![space], shared };
        assert_eq!(Outline::from_bytes(&outline.to_bytes()).expect("sound"), outline);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let good = SpaceMessage {
            task: 7,
            pages: 3,
            gaps: vec![1],
            counts: vec![2],
            kinds: vec![3],
            beside_gaps: vec![9],
            beside_counts: vec![1],
            stale_gaps: vec![2],
            stale_counts: vec![1],
        };
        let table = [
            (SpaceMessage { task: 0, ..good.clone() }, "task"),
            (SpaceMessage { pages: 4, ..good.clone() }, "pages"),
            (SpaceMessage { counts: vec![0], ..good.clone() }, "counts"),
            (SpaceMessage { counts: vec![u64::MAX], ..good.clone() }, "counts"),
            (SpaceMessage { gaps: vec![u64::MAX], ..good.clone() }, "counts"),
            (SpaceMessage { gaps: vec![1, 2], ..good.clone() }, "counts"),
            (SpaceMessage { kinds: vec![], ..good.clone() }, "kinds"),
            (SpaceMessage { beside_counts: vec![], ..good.clone() }, "beside_counts"),
            (SpaceMessage { stale_counts: vec![0], ..good.clone() }, "stale_counts"),
            (SpaceMessage { beside_gaps: vec![u64::MAX], ..good.clone() }, "beside_counts"),
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
}
