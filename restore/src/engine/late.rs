//! Pages that go straight into a tree that CRIU has built.
//!
//! CRIU itself reads only what its images must have; all other pages come after those, when it has built
//! the tree, and are put where they are missing by userfaultfd(2). So no page is in memory twice, and
//! CRIU works while pages arrive. Whatever never comes is zero once nobody watches any more, and that
//! is before the tree may run.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use criu::Restored;
use image::{ImageSet, pagemap};
use nix::errno::Errno;
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet, SpaceId, TaskId};
use tokio::sync::oneshot;
use tracee::Keeper;
use tracee::uffd::{Copied, Uffd};
use transport::wire::SpaceTotal;

use super::stock::{Awaited, Gathering, Put, Waiting, living};
use super::{PagesImage, Ready, Shell, Step};
use crate::build::{Roaming, Sink};
use crate::failure::Cause;
use crate::faults::Faults;

/// A tree that CRIU builds when the first page comes that can wait for that. Its clones are the same.
#[derive(Clone)]
pub(crate) struct Tree(Arc<Mutex<Stage>>);

enum Stage {
    /// What CRIU reads is still coming.
    Gathering(Box<Gathering>, HashMap<SpaceId, PageSet>),
    Built(Box<Built>),
    /// It has been taken, or could not be built, and why.
    Over(Option<Cause>),
}

/// A tree whose missing pages are waited for.
struct Built {
    restored: Restored,
    put: Put,
    uffds: HashMap<SpaceId, Uffd>,
}

/// The pages of one address space of such a tree.
pub(crate) struct Late {
    space: SpaceId,
    image: PagesImage,
    tree: Tree,
    /// Those that come late, each run within one mapping.
    runs: Vec<PageRange>,
}

impl Tree {
    /// Its pages of `late` come after all others.
    pub(super) fn new(gathering: Gathering, late: HashMap<SpaceId, PageSet>) -> Self {
        Self(Arc::new(Mutex::new(Stage::Gathering(Box::new(gathering), late))))
    }

    /// Has CRIU build it, unless it has, and lets nobody watch its memory any more.
    pub(super) fn finish(&self) -> Result<(Restored, Put), Cause> {
        let mut stage = self.built()?;
        match std::mem::replace(&mut *stage, Stage::Over(None)) {
            Stage::Built(built) => Ok((built.restored, built.put)),
            _ => Err(Cause::NotEntrusted("its tree is gone")),
        }
    }

    /// Why it could not be built, if pages could not be put into it for that.
    pub(super) fn failure(&self) -> Option<Cause> {
        match &mut *self.stage() {
            Stage::Over(cause) => cause.take(),
            _ => None,
        }
    }

    /// Ends what there is of it, and waits for CRIU if it is at work.
    pub(super) fn end(&self) {
        drop(std::mem::replace(&mut *self.stage(), Stage::Over(None)));
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn built(&self) -> Result<MutexGuard<'_, Stage>, Cause> {
        let mut stage = self.stage();
        *stage = match std::mem::replace(&mut *stage, Stage::Over(None)) {
            Stage::Gathering(gathering, late) => build(*gathering, &late)?,
            other => other,
        };
        Ok(stage)
    }
}

/// Has CRIU build it.
fn build(gathering: Gathering, late: &HashMap<SpaceId, PageSet>) -> Result<Stage, Cause> {
    let living = gathering.living()?;
    let (mut restored, put) = gathering.restore(Some(living), late)?;
    let lazy = restored.take_lazy().into_iter();
    let uffds =
        lazy.map(|process| (SpaceId::Process(TaskId(process.pid)), Uffd::adopt(process.uffd)));
    let uffds = uffds.collect();
    Ok(Stage::Built(Box::new(Built { restored, put, uffds })))
}

/// Which pages of each process come after all others, if the source says so.
pub(super) fn of(images: &ImageSet, spaces: &[SpaceTotal]) -> Option<HashMap<SpaceId, PageSet>> {
    if spaces.iter().any(|space| space.owed.0 > 0) || image::tasks_of(images).is_err() {
        return None;
    }
    let of = |space: &SpaceTotal| {
        let name = pagemap::image_name(space.space);
        Some((space.space, pagemap::owed(&name, images.get(&name)?).ok()?))
    };
    let late: HashMap<_, _> = spaces.iter().filter_map(of).collect();
    Some(late).filter(|late| !late.is_empty())
}

/// CRIU builds the tree while pages arrive. Dropped, it has ended what it had built.
pub(super) struct Early {
    tree: Tree,
    sinks: HashMap<SpaceId, RefCell<Option<Sink>>>,
}

impl Early {
    pub(super) fn new(gathering: Gathering, late: HashMap<SpaceId, PageSet>) -> Self {
        let images: Vec<_> =
            gathering.into.iter().map(|(space, (_, image))| (*space, image.clone())).collect();
        let tasks = image::tasks_of(&gathering.images).unwrap_or_default();
        let tree = Tree::new(gathering, late.clone());
        let sink = |(space, image): (SpaceId, PagesImage)| {
            let task = living(&tasks).find(|(_, id)| SpaceId::Process(*id) == space);
            let sink = match (task, late.get(&space)) {
                (Some((living, _)), Some(late)) => {
                    let mappings = living.mm.vmas.iter().map(|vma| vma.range);
                    Sink::of_late(space, Late::new(space, image, tree.clone(), late, mappings))
                }
                _ => Sink::of_image(space, image),
            };
            (space, RefCell::new(Some(sink)))
        };
        let sinks = images.into_iter().map(sink).collect();
        Self { tree, sinks }
    }
}

