//! The huge pages that a tree takes.

use std::collections::{BTreeMap, HashSet};
use std::fs::Metadata;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use image::plan::huge_pages;
use image::state::HugeSize;
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs, statfs};
use tracee::proc::maps::Mapping;
use tracee::{HostPid, Pagemap, Wanted};

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

/// How many huge pages of each size a tree needs room for.
#[derive(Debug, Default)]
pub(crate) struct HugePages {
    /// Pages by size.
    needed: BTreeMap<HugeSize, u64>,
    /// Objects that are counted already, by device and inode.
    seen: HashSet<(u64, u64)>,
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
        let Ok(told) = statfs(way) else { return };
        let size = u64::try_from(told.block_size()).ok().and_then(HugeSize::of_bytes);
        let Some(size) = size.filter(|_| told.filesystem_type() == HUGETLBFS_MAGIC) else { return };
        if self.seen.insert((stat.dev(), stat.ino())) {
            *self.needed.entry(size).or_default() += stat.size().div_ceil(size.bytes());
        }
    }

    /// What a plan says of them.
    pub(crate) fn needs(&self) -> impl Iterator<Item = String> {
        self.needed.iter().map(|(size, count)| huge_pages(*size, *count))
    }
}
