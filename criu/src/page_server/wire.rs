//! The headers of the page-server wire, in both sizes.
//!
//! CRIU up to 4.1 sends 24 bytes, from 4.2 on 32; nothing says which, and ends that disagree wait for
//! each other forever. The first message of a dump has an image number and nothing else, and that
//! number is in another place in each size: so the first 24 bytes tell.

use pages::{PageCount, PageRange, SharedId, SpaceId, TaskId, VirtAddr};

/// Bytes of a header up to 4.1, and the least of any.
pub(super) const SHORT: usize = 24;
/// Bytes of a header from 4.2 on.
pub(super) const LONG: usize = 32;

const OPEN2: u16 = 4;
const PARENT: u16 = 5;
const ADD_F: u16 = 6;
const CLOSE: u16 = 0x1023;
const FORCE_CLOSE: u16 = 0x1024;

const IN_PARENT: u16 = 1;
const LAZY: u16 = 2;
const PRESENT: u16 = 4;

/// Which of the two sizes a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderSize {
    /// 24 bytes: CRIU up to 4.1.
    Short,
    /// 32 bytes: CRIU from 4.2 on.
    Long,
}

/// What a client said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Pages of this space follow.
    Open(SpaceId),
    /// Is there an older image of this space?
    HasParent(SpaceId),
    /// Pages of the space opened last.
    Pages(PageRange, Whereabouts),
    /// That was all.
    Close,
}

/// Where the bytes of pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// They follow.
    Here,
    /// The client keeps them and serves them later.
    Later,
    /// In an older set of images.
    Parent,
}

/// A header that no CRIU would send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// A command that is none, or one of before 2016.
    #[error("command {0:#x}")]
    Command(u32),
    /// A number that names no image.
    #[error("image {0:#x}")]
    Image(u64),
    /// Pages that cannot be.
    #[error("{count} pages at {address:#x}")]
    Range {
        /// Where.
        address: u64,
        /// How many.
        count: u64,
    },
    /// Flags that say nothing, or too much.
    #[error("flags {0:#x}")]
    Flags(u16),
}

impl HeaderSize {
    /// By the first bytes of a conversation.
    pub(super) fn of_first(header: &[u8; SHORT]) -> Self {
        if long(header, 16) == 0 { Self::Long } else { Self::Short }
    }

    /// In bytes.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Short => SHORT,
            Self::Long => LONG,
        }
    }
}

impl Message {
    /// A header of `size`; of a short one, the first 24 bytes count.
    pub(super) fn parse(header: &[u8; LONG], size: HeaderSize) -> Result<Self, BadHeader> {
        let whole = word(header, 0);
        let (command, flags) = (low(whole), low(whole >> 16));
        let (count, address, image) = match size {
            HeaderSize::Short => (u64::from(word(header, 4)), long(header, 8), long(header, 16)),
            HeaderSize::Long => (long(header, 8), long(header, 16), long(header, 24)),
        };
        match command {
            OPEN2 => Ok(Self::Open(space(image)?)),
            PARENT => Ok(Self::HasParent(space(image)?)),
            ADD_F => Ok(Self::Pages(range(address, count)?, whereabouts(flags)?)),
            CLOSE | FORCE_CLOSE => Ok(Self::Close),
            _ => Err(BadHeader::Command(whole)),
        }
    }

    /// True if this is how a conversation without any page ends.
    pub(super) fn is_close(first: &[u8; SHORT]) -> bool {
        matches!(low(word(first, 0)), CLOSE | FORCE_CLOSE)
    }
}

fn space(image: u64) -> Result<SpaceId, BadHeader> {
    let bad = BadHeader::Image(image);
    let number = u32::try_from(image >> 8).map_err(|_| bad)?;
    match image & 0xff {
        1 => Ok(SpaceId::Process(TaskId(number))),
        2 => Ok(SpaceId::Shared(SharedId(number))),
        _ => Err(bad),
    }
}

fn range(address: u64, count: u64) -> Result<PageRange, BadHeader> {
    let start = VirtAddr(address);
    start
        .is_page_aligned()
        .then(|| PageRange::new(start.page(), PageCount(count)))
        .flatten()
        .ok_or(BadHeader::Range { address, count })
}

