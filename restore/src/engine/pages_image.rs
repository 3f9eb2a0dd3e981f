//! The pages of one space on their way into an image: they come in any order, and again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use image::{ImageKind, pagemap};
use pages::{PageCount, PageIndex, PageRange, PageSet, SpaceId};

/// Bytes moved in one go when pages have to be put in order.
const PIECE: PageCount = PageCount(256);

/// A pages image that is being written. Its clones write into the same one.
///
/// CRIU wants the pages of a space in the order of their addresses. They are appended as they come,
/// and what is where is kept; only if that is another order they are moved at the end.
#[derive(Clone, Debug)]
pub(crate) struct PagesImage {
    shared: Arc<Mutex<Arrived>>,
}

#[derive(Debug)]
struct Arrived {
    file: File,
    /// Pages of the file, used or not.
    length: u64,
    /// First page of each run: how many, and where in the file. No two overlap.
    runs: BTreeMap<u64, (u64, u64)>,
}

impl PagesImage {
    /// An empty one, in a file of `folder` that nobody reads yet.
    pub(crate) fn create(folder: &Path, pages_id: u32) -> io::Result<Self> {
        let file = new_file(&folder.join(ImageKind::Pages.name(pages_id)))?;
        let arrived = Arrived { file, length: 0, runs: BTreeMap::new() };
        Ok(Self { shared: Arc::new(Mutex::new(arrived)) })
    }

    /// These pages have this content.
    pub(crate) fn write(&self, pages: PageRange, bytes: &[u8]) -> io::Result<()> {
        let mut arrived = self.arrived();
        arrived.file.write_all_at(bytes, in_bytes(arrived.length))?;
        arrived.note(pages);
        Ok(())
    }

    /// These pages are zero. They take no memory: a hole in a file reads as zeros.
    pub(crate) fn zero(&self, pages: PageRange) -> io::Result<()> {
        let mut arrived = self.arrived();
        arrived.file.set_len(in_bytes(arrived.length + pages.count().0))?;
        arrived.note(pages);
        Ok(())
    }

    /// Puts them in order and writes the map of them, and of those that are `owed`. Nothing may be
    /// written after this.
    pub(crate) fn finish(
        &self,
        folder: &Path,
        space: SpaceId,
        pages_id: u32,
        owed: &PageSet,
    ) -> io::Result<()> {
        let mut arrived = self.arrived();
        if !arrived.is_in_order() {
            arrived.put_in_order(&folder.join(ImageKind::Pages.name(pages_id)))?;
        }
        let present = arrived.pages();
        if !present.intersect(owed).is_empty() {
            return Err(io::Error::other("a page came that was to follow"));
        }
        let map = pagemap::lazy_image(pages_id, &present, owed);
        std::fs::write(folder.join(pagemap::image_name(space)), map)
    }

    fn arrived(&self) -> std::sync::MutexGuard<'_, Arrived> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arrived {
    /// The pages appended last are these. Whatever was known of them before is forgotten.
    fn note(&mut self, pages: PageRange) {
        let (start, end) = (pages.start().0, pages.end().0);
        let before = self.runs.range(..end).rev();
        let over: Vec<_> = before
            .map(|(first, (count, at))| (*first, *count, *at))
            .take_while(|(first, count, _)| first + count > start)
            .collect();
        for (first, count, at) in over {
            self.runs.remove(&first);
            if first < start {
                self.runs.insert(first, (start - first, at));
            }
            if first + count > end {
                self.runs.insert(end, (first + count - end, at + (end - first)));
            }
        }
        self.runs.insert(start, (pages.count().0, self.length));
        self.length += pages.count().0;
    }

    fn pages(&self) -> PageSet {
        let range = |(first, (count, _)): (&u64, &(u64, u64))| {
            PageRange::new(PageIndex(*first), PageCount(*count)).expect("it came as a range")
        };
        self.runs.iter().map(range).collect()
    }

    /// True if the file is what CRIU wants already.
    fn is_in_order(&self) -> bool {
        let mut next = 0;
        let follows = self.runs.values().all(|(count, at)| {
            let here = *at == next;
            next = at + count;
            here
        });
        follows && next == self.length
    }

