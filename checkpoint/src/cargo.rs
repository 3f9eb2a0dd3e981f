//! Everything that leaves, counted before it does.

use std::borrow::Cow;

use image::heritage::HERITAGE;
use image::state::{Checkpoint, Task};
use image::{Heritage, ImageSet, NamespaceIds, pagemap};
use pages::{ByteCount, PageCount, PageSet};
use transport::quic::SourceLink;
use transport::wire::{BlobName, BlobTotal, Manifest, SpaceTotal};

use crate::collect::{PageSource, SpacePages};
use crate::failure::Cause;
use crate::heritage;
use crate::lazy::{self, Owed};

/// What leaves beside the pages that cannot wait.
pub(crate) struct Cargo {
    images: ImageSet,
    /// Pages that leave after the hand-over.
    pub(crate) owed: Vec<Owed>,
    /// Images that tell which pages come after the others, or before them.
    later: Vec<(String, Vec<u8>)>,
    /// Files that have left already.
    pub(crate) files: Vec<BlobTotal>,
    totals: Vec<SpaceTotal>,
    /// Pages that several processes have in common; they are in no total.
    common: PageCount,
}

impl Cargo {
    /// Of a tree that stands still. With `lazy`, pages that may follow after the hand-over are taken
    /// out of `spaces`; which they are is only known if the images are understood.
    pub(crate) fn load(
        images: ImageSet,
        tasks: Option<&[Task]>,
        spaces: &mut [SpacePages],
        lazy: bool,
    ) -> Self {
        let owed = match tasks.filter(|_| lazy) {
            Some(tasks) => lazy::defer(tasks, spaces),
            None => Vec::new(),
        };
        let owed_of = |space| owed.iter().find(|owed: &&Owed| owed.space == space);
        let totals = spaces.iter().map(|space| SpaceTotal {
            space: space.space,
            sent: space.pages.count(),
            owed: owed_of(space.space).map_or(PageCount(0), |owed| owed.pages.count()),
        });
        let totals = totals.collect();
        Self { images, owed, later: Vec::new(), files: Vec::new(), totals, common: PageCount(0) }
    }

    /// Has those pages leave last of which a destination that builds meanwhile can have no use before.
    pub(crate) fn eager_first(
        &mut self,
        tasks: &[Task],
        mut spaces: Vec<SpacePages>,
    ) -> Vec<SpacePages> {
        let later = lazy::later(tasks, &mut spaces);
        for late in &later {
            let eager = spaces.iter().find(|space| space.space == late.space);
            let nothing = PageSet::new();
            let eager = eager.map_or(&nothing, |space| &space.pages);
            let map = pagemap::lazy_image(0, eager, &late.pages);
            self.later.push((pagemap::image_name(late.space), map));
        }
        spaces.extend(later);
        spaces
    }

    /// Has pages leave first that several processes have in common.
    pub(crate) fn common_first(
        &mut self,
        found: heritage::Found,
        spaces: Vec<SpacePages>,
    ) -> Vec<SpacePages> {
        self.common = found.heritage.pages.count();
        self.later.push((HERITAGE.to_owned(), found.heritage.to_bytes()));
        found.spaces(PageSource::Process).into_iter().chain(spaces).collect()
    }

    /// Pages that leave before the hand-over.
    pub(crate) fn sent(&self) -> PageCount {
        self.totals.iter().map(|total| total.sent).sum::<PageCount>() + self.common
    }

    /// Pages that may follow after it.
    pub(crate) fn owed(&self) -> PageCount {
        self.totals.iter().map(|total| total.owed).sum()
    }

    /// All pages.
    pub(crate) fn pages(&self) -> PageCount {
        self.sent() + self.owed()
    }

    /// Every image: the state of the tree, and for each space with owed pages which they are.
    pub(crate) fn images(&self) -> Images<'_> {
        let owed = self
            .owed
            .iter()
            .map(|owed| (pagemap::image_name(owed.space), pagemap::owed_image(&owed.pages)));
        Images {
            state: Cow::Borrowed(&self.images),
            owed: owed.chain(self.later.iter().cloned()).collect(),
            totals: self.totals.clone(),
        }
    }
}

/// Written down, ready to be sent.
pub(crate) struct Images<'a> {
    state: Cow<'a, ImageSet>,
    owed: Vec<(String, Vec<u8>)>,
    totals: Vec<SpaceTotal>,
}

impl Images<'_> {
    /// The state alone, of a tree whose pages are told otherwise, and what of them comes first.
    pub(crate) fn of_state(checkpoint: &Checkpoint, common: Option<&Heritage>) -> Self {
        let state = checkpoint.to_images(&NamespaceIds::default());
        let common = common.map(|heritage| (HERITAGE.to_owned(), heritage.to_bytes()));
        let owed = common.into_iter().collect();
        Self { state: Cow::Owned(state), owed, totals: Vec::new() }
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let owed = self.owed.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        self.state.iter().chain(owed)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.state.len() + self.owed.len()
    }

    /// How many bytes they have.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// What will be sent, and what has been `sent` already, so that the destination knows when it has
    /// everything.
    pub(crate) fn manifest(&self, sent: &[BlobTotal]) -> Result<Manifest, Cause> {
        let blobs = self.iter().map(|(name, bytes)| {
            Ok(BlobTotal { name: blob_name(name)?, bytes: ByteCount(bytes.len() as u64) })
        });
        let sent = sent.iter().cloned().map(Ok);
        let blobs = blobs.chain(sent).collect::<Result<Vec<_>, Cause>>()?;
        Manifest::new(blobs, self.totals.clone()).map_err(|over| Cause::TooMuch(over.to_string()))
    }

    /// Sends each on a stream of its own.
    pub(crate) async fn send(&self, link: &SourceLink) -> Result<(), Cause> {
        for (name, bytes) in self.iter() {
            send_blob(link, name, bytes.to_vec()).await?;
        }
        Ok(())
    }
}

/// Sends one blob, whole.
pub(crate) async fn send_blob(link: &SourceLink, name: &str, bytes: Vec<u8>) -> Result<(), Cause> {
    let mut blob = link.blob(&blob_name(name)?).await?;
    blob.write(bytes.into()).await?;
    blob.finish().await?;
    Ok(())
}

pub(crate) fn blob_name(name: &str) -> Result<BlobName, Cause> {
    BlobName::new(name).map_err(|bad| Cause::TooMuch(bad.to_string()))
}
