//! What came late, and what has not come: the pages of a program that runs already.

use std::time::Duration;

use pages::{PageCount, PageIndex, PageRange, SpaceId};

use super::codec::{DecodeError, Got, Reader, Writer};
use super::limits::{MAX_FAULT_BUCKETS, MAX_MISSING_RANGES};

/// How long the program waited for pages it touched before they had come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FaultTotals {
    /// How many pages it waited for.
    pub count: u64,
    /// Half of the waits were no longer.
    pub p50: Duration,
    /// 99 of 100 were no longer.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
    /// Bucket n counts waits of at least 2ⁿ⁻¹ and less than 2ⁿ microseconds; at most
    /// [`MAX_FAULT_BUCKETS`].
    pub buckets: Vec<u64>,
}

impl FaultTotals {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.u64(self.count);
        [self.p50, self.p99, self.longest].into_iter().for_each(|time| w.duration(time));
        let buckets = &self.buckets[..self.buckets.len().min(MAX_FAULT_BUCKETS)];
        w.count(buckets.len());
        buckets.iter().for_each(|count| w.u64(*count));
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = r.u64("a count of faults")?;
        let [p50, p99, longest] = [r.duration()?, r.duration()?, r.duration()?];
        let length = r.count(MAX_FAULT_BUCKETS, "at most 64 buckets")?;
        let buckets = (0..length).map(|_| r.u64("a count of faults")).collect::<Result<_, _>>()?;
        Ok(Self { count, p50, p99, longest, buckets })
    }
}

/// Pages of one space that have not come. A space may take several messages; the last message of
/// all says so, and may be of no range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Whose.
    pub space: SpaceId,
    /// Which, at most [`MAX_MISSING_RANGES`].
    pub ranges: Vec<PageRange>,
    /// True if all was said.
    pub last: bool,
}

impl Missing {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.u8(self.last.into());
        w.space(self.space);
        w.count(self.ranges.len());
        for range in &self.ranges {
            w.u64(range.start().0);
            w.u64(range.count().0);
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let last = match r.u8("0 or 1")? {
            0 => false,
            1 => true,
            other => return Err(r.error("0 or 1", Got::Number(other.into()))),
        };
        let space = r.space()?;
        let count = r.count(MAX_MISSING_RANGES, "at most 32768 ranges")?;
        let ranges = (0..count)
            .map(|_| {
                let start = PageIndex(r.u64("a page number")?);
                let count = PageCount(r.u64("a count of pages")?);
                PageRange::new(start, count)
                    .ok_or_else(|| r.error("pages inside a space", Got::Number(count.0)))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { space, ranges, last })
    }
}