    /// Moves every page into a new file, and lets go of the old one's memory on the way.
    fn put_in_order(&mut self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)?;
        let file = new_file(path)?;
        let mut buffer = vec![0; usize::try_from(PIECE.bytes().0).expect("a piece is small")];
        let mut length = 0;
        for (count, at) in self.runs.values_mut() {
            let mut moved = 0;
            while moved < *count {
                let pages = PIECE.0.min(*count - moved);
                let bytes = &mut buffer[..usize::try_from(in_bytes(pages)).expect("a piece")];
                self.file.read_exact_at(bytes, in_bytes(*at + moved))?;
                if pages::is_zero(bytes) {
                    file.set_len(in_bytes(length + pages))?;
                } else {
                    file.write_all_at(bytes, in_bytes(length))?;
                }
                punch(&self.file, in_bytes(*at + moved), in_bytes(pages))?;
                (moved, length) = (moved + pages, length + pages);
            }
            *at = length - *count;
        }
        (self.file, self.length) = (file, length);
        Ok(())
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let [offset, length] = [offset, length].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    Ok(fallocate(file, hole, offset, length)?)
}

fn in_bytes(pages: u64) -> u64 {
    PageCount(pages).bytes().0
}

#[cfg(test)]
mod tests {
    use image::{PagesReader, pagemap::PagemapReader};
    use pages::{PAGE_SIZE, TaskId};

    use super::*;

    const SPACE: SpaceId = SpaceId::Process(TaskId(7));

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
    }

    /// Writes runs of pages that each have one byte all over (0: told to be zero), and reads the
    /// images back.
    fn round(runs: &[(u64, u64, u8)]) -> Vec<(u64, u8)> {
        let folder = tempfile::tempdir().expect("a folder");
        let image = PagesImage::create(folder.path(), 3).expect("created");
        for (start, count, byte) in runs {
            let pages = range(*start, *count);
            let length = usize::try_from(pages.bytes().0).expect("small");
            match byte {
                0 => image.zero(pages).expect("zero"),
                byte => image.write(pages, &vec![*byte; length]).expect("written"),
            }
        }
        image.finish(folder.path(), SPACE, 3, &PageSet::new()).expect("finished");
        let map = std::fs::read(folder.path().join("pagemap-7.img")).expect("a pagemap");
        let told: PageSet = PagemapReader::open("pagemap-7.img", &*map)
            .and_then(PagemapReader::runs)
            .expect("runs")
            .into_iter()
            .map(|run| run.range)
            .collect();
        let length = std::fs::metadata(folder.path().join("pages-3.img")).expect("pages").len();
        assert_eq!(told.count().bytes().0, length);
        let mut reader = PagesReader::open(folder.path(), SPACE).expect("opened");
        let mut back = Vec::new();
        let mut buffer = vec![0; PAGE_SIZE];
        while let Some(page) = reader.next(&mut buffer).expect("read") {
            assert!(buffer.iter().all(|byte| *byte == buffer[0]), "{page:?}");
            back.push((page.start().0, buffer[0]));
        }
        back
    }

    #[test]
    fn in_order_out_of_order_and_again() {
        let all = [(4, 1), (5, 1), (9, 2), (10, 0), (11, 3)];
        assert_eq!(round(&[(4, 2, 1), (9, 1, 2), (10, 1, 0), (11, 1, 3)]), all);
        assert_eq!(round(&[(11, 1, 3), (9, 1, 2), (10, 1, 0), (4, 2, 1)]), all);
        assert_eq!(round(&[(9, 3, 7), (4, 2, 1), (9, 1, 2), (10, 1, 0), (11, 1, 3)]), all);
        assert_eq!(round(&[(4, 2, 1), (4, 2, 1), (9, 1, 2), (10, 1, 0), (11, 1, 3)]), all);
        // One run over parts of two others, one inside another, one over everything.
        assert_eq!(round(&[(1, 3, 1), (4, 3, 2), (3, 2, 3)]).len(), 6);
        let inside = [(1, 1), (2, 1), (3, 2), (4, 1)];
        assert_eq!(round(&[(1, 4, 1), (3, 1, 2)]), inside);
        assert_eq!(round(&[(2, 1, 8), (4, 1, 9), (1, 4, 1), (3, 1, 2)]), inside);
        assert_eq!(round(&[]), []);
    }
}
