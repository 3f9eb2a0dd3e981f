//! A tree that a CRIU holds: it stands still until CRIU has an answer.
//!
//! The pages, of which CRIU has told the map, are read from the tree itself, like the native
//! engine's. A no, an end of ours, or an end of CRIU's lets the tree run on.
//!
//! Once its right to run has left, that must not be. So each of its processes is then sent SIGSTOP,
//! which it will find before its first instruction, whoever lets go of it; and a guard, for the case
//! that we die, ends it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use criu::Dumped;
use criu::page_server::PageMaps;
use image::pagemap::{PagemapReader, Place};
use image::{ImageKind, ImageSet, Limits};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pages::{PageSet, SharedId, SpaceId, TaskId};
use tokio::sync::oneshot;
use tracee::host::pidfd_open;
use tracee::proc::status::Status;
use tracee::{HostPid, chaos};

use super::{Doom, Doomed, Hold, Still, Taken, shared};
use crate::collect::{PageSource, SpacePages};
use crate::downtime::Downtime;
use crate::failure::Cause;
use crate::survey::tree;

/// Room for everything that CRIU writes beside files without a name.
pub(super) const ROOM: u64 = 256 << 20;

/// Has a thread wait for CRIU, and reads what it has written. Where it sent no pages, the maps of them
/// are among the images.
pub(super) async fn stand(
    root: HostPid,
    dump: impl FnOnce() -> criu::Result<(Dumped, Option<PageMaps>)> + Send + 'static,
    downtime: &mut Downtime,
) -> Result<(Standing, Taken), Cause> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || drop(tell.send(dump())));
    let (dumped, maps) = told.await.expect("it always tells")?;
    downtime.began(dumped.stands_since());
    downtime.lap("freeze");
    chaos::point("source:frozen")?;
    let processes = tree::processes(root);
    let mut images = ImageSet::from_directory(&dumped.images().path(), Limits::default())
        .map_err(Cause::CriuImages)?;
    let maps = match maps {
        Some(maps) => maps.into_spaces().collect(),
        None => self::maps(&mut images)?,
    };
    let spaces = maps.into_iter().map(|space| located(space, &processes));
    let spaces = spaces.collect::<Result<_, Cause>>()?;
    let tasks = image::tasks_of(&images)
        .inspect_err(|beyond| tracing::debug!(%beyond, "only CRIU understands it"))
        .ok();
    downtime.lap("collect");
    Ok((Standing { dumped, processes }, Taken { images, tasks, shared: None, spaces }))
}

/// Takes the maps of pages out of a set: they are told otherwise, as the pages come.
fn maps(images: &mut ImageSet) -> Result<Vec<(SpaceId, PageSet)>, Cause> {
    let space = |name: &str| match ImageKind::of_name(name)? {
        (ImageKind::Pagemap, number) => Some(SpaceId::Process(TaskId(number))),
        (ImageKind::PagemapShared, number) => Some(SpaceId::Shared(SharedId(number))),
        _ => None,
    };
    let named = images.iter().filter_map(|(name, _)| Some((name.to_owned(), space(name)?)));
    let named: Vec<_> = named.collect();
    let mut maps = Vec::new();
    for (name, space) in named {
        let bytes = images.take(&name).unwrap_or_default();
        let runs = PagemapReader::open(&name, &*bytes).and_then(PagemapReader::runs);
        let runs = runs.map_err(|bad| Cause::CriuImages(bad.into()))?;
        if runs.iter().any(|run| run.place == Place::Parent) {
            return Err(Cause::Elsewhere(name));
        }
        maps.push((space, runs.iter().map(|run| run.range).collect()));
    }
    Ok(maps)
}

