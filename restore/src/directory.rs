//! A plain restore: from a directory of images, ours or CRIU's.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use image::state::{Checkpoint, Task, VmaKind};
use image::{ImageSet, Limits, PagesReader};
use pages::{PAGE_SIZE, PageCount, PageRange, SpaceId};
use transport::encode;
use transport::event::{Event, Watch};
use transport::wire::SpaceTotal;

use crate::build::Running;
use crate::check;
use crate::destination::sinks;
use crate::failure::{Cause, Failure};
use crate::fill::Fill;
use crate::offspring::Offspring;
use crate::skeleton::{BuildOptions, Skeleton};

/// Bytes read in one go.
const PIECE: usize = 1 << 20;

/// Runs the tree of a checkpoint here.
pub fn restore_from(
    directory: &Path,
    options: BuildOptions,
    watch: &mut dyn Watch,
) -> Result<Offspring, Failure> {
    let running = build(directory, options).map_err(Failure::refused)?;
    watch.event(Event::Running { pid: running.root.0 });
    Ok(Offspring::from(running))
}

fn build(directory: &Path, options: BuildOptions) -> Result<Running, Cause> {
    let images = ImageSet::from_directory(directory, Limits::default())?;
    let checkpoint = Checkpoint::from_images(&images)?;
    let built = Skeleton::create(&checkpoint, options)?.build(&checkpoint)?;
    let spaces = announced(directory, &checkpoint)?;
    let roaming = built.roam()?;
    let vdsos = Vdsos::of(&checkpoint);
    let (door, fill) = Fill::start(&spaces, sinks(|space| built.sink(space), &spaces)?);
    for space in &spaces {
        let mut reader = PagesReader::open(directory, space.space)?;
        loop {
            let mut buffer = vec![0; PIECE];
            let Some(range) = reader.next(&mut buffer)? else { break };
            buffer.truncate(usize::try_from(range.bytes().0).expect("no longer than the buffer"));
            if !vdsos.agree(space.space, range, &buffer) {
                return Err(Cause::OtherVdso);
            }
            let runs = encode::runs(space.space, range, Bytes::from(buffer));
            if !door.give_blocking(runs.collect()) {
                break; // the fill itself says why
            }
        }
    }
    drop(door);
    fill.finished_blocking()?;
    drop(roaming);
    Ok(built.finish(&checkpoint)?.run()?)
}

/// The images tell the vdso of the kernel they were made on only by its pages: they are compared as
/// they come by. A live migration compares before anything is stopped.
struct Vdsos {
    ours: Vec<u8>,
    theirs: HashMap<SpaceId, PageRange>,
}

impl Vdsos {
    fn of(checkpoint: &Checkpoint) -> Self {
        let range_of = |task: &Task| {
            let vmas = &task.living()?.mm.vmas;
            let vdso = vmas.iter().find(|vma| vma.kind == VmaKind::Vdso)?;
            Some((SpaceId::Process(task.id), vdso.range))
        };
        let theirs = checkpoint.tasks.iter().filter_map(range_of).collect();
        Self { ours: check::vdso::bytes().unwrap_or_default(), theirs }
    }

    /// True unless some of these pages are of a vdso, and another one than ours.
    fn agree(&self, space: SpaceId, pages: PageRange, bytes: &[u8]) -> bool {
        let both = self.theirs.get(&space).and_then(|vdso| Some((*vdso, vdso.intersect(pages)?)));
        let Some((vdso, both)) = both else { return true };
        let part = |whole: PageRange| {
            let skipped = (both.start().0 - whole.start().0) * PAGE_SIZE as u64;
            let start = usize::try_from(skipped).unwrap_or(usize::MAX);
            start..start.saturating_add(usize::try_from(both.bytes().0).unwrap_or(usize::MAX))
        };
        self.ours.get(part(vdso)).is_some_and(|ours| bytes.get(part(pages)) == Some(ours))
    }
}

/// How many pages the pagemaps of every space tell of.
fn announced(directory: &Path, checkpoint: &Checkpoint) -> Result<Vec<SpaceTotal>, Cause> {
    let living = checkpoint.tasks.iter().filter(|task| task.living().is_some());
    let processes = living.map(|task| SpaceId::Process(task.id));
    let shared = checkpoint.shared.iter().map(|object| object.id);
    let files = checkpoint.ghosts.iter().filter_map(|ghost| ghost.paged);
    let shared = shared.chain(files).map(SpaceId::Shared);
    let count = |space| {
        let sent = PagesReader::count(directory, space)?;
        Ok(SpaceTotal { space, sent, owed: PageCount(0) })
    };
    processes.chain(shared).map(count).collect()
}

#[cfg(test)]
mod tests {
    use pages::{PageIndex, TaskId};

    use super::*;

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
    }

    #[test]
    fn the_vdso_is_compared_wherever_a_run_cuts_it() {
        let space = SpaceId::Process(TaskId(7));
        let ours: Vec<u8> = (0..=250).cycle().take(2 * PAGE_SIZE).collect();
        let vdsos = Vdsos { ours: ours.clone(), theirs: [(space, range(100, 2))].into() };
        let (first, second) = ours.split_at(PAGE_SIZE);
        assert!(vdsos.agree(space, range(100, 2), &ours));
        assert!(vdsos.agree(space, range(101, 1), second));
        assert!(vdsos.agree(space, range(99, 2), &[&vec![9; PAGE_SIZE][..], first].concat()));
        assert!(vdsos.agree(space, range(50, 1), &vec![1; PAGE_SIZE]));
        assert!(!vdsos.agree(space, range(101, 1), first));
        assert!(vdsos.agree(SpaceId::Process(TaskId(8)), range(101, 1), first));
    }
}
