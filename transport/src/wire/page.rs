//! A run of pages: a header of fixed size, then its bytes.
//!
//! ```text
//!  0      1          2        4          8            16       20        24
//!  ├──────┼──────────┼────────┼──────────┼────────────┼────────┼─────────┤
//!  │ kind │ encoding │ zero   │ space    │ first page │ count  │ bytes   │
//!  └──────┴──────────┴────────┴──────────┴────────────┴────────┴─────────┘
//! ```
//!
//! A run is homogeneous: all of its pages are encoded alike, in one piece.

use std::fmt;

use pages::{ByteCount, PAGE_SIZE, PageCount, PageIndex, PageRange, SpaceId};

use super::Features;
use super::codec::{DecodeError, Got, Reader, space_numbers};
use super::limits::{MAX_RUN_PAGES, MAX_ZERO_RUN_PAGES};

/// How the pages of a run are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// As they are.
    Raw = 0,
    /// All zero; no bytes follow.
    Zero = 1,
    /// One LZ4 block.
    Lz4 = 2,
    /// One Zstandard frame.
    Zstd = 3,
}

impl Encoding {
    /// The feature without which it is not sent.
    pub const fn feature(self) -> Features {
        match self {
            Self::Raw | Self::Zero => Features::NONE,
            Self::Lz4 => Features::LZ4,
            Self::Zstd => Features::ZSTD,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::Zero),
            2 => Some(Self::Lz4),
            3 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// The header of one run. Holding it proves that count and length fit its encoding and the limits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRun {
    space: SpaceId,
    range: PageRange,
    encoding: Encoding,
    byte_len: u32,
}

/// These pages and bytes make no run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {encoding:?} run: {pages:?} in {bytes:?}")]
pub struct BadRun {
    /// How it was to be written.
    pub encoding: Encoding,
    /// How many pages.
    pub pages: PageCount,
    /// In how many bytes.
    pub bytes: ByteCount,
}

impl PageRun {
    /// Bytes of a header.
    pub const HEADER_BYTES: usize = 24;

    /// A run, if its length fits: raw pages are 4096 bytes each and at most
    /// [`MAX_RUN_PAGES`]; zero pages are no bytes and at most [`MAX_ZERO_RUN_PAGES`]; compressed
    /// pages are fewer bytes than raw ones, but some.
    pub fn new(
        space: SpaceId,
        range: PageRange,
        encoding: Encoding,
        byte_len: usize,
    ) -> Result<Self, BadRun> {
        let pages = range.count().0;
        let raw = pages.saturating_mul(PAGE_SIZE as u64);
        let bytes = byte_len as u64;
        let fits = match encoding {
            Encoding::Zero => pages <= MAX_ZERO_RUN_PAGES && bytes == 0,
            Encoding::Raw => pages <= MAX_RUN_PAGES && bytes == raw,
            Encoding::Lz4 | Encoding::Zstd => pages <= MAX_RUN_PAGES && bytes > 0 && bytes < raw,
        };
        match u32::try_from(byte_len) {
            Ok(byte_len) if fits => Ok(Self { space, range, encoding, byte_len }),
            _ => Err(BadRun { encoding, pages: range.count(), bytes: ByteCount(bytes) }),
        }
    }

    /// A run of zero pages.
    pub fn zero(space: SpaceId, range: PageRange) -> Result<Self, BadRun> {
        Self::new(space, range, Encoding::Zero, 0)
    }

    /// A run of pages as they are.
    pub fn raw(space: SpaceId, range: PageRange) -> Result<Self, BadRun> {
        let bytes = usize::try_from(range.bytes().0).unwrap_or(usize::MAX);
        Self::new(space, range, Encoding::Raw, bytes)
    }

    /// Whose pages.
    pub const fn space(self) -> SpaceId {
        self.space
    }

    /// Which pages.
    pub const fn range(self) -> PageRange {
        self.range
    }

