//! The huge pages that a tree takes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::Metadata;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use image::plan::{huge_file, huge_pages};
use image::state::HugeSize;
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs, statfs};
use tracee::proc::maps::Mapping;
use tracee::{HostPid, Pagemap, Wanted};

use super::named::Named;

/// The name that the kernel shows for memory that was mapped with MAP_HUGETLB alone.
pub(crate) const ANONYMOUS: &str = "/anon_hugepage";

/// The size of the pages that an open file is made of, if they are huge.
pub(crate) fn size_of(file: impl AsFd) -> Option<HugeSize> {
    let stat = fstatfs(file).ok()?;
    let huge = stat.filesystem_type() == HUGETLBFS_MAGIC;
    HugeSize::of_bytes(u64::try_from(stat.block_size()).ok().filter(|_| huge)?)
}

/// The size of a mapping of [`ANONYMOUS`], from smaps.
pub(crate) fn of_mapping(mapping: &Mapping) -> Option<HugeSize> {
    let anonymous = mapping.deleted && mapping.path.as_deref() == Some(Path::new(ANONYMOUS));
    HugeSize::of_bytes(mapping.kernel_page_size).filter(|_| anonymous && mapping.has_flag(b"ht"))
}

/// The size of the pages of the file at `path`, if they are huge.
pub(crate) fn size_at(path: &Path, stat: &Metadata) -> Option<HugeSize> {
    // A hugetlbfs tells the size of its pages as that of a block: no other need be asked.
    let size = HugeSize::of_bytes(stat.blksize()).filter(|_| stat.is_file())?;
    statfs(path).is_ok_and(|told| told.filesystem_type() == HUGETLBFS_MAGIC).then_some(size)
}

/// How many huge pages of each size a tree needs room for, and where files of them.
#[derive(Debug, Default)]
pub(crate) struct HugePages {
    /// Pages by size.
    needed: BTreeMap<HugeSize, u64>,
    /// Objects that are counted already, by device and inode.
    seen: HashSet<(u64, u64)>,
    files: BTreeSet<(HugeSize, String)>,
}

impl HugePages {
    /// Private memory: what a process still shares with its parent it has for itself over there. What
    /// is mapped without a reservation takes what is there.
    pub(crate) fn private(&mut self, pid: HostPid, size: HugeSize, mapping: &Mapping) {
        let Some(range) = mapping.range() else { return };
        let bytes = match mapping.has_flag(b"nr") {
            false => range.bytes().0,
            true => {
                let there = Pagemap::open(pid).and_then(|map| map.scan(range, Wanted::Present));
                there.map_or(0, |pages| pages.count().bytes().0)
            }
        };
        *self.needed.entry(size).or_default() += bytes.div_ceil(size.bytes());
    }

    /// A shared object that `way` leads to, if it is made of huge pages.
    pub(crate) fn shared(&mut self, way: &Path, stat: &Metadata) {
        let Some(size) = size_at(way, stat) else { return };
        if self.seen.insert((stat.dev(), stat.ino())) {
            *self.needed.entry(size).or_default() += stat.size().div_ceil(size.bytes());
        }
    }

    /// The same of a file that has, or had, a path.
    pub(crate) fn file(&mut self, way: &Path, stat: &Metadata, named: &Named) {
        let (Named::Path(path) | Named::Carried(path) | Named::Ghost(path)) = named;
        if let Some(size) = size_at(way, stat) {
            self.files.insert((size, path.clone()));
            self.shared(way, stat);
        }
    }

    /// What a plan says of them.
    pub(crate) fn needs(&self) -> impl Iterator<Item = String> {
        let files = self.files.iter().map(|(size, path)| huge_file(*size, path));
        self.needed.iter().map(|(size, count)| huge_pages(*size, *count)).chain(files)
    }
}
