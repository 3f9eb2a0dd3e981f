//! A tree that is filled while the program still runs elsewhere.
//!
//! ```text
//! Skeleton ── grow ──▶ Grown ── (rounds: make room, pages arrive) ── complete ──▶ Built
//! ```
//!
//! Each process gets private anonymous memory where the program has it at that moment, and pages are
//! written straight into it: the newest wins, there is no second copy. Memory the program has given
//! up in between is taken away again. When the program stands still, what it has by then is laid
//! around what is there already, so that only what changed last is still to come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use image::kept::{Extent, beside, kept, kept_in};
use image::outline::{LASTING, Room};
use image::state::{Checkpoint, Vma, VmaKind};
use nix::libc;
use pages::{PageCount, PageIndex, PageRange, PageSet, SharedId, SpaceId, TaskId};
use tracee::proc::maps::{self, Mapping};
use tracee::{Memory, Pagemap, Wanted};

use super::aside::Aside;
use super::files::View;
use super::layout::Hole;
use super::lazy::drop_pages;
use super::memfds::Memfds;
use super::mm::{map_anew, remap};
use super::process::{Batch, Process};
use super::sink::{Place, Sink};
use super::{Built, Roaming, living, task};
use crate::error::{BadCheckpoint, Error, Result};
use crate::skeleton::{Skeleton, channel_number};

/// A tree with memory and nothing else.
pub struct Grown {
    skeleton: Skeleton,
    extent: Extent,
    room: HashMap<TaskId, Vec<Room>>,
    /// Where private mappings of files are, and what came of their pages.
    files: HashMap<TaskId, (PageSet, Arc<Aside>)>,
    objects: Memfds,
}

impl Skeleton {
    /// Begins to be filled before the program stands still, with what takes part in that.
    pub fn grow(self, extent: Extent) -> Grown {
        self.grow_around(HashMap::new(), extent)
    }

    /// The same where processes have private anonymous memory already.
    pub(super) fn grow_around(self, room: HashMap<TaskId, Vec<Room>>, extent: Extent) -> Grown {
        let (files, objects) = (HashMap::new(), Memfds::default());
        Grown { skeleton: self, extent, room, files, objects }
    }
}

impl Grown {
    /// Makes room in a process where the program has memory now, and takes away what it has given
    /// up. The program has files mapped at `beside`.
    pub fn make_room(&mut self, id: TaskId, now: &[Room], beside: &PageSet) -> Result<()> {
        let had = self.room.remove(&id).unwrap_or_default();
        let hole = self.skeleton.hole;
        if now.iter().any(|room| hole.touches(room.range)) {
            return Err(Error::Outgrown { what: "uses addresses that qmig needs here" });
        }
        let process = task(&mut self.skeleton.tree, id.0)?;
        change(process, &had, now)?;
        self.room.insert(id, now.to_vec());
        match self.files.get_mut(&id) {
            Some((places, _)) => places.clone_from(beside),
            None => {
                self.files.insert(id, (beside.clone(), Arc::new(Aside::new()?)));
            }
        }
        Ok(())
    }

    /// Takes away what has come of these pages. Nothing else is there yet that could have some.
    pub fn forget(&mut self, id: TaskId, stale: &PageSet) -> Result<()> {
        let room: PageSet =
            self.room.get(&id).into_iter().flatten().map(|room| room.range).collect();
        let mut batch = Batch::default();
        drop_pages(&mut batch, &stale.intersect(&room));
        task(&mut self.skeleton.tree, id.0)?.run(0, batch)?;
        Ok(())
    }

    /// Makes an object of shared memory or a file of those the tree was made for, unless it is there.
    pub fn make_object(&mut self, id: SharedId, from: &Checkpoint) -> Result<()> {
        if self.objects.has(id) {
            return Ok(());
        }
        let pidns = self.skeleton.options.pidns;
        let maker = task(&mut self.skeleton.tree, from.root().id.0)?;
        self.objects.make_of(id, (from, &View::of(maker, pidns)), maker)
    }

    /// Where to write the pages of a process or object; for any thread, until room is made again.
    pub fn sink(&self, space: SpaceId) -> Result<Sink> {
        let SpaceId::Process(id) = space else {
            return Place::Shared.open(space, &self.objects);
        };
        let process = self.skeleton.tree.tasks.get(&id.0).ok_or(BadCheckpoint::NoLeader(id))?;
        let room = self.room.get(&id).map_or(&[][..], Vec::as_slice);
        let room = room.iter().map(|room| room.range).collect();
        let (beside, aside) = self.files.get(&id).ok_or(BadCheckpoint::NoLeader(id))?;
        let (beside, aside) = (beside.clone(), Arc::clone(aside));
        let place = Place::Growing { host: process.host, room, beside, aside };
        place.open(space, &Memfds::default())
    }

    /// When the clocks of the tree showed what it was made for, or a moment later.
    pub(crate) fn clocks_set(&self) -> Instant {
        self.skeleton.clocks_set
    }

    /// As [`Built::roam`], while no room is made.
    pub fn roam(&self) -> Result<Roaming> {
        Roaming::begin(&self.skeleton.tree)
    }

