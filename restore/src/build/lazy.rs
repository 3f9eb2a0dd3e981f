//! Address spaces whose pages come after the tree: each gets a userfaultfd of its own.
//!
//! Only when the pages that could not wait are in place, because whoever wrote a page of a watched
//! mapping by other means would wait for itself ([`tracee::uffd`]).
//!
//! What a round has brought and is owed again must be missing, so it is taken away before: only that,
//! because all else that rounds have brought is good. Most of it has gone already, by what the last round
//! told to be stale, while the program still ran elsewhere.

use std::collections::HashMap;
use std::os::fd::AsFd as _;

use image::state::{Checkpoint, VmaFlags, VmaKind};
use nix::libc;
use pages::{PageSet, SpaceId};
use tracee::uffd::{Faults, Features, Mode, Uffd};
use tracee::{Keeper, Pagemap, Wanted};

use super::process::{Batch, Process};
use super::{Built, living, task};
use crate::error::{BadCheckpoint, Error, Result};
use crate::faults::Opening;

impl Built {
    /// Makes the address spaces of `owed` wait for those pages. The keeper knows every process of the
    /// tree from now on.
    ///
    /// `from` is the checkpoint the tree was built from.
    pub(crate) fn wait_for(
        &mut self,
        owed: &HashMap<SpaceId, PageSet>,
        from: &Checkpoint,
        keeper: &Keeper,
    ) -> Result<Vec<Opening>> {
        self.settle()?;
        let mut openings = Vec::new();
        let mut processes = Vec::new();
        for (living, id) in living(from) {
            let process = task(&mut self.tree, id.0)?;
            processes.push(tracee::host::pidfd_open(process.host)?);
            let origin = SpaceId::Process(id);
            let Some(owed) = owed.get(&origin) else { continue };
            let waitable =
                living.mm.vmas.iter().filter(|vma| {
                    vma.kind == VmaKind::Anon && !vma.flags.contains(VmaFlags::LOCKED)
                });
            let watched: PageSet = waitable
                .map(|vma| vma.range)
                .filter(|range| {
                    let after = owed.ranges().partition_point(|have| have.end() <= range.start());
                    owed.ranges().get(after).is_some_and(|have| have.start() < range.end())
                })
                .collect();
            if let Some(outside) = first_outside(owed, &watched) {
                return Err(Error::OutsideSpace { space: origin, range: outside });
            }
            drop_old(process, owed, &watched)?;
            let gate = process.gate;
            let leader = process.threads.first_mut().ok_or(BadCheckpoint::NoLeader(id))?;
            let uffd = Uffd::create_in(leader, gate, Faults::All, Features::LAZY)?;
            for range in watched.ranges() {
                uffd.register(*range, Mode::MISSING)?;
            }
            openings.push(Opening { origin, uffd, owed: owed.clone() });
        }
        let uffds: Vec<&Uffd> = openings.iter().map(|opening| &opening.uffd).collect();
        let processes: Vec<_> = processes.iter().map(|process| process.as_fd()).collect();
        keeper.hold(&uffds, &processes)?;
        Ok(openings)
    }
}

/// Takes away what a process has of the pages it is owed.
fn drop_old(process: &mut Process, owed: &PageSet, watched: &PageSet) -> Result<()> {
    let pagemap = Pagemap::open(process.host)?;
    let mut there = PageSet::new();
    for range in watched.ranges() {
        there.add_all(&pagemap.scan(*range, Wanted::Present)?);
    }
    let mut batch = Batch::default();
    drop_pages(&mut batch, &there.intersect(owed));
    process.run(0, batch)?;
    Ok(())
}

/// Makes memory empty that is there.
pub(super) fn drop_pages(batch: &mut Batch, pages: &PageSet) {
    for range in pages.ranges() {
        let args =
            [range.start_addr().0, range.bytes().0, u64::from(libc::MADV_DONTNEED.cast_unsigned())];
        batch.must("take away what is old", libc::SYS_madvise, &args);
    }
}

/// The first run of `pages` that is not wholly within `allowed`.
fn first_outside(pages: &PageSet, allowed: &PageSet) -> Option<pages::PageRange> {
    let within = |range: &&pages::PageRange| {
        let after = allowed.ranges().partition_point(|have| have.end() <= range.start());
        allowed.ranges().get(after).is_some_and(|have| have.covers(**range))
    };
    pages.ranges().iter().find(|range| !within(range)).copied()
}
