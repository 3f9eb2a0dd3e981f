//! Addresses and counts, each a type of its own.

use std::fmt;

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page. Huge pages travel as runs of these.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// An address in somebody else's address space: never dereferenced here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VirtAddr(pub u64);

/// The number of a page within its space (address divided by the page size).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PageIndex(pub u64);

/// How many pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PageCount(pub u64);

/// How many bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteCount(pub u64);

impl VirtAddr {
    /// The page this address lies in.
    pub const fn page(self) -> PageIndex {
        PageIndex(self.0 >> PAGE_SHIFT)
    }

    /// True if the address is the first byte of a page.
    pub const fn is_page_aligned(self) -> bool {
        self.0.trailing_zeros() >= PAGE_SHIFT
    }

    /// The address `bytes` further on, or `None` past the end of the address space.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

impl PageIndex {
    /// The page at the very end of what a 64-bit address can name.
    pub const MAX: Self = Self(u64::MAX >> PAGE_SHIFT);

    /// Address of the page's first byte.
    pub const fn address(self) -> VirtAddr {
        VirtAddr(self.0 << PAGE_SHIFT)
    }
}

impl PageCount {
    /// Pages needed to hold `bytes`, the last one perhaps in part.
    pub const fn covering(bytes: ByteCount) -> Self {
        Self(bytes.0.div_ceil(PAGE_SIZE as u64))
    }

    /// The bytes these pages hold.
    pub const fn bytes(self) -> ByteCount {
        ByteCount(self.0 << PAGE_SHIFT)
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {:#x}", self.0)
    }
}

impl fmt::Debug for PageCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages", self.0)
    }
}

impl fmt::Debug for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0)
    }
}

impl fmt::Display for ByteCount {
    /// For people: binary units, one decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let (mut whole, mut tenths, mut unit) = (self.0, 0, 0);
        while whole >= 1024 && unit + 1 < UNITS.len() {
            tenths = (whole % 1024) * 10 / 1024;
            whole /= 1024;
            unit += 1;
        }
        if unit == 0 {
            write!(f, "{whole} B")
        } else {
            write!(f, "{whole}.{tenths} {}", UNITS[unit])
        }
    }
}

impl std::ops::Add for PageCount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl std::iter::Sum for PageCount {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self(0), |sum, count| sum + count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_read_like_people_write_them() {
        assert_eq!(ByteCount(17).to_string(), "17 B");
        assert_eq!(ByteCount(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteCount(1 << 30).to_string(), "1.0 GiB");
    }

    #[test]
    fn conversions_are_inverse_at_page_starts() {
        let page = VirtAddr(0x7fff_1234_5678).page();
        assert_eq!(page.address(), VirtAddr(0x7fff_1234_5000));
        assert_eq!(page.address().page(), page);
        assert_eq!(PageCount::covering(ByteCount(4097)), PageCount(2));
    }
}
