//! Which pages a dump saves, without the pages.

use std::collections::BTreeMap;
use std::io;

use pages::{PageRange, PageSet, SpaceId};

use super::{Store, Whereabouts};

/// Remembers for each space which pages were sent, and lets their bytes go: whoever has this while
/// the tree stands still can read them from the tree itself, in its own time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageMaps {
    spaces: BTreeMap<SpaceId, PageSet>,
    open: Option<SpaceId>,
}

impl PageMaps {
    /// Every space that was opened, and its pages.
    pub fn into_spaces(self) -> impl Iterator<Item = (SpaceId, PageSet)> {
        self.spaces.into_iter()
    }
}

impl Store for PageMaps {
    fn open(&mut self, space: SpaceId) -> io::Result<()> {
        self.open = Some(space);
        self.spaces.entry(space).or_default();
        Ok(())
    }

    fn run(&mut self, pages: PageRange, place: Whereabouts) -> io::Result<bool> {
        if place == Whereabouts::Parent {
            return Err(io::Error::other("pages of an older set of images"));
        }
        if let Some(set) = self.open.and_then(|space| self.spaces.get_mut(&space)) {
            set.insert(pages);
        }
        Ok(false)
    }

    fn bytes(&mut self, _: PageRange, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}
