//! Shared memory in rounds, and files of memory: the objects that are worth it, and what of them has changed.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use image::kept::{Extent, same_object};
use image::outline::SharedOutline;
use image::state::{Ghost, SharedMemory};
use pages::{ByteCount, PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet, SharedId, SpaceId};

use crate::collect::{Collected, PageSource, SpacePages, shared_data};
use crate::fingerprints::Fingerprints;
use crate::pump::read_padded;
use crate::survey::huge;

/// Pages read in one go.
const PIECE: PageCount = PageCount(256);
/// What one thread compares before another is worth its start: 16 MiB.
const SHARE: u64 = 4096;
/// More threads than this find the memory bus full.
const MOST_THREADS: usize = 4;

/// True if an object of this size is sent in rounds. Comparing it takes less than half of the time that
/// sending it again does, over the fastest link; but the time of anything below a mebibyte is less
/// than that of a round.
pub(crate) fn pays(size: ByteCount) -> bool {
    size.0 >= 1 << 20
}

/// Those of a tree.
pub(crate) struct Objects(Vec<Object>);

struct Object {
    id: SharedId,
    /// What it was when rounds began.
    early: Early,
    /// Bytes, then.
    size: u64,
    file: Arc<File>,
    /// Device and inode number.
    is: (u64, u64),
    prints: Arc<Fingerprints>,
    changed: PageSet,
}

/// What a tree has of them.
type Of<'a> = (&'a [SharedMemory], &'a [Ghost]);

enum Early {
    Memory(SharedMemory),
    /// A file that comes along.
    File,
}

impl Objects {
    /// Takes what is worth it out of what was collected early.
    pub(crate) fn of(spaces: Vec<SpacePages>, of: Of<'_>, extent: Extent) -> Self {
        let segments = extent == Extent::Whole;
        let objects = spaces.into_iter().filter_map(|space| {
            let (SpaceId::Shared(id), PageSource::Shared { file }) = (space.space, space.source)
            else {
                return None;
            };
            let (early, size) = Early::of(id, of)?;
            let stays = |early: &SharedMemory| early.sysv.is_some() && !segments;
            if matches!(&early, Early::Memory(early) if stays(early)) {
                return None;
            }
            let file = File::from(file);
            // Huge pages travel when the program stands still.
            if huge::size_of(&file).is_some() {
                return None;
            }
            let is = identity(&file).ok()?;
            pays(ByteCount(size)).then(|| Object {
                id,
                early,
                size,
                file: Arc::new(file),
                is,
                prints: Arc::new(Fingerprints::new()),
                changed: PageSet::new(),
            })
        });
        Self(objects.collect())
    }

    /// Looks what of them is not what was sent.
    pub(crate) fn look(&mut self) -> io::Result<()> {
        for object in &mut self.0 {
            // What it has grown by since has no room over there yet.
            let size = object.file.metadata()?.size().min(object.size);
            object.changed = object.compare(shared_data(&object.file, size)?, size)?;
        }
        Ok(())
    }

    /// Pages to be sent now.
    pub(crate) fn left(&self) -> PageCount {
        self.0.iter().map(|object| object.changed.count()).sum()
    }

    /// Of the next round: what of each, at most `most` pages of all.
    pub(crate) fn next(&mut self, most: PageCount) -> (Vec<SharedOutline>, Vec<SpacePages>) {
        let (mut outlines, mut spaces) = (Vec::new(), Vec::new());
        let mut room_for = most.0;
        for object in &mut self.0 {
            let pages = object.changed.take_first(PageCount(room_for));
            let count = pages.count();
            room_for -= count.0;
            outlines.push(SharedOutline { id: object.id, pages: count });
            if count.0 > 0 {
                let (file, prints) = (Arc::clone(&object.file), Arc::clone(&object.prints));
                spaces.push(SpacePages {
                    space: SpaceId::Shared(object.id),
                    pages,
                    source: PageSource::Noted { file, prints },
                });
            }
        }
        (outlines, spaces)
    }

    /// Nobody runs any more: leaves of what was collected only what is not over there.
    pub(crate) fn finish(&self, collected: &mut Collected) -> io::Result<()> {
        for object in &self.0 {
            let id = object.id;
            let tree = &collected.checkpoint;
            let now = Early::of(id, (&tree.shared, &tree.ghosts));
            let left = collected.spaces.iter_mut().find(|it| it.space == SpaceId::Shared(id));
            let (Some((now, size)), Some(left)) = (now, left) else { continue };
            let PageSource::Shared { file } = &left.source else { continue };
            if !object.early.is_good_for(&now) {
                continue; // it is made anew over there
            }
            let content = std::mem::take(&mut left.pages);
            left.pages = if identity(&File::from(file.try_clone()?))? == object.is {
                object.compare(content, size)?
            } else {
                // Another with the number of one that is gone: nothing of that must show in it.
                object.all(content, size)
            };
        }
        Ok(())
    }
}

