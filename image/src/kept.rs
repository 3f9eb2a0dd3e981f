//! Which of what rounds have brought is still good when the program stands still.
//!
//! Both ends must know, and both ask here: the source sends the rest, and the destination takes away
//! what is not.

use pages::{ByteCount, PageCount, PageRange, PageSet, VirtAddr};

use crate::outline::Room;
use crate::state::{Mm, SharedMemory, VmaKind};

/// The name that CRIU's format gives to anonymous shared memory.
const ANONYMOUS: &str = "/dev/zero";

/// What takes part in rounds, as both ends agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Private anonymous memory, and shared memory that is no segment of System V.
    Anonymous,
    /// Segments too, and what private mappings of files hold of their own.
    Whole,
}

/// Where pages that were put into `room` are still as they were put, in the address space `mm` of a
/// tree with this shared memory.
///
/// Not where segments of System V are attached: whole, over whatever is there. By the rule of
/// [`Extent::Anonymous`] nowhere, if there are any.
pub fn kept(room: &[Room], mm: &Mm, shared: &[SharedMemory], extent: Extent) -> PageSet {
    let mut kept = kept_in(room, mm.vmas.iter().filter_map(Room::of));
    for vma in &mm.vmas {
        let VmaKind::SysV { shared: id, offset, .. } = vma.kind else { continue };
        let size = shared.iter().find(|object| object.id == id).map(|object| object.size);
        let base = vma.range.start_addr().0.checked_sub(offset);
        let (Some(size), Some(base), Extent::Whole) = (size, base, extent) else {
            return PageSet::new();
        };
        let count = PageCount::covering(ByteCount(size));
        PageRange::new(VirtAddr(base).page(), count).iter().for_each(|all| kept.remove(*all));
    }
    kept
}

/// Where pages that were put aside go in the address space `mm`: its private mappings of files.
pub fn beside(mm: &Mm) -> PageSet {
    let private = |kind: VmaKind| {
        matches!(kind, VmaKind::File { shared: false, .. } | VmaKind::Memfd { shared: false, .. })
    };
    mm.vmas.iter().filter(|vma| private(vma.kind)).map(|vma| vma.range).collect()
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

/// True if what was brought into the object `early` is good for the one that the tree has `now`.
pub fn same_object(early: &SharedMemory, now: &SharedMemory) -> bool {
    // Anonymous shared memory and segments of System V have the size they were made with.
    let resizable = now.name != ANONYMOUS && now.sysv.is_none();
    early.id == now.id
        && early.name == now.name
        && early.sysv == now.sysv
        && (resizable || early.size == now.size)
}

#[cfg(test)]
mod tests {
    use pages::SharedId;

    use super::*;
    use crate::outline::tests::{memory as mm, range, room};
    use crate::state::{FileId, SysV, VmaFlags};

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
            huge: None,
            sysv: None,
        };
        let segment = |key, size| {
            let sysv = Some(SysV { key, creator: (0, 0), told: size });
            SharedMemory { sysv, ..object(1, "SYSV", size) }
        };
        let table = [
            (segment(7, 4096), segment(7, 4096), true),
            (segment(7, 4096), segment(8, 4096), false),
            (segment(7, 4096), segment(7, 8192), false),
            (segment(7, 4096), object(1, "SYSV", 4096), false),
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
        let good = |rooms: &[Room], now: &Mm| kept(rooms, now, &[], Extent::Whole);
        assert_eq!(good(&rooms, &now).ranges(), ranges);
        assert_eq!(good(&rooms, &mm(&[])).ranges(), []);
        assert_eq!(good(&[], &now).ranges(), []);
        assert_eq!(beside(&now).ranges(), [range(50, 10)]);
    }

    #[test]
    fn a_segment_is_attached_over_what_was_there() {
        let plain = VmaFlags::empty();
        // Of the segment of five pages at 22 the program has unmapped two, where others are now.
        let sysv = VmaKind::SysV { shared: SharedId(7), offset: 0, access: 2 };
        let now = [(2, 3), (25, 2), (27, 4)].map(|(at, n)| (at, n, VmaKind::Anon, plain));
        let now = mm(&[&now[..1], &[(22, 3, sysv, plain)], &now[1..]].concat());
        let segment = SharedMemory {
            id: SharedId(7),
            name: String::new(),
            size: 5 * 4096 - 9,
            seals: 0,
            uid: 0,
            gid: 0,
            mode: 0o600,
            huge: None,
            sysv: Some(SysV { key: 1, creator: (0, 0), told: 4096 }),
        };
        let rooms = [room(0, 40, plain)];
        let told = |shared: &[SharedMemory], extent| kept(&rooms, &now, shared, extent);
        let shared = [segment];
        assert_eq!(told(&shared, Extent::Whole).ranges(), [range(2, 3), range(27, 4)]);
        assert_eq!(told(&shared, Extent::Anonymous).ranges(), []);
        assert_eq!(told(&[], Extent::Whole).ranges(), [], "nobody knows how large it is");
    }
}