    /// The program stands still, and this is what it is. It must be the tree this was made for
    /// ([`Checkpoint::same_tree`]).
    pub fn complete(mut self, from: &Checkpoint) -> Result<Built> {
        if channel_number(from)? > self.skeleton.channel.number() {
            return Err(Error::Outgrown { what: "has opened too many files meanwhile" });
        }
        let mut all = HashMap::new();
        for (living, id) in living(from) {
            let hole = self.skeleton.hole;
            if living.mm.vmas.iter().any(|vma| hole.touches(vma.range)) {
                return Err(Error::Outgrown { what: "uses addresses that qmig needs here" });
            }
            let had = self.room.remove(&id).unwrap_or_default();
            let kept = kept(&had, &living.mm, &from.shared, self.extent);
            let mut gone: PageSet = had.iter().map(|room| room.range).collect();
            gone.remove_all(&kept);
            let mut batch = Batch::default();
            unmap(&mut batch, &gone);
            task(&mut self.skeleton.tree, id.0)?.run(0, batch)?;
            all.insert(id, kept);
        }
        let hole = self.skeleton.hole;
        let mut built = self.skeleton.build_around(from, &all, self.objects)?;
        built.join_pieces(from, &hole)?;
        for (living, id) in living(from) {
            if let Some((_, aside)) = self.files.remove(&id) {
                let process = task(&mut built.tree, id.0)?;
                aside.settle(&beside(&living.mm), &Memory::open(process.host)?)?;
            }
        }
        Ok(built)
    }
}

impl Built {
    /// Sees to it that anonymous mappings are in one piece each. Mostly the kernel has joined what was
    /// made late to what was made early; but not two early pieces that both have pages already, with
    /// something new between. The program could not move such a mapping by one mremap(2).
    fn join_pieces(&mut self, from: &Checkpoint, hole: &Hole) -> Result<()> {
        for (living, id) in living(from) {
            let process = task(&mut self.tree, id.0)?;
            let all: Vec<PageRange> =
                maps::read(process.host)?.iter().filter_map(Mapping::range).collect();
            for vma in living.mm.vmas.iter().filter(|vma| vma.kind == VmaKind::Anon) {
                let within = |piece: &&PageRange| vma.range.covers(**piece);
                let pieces: Vec<PageRange> = all.iter().filter(within).copied().collect();
                if pieces.len() > 1 {
                    join(process, vma, &pieces, hole)?;
                }
            }
        }
        Ok(())
    }
}

/// Moves the pieces away, makes the mapping anew, and copies what they hold.
fn join(process: &mut Process, vma: &Vma, pieces: &[PageRange], hole: &Hole) -> Result<()> {
    /// Pages copied at once.
    const AT_ONCE: PageCount = PageCount(256);
    let outgrown = || Error::Outgrown { what: "has changed its memory too much" };
    let aside = hole.aside(vma.range.count()).ok_or_else(outgrown)?;
    let moved = |range: PageRange, from: PageRange, to: PageRange| {
        let start = PageIndex(range.start().0 - from.start().0 + to.start().0);
        PageRange::new(start, range.count()).ok_or_else(outgrown)
    };
    let mut batch = Batch::default();
    for piece in pieces {
        let to = moved(*piece, vma.range, aside)?;
        batch.must("move memory aside", libc::SYS_mremap, &remap(*piece, to));
    }
    map_anew(&mut batch, vma);
    process.run(0, batch)?;
    let content = Pagemap::open(process.host)?.scan(aside, Wanted::AnonContent)?;
    let memory = Memory::open(process.host)?;
    for piece in content.ranges().iter().flat_map(|range| range.pieces(AT_ONCE)) {
        let mut bytes = vec![0; usize::try_from(piece.bytes().0).unwrap_or(0)];
        memory.read(piece.start_addr(), &mut bytes)?;
        memory.write(moved(piece, aside, vma.range)?.start_addr(), &bytes)?;
    }
    let mut batch = Batch::default();
    unmap(&mut batch, &[aside].into_iter().collect());
    process.run(0, batch)?;
    Ok(())
}

/// What has other lasting flags is another thing at the same place.
fn change(process: &mut Process, had: &[Room], now: &[Room]) -> Result<()> {
    let mut batch = Batch::default();
    let stays = kept_in(had, now.iter().copied());
    let mut gone: PageSet = had.iter().map(|room| room.range).collect();
    gone.remove_all(&stays);
    unmap(&mut batch, &gone);
    for room in now {
        let prot = u64::from(room.prot & 7);
        let mut missing: PageSet = [room.range].into_iter().collect();
        let there = missing.intersect(&stays);
        missing.remove_all(&there);
        for range in there.ranges().iter().filter(|range| !had_prot(had, **range, room.prot)) {
            let args = [range.start_addr().0, range.bytes().0, prot];
            batch.must("protect its memory", libc::SYS_mprotect, &args);
        }
        let private =
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE).cast_unsigned();
        let flags = u64::from(private | (room.flags & LASTING).bits());
        for range in missing.ranges() {
            let args = [range.start_addr().0, range.bytes().0, prot, flags, u64::MAX, 0];
            batch.must("make room for its memory", libc::SYS_mmap, &args);
        }
    }
    process.run(0, batch)?;
    Ok(())
}

/// True if all of `range` had this protection.
fn had_prot(had: &[Room], range: PageRange, prot: u32) -> bool {
    let after = had.partition_point(|room| room.range.end() <= range.start());
    had.get(after).is_some_and(|room| room.range.covers(range) && room.prot == prot)
}

pub(super) fn unmap(batch: &mut Batch, pages: &PageSet) {
    for range in pages.ranges() {
        let args = [range.start_addr().0, range.bytes().0];
        batch.must("take memory away", libc::SYS_munmap, &args);
    }
}
