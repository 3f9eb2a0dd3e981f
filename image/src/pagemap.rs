//! Pagemap images: which pages of a space were saved, and where their bytes are.
//!
//! CRIU 4.2 moved the count of pages from field 2 to field 5 and then ignores 2; older versions know
//! only 2. Both are written; whichever is there is read.

use std::io::Read;

use pages::{PageCount, PageRange, PageSet, SpaceId, VirtAddr};

use crate::error::{BadField, BadImage, FrameFlaw};
use crate::frame::{FrameReader, FrameWriter};
use crate::kind::ImageKind;
use crate::messages::{PagemapEntry, PagemapHead};

const IN_PARENT: u32 = 1;
const LAZY: u32 = 2;
const PRESENT: u32 = 4;

/// Where the bytes of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the pages image, in the order of the runs.
    Here,
    /// In an older set of images.
    Parent,
    /// With the source, which serves them over the network.
    Source,
}

/// Consecutive saved pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which pages.
    pub range: PageRange,
    /// Where their bytes are.
    pub place: Place,
}

/// File name of the pagemap of a space.
pub fn image_name(space: SpaceId) -> String {
    match space {
        SpaceId::Process(task) => ImageKind::Pagemap.name(task.0),
        SpaceId::Shared(id) => ImageKind::PagemapShared.name(id.0),
    }
}

/// A pagemap image that says: exactly `present`, in `pages-<pages_id>.img`.
pub fn to_image(pages_id: u32, present: &PageSet) -> Vec<u8> {
    let mut image = start(pages_id);
    present.ranges().iter().for_each(|range| add(&mut image, *range));
    image.finish()
}

/// A pagemap image that says: `present` in `pages-<pages_id>.img`, and `owed` with whoever serves them.
///
/// # Panics
/// If a page is in both: a bug of the caller's.
pub fn lazy_image(pages_id: u32, present: &PageSet, owed: &PageSet) -> Vec<u8> {
    assert!(present.intersect(owed).is_empty(), "a page is in one place");
    let here = present.ranges().iter().map(|range| (*range, PRESENT));
    let mut runs: Vec<_> = here.chain(owed.ranges().iter().map(|range| (*range, LAZY))).collect();
    runs.sort_by_key(|(range, _)| range.start());
    let mut image = start(pages_id);
    runs.into_iter().for_each(|(range, flags)| add_run(&mut image, range, flags));
    image.finish()
}

/// A pagemap image that says: exactly `owed`, all of them with the source, which serves them.
pub fn owed_image(owed: &PageSet) -> Vec<u8> {
    let mut image = start(0);
    owed.ranges().iter().for_each(|range| add_run(&mut image, *range, LAZY));
    image.finish()
}

/// The pages that a pagemap image says are with the source.
pub fn owed(image: &str, bytes: &[u8]) -> Result<PageSet, BadImage> {
    let runs = PagemapReader::open(image, bytes)?.runs()?;
    Ok(runs.iter().filter(|run| run.place == Place::Source).map(|run| run.range).collect())
}

/// The start of a pagemap image.
pub(crate) fn start(pages_id: u32) -> FrameWriter {
    let mut image = FrameWriter::new(ImageKind::Pagemap);
    image.entry(&PagemapHead { pages_id });
    image
}

/// Adds a run whose bytes are in the pages image.
pub(crate) fn add(image: &mut FrameWriter, range: PageRange) {
    add_run(image, range, PRESENT);
}

fn add_run(image: &mut FrameWriter, range: PageRange, flags: u32) {
    for piece in range.pieces(PageCount(u64::from(u32::MAX))) {
        image.entry(&PagemapEntry {
            vaddr: piece.start_addr().0,
            compat_nr_pages: u32::try_from(piece.count().0).expect("pieces fit"),
            in_parent: None,
            flags: Some(flags),
            nr_pages: Some(piece.count().0),
        });
    }
}

/// Reads a pagemap image run by run; they are ascending and disjoint.
#[derive(Debug)]
pub struct PagemapReader<R> {
    frame: FrameReader<R>,
    pages_id: u32,
    end: u64,
}

impl<R: Read> PagemapReader<R> {
    /// Reads the head of the pagemap image called `image`.
    pub fn open(image: &str, input: R) -> Result<Self, BadImage> {
        let mut frame = FrameReader::open(image, ImageKind::Pagemap, input)?;
        let Some(head) = frame.message::<PagemapHead>()? else {
            return Err(frame.flaw(FrameFlaw::Truncated { what: "the pagemap's head" }));
        };
        Ok(Self { frame, pages_id: head.pages_id, end: 0 })
    }

    /// Which pages image has the bytes.
    pub fn pages_id(&self) -> u32 {
        self.pages_id
    }

    /// The next run; `None` at the end.
    pub fn next_run(&mut self) -> Result<Option<Run>, BadImage> {
        let Some(entry) = self.frame.message::<PagemapEntry>()? else { return Ok(None) };
        let run = run(&entry, self.end).map_err(|lie| self.lie(lie))?;
        self.end = run.range.end().0;
        Ok(Some(run))
    }

    /// An error about the entry read last.
    pub(crate) fn lie(&self, lie: BadField) -> BadImage {
        lie.at(self.frame.image(), self.frame.entry_number())
    }

    /// All runs that are left.
    pub fn runs(mut self) -> Result<Vec<Run>, BadImage> {
        let mut runs = Vec::new();
        while let Some(run) = self.next_run()? {
            runs.push(run);
        }
        Ok(runs)
    }
}

