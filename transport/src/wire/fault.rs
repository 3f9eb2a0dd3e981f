//! A wanted page: what the destination asks for when the program touches what is not there yet.

use pages::{PageCount, PageIndex, PageRange, SpaceId};

use super::codec::{DecodeError, Got, Reader, space_numbers};
use super::limits::MAX_FAULT_PAGES;

/// Pages the program waits for. The first is the one it touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wanted {
    space: SpaceId,
    range: PageRange,
}

impl Wanted {
    /// Bytes of a request.
    pub const BYTES: usize = 20;

    /// A wish; `None` if it is for more than [`MAX_FAULT_PAGES`].
    pub fn new(space: SpaceId, range: PageRange) -> Option<Self> {
        (range.count().0 <= MAX_FAULT_PAGES).then_some(Self { space, range })
    }

    /// Whose pages.
    pub const fn space(self) -> SpaceId {
        self.space
    }

    /// Which pages.
    pub const fn range(self) -> PageRange {
        self.range
    }

    /// The request's bytes: kind of space (1), zero (3), space (4), first page (8), count (4).
    pub fn encode(self) -> [u8; Self::BYTES] {
        let (kind, id) = space_numbers(self.space);
        let count = u32::try_from(self.range.count().0).expect("wishes are bounded");
        let mut bytes = [0; Self::BYTES];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&id.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.range.start().0.to_be_bytes());
        bytes[16..20].copy_from_slice(&count.to_be_bytes());
        bytes
    }

    /// Reads and checks a request.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, DecodeError> {
        let mut r = Reader::new("fault request", bytes);
        let kind = r.u8("a kind of space")?;
        let reserved: [u8; 3] = r.array("zero")?;
        if reserved != [0; 3] {
            return Err(r.error("zero", Got::BadText));
        }
        let id = r.u32("the number of a space")?;
        let space = r.space_of(kind, id)?;
        let start = r.u64("a page number")?;
        let count = r.u32("a count of pages")?;
        PageRange::new(PageIndex(start), PageCount(count.into()))
            .and_then(|range| Self::new(space, range))
            .ok_or_else(|| r.error("1 to 64 pages inside a space", Got::Number(count.into())))
    }
}

#[cfg(test)]
mod tests {
    use pages::TaskId;

    use super::*;

    #[test]
    fn wishes_are_bounded_and_come_back() {
        let space = SpaceId::Process(TaskId(9));
        let range = |count| PageRange::new(PageIndex(3), PageCount(count)).expect("a range");
        let wish = Wanted::new(space, range(64)).expect("a wish");
        assert_eq!(Wanted::decode(&wish.encode()), Ok(wish));
        assert_eq!(Wanted::new(space, range(65)), None);
        let mut bytes = wish.encode();
        bytes[19] = 65;
        assert!(Wanted::decode(&bytes).is_err());
        bytes[19] = 0;
        assert!(Wanted::decode(&bytes).is_err());
    }
}
