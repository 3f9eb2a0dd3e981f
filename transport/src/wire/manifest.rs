//! All that was sent, so that the destination knows when it has everything.

use pages::{ByteCount, PageCount, SpaceId};

use super::blob::BlobName;
use super::codec::{DecodeError, Reader, Writer};
use super::limits::{MAX_BLOBS, MAX_SPACES};

/// The length of one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobTotal {
    /// Which blob.
    pub name: BlobName,
    /// How many bytes it has.
    pub bytes: ByteCount,
}

/// The pages of one space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceTotal {
    /// Whose pages.
    pub space: SpaceId,
    /// Pages sent so far: the sum over all runs on all lanes, a page sent twice counted twice.
    pub sent: PageCount,
    /// Pages that follow after the hand-off (post-copy).
    pub owed: PageCount,
}

/// All that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    blobs: Vec<BlobTotal>,
    spaces: Vec<SpaceTotal>,
}

/// More than one migration may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{count} {what} are more than the {most} one migration may have")]
pub struct OverLimit {
    /// Of what.
    pub what: &'static str,
    /// How many there are.
    pub count: usize,
    /// How many there may be.
    pub most: usize,
}

impl Manifest {
    /// A manifest, if it fits into a message.
    pub fn new(blobs: Vec<BlobTotal>, spaces: Vec<SpaceTotal>) -> Result<Self, OverLimit> {
        if blobs.len() > MAX_BLOBS {
            return Err(OverLimit { what: "blobs", count: blobs.len(), most: MAX_BLOBS });
        }
        if spaces.len() > MAX_SPACES {
            return Err(OverLimit { what: "spaces", count: spaces.len(), most: MAX_SPACES });
        }
        Ok(Self { blobs, spaces })
    }

    /// Every blob.
    pub fn blobs(&self) -> &[BlobTotal] {
        &self.blobs
    }

    /// Every space.
    pub fn spaces(&self) -> &[SpaceTotal] {
        &self.spaces
    }
}

impl Manifest {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.count(self.blobs.len());
        for blob in &self.blobs {
            blob.name.write(w);
            w.u64(blob.bytes.0);
        }
        w.count(self.spaces.len());
        for total in &self.spaces {
            w.space(total.space);
            w.u64(total.sent.0);
            w.u64(total.owed.0);
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = r.count(MAX_BLOBS, "at most 4096 blobs")?;
        let blobs = (0..count)
            .map(|_| {
                let name = BlobName::read(r)?;
                Ok(BlobTotal { name, bytes: ByteCount(r.u64("the length of a blob")?) })
            })
            .collect::<Result<_, _>>()?;
        let count = r.count(MAX_SPACES, "at most 16384 spaces")?;
        let spaces = (0..count)
            .map(|_| {
                let space = r.space()?;
                let sent = PageCount(r.u64("a count of pages")?);
                Ok(SpaceTotal { space, sent, owed: PageCount(r.u64("a count of pages")?) })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { blobs, spaces })
    }
}