    /// How they are written.
    pub const fn encoding(self) -> Encoding {
        self.encoding
    }

    /// How many bytes follow the header; at most [`super::limits::MAX_RUN_BYTES`].
    pub const fn byte_len(self) -> usize {
        self.byte_len as usize
    }

    /// The header's bytes.
    pub fn encode(self) -> [u8; Self::HEADER_BYTES] {
        let (kind, id) = space_numbers(self.space);
        let count = u32::try_from(self.range.count().0).expect("runs are bounded");
        let mut bytes = [0; Self::HEADER_BYTES];
        bytes[0] = kind;
        bytes[1] = self.encoding as u8;
        bytes[4..8].copy_from_slice(&id.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.range.start().0.to_be_bytes());
        bytes[16..20].copy_from_slice(&count.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.byte_len.to_be_bytes());
        bytes
    }

    /// Reads and checks a header.
    pub fn decode(bytes: &[u8; Self::HEADER_BYTES]) -> Result<Self, DecodeError> {
        let mut r = Reader::new("page run", bytes);
        let kind = r.u8("a kind of space")?;
        let encoding = r.u8("an encoding")?;
        let encoding = Encoding::from_number(encoding)
            .ok_or_else(|| r.error("an encoding", Got::Number(encoding.into())))?;
        let reserved = r.u16("zero")?;
        if reserved != 0 {
            return Err(r.error("zero", Got::Number(reserved.into())));
        }
        let id = r.u32("the number of a space")?;
        let space = r.space_of(kind, id)?;
        let start = r.u64("a page number")?;
        let count = r.u32("a count of pages")?;
        let range = PageRange::new(PageIndex(start), PageCount(count.into()))
            .ok_or_else(|| r.error("pages inside a space", Got::Number(start)))?;
        let byte_len = r.u32("a count of bytes")?;
        let length = usize::try_from(byte_len).unwrap_or(usize::MAX);
        Self::new(space, range, encoding, length).map_err(|_| {
            r.error("a length that fits pages and encoding", Got::Length(byte_len.into()))
        })
    }
}

impl fmt::Debug for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.space, self.range, self.encoding)
    }
}

#[cfg(test)]
mod tests {
    use pages::{SharedId, TaskId};

    use super::*;

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
    }

    const SPACE: SpaceId = SpaceId::Shared(SharedId(7));

    #[test]
    fn headers_come_back_as_they_were() {
        let runs = [
            PageRun::raw(SPACE, range(0x7fff, 256)),
            PageRun::zero(SpaceId::Process(TaskId(1)), range(0, 1 << 24)),
            PageRun::new(SPACE, range(5, 2), Encoding::Zstd, 8191),
        ];
        for run in runs {
            let run = run.expect("a run");
            assert_eq!(PageRun::decode(&run.encode()), Ok(run));
        }
    }

    #[test]
    fn lengths_are_held_to_the_encoding() {
        assert!(PageRun::raw(SPACE, range(0, 257)).is_err());
        assert!(PageRun::zero(SPACE, range(0, (1 << 24) + 1)).is_err());
        assert!(PageRun::new(SPACE, range(0, 1), Encoding::Raw, 4095).is_err());
        assert!(PageRun::new(SPACE, range(0, 1), Encoding::Zero, 1).is_err());
        assert!(PageRun::new(SPACE, range(0, 1), Encoding::Lz4, 4096).is_err());
        assert!(PageRun::new(SPACE, range(0, 1), Encoding::Lz4, 0).is_err());
    }

    #[test]
    fn every_lying_field_is_found() {
        let good = PageRun::raw(SPACE, range(1, 1)).expect("a run").encode();
        let lies = [(0, 2), (1, 4), (1, 1), (2, 1), (3, 1), (8, 0xff), (16, 1), (19, 0), (23, 1)];
        for (at, value) in lies {
            let mut bytes = good;
            bytes[at] = value;
            assert!(PageRun::decode(&bytes).is_err(), "byte {at}");
        }
    }
}
