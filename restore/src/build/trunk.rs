//! The first process of a tree, with the memory that others will be born with.
//!
//! Pages that processes share copy on write can be made by fork(2) alone. So they are put into the
//! first process while it is the only one; then the tree is made, in which everybody has all of it, and
//! takes away what is not its own.

use std::collections::HashMap;
use std::sync::Arc;

use image::Heritage;
use image::kept::Extent;
use image::outline::{LASTING, Room};
use image::state::Checkpoint;
use nix::libc;
use pages::{PageCount, PageSet, SpaceId, TaskId};

use super::fresh::{Fresh, WORTHWHILE};
use super::grow::unmap;
use super::lazy::drop_pages;
use super::memfds::Memfds;
use super::process::{Batch, Process};
use super::sink::{Place, Sink};
use super::{Built, Grown, Roaming, living, task};
use crate::error::{Error, Result};
use crate::skeleton::{BuildOptions, Ground, Skeleton};

/// It stands alone and can be filled.
pub struct Trunk {
    ground: Ground,
    /// What the tree is.
    checkpoint: Checkpoint,
    heritage: Heritage,
    fresh: Option<Arc<Fresh>>,
}

impl Trunk {
    /// Makes the first process of `checkpoint`, with room for `heritage`, which was checked against it.
    pub fn plant(
        checkpoint: Checkpoint,
        heritage: Heritage,
        options: BuildOptions,
    ) -> Result<Self> {
        Self::plant_for(checkpoint, heritage, options, false)
    }

    /// The same for a tree that still runs elsewhere.
    pub fn plant_growing(
        checkpoint: Checkpoint,
        heritage: Heritage,
        options: BuildOptions,
    ) -> Result<Self> {
        Self::plant_for(checkpoint, heritage, options, true)
    }

    fn plant_for(
        checkpoint: Checkpoint,
        heritage: Heritage,
        options: BuildOptions,
        growing: bool,
    ) -> Result<Self> {
        let mut ground = Ground::lay(&checkpoint, options, growing)?;
        let process = ground.first(checkpoint.root().id)?;
        let mut batch = Batch::default();
        for room in &heritage.rooms {
            let (start, size) = (room.range.start_addr().0, room.range.bytes().0);
            let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            let flags = how.cast_unsigned() | (room.flags & LASTING).bits();
            let prot = (libc::PROT_READ | libc::PROT_WRITE).cast_unsigned();
            let args = [start, size, prot.into(), flags.into(), u64::MAX, 0];
            batch.must("make room for common memory", libc::SYS_mmap, &args);
        }
        process.run(0, batch)?;
        let rooms = heritage.rooms.iter().map(|room| room.range);
        let fresh = (heritage.pages.count() >= WORTHWHILE).then(|| Fresh::over(process, rooms));
        let fresh = fresh.transpose().unwrap_or_else(|error| {
            tracing::debug!(%error, "common memory is not filled by userfaultfd");
            None
        });
        Ok(Self { ground, checkpoint, heritage, fresh: fresh.flatten().map(Arc::new) })
    }

    /// How many pages come, and as whose.
    pub fn due(&self) -> (SpaceId, PageCount) {
        (SpaceId::Process(self.checkpoint.root().id), self.heritage.pages.count())
    }

    /// Where to write them; for any thread.
    pub fn sink(&mut self) -> Result<Sink> {
        let (space, _) = self.due();
        let own = self.rooms();
        let host = self.ground.first(self.checkpoint.root().id)?.host;
        let fresh = self.fresh.clone();
        let place = Place::Process { host, own, kernels: PageSet::new(), fresh };
        place.open(space, &Memfds::default())
    }

    /// As [`Built::roam`].
    pub(crate) fn roam(&self) -> Result<Roaming> {
        Roaming::begin(self.ground.tree())
    }

    fn rooms(&self) -> PageSet {
        self.heritage.rooms.iter().map(|room| room.range).collect()
    }

    /// All its pages have come: the tree grows out of it, and is built.
    pub fn into_built(self) -> Result<(Built, Checkpoint)> {
        let (skeleton, checkpoint, kept) = self.branch()?;
        let kept = kept
            .into_iter()
            .map(|(id, rooms)| (id, rooms.into_iter().map(|room| room.range).collect()));
        let built = skeleton.build_around(&checkpoint, &kept.collect(), Memfds::default())?;
        Ok((built, checkpoint))
    }

    /// The same, to be filled while the program still runs.
    pub fn into_grown(self, extent: Extent) -> Result<(Grown, Checkpoint)> {
        let (skeleton, checkpoint, kept) = self.branch()?;
        Ok((skeleton.grow_around(kept, extent), checkpoint))
    }

    /// The tree, and where each process keeps what it was born with.
    fn branch(self) -> Result<(Skeleton, Checkpoint, HashMap<TaskId, Vec<Room>>)> {
        let rooms = self.rooms();
        let Self { ground, checkpoint, heritage, fresh } = self;
        if let Some(fresh) = fresh {
            fresh.settle()?;
        }
        let mut skeleton = ground.grow_up(&checkpoint)?;
        if let Some(init) = &mut skeleton.tree.init {
            give_up(init, &rooms, &PageSet::new())?;
        }
        let mut all = HashMap::new();
        for (living, id) in living(&checkpoint) {
            let rooms_kept = heritage.kept_rooms(id, &living.mm);
            let kept: PageSet = rooms_kept.iter().map(|room| room.range).collect();
            let mut gone = rooms.clone();
            gone.remove_all(&kept);
            let mut others = heritage.pages.intersect(&kept);
            if let Some(own) = heritage.heirs.get(&id) {
                others.remove_all(own);
            }
            give_up(task(&mut skeleton.tree, id.0)?, &gone, &others)?;
            all.insert(id, rooms_kept);
        }
        Ok((skeleton, checkpoint, all))
    }
}

/// Takes memory away from a process, and empties other memory.
fn give_up(process: &mut Process, memory: &PageSet, pages: &PageSet) -> Result<(), Error> {
    let mut batch = Batch::default();
    unmap(&mut batch, memory);
    drop_pages(&mut batch, pages);
    process.run(0, batch)?;
    Ok(())
}
