//! A plain checkpoint: into a directory of images, in CRIU's format.

use std::path::{Path, PathBuf};
use std::time::Instant;

use image::plan::Plan;
use image::{NamespaceIds, PagesWriter};
use pages::{ByteCount, PageCount};
use tracee::net::HostAddress;
use tracee::{Held, HostPid};
use transport::encode::{Compression, Content, Squeezer, decode};
use transport::event::{Event, Watch};
use transport::session::{Outcome, Report};
use transport::wire::Features;

use crate::collect::{MemoryLook, SpacePages};
use crate::doomed::{Standing, Ties};
use crate::downtime::Downtime;
use crate::engine::{Hold as _, stop_and_read};
use crate::failure::{Cause, Failure};
use crate::pump::Pump;
use crate::source::told;
use crate::survey::{self, SurveyOptions};

/// What becomes of the tree once its checkpoint is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Afterwards {
    /// It is ended: it lives on in the directory.
    #[default]
    End,
    /// It runs on.
    Run,
    /// It is left stopped (SIGSTOP).
    Stop,
}

/// What to write down, and where.
pub struct Checkpointing {
    /// Root of the tree.
    pub root: HostPid,
    /// What may be carried.
    pub survey: SurveyOptions,
    /// Where the images go.
    pub directory: PathBuf,
    /// What becomes of the tree.
    pub afterwards: Afterwards,
    /// Addresses that are given up if it is ended.
    pub release: Vec<HostAddress>,
}

/// Writes a plain checkpoint. On any error the tree runs on.
pub fn dump_to(job: &Checkpointing, watch: &mut dyn Watch) -> Result<Report, Failure> {
    let started = Instant::now();
    let plan = survey::survey(job.root, &job.survey).map_err(Failure::refused)?;
    watch.event(told(&plan));
    let mut downtime = Downtime::starts();
    let (held, ties, pages) = write(job, &plan, &mut downtime, watch).map_err(Failure::aborted)?;
    let ended = match job.afterwards {
        Afterwards::End => {
            // Its connections go on where it is restored: they end here without a packet.
            let ties = Ties { addresses: job.release.clone(), ..ties };
            // On an error everybody runs on.
            let doomed = Box::new(Standing { held, ties }).doom().map_err(|(_, cause)| cause);
            doomed.and_then(|mut doomed| {
                doomed.unlock();
                doomed.kill()
            })
        }
        Afterwards::Run => held.resume().map_err(Cause::Freeze),
        Afterwards::Stop => held.leave_stopped().map_err(Cause::Freeze),
    };
    ended.map_err(Failure::aborted)?;
    downtime.lap("end");
    Ok(Report {
        outcome: Outcome::Moved,
        task: plan.root,
        name: plan.command.clone(),
        memory: plan.resident,
        total: started.elapsed(),
        downtime: downtime.parts,
        goal: None,
        faults: None,
        arrival: None,
        pages,
        wire_bytes: ByteCount(0),
        link: None,
    })
}

fn write(
    job: &Checkpointing,
    plan: &Plan,
    downtime: &mut Downtime,
    watch: &mut dyn Watch,
) -> Result<(Held, Ties, PageCount), Cause> {
    let look = (None, MemoryLook::Content, false);
    let (held, collected) = stop_and_read(job.root, plan, &job.survey, look, downtime)?;
    let total: PageCount = collected.spaces.iter().map(|space| space.pages.count()).sum();
    watch.event(Event::Frozen { pages: total.0 });
    let mut done = 0;
    for (space, id) in collected.spaces.into_iter().zip(1..) {
        let pages = space.pages.count();
        write_pages(space, id, &job.directory)?;
        done += pages.0;
        watch.event(Event::Pages { done, total: total.0 });
    }
    downtime.lap("pages");
    // Last of all: a directory without an inventory is no checkpoint.
    let images = collected.checkpoint.to_images(&NamespaceIds::default());
    images.to_directory(&job.directory)?;
    watch.event(Event::Images { count: images.len(), bytes: images.total_bytes() });
    downtime.lap("images");
    Ok((held, collected.ties, total))
}

fn write_pages(space: SpacePages, id: u32, directory: &Path) -> Result<(), Cause> {
    let mut writer = PagesWriter::create(directory, space.space, id)?;
    let zeros = vec![0; 1 << 20];
    let mut pump = Pump::start(vec![space], Squeezer::new(Compression::None, Features::NONE));
    while let Some((run, bytes)) = pump.next_blocking()? {
        match decode(run, bytes).expect("our own encoding") {
            Content::Bytes(bytes) => writer.push(run.range(), &bytes)?,
            Content::Zero => {
                let most = PageCount::covering(ByteCount(zeros.len() as u64));
                for piece in run.range().pieces(most) {
                    let length = usize::try_from(piece.bytes().0).expect("a piece is small");
                    writer.push(piece, &zeros[..length])?;
                }
            }
        }
    }
    writer.finish()?;
    Ok(())
}
