//! A stock CRIU as the engine.
//!
//! CRIU stops the tree, writes every image into memory, and asks whether the tree may die; until it
//! has an answer the tree stands still. That is all that is wanted of it: the pages, of which it has
//! told the map, are read from the tree itself, like the native engine's. A no, an end of ours, or
//! an end of CRIU's lets the tree run on.
//!
//! Once its right to run has left, that must not be. So each of its processes is then sent SIGSTOP,
//! which it will find before its first instruction, whoever lets go of it; and a guard, for the case
//! that we die, ends it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use criu::page_server::PageMaps;
use criu::{Container, Criu, DumpOptions, Dumped, Dumping, Scratch};
use image::plan::{CHANGED_FILES, Plan, ROOT_FILES};
use image::{ImageSet, Limits};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pages::{PageSet, SpaceId};
use tokio::sync::oneshot;
use tracee::host::pidfd_open;
use tracee::proc::status::Status;
use tracee::{HostPid, chaos};

use super::papers::Papers;
use super::{Doom, Doomed, Engine, Freezing, Hold, Still, Taken, shared};
use crate::collect::{PageSource, SpacePages};
use crate::downtime::Downtime;
use crate::error::SurveyError;
use crate::failure::Cause;
use crate::files::{Files, Which};
use crate::rounds::Rounds;
use crate::survey::{self, SurveyOptions, TcpPolicy, tree};

/// Room for everything that CRIU writes beside files without a name.
pub(super) const ROOM: u64 = 256 << 20;

/// A CRIU of this host.
#[derive(Clone, Debug)]
pub struct Stock {
    criu: Criu,
    container: Option<Container>,
    /// Its root file system goes along.
    with_rootfs: bool,
}

impl Stock {
    /// This one.
    pub fn new(criu: Criu) -> Self {
        Self { criu, container: None, with_rootfs: false }
    }

    /// The same, as the servant of the runtime of a container.
    pub fn of_container(criu: Criu, container: Container) -> Self {
        Self { criu, container: Some(container), with_rootfs: false }
    }

    /// The same, and the container's root file system goes along.
    #[must_use]
    pub fn with_rootfs(self) -> Self {
        Self { with_rootfs: true, ..self }
    }
}

impl Engine for Stock {
    fn survey(&self, root: HostPid, options: &SurveyOptions) -> Result<Plan, SurveyError> {
        match &self.container {
            Some(container) => {
                let state = container.ask()?;
                let mut plan = survey::survey_container(root, &state, options)?;
                let image = Some(state.image).filter(|image| !image.is_empty());
                plan.needs.extend(self.with_rootfs.then(|| ROOT_FILES.to_owned()));
                plan.needs.extend(image.map(|image| format!("{CHANGED_FILES}{image}")));
                Ok(plan)
            }
            None => survey::survey_for_criu(root, options),
        }
    }

    fn files(&self, root: HostPid) -> Result<Option<Files>, Cause> {
        let Some(container) = &self.container else { return Ok(None) };
        let state = container.ask()?;
        let (folder, which) = if self.with_rootfs {
            (criu::root_of(&state.bundle), Which::All)
        } else if container.is_kept() && !state.image.is_empty() {
            let mounted = container.mount()?;
            (mounted.folder().to_owned(), Which::Changed(container.clone(), mounted))
        } else {
            return Ok(None);
        };
        Ok(Some(Files::new(folder, which, root)))
    }

    fn pre_copies(&self) -> bool {
        false
    }

    fn freeze<'a>(
        &'a self,
        root: HostPid,
        _: (&'a Plan, Option<&'a Rounds>),
        options: &'a SurveyOptions,
        downtime: &'a mut Downtime,
    ) -> Freezing<'a> {
        Box::pin(async move {
            let images = Scratch::new(ROOM.saturating_add(options.ghost_limit.0))?;
            let asked = DumpOptions {
                root: root.0,
                shell_job: false,
                tcp_close: options.tcp == TcpPolicy::Close,
                file_locks: true,
                ghost_limit: u32::try_from(options.ghost_limit.0).unwrap_or(u32::MAX),
            };
            let papers = self.container.as_ref().map(Papers::of).transpose()?;
            let (tell, told) = oneshot::channel();
            let Self { criu, container, .. } = self.clone();
            std::thread::spawn(move || {
                let dumping = criu.dump(container.as_ref(), asked, images, PageMaps::default());
                drop(tell.send(dumping.and_then(Dumping::until_images)));
            });
            let (dumped, maps) = told.await.expect("it always tells")?;
            downtime.began(dumped.stands_since());
            downtime.lap("freeze");
            chaos::point("source:frozen")?;
            let processes = tree::processes(root);
            let mut images = ImageSet::from_directory(&dumped.images().path(), Limits::default())
                .map_err(Cause::CriuImages)?;
            if let Some(papers) = papers {
                papers.lay(&dumped.images().path(), &mut images)?;
            }
            let tasks = image::tasks_of(&images)
                .inspect_err(|beyond| tracing::debug!(%beyond, "only CRIU understands it"))
                .ok();
            let spaces = maps.into_spaces().map(|space| located(space, &processes));
            let spaces = spaces.collect::<Result<_, Cause>>()?;
            let still: Still = Box::new(Standing { dumped, processes });
            downtime.lap("collect");
            Ok((still, Taken { images, tasks, spaces }))
        })
    }
}

/// Where pages are read: CRIU calls a process by the number by which it knows itself.
pub(super) fn located(
    (space, pages): (SpaceId, PageSet),
    processes: &[HostPid],
) -> Result<SpacePages, Cause> {
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
    pub(super) dumped: Dumped,
    pub(super) processes: Vec<HostPid>,
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