/// Where pages are read: CRIU calls a process by the number by which it knows itself.
fn located((space, pages): (SpaceId, PageSet), processes: &[HostPid]) -> Result<SpacePages, Cause> {
    let source = match space {
        SpaceId::Process(task) => {
            let known_as = |pid: &&HostPid| {
                let status = Status::read(**pid);
                status.is_ok_and(|status| status.own_number() == task.0.cast_signed())
            };
            let process = processes.iter().find(known_as);
            PageSource::Process(*process.ok_or(Cause::OtherNumber(task))?)
        }
        SpaceId::Shared(id) => PageSource::Shared {
            file: shared::open(id, processes).map_err(|source| Cause::Shared { id, source })?,
        },
    };
    Ok(SpacePages { space, pages, source })
}

/// CRIU waits for our answer.
pub(super) struct Standing {
    dumped: Dumped,
    processes: Vec<HostPid>,
}

impl Standing {
    /// Where its images are.
    pub(super) fn images(&self) -> PathBuf {
        self.dumped.images().path()
    }
}

impl Hold for Standing {
    fn doom(self: Box<Self>) -> Result<Doomed, (Still, Cause)> {
        signal_all(&self.processes, Signal::SIGSTOP);
        let guard = if self.processes.iter().all(|pid| is_held(*pid)) {
            Guard::set(&self.processes)
        } else {
            Err(Cause::LetGo)
        };
        match guard {
            Ok(guard) => {
                let known = self.processes.iter().filter_map(|pid| pidfd_open(*pid).ok());
                let known = known.collect();
                Ok(Box::new(Stale { standing: Some(*self), known, guard }))
            }
            Err(cause) => {
                signal_all(&self.processes, Signal::SIGCONT);
                Err((self, cause))
            }
        }
    }
}

/// The right to run has left.
struct Stale {
    standing: Option<Standing>,
    /// Its processes, whatever becomes of their numbers.
    known: Vec<OwnedFd>,
    guard: Guard,
}

impl Stale {
    /// CRIU ends it; whoever is left then, because CRIU failed, or was told by somebody else to let the
    /// tree go, we do.
    fn end(&mut self, dumped: Dumped) -> Result<(), criu::Error> {
        let ended = dumped.let_die();
        self.known.iter().for_each(|process| tracee::host::end(process.as_fd()));
        self.guard.stand_down();
        ended
    }
}

impl Doom for Stale {
    /// CRIU has no way to let go of locks; the tree over there takes them once this one is dead.
    fn unlock(&mut self) {}

    fn reprieve(mut self: Box<Self>) -> Still {
        self.guard.stand_down();
        let standing = self.standing.take().expect("there until taken");
        // A SIGSTOP that has not been acted upon yet is taken back by this.
        signal_all(&standing.processes, Signal::SIGCONT);
        Box::new(standing)
    }

    fn kill(mut self: Box<Self>) -> Result<(), Cause> {
        let Standing { dumped, .. } = self.standing.take().expect("there until taken");
        Ok(self.end(dumped)?)
    }
}

impl Drop for Stale {
    fn drop(&mut self) {
        if let Some(Standing { dumped, .. }) = self.standing.take() {
            let _ = self.end(dumped);
        }
    }
}

fn signal_all(processes: &[HostPid], signal: Signal) {
    for pid in processes {
        let _ = kill(Pid::from_raw(pid.0), signal); // a zombie, or one that is gone
    }
}

/// Somebody traces it, so it has not run since it was stopped; or it is a zombie.
fn is_held(pid: HostPid) -> bool {
    Status::read(pid).is_ok_and(|status| status.tracer != 0 || status.state == 'Z')
}

/// A process that kills a stopped tree if we die.
struct Guard(Child);

impl Guard {
    fn set(processes: &[HostPid]) -> Result<Self, Cause> {
        let mut command = Command::new("/bin/sh");
        // Its input ends when we do: nobody else has the other end.
        command.args(["-c", "read word; kill -KILL \"$@\"", "qmig-guard"]);
        command.args(processes.iter().map(|pid| pid.0.to_string()));
        command.process_group(0); // Ctrl-C is for us, not for it
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self).map_err(Cause::Guard)
    }

    fn stand_down(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
