//! A plain restore: from a directory of images, ours or CRIU's.

use std::path::Path;

use bytes::Bytes;
use image::state::Checkpoint;
use image::{ImageSet, Limits, PagesReader};
use pages::{PageCount, SpaceId};
use transport::encode;
use transport::event::{Event, Watch};
use transport::wire::SpaceTotal;

use crate::build::Running;
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
    let (door, fill) = Fill::start(&spaces, sinks(&built, &spaces)?);
    for space in &spaces {
        let mut reader = PagesReader::open(directory, space.space)?;
        loop {
            let mut buffer = vec![0; PIECE];
            let Some(range) = reader.next(&mut buffer)? else { break };
            buffer.truncate(usize::try_from(range.bytes().0).expect("no longer than the buffer"));
            let runs = encode::runs(space.space, range, Bytes::from(buffer));
            for (run, bytes) in runs {
                if !door.give_blocking(run, bytes) {
                    break; // the fill itself says why
                }
            }
        }
    }
    drop(door);
    fill.finished_blocking()?;
    Ok(built.finish(&checkpoint)?.run()?)
}

/// How many pages the pagemaps of every space tell of.
fn announced(directory: &Path, checkpoint: &Checkpoint) -> Result<Vec<SpaceTotal>, Cause> {
    let living = checkpoint.tasks.iter().filter(|task| task.living().is_some());
    let processes = living.map(|task| SpaceId::Process(task.id));
    let shared = checkpoint.shared.iter().map(|object| SpaceId::Shared(object.id));
    let count = |space| {
        let sent = PagesReader::count(directory, space)?;
        Ok(SpaceTotal { space, sent, owed: PageCount(0) })
    };
    processes.chain(shared).map(count).collect()
}
