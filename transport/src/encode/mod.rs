//! How pages are written into runs, chosen per run and undone per run.
//!
//! A page of zeros travels without bytes. A single one between others is worth a run of its own: it
//! saves 4096 bytes for 48 of headers. Any other run goes as it is, unless a [`Squeezer`] made it
//! smaller; answers to somebody who waits never go through one.

mod policy;
mod squeeze;

use bytes::Bytes;
use pages::{PAGE_SIZE, PageCount, PageRange, SpaceId, is_zero};

pub use self::policy::Compression;
pub use self::squeeze::Squeezer;
use crate::PeerMisbehaved;
use crate::wire::limits::{MAX_RUN_PAGES, MAX_ZERO_RUN_PAGES};
use crate::wire::{Encoding, PageRun};

/// Splits pages into homogeneous runs, each as long as its limit allows. The runs cover `range` in
/// order, and share the memory of `bytes`.
///
/// # Panics
///
/// If `bytes` is not exactly the bytes of `range`.
pub fn runs(space: SpaceId, range: PageRange, bytes: Bytes) -> Runs {
    assert_eq!(bytes.len() as u64, range.bytes().0, "the bytes of {range:?}");
    Runs { space, rest: Some(range), bytes, next_is_zero: None }
}

/// Splits pages that are known to be zero, which no bytes are needed for.
pub fn zero_runs(space: SpaceId, range: PageRange) -> impl Iterator<Item = PageRun> {
    range
        .pieces(PageCount(MAX_ZERO_RUN_PAGES))
        .map(move |piece| PageRun::zero(space, piece).expect("pieces are within the limit"))
}

/// Iterator of [`runs`].
#[derive(Debug)]
pub struct Runs {
    space: SpaceId,
    rest: Option<PageRange>,
    bytes: Bytes,
    /// Whether the first page of the rest is zero, if that was seen already.
    next_is_zero: Option<bool>,
}

impl Iterator for Runs {
    type Item = (PageRun, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest?;
        let mut pages = self.bytes.chunks_exact(PAGE_SIZE);
        let first = pages.next()?;
        let zero = self.next_is_zero.take().unwrap_or_else(|| is_zero(first));
        let most = if zero { MAX_ZERO_RUN_PAGES } else { MAX_RUN_PAGES };
        let mut count = 1;
        for page_is_zero in pages.map(is_zero) {
            if page_is_zero != zero || count == most {
                self.next_is_zero = Some(page_is_zero);
                break;
            }
            count += 1;
        }
        let (range, after) = rest.split_at(PageCount(count));
        self.rest = after;
        let length = usize::try_from(range.bytes().0).expect("a run is in memory");
        let bytes = self.bytes.split_to(length);
        let run =
            if zero { PageRun::zero(self.space, range) } else { PageRun::raw(self.space, range) };
        let run = run.expect("runs are cut at their limit");
        Some((run, if zero { Bytes::new() } else { bytes }))
    }
}

/// What a run holds, undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Every byte is zero.
    Zero,
    /// Exactly the bytes of the run's pages.
    Bytes(Bytes),
}

/// Undoes the encoding of a run that was received.
pub fn decode(run: PageRun, bytes: Bytes) -> Result<Content, PeerMisbehaved> {
    match run.encoding() {
        Encoding::Zero => Ok(Content::Zero),
        Encoding::Raw if bytes.len() == run.byte_len() => Ok(Content::Bytes(bytes)),
        Encoding::Raw => Err(PeerMisbehaved::EndedWithin { lane: "page", within: "a run" }),
        Encoding::Lz4 | Encoding::Zstd => squeeze::undo(run, &bytes).map(Content::Bytes),
    }
}

#[cfg(test)]
mod tests {
    use pages::{PageIndex, TaskId};

    use super::*;

    const SPACE: SpaceId = SpaceId::Process(TaskId(1));

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
    }

    /// Pages drawn as text: `.` is zero, any other letter fills a page with itself.
    fn drawn(picture: &str) -> Bytes {
        picture
            .bytes()
            .flat_map(|letter| [if letter == b'.' { 0 } else { letter }; PAGE_SIZE])
            .collect()
    }

    fn shape(picture: &str) -> Vec<(char, u64)> {
        let pages = range(100, picture.len() as u64);
        runs(SPACE, pages, drawn(picture))
            .map(|(run, _)| {
                let letter = if run.encoding() == Encoding::Zero { '.' } else { 'x' };
                (letter, run.range().count().0)
            })
            .collect()
    }

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        assert_eq!(shape("."), [('.', 1)]);
        assert_eq!(shape("a"), [('x', 1)]);
        assert_eq!(shape("ab..c."), [('x', 2), ('.', 2), ('x', 1), ('.', 1)]);
        let long = "a".repeat(300) + &".".repeat(300) + "b";
        assert_eq!(shape(&long), [('x', 256), ('x', 44), ('.', 300), ('x', 1)]);
    }

    /// A page with a single byte set at its very end is not zero, in any position.
    #[test]
    fn what_is_decoded_is_what_was_encoded() {
        let mut seed = 1_u64;
        for count in 1..40_u64 {
            let mut bytes = Vec::new();
            for _ in 0..count {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let mut page = vec![0; PAGE_SIZE];
                page[PAGE_SIZE - 1] = u8::from(seed >> 60 & 1 == 1);
                bytes.extend(page);
            }
            let pages = range(7, count);
            let mut back = Vec::new();
            let mut at = pages.start();
            for (run, bytes) in runs(SPACE, pages, bytes.clone().into()) {
                assert_eq!(run.range().start(), at);
                at = run.range().end();
                match decode(run, bytes).expect("what we wrote") {
                    Content::Zero => {
                        back.extend((0..run.range().bytes().0).map(|_| 0));
                    }
                    Content::Bytes(bytes) => back.extend(bytes),
                }
            }
            assert_eq!(at, pages.end());
            assert!(back == bytes, "{count} pages");
        }
    }

    #[test]
    fn known_zeros_are_cut_at_the_limit() {
        let most = MAX_ZERO_RUN_PAGES;
        let lengths: Vec<_> =
            zero_runs(SPACE, range(0, most + 1)).map(|run| run.range().count().0).collect();
        assert_eq!(lengths, [most, 1]);
    }
}
