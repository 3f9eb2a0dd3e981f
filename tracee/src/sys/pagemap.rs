//! The `PAGEMAP_SCAN` ioctl (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::{IOC_READ, IOC_WRITE, ioc};

/// `PAGE_IS_WPALLOWED`: registered with a userfaultfd that notes writes (WP_ASYNC).
pub(crate) const IS_WPALLOWED: u64 = 1 << 0;
/// `PAGE_IS_WRITTEN`: not write-protected by it (any more).
pub(crate) const IS_WRITTEN: u64 = 1 << 1;
/// `PAGE_IS_FILE`: mapped from a file and not copied on write.
pub(crate) const IS_FILE: u64 = 1 << 2;
/// `PAGE_IS_PRESENT`.
pub(crate) const IS_PRESENT: u64 = 1 << 3;
/// `PAGE_IS_SWAPPED`; markers without content show as swapped too.
pub(crate) const IS_SWAPPED: u64 = 1 << 4;
/// `PAGE_IS_PFNZERO`: the kernel's shared page of zeros.
pub(crate) const IS_PFNZERO: u64 = 1 << 5;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`: a run of pages with the same categories.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) categories: u64,
}

const PAGEMAP_SCAN: u64 = ioc(IOC_READ | IOC_WRITE, b'f', 16, size_of::<ScanArg>());
const _: () = assert!(size_of::<ScanArg>() == 96);
const _: () = assert!(size_of::<Region>() == 24);
const _: () = assert!(PAGEMAP_SCAN == 0xc060_6610);

/// `PM_SCAN_WP_MATCHING`: protects the pages it tells of, each in the same step; passes over
/// mappings where it cannot.
const WP_MATCHING: u64 = 1;

/// Which pages are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Categories {
    /// Must have all of these (after inversion).
    pub(crate) all: u64,
    /// Of all categories, those taken the other way round.
    pub(crate) inverted: u64,
    /// Must have at least one of these.
    pub(crate) any: u64,
    /// Told about each run.
    pub(crate) told: u64,
    /// Protect what is told.
    pub(crate) protect: bool,
}

/// Scans from `start`; fills `into`, returns how many runs and where the walk ended.
pub(crate) fn scan(
    pagemap: BorrowedFd<'_>,
    start: u64,
    end: u64,
    categories: Categories,
    into: &mut [Region],
) -> nix::Result<(usize, u64)> {
    let mut arg = ScanArg {
        size: size_of::<ScanArg>() as u64,
        flags: if categories.protect { WP_MATCHING } else { 0 },
        start,
        end,
        vec: into.as_mut_ptr() as u64,
        vec_len: into.len() as u64,
        category_inverted: categories.inverted,
        category_mask: categories.all,
        category_anyof_mask: categories.any,
        return_mask: categories.told,
        ..ScanArg::default()
    };
    // SAFETY: `arg` is the structure the number announces; its `vec` describes `into`, borrowed for
    // the call, of which the kernel writes at most `vec_len` entries; any bits are valid in them.
    let count =
        Errno::result(unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) })?;
    Ok((usize::try_from(count).unwrap_or(0).min(into.len()), arg.walk_end))
}