fn run(entry: &PagemapEntry, end: u64) -> Result<Run, BadField> {
    let start = VirtAddr(entry.vaddr);
    if !start.is_page_aligned() {
        return Err(BadField::value("vaddr", entry.vaddr, "the start of a page"));
    }
    if start.page().0 < end {
        return Err(BadField::value("vaddr", entry.vaddr, "an address after the run before"));
    }
    let (field, count) = match entry.nr_pages {
        Some(count) => ("nr_pages", count),
        None => ("compat_nr_pages", u64::from(entry.compat_nr_pages)),
    };
    let range = PageRange::new(start.page(), PageCount(count))
        .ok_or_else(|| BadField::value(field, count, "pages within the address space"))?;
    let place = match entry.flags {
        None if entry.in_parent == Some(true) => Place::Parent,
        None => Place::Here,
        Some(flags) if flags & !(IN_PARENT | LAZY | PRESENT) != 0 => {
            return Err(BadField::value("flags", flags, "flags 1, 2 and 4"));
        }
        Some(flags) if flags & PRESENT != 0 => Place::Here,
        Some(flags) if flags & IN_PARENT != 0 => Place::Parent,
        Some(flags) if flags & LAZY != 0 => Place::Source,
        Some(flags) => return Err(BadField::value("flags", flags, "one of flags 1, 2 and 4")),
    };
    Ok(Run { range, place })
}

#[cfg(test)]
mod tests {
    use pages::PageIndex;

    use super::*;

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
    }

    fn read(entries: &[PagemapEntry]) -> Result<Vec<Run>, BadImage> {
        let mut image = start(7);
        for entry in entries {
            image.entry(entry);
        }
        let image = image.finish();
        let reader = PagemapReader::open("pagemap-1.img", &*image)?;
        assert_eq!(reader.pages_id(), 7);
        reader.runs()
    }

    fn entry(vaddr: u64, old: u32, new: Option<u64>, flags: Option<u32>) -> PagemapEntry {
        PagemapEntry { vaddr, compat_nr_pages: old, nr_pages: new, flags, in_parent: None }
    }

    #[test]
    fn two_kinds_of_pages_are_told_in_one_order() {
        let present = [range(1, 4), range(9, 1)].into_iter().collect();
        let owed = [range(5, 4), range(20, 1)].into_iter().collect();
        let image = lazy_image(2, &present, &owed);
        let reader = PagemapReader::open("pagemap-1.img", &*image).expect("a pagemap");
        let runs = reader.runs().expect("runs");
        let told: Vec<_> = runs.iter().map(|run| (run.range, run.place)).collect();
        let (here, there) = (Place::Here, Place::Source);
        let all = [(1, 4, here), (5, 4, there), (9, 1, here), (20, 1, there)];
        assert_eq!(told, all.map(|(start, count, place)| (range(start, count), place)));
    }

    #[test]
    fn what_is_owed_comes_back() {
        let set: PageSet = [range(3, 4), range(1 << 30, 1)].into_iter().collect();
        assert_eq!(owed("pagemap-1.img", &owed_image(&set)).expect("an image"), set);
        assert_eq!(owed("pagemap-1.img", &to_image(1, &set)).expect("an image"), PageSet::new());
    }

    #[test]
    fn a_set_comes_back() {
        let set: PageSet = [range(1, 4), range(9, 1), range(1 << 35, 700)].into_iter().collect();
        let image = to_image(3, &set);
        let reader = PagemapReader::open("pagemap-1.img", &*image).expect("a pagemap");
        assert_eq!(reader.pages_id(), 3);
        let back: PageSet = reader.runs().expect("runs").into_iter().map(|run| run.range).collect();
        assert_eq!(back, set);
    }

    #[test]
    fn both_counts_are_written_and_either_is_read() {
        let image = to_image(1, &[range(1, 4)].into_iter().collect());
        // length 8: vaddr 0x1000, count 4, flags 4, count 4
        assert!(image.ends_with(&[9, 0, 0, 0, 8, 0x80, 0x20, 16, 4, 32, 4, 40, 4]));
        let here = |range| Run { range, place: Place::Here };
        let runs = read(&[
            entry(0x1000, 2, None, None),
            entry(0x3000, 0, Some(3), Some(LAZY | PRESENT)),
            entry(0x9000, 5, None, Some(PRESENT)),
        ]);
        assert_eq!(
            runs.expect("three dialects"),
            [here(range(1, 2)), here(range(3, 3)), here(range(9, 5))]
        );
    }

    #[test]
    fn places_follow_the_flags() {
        let mut old = entry(0x9000, 1, None, None);
        old.in_parent = Some(true);
        let runs = read(&[entry(0, 1, None, Some(1)), entry(0x1000, 1, None, Some(2)), old]);
        let places: Vec<_> = runs.expect("runs").into_iter().map(|run| run.place).collect();
        assert_eq!(places, [Place::Parent, Place::Source, Place::Parent]);
    }

    #[test]
    fn lies_are_named() {
        for (entries, field) in [
            (vec![entry(1, 1, None, None)], "vaddr"),
            (vec![entry(0x2000, 1, None, None), entry(0x2000, 1, None, None)], "vaddr"),
            (vec![entry(0, 0, None, None)], "compat_nr_pages"),
            (vec![entry(0, 1, Some(u64::MAX), None)], "nr_pages"),
            (vec![entry(0, 1, None, Some(8))], "flags"),
            (vec![entry(0, 1, None, Some(0))], "flags"),
        ] {
            match read(&entries) {
                Err(BadImage::Field { field: got, entry, .. }) => {
                    assert_eq!(got, field);
                    assert_eq!(entry, entries.len() + 1);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
