//! Memory of huge pages (hugetlbfs): what mmap(2) calls MAP_HUGETLB, memfd_create(2) MFD_HUGETLB and shmget(2)
//! SHM_HUGETLB.

use std::fmt;

use pages::PageRange;

/// MAP_HUGETLB, mmap(2).
pub(crate) const MAP_HUGETLB: u32 = 0x4_0000;
/// MFD_HUGETLB, memfd_create(2).
const MFD_HUGETLB: u32 = 4;
/// SHM_HUGETLB, shmget(2).
const SHM_HUGETLB: u32 = 0o4000;
/// Where all have the logarithm of the page's size (MAP_HUGE_SHIFT), in six bits.
const SHIFT: u32 = 26;
/// The smallest and the largest that any processor has: 16 KiB and 16 GiB.
const SIZES: std::ops::RangeInclusive<u8> = 14..=34;

/// The size of huge pages: a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HugeSize(u8);

impl HugeSize {
    /// Pages of so many bytes; `None` if none are so large.
    pub fn of_bytes(bytes: u64) -> Option<Self> {
        let shift = u8::try_from(bytes.trailing_zeros()).ok()?;
        (bytes.is_power_of_two() && SIZES.contains(&shift)).then_some(Self(shift))
    }

    /// Bytes of a page.
    pub fn bytes(self) -> u64 {
        1 << self.0
    }

    /// The flags of mmap(2) for it.
    pub fn map_flags(self) -> u32 {
        MAP_HUGETLB | u32::from(self.0) << SHIFT
    }

    /// The flags of memfd_create(2) for it.
    pub fn memfd_flags(self) -> u32 {
        MFD_HUGETLB | u32::from(self.0) << SHIFT
    }

    /// The flags of shmget(2) for it.
    pub fn segment_flags(self) -> u32 {
        SHM_HUGETLB | u32::from(self.0) << SHIFT
    }

    /// So many bytes in whole pages.
    pub fn whole(self, bytes: u64) -> Option<u64> {
        bytes.checked_next_multiple_of(self.bytes())
    }

    /// The size in flags of any of them; `None` if they name none.
    pub(crate) fn in_flags(flags: u32) -> Option<Self> {
        Self::of_bytes(1 << (flags >> SHIFT))
    }

    /// The bits of [`map_flags`](Self::map_flags) of any size.
    pub(crate) const fn all_map_flags() -> u32 {
        MAP_HUGETLB | 0x3f << SHIFT
    }

    /// True if `range` begins and ends with such pages.
    pub fn divides(self, range: PageRange) -> bool {
        let mask = self.bytes() - 1;
        (range.start_addr().0 | range.bytes().0) & mask == 0
    }
}

impl fmt::Display for HugeSize {
    /// As /sys/kernel/mm/hugepages has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kB", self.bytes() >> 10)
    }
}

#[cfg(test)]
mod tests {
    use pages::{PageCount, PageIndex};

    use super::*;

    #[test]
    fn sizes_are_what_the_kernel_calls_them() {
        let two = HugeSize::of_bytes(2 << 20).expect("2 MiB");
        assert_eq!((two.map_flags(), two.memfd_flags()), (0x5404_0000, 0x5400_0004));
        assert_eq!(two.segment_flags(), 0x5400_0800);
        assert_eq!(HugeSize::in_flags(two.map_flags()), Some(two));
        // MAP_HUGE_1GB, MFD_HUGE_1GB, SHM_HUGE_1GB.
        let giant = HugeSize::of_bytes(1 << 30).expect("1 GiB");
        assert_eq!((giant.map_flags(), giant.memfd_flags()), (0x7804_0000, 0x7800_0004));
        assert_eq!(giant.segment_flags(), 0x7800_0800);
        for flags in [giant.map_flags(), giant.memfd_flags(), giant.segment_flags()] {
            assert_eq!(HugeSize::in_flags(flags), Some(giant), "{flags:#x}");
        }
        assert_eq!((giant.to_string(), giant.whole(5)), ("1048576 kB".to_owned(), Some(1 << 30)));
        assert_eq!((two.whole(2 << 20), two.whole(u64::MAX)), (Some(2 << 20), None));
        assert_eq!(HugeSize::in_flags(MAP_HUGETLB), None);
        assert_eq!(two.to_string(), "2048 kB");
        for bytes in [0, 4096, 3 << 20, 1 << 35] {
            assert_eq!(HugeSize::of_bytes(bytes), None, "{bytes}");
        }
        let range =
            |start, count| PageRange::new(PageIndex(start), PageCount(count)).expect("a range");
        assert!(two.divides(range(1024, 512)));
        assert!(!two.divides(range(1024, 511)) && !two.divides(range(1023, 512)));
    }
}
