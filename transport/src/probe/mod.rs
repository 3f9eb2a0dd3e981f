//! What a path is like, learnt without a migration: over the same connection, by the same streams, with
//! the same trust, and with nothing left behind at the destination, not even a used ticket.
//!
//! ```text
//!  source                                     destination
//!    │  Hello ─────────────────────────────────▶ │
//!    │ ◀────────────────────── HelloReply, Refuse │  and opens a fault stream
//!    │  Probe {no wish} ───────────────────────▶ │  several times: the round trip
//!    │ ◀────────────────────────────────── Probed │
//!    │  Probe {wish} ──────────────────────────▶ │  several times: what a fault would wait,
//!    │ ◀──────────── a wish, for page 0 of task 0 │  first on the idle link, then beside bulk
//!    │  that page ═════════════════════════════▶ │
//!    │ ◀───────────────────────── Probed {waited} │
//!    │  pages in bulk ═════════════════════════▶ │  are counted and thrown away
//!    │ ◀───────────────────────── Progress {bytes} │
//!    │  closes with DONE ──────────────────────▶ │
//! ```
//!
//! [`fn@measure`] is the source, `answer` the destination; both are bounded, each by itself.

mod answer;
mod findings;
mod forecast;
mod measure;

use std::time::Duration;

use pages::{ByteCount, PAGE_SHIFT, PageCount, PageIndex, PageRange, SpaceId, TaskId};

pub(crate) use answer::answer;
pub use findings::{Findings, Times};
pub use forecast::Forecast;
pub use measure::{ProbeError, measure};

use crate::wire::Features;
use crate::wire::limits::MAX_PROBE_BYTES;

/// How long a destination bears with one probe.
pub const LONGEST: Duration = Duration::from_secs(120);
/// Nobody's pages.
const SPACE: SpaceId = SpaceId::Process(TaskId(0));

/// How much one probe may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes sent in bulk; at most [`MAX_PROBE_BYTES`].
    pub bytes: ByteCount,
    /// For how long they are sent.
    pub time: Duration,
}

impl Bounds {
    /// Bounds that a destination bears; `None` if they are wider.
    pub fn new(bytes: ByteCount, time: Duration) -> Option<Self> {
        let borne = bytes.0 <= MAX_PROBE_BYTES && time <= LONGEST / 2;
        borne.then_some(Self { bytes, time })
    }
}

/// All that this release can do.
const OURS: Features = Features::STOP_AND_COPY
    .with(Features::PRE_COPY)
    .with(Features::POST_COPY)
    .with(Features::LZ4)
    .with(Features::ZSTD);

fn first_pages(count: u64) -> PageRange {
    PageRange::new(PageIndex(0), PageCount(count)).expect("some pages at the beginning of a space")
}

fn bytes_of(count: u64) -> usize {
    usize::try_from(count << PAGE_SHIFT).expect("a few pages")
}
