//! The state of real programs, read while they are held; afterwards they go on as if nothing had
//! been.

#[path = "../harness/mod.rs"]
mod harness;
mod programs;
mod rich;
mod sizes;
mod waits;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use checkpoint::collect::{
    Clockwork, CollectOptions, Collected, MemoryLook, Moment, SpacePages, collect,
};
use checkpoint::survey::{SurveyOptions, survey};
use harness::OPTIONS;
use image::NamespaceIds;
use image::state::{Checkpoint, File, Living, Task};
use pages::SpaceId;
use tracee::host::{Urgency, stay_on_this_cpu};
use tracee::{Held, HostPid};

/// Surveys, freezes, collects, resumes; tells how long collecting took.
pub(crate) fn collected(pid: HostPid) -> (Collected, Moment, Duration) {
    collected_with(pid, &OPTIONS)
}

pub(crate) fn collected_with(
    pid: HostPid,
    allowed: &SurveyOptions,
) -> (Collected, Moment, Duration) {
    let plan = survey(pid, allowed).expect("nothing to refuse");
    let _here = stay_on_this_cpu().expect("pinned");
    let _urgent = Urgency::raise();
    let clockwork = Clockwork::sample(pid);
    let mut held = Held::freeze(pid, Duration::from_secs(10)).expect("freeze");
    let frozen = Moment::now();
    let options = CollectOptions {
        tcp: allowed.tcp,
        ghost_limit: allowed.ghost_limit,
        clockwork: &clockwork,
        frozen,
        memory: MemoryLook::Content,
        paged: false,
    };
    let begun = Instant::now();
    let collected = collect(&mut held, &plan, &options);
    let took = begun.elapsed();
    held.resume().expect("resume");
    let collected = collected.expect("collect");
    survives_writing(&collected.checkpoint);
    (collected, frozen, took)
}

/// What is collected can be written as images and read again, whole.
fn survives_writing(checkpoint: &Checkpoint) {
    let images = checkpoint.to_images(&NamespaceIds::default());
    let read = Checkpoint::from_images(&images).expect("our own images");
    assert_eq!(read.clocks, checkpoint.clocks);
    assert_eq!(read.tasks.len(), checkpoint.tasks.len());
    for (read, given) in read.tasks.iter().zip(&checkpoint.tasks) {
        let (Some(read), Some(given)) = (read.living(), given.living()) else { continue };
        assert_eq!(read.mm, given.mm);
        assert_eq!(read.threads, given.threads);
        assert_eq!(read, given);
    }
    assert_eq!(read.fd_tables, checkpoint.fd_tables);
    for (read, given) in read.files.iter().zip(&checkpoint.files) {
        assert_eq!(read, given);
    }
    assert_eq!(read.pipes, checkpoint.pipes);
    assert_eq!(read.ghosts, checkpoint.ghosts);
    assert_eq!(read.shared, checkpoint.shared);
}

pub(crate) fn task(checkpoint: &Checkpoint, id: u64) -> &Task {
    let found = checkpoint.tasks.iter().find(|task| u64::from(task.id.0) == id);
    found.unwrap_or_else(|| panic!("task {id}"))
}

pub(crate) fn living(task: &Task) -> &Living {
    task.living().expect("it lives")
}

/// The files behind descriptor numbers of the root.
pub(crate) fn open_files(checkpoint: &Checkpoint) -> BTreeMap<u64, &File> {
    let table = living(checkpoint.root()).fds;
    let table = checkpoint.fd_tables.iter().find(|have| have.id == table).expect("its table");
    let file = |id| checkpoint.file(id).expect("its file");
    table.fds.iter().map(|fd| (u64::from(fd.number), file(fd.file))).collect()
}

pub(crate) fn pages_of(spaces: &[SpacePages], space: SpaceId) -> &SpacePages {
    spaces.iter().find(|have| have.space == space).unwrap_or_else(|| panic!("{space}"))
}