fn whereabouts(flags: u16) -> Result<Whereabouts, BadHeader> {
    match flags {
        flags if flags & !(IN_PARENT | LAZY | PRESENT) != 0 => Err(BadHeader::Flags(flags)),
        flags if flags & PRESENT != 0 => Ok(Whereabouts::Here),
        flags if flags & IN_PARENT != 0 => Ok(Whereabouts::Parent),
        flags if flags & LAZY != 0 => Ok(Whereabouts::Later),
        flags => Err(BadHeader::Flags(flags)),
    }
}

fn word(header: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"))
}

fn long(header: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"))
}

fn low(word: u32) -> u16 {
    u16::try_from(word & 0xffff).expect("masked")
}

#[cfg(test)]
pub(super) mod tests {
    use pages::PageIndex;

    use super::*;

    /// A header as a client of that size writes it.
    pub(crate) fn header(size: HeaderSize, cmd: u32, count: u64, addr: u64, image: u64) -> Vec<u8> {
        let mut out = cmd.to_le_bytes().to_vec();
        match size {
            HeaderSize::Short => out.extend(u32::try_from(count).expect("short").to_le_bytes()),
            HeaderSize::Long => {
                out.extend([0; 4]);
                out.extend(count.to_le_bytes());
            }
        }
        out.extend(addr.to_le_bytes());
        out.extend(image.to_le_bytes());
        out
    }

    fn parse(
        size: HeaderSize,
        cmd: u32,
        count: u64,
        addr: u64,
        image: u64,
    ) -> Result<Message, BadHeader> {
        let mut whole = [0; LONG];
        let bytes = header(size, cmd, count, addr, image);
        assert_eq!(bytes.len(), size.bytes());
        whole[..bytes.len()].copy_from_slice(&bytes);
        Message::parse(&whole, size)
    }

    #[test]
    fn the_first_message_tells_the_size() {
        for (size, expected) in
            [(HeaderSize::Short, HeaderSize::Short), (HeaderSize::Long, HeaderSize::Long)]
        {
            for cmd in [u32::from(OPEN2), u32::from(PARENT)] {
                let bytes = header(size, cmd, 0, 0, (10_000 << 8) | 1);
                let first = bytes[..SHORT].try_into().expect("the beginning");
                assert_eq!(HeaderSize::of_first(first), expected);
            }
        }
    }

    #[test]
    fn both_sizes_say_the_same() {
        let pages = PageRange::new(PageIndex(0x7f), PageCount(3)).expect("a range");
        for size in [HeaderSize::Short, HeaderSize::Long] {
            let said = |cmd, count, addr, image| parse(size, cmd, count, addr, image);
            let process = SpaceId::Process(TaskId(10_000));
            assert_eq!(said(4, 0, 0, (10_000 << 8) | 1), Ok(Message::Open(process)));
            assert_eq!(said(5, 0, 0, (10_000 << 8) | 1), Ok(Message::HasParent(process)));
            let shared = SpaceId::Shared(SharedId(7));
            assert_eq!(said(4, 0, 0, (7 << 8) | 2), Ok(Message::Open(shared)));
            for (flags, place) in [
                (4, Whereabouts::Here),
                (6, Whereabouts::Here),
                (2, Whereabouts::Later),
                (1, Whereabouts::Parent),
            ] {
                let cmd = (flags << 16) | 6;
                assert_eq!(said(cmd, 3, 0x7f000, 0), Ok(Message::Pages(pages, place)));
            }
            assert_eq!(said(0x1023, 0, 0, 0), Ok(Message::Close));
            assert_eq!(said(0x1024, 0, 0, 0), Ok(Message::Close));
        }
    }

    #[test]
    fn nonsense_is_named() {
        use BadHeader::*;
        let said = |cmd, count, addr, image| parse(HeaderSize::Long, cmd, count, addr, image);
        assert_eq!(said(1, 1, 0, 0), Err(Command(1)));
        assert_eq!(said(0xffff, 1, 0, 0), Err(Command(0xffff)));
        assert_eq!(said(4, 0, 0, (1 << 8) | 3), Err(Image(0x103)));
        assert_eq!(said(4, 0, 0, (1 << 40) | 1), Err(Image((1 << 40) | 1)));
        let add = (4 << 16) | 6;
        for (count, address) in [(0, 0x1000), (1, 0x1001), (u64::MAX, 0), (2, !0xfff)] {
            assert_eq!(said(add, count, address, 0), Err(Range { address, count }));
        }
        assert_eq!(said(6, 1, 0, 0), Err(Flags(0)));
        assert_eq!(said((8 << 16) | 6, 1, 0, 0), Err(Flags(8)));
    }
}