impl Early {
    /// What a tree has under this number, and its bytes.
    fn of(id: SharedId, (shared, ghosts): Of<'_>) -> Option<(Self, u64)> {
        let memory = shared.iter().find(|object| object.id == id);
        let file = ghosts.iter().find(|ghost| ghost.paged == Some(id));
        let memory = memory.map(|object| (Self::Memory(object.clone()), object.size));
        memory.or_else(|| file.map(|ghost| (Self::File, ghost.size)))
    }

    /// True if what was brought into the one is good for the other; so the destination thinks too.
    fn is_good_for(&self, now: &Self) -> bool {
        match (self, now) {
            (Self::Memory(early), Self::Memory(now)) => same_object(early, now),
            (Self::File, Self::File) => true,
            _ => false,
        }
    }
}

impl Object {
    /// Its content, and all that was ever sent, as far as it reaches now.
    fn all(&self, mut content: PageSet, size: u64) -> PageSet {
        content.add_all(&self.prints.known());
        let end = PageIndex(PageCount::covering(ByteCount(size)).0);
        let whole: PageSet = PageRange::between(PageIndex(0), end).into_iter().collect();
        content.intersect(&whole)
    }

    /// What is not as it was sent, of pages with `content` and those that had some.
    fn compare(&self, content: PageSet, size: u64) -> io::Result<PageSet> {
        let all = self.all(content, size);
        let pieces: Vec<PageRange> =
            all.ranges().iter().flat_map(|range| range.pieces(PIECE)).collect();
        let threads = usize::try_from(all.count().0 / SHARE).unwrap_or(usize::MAX);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let share = pieces.len().div_ceil(threads.min(cpus).clamp(1, MOST_THREADS)).max(1);
        let mut changed = PageSet::new();
        std::thread::scope(|scope| {
            let parts: Vec<_> =
                pieces.chunks(share).map(|part| scope.spawn(|| self.compare_part(part))).collect();
            for part in parts {
                let part = part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                changed.add_all(&part);
            }
            Ok(changed)
        })
    }

    fn compare_part(&self, pieces: &[PageRange]) -> io::Result<PageSet> {
        let mut changed = PageSet::new();
        let mut bytes = vec![0; usize::try_from(PIECE.0).unwrap_or(0) * PAGE_SIZE];
        for piece in pieces {
            let bytes = &mut bytes[..usize::try_from(piece.bytes().0).unwrap_or(0)];
            read_padded(&self.file, bytes, piece.start_addr().0)?;
            self.prints.changed(*piece, bytes).ranges().iter().for_each(|run| changed.insert(*run));
        }
        Ok(changed)
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let stat = file.metadata()?;
    Ok((stat.dev(), stat.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use pages::SharedId;

    use super::*;

    fn object(pages: u64) -> (Objects, File) {
        let file = File::from(memfd_create("table", MFdFlags::empty()).expect("memfd"));
        file.set_len(pages * PAGE_SIZE as u64).expect("size");
        let shared = SharedMemory {
            id: SharedId(7),
            name: "table".into(),
            size: pages * PAGE_SIZE as u64,
            seals: 0,
            uid: 0,
            gid: 0,
            mode: 0o600,
            huge: None,
            sysv: None,
        };
        let space = SpacePages {
            space: SpaceId::Shared(SharedId(7)),
            pages: PageSet::new(),
            source: PageSource::Shared { file: file.try_clone().expect("a copy").into() },
        };
        (Objects::of(vec![space], (&[shared], &[]), Extent::Whole), file)
    }

    /// What the pump does.
    fn send(objects: &mut Objects) -> Vec<PageRange> {
        objects.look().expect("readable");
        let (_, spaces) = objects.next(PageCount(u64::MAX));
        let mut sent = Vec::new();
        for space in &spaces {
            let PageSource::Noted { file, prints } = &space.source else { panic!("noted") };
            for range in space.pages.ranges() {
                let mut bytes = vec![0; usize::try_from(range.bytes().0).expect("little")];
                read_padded(file, &mut bytes, range.start_addr().0).expect("readable");
                prints.note(*range, &bytes);
                sent.push(*range);
            }
        }
        sent
    }

    #[test]
    fn each_round_has_what_changed() {
        let (mut objects, file) = object(1024);
        let range = |start, count| PageRange::new(PageIndex(start), PageCount(count)).expect("one");
        file.write_all_at(&[1; 3 * PAGE_SIZE], 5 * PAGE_SIZE as u64).expect("written");
        assert_eq!(send(&mut objects), [range(5, 3)]);
        assert_eq!(send(&mut objects), []);
        file.write_all_at(&[2], 6 * PAGE_SIZE as u64).expect("written");
        file.write_all_at(&[2], 1000 * PAGE_SIZE as u64).expect("written");
        assert_eq!(send(&mut objects), [range(6, 1), range(1000, 1)]);
        // Cut off and grown again: holes where content was sent.
        file.set_len(6 * PAGE_SIZE as u64).expect("cut");
        assert_eq!(send(&mut objects), []);
        file.set_len(1024 * PAGE_SIZE as u64).expect("grown");
        assert_eq!(send(&mut objects), [range(6, 2), range(1000, 1)]);
    }

    #[test]
    fn little_is_not_worth_it() {
        assert!(object(255).0.0.is_empty() && object(256).0.0.len() == 1);
    }
}