impl Shell for Early {
    fn roam(&self) -> crate::Result<Option<Roaming>> {
        Ok(None)
    }

    fn sink(&self, space: SpaceId) -> crate::Result<Sink> {
        let sink = self.sinks.get(&space).and_then(|sink| sink.take());
        sink.ok_or_else(|| crate::build::unknown(space))
    }

    fn failure(&self) -> Option<Cause> {
        self.tree.failure()
    }

    fn finish(
        self: Box<Self>,
        _: HashMap<SpaceId, PageSet>,
        _: Option<Keeper>,
    ) -> Step<(Ready, Option<Faults>)> {
        Box::pin(async move {
            let (tell, told) = oneshot::channel();
            let tree = self.tree.clone();
            let thread = std::thread::spawn(move || drop(tell.send(tree.finish())));
            let awaited = Awaited { cancel: None, thread: Some(thread) };
            let (restored, put) = told.await.expect("it always tells")?;
            drop(awaited);
            let ready: Ready = Box::new(Waiting { restored, put });
            Ok((ready, None))
        })
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        self.tree.end();
    }
}

impl Late {
    pub(super) fn new(
        space: SpaceId,
        image: PagesImage,
        tree: Tree,
        late: &PageSet,
        mappings: impl Iterator<Item = PageRange>,
    ) -> Self {
        let of = |mapping| late.intersect(&PageSet::from_iter([mapping])).ranges().to_vec();
        let mut runs: Vec<_> = mappings.flat_map(of).collect();
        runs.sort_by_key(|run| run.start());
        Self { space, image, tree, runs }
    }

    /// Writes pages, or zeros.
    pub(crate) fn write(&self, range: PageRange, content: Option<&[u8]>) -> io::Result<()> {
        let mut done = PageCount(0);
        while done < range.count() {
            let (part, late) = range.part(done, &self.runs);
            let bytes = content.map(|content| slice(content, done, part.count()));
            done = done + part.count();
            match (late, bytes) {
                (false, Some(bytes)) => self.image.write(part, bytes)?,
                (false, None) => self.image.zero(part)?,
                (true, Some(bytes)) => self.install(part, bytes)?,
                // What is missing when nobody watches any more is zero.
                (true, None) => {}
            }
        }
        Ok(())
    }

    fn install(&self, range: PageRange, bytes: &[u8]) -> io::Result<()> {
        let stage = match self.tree.built() {
            Ok(stage) => stage,
            Err(cause) => {
                *self.tree.stage() = Stage::Over(Some(cause));
                return Err(Errno::ECANCELED.into());
            }
        };
        let Stage::Built(built) = &*stage else { return Err(Errno::ECANCELED.into()) };
        let uffd = built.uffds.get(&self.space).ok_or(Errno::ESRCH)?;
        let mut done = PageCount(0);
        while done < range.count() {
            let start = PageIndex(range.start().0 + done.0);
            let left = PageCount(range.count().0 - done.0);
            let part = PageRange::new(start, left).expect("a part of a range is one");
            match uffd.copy(part, slice(bytes, done, left)).map_err(io::Error::other)? {
                Copied::Installed => return Ok(()),
                Copied::Again(some) if some.0 > 0 => done = done + some,
                Copied::AlreadyThere => return Err(Errno::EEXIST.into()),
                Copied::Again(_) | Copied::NotMapped => return Err(Errno::ENOENT.into()),
                Copied::TaskGone => return Err(Errno::ESRCH.into()),
            }
        }
        Ok(())
    }
}

fn slice(content: &[u8], from: PageCount, count: PageCount) -> &[u8] {
    let [from, len] = [from, count].map(|pages| usize::try_from(pages.0).unwrap_or(0) * PAGE_SIZE);
    &content[from..from + len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_goes_into_the_tree_and_all_else_into_the_image() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = PagesImage::create(folder.path(), 1).expect("an image");
        let tree = Tree(Arc::new(Mutex::new(Stage::Over(Some(Cause::Interrupted)))));
        let range =
            |start, count| PageRange::new(PageIndex(start), PageCount(count)).expect("a range");
        let space = SpaceId::Process(TaskId(7));
        // Two mappings that touch, and one beside.
        let late = PageSet::from_iter([range(10, 4), range(20, 1)]);
        let mappings = [range(8, 4), range(12, 4), range(20, 9)];
        let late = Late::new(space, image.clone(), tree, &late, mappings.into_iter());
        assert_eq!(late.runs, [range(10, 2), range(12, 2), range(20, 1)]);

        let pages = |count| vec![1; count * PAGE_SIZE];
        late.write(range(8, 2), Some(&pages(2))).expect("before them");
        late.write(range(9, 3), None).expect("zeros");
        late.write(range(14, 6), Some(&pages(6))).expect("between them");
        let error = late.write(range(19, 2), Some(&pages(2))).expect_err("there is no tree");
        assert_eq!(error.raw_os_error(), Some(Errno::ECANCELED as i32));
        assert!(matches!(late.tree.failure(), Some(Cause::Interrupted)));
        assert!(late.tree.failure().is_none());
        image.finish(folder.path(), space, 1, &PageSet::new()).expect("finished");
        let length = std::fs::metadata(folder.path().join("pages-1.img")).expect("there").len();
        assert_eq!(length, 8 * PAGE_SIZE as u64);
    }
}
