//! A stock CRIU as the engine.
//!
//! Images and pages are put into a directory in memory, which CRIU reads once they are complete (it is
//! started before, and waits); it takes the pages out as it goes, so that memory is not needed twice. It then asks whether the tree
//! may be let go. Until the hand-off has arrived it has no answer, and if none ever comes (because we
//! died) it kills the tree.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread::JoinHandle;

use criu::stream::{Cancel, Serve};
use criu::{
    CONFIG, Connections, Container, Criu, INVENTORY, LazyProcess, RestoreOptions, Restored,
    Scratch, Standby,
};
use image::ImageSet;
use image::plan::{CHANGED_FILES, Plan, ROOT_FILES, Refusal};
use image::state::{Living, Task};
use pages::{ByteCount, PageSet, SpaceId, TaskId};
use rootfs::Claim;
use tokio::sync::oneshot;
use tracee::host::pidfd_open;
use tracee::proc::children;
use tracee::uffd::Uffd;
use tracee::{HostPid, Keeper};
use transport::wire::SpaceTotal;

use super::config::Config;
use super::late::{self, Early};
use super::{Arrived, Engine, Hollow, PagesImage, Ready, Shell, Staged, Step};
use crate::build::{Roaming, Running, Sink};
use crate::check;
use crate::error::{During, Error, Result};
use crate::failure::Cause;
use crate::faults::{Faults, Opening};
use crate::files::Files;
use crate::skeleton::BuildOptions;

/// A CRIU of this host.
#[derive(Debug)]
pub struct Stock {
    criu: Criu,
    container: Option<Bundle>,
    /// It waits for images, in there.
    ready: RefCell<Option<(Standby, Scratch)>>,
}

/// What a restored container becomes.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// This container of its runtime.
    pub container: Container,
    /// The directory with its root file system, and its configuration if it has one.
    pub folder: PathBuf,
}

impl Stock {
    /// This one.
    pub fn new(criu: Criu) -> Self {
        Self { criu, container: None, ready: RefCell::default() }
    }

    /// The same, as the servant of the runtime of a container.
    pub fn of_container(criu: Criu, container: Bundle) -> Self {
        Self { criu, container: Some(container), ready: RefCell::default() }
    }
}

impl Engine for Stock {
    fn check(&self, plan: &Plan) -> Result<(), Vec<Refusal>> {
        match &self.container {
            Some(bundle) => check::container::check(plan, &bundle.container, &bundle.folder),
            None => check::check_for_criu(plan),
        }
    }

    fn grows(&self) -> Option<BuildOptions> {
        None
    }

    fn builds_early(&self) -> bool {
        tracee::uffd::Features::of_this_kernel().contains(tracee::uffd::Features::LAZY)
    }

    /// If it cannot be started, it is started again, and that told, when there is something to do.
    fn get_ready(&self) {
        if self.container.is_none() && self.builds_early() {
            let ready = || -> criu::Result<_> {
                let images = Scratch::new(ROOM)?;
                Ok((self.criu.stand_by(OPTIONS, &images)?, images))
            };
            *self.ready.borrow_mut() = ready().ok();
        }
    }

    fn files(&self, plan: &Plan) -> Result<Option<Files>, Cause> {
        let needs = |what: &str| plan.needs.iter().any(|need| need.starts_with(what));
        match &self.container {
            Some(bundle) if needs(ROOT_FILES) => {
                let claim = Claim::take(&criu::root_of(&bundle.folder))?;
                Ok(Some(Files::into_claim(claim)?))
            }
            Some(bundle) if needs(CHANGED_FILES) => Files::over(&bundle.container).map(Some),
            _ => Ok(None),
        }
    }

    fn build(&self, mut arrived: Arrived, spaces: &[SpaceTotal]) -> Result<Hollow, Cause> {
        let config = arrived.images.take(CONFIG);
        let config = match (&self.container, config) {
            (Some(bundle), Some(came)) => {
                let came = match arrived.files {
                    Some(_) => criu::rerooted(&came).unwrap_or(came),
                    None => came,
                };
                Config::complete(&bundle.folder, &came)?
            }
            _ => None,
        };
        let by = By::Stock(self.criu.clone(), self.container.clone());
        let mut gathering = Gathering::begin(by, self.ready.take(), arrived, spaces)?;
        gathering.put.config = config;
        Ok(match late::of(&gathering.images, spaces) {
            Some(late) => Box::new(Early::new(gathering, late)),
            None => Box::new(gathering),
        })
    }
}

/// What CRIU itself writes: its log, its statistics.
const ROOM: u64 = 16 << 20;

/// How trees are restored.
const OPTIONS: RestoreOptions =
    RestoreOptions { shell_job: false, tcp: Connections::Closed, file_locks: true, lazy: None };
/// How the images of TCP connections that go on begin.
const CONNECTION: &str = "tcp-stream-";

/// Pages arrive.
pub(super) struct Gathering {
    by: By,
    pub(super) images: ImageSet,
    /// Of a CRIU that waits for them.
    ready: Option<Standby>,
    folder: Scratch,
    pub(super) into: HashMap<SpaceId, (u32, PagesImage)>,
    put: Put,
}

/// What we have put into a bundle. Dropped, it is gone again.
#[derive(Default)]
pub(super) struct Put {
    config: Option<Config>,
    files: Option<Files>,
}

impl Put {
    /// The container runs with it.
    fn keep(self) {
        if let Some(config) = self.config {
            config.keep();
        }
        if let Some(files) = self.files {
            files.keep();
        }
    }
}

/// A CRIU at work. Dropped, it is waited for; one that somebody else starts is not wanted any more.
pub(super) struct Awaited {
    pub(super) cancel: Option<Cancel>,
    pub(super) thread: Option<JoinHandle<()>>,
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Some(cancel) = &self.cancel {
            cancel.cancel();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Who restores.
pub(super) enum By {
    /// A CRIU that we start.
    Stock(Criu, Option<Bundle>),
    /// One that somebody else starts.
    Served(Serve),
}

impl Gathering {
    /// Makes room for images and pages, if a CRIU is `ready` where it waits for them. The inventory
    /// comes last.
    pub(super) fn begin(
        by: By,
        ready: Option<(Standby, Scratch)>,
        arrived: Arrived,
        spaces: &[SpaceTotal],
    ) -> Result<Self, Cause> {
        let Arrived { mut images, files, .. } = arrived;
        let pages: u64 = spaces.iter().map(|space| space.sent.0).sum();
        let room = ByteCount(pages.saturating_mul(pages::PAGE_SIZE as u64));
        let room = ROOM.saturating_add(images.total_bytes() + room.0);
        let (ready, folder) = match ready {
            Some((ready, folder)) => {
                folder.resize(room)?;
                (Some(ready), folder)
            }
            None => (None, Scratch::new(room)?),
        };
        let inventory = images.take(INVENTORY).unwrap_or_default();
        images.to_directory(&folder.path())?;
        images.add(INVENTORY, inventory)?;
        let mut into = HashMap::new();
        for (space, id) in spaces.iter().zip(1..) {
            let image = PagesImage::create(&folder.path(), id).during("make a pages image")?;
            into.insert(space.space, (id, image));
        }
        Ok(Self { by, images, ready, folder, into, put: Put { config: None, files } })
    }
}

impl Shell for Gathering {
    fn roam(&self) -> Result<Option<Roaming>> {
        Ok(None)
    }

    fn sink(&self, space: SpaceId) -> Result<Sink> {
        let (_, image) = self.into.get(&space).ok_or_else(|| crate::build::unknown(space))?;
        Ok(Sink::of_image(space, image.clone()))
    }

    fn failure(&self) -> Option<Cause> {
        None
    }

    fn finish(
        self: Box<Self>,
        owed: HashMap<SpaceId, PageSet>,
        keeper: Option<Keeper>,
    ) -> Step<(Ready, Option<Faults>)> {
        Box::pin(async move {
            let tasks = match owed.is_empty() {
                true => None,
                false => Some(image::tasks_of(&self.images)?),
            };
            let living = tasks.as_ref().map(|tasks| living(tasks).count());
            let (tell, told) = oneshot::channel();
            let missing = owed.clone();
            let cancel = match &self.by {
                By::Served(serve) => Some(serve.cancel()?),
                By::Stock(..) => None,
            };
            let thread =
                std::thread::spawn(move || drop(tell.send(self.restore(living, &missing))));
            // If the source goes away meanwhile, this future is dropped, and CRIU must be too.
            let mut awaited = Awaited { cancel, thread: Some(thread) };
            let (mut restored, put) = told.await.expect("it always tells")?;
            awaited.cancel = None;
            drop(awaited);
            let faults = match (tasks, keeper) {
                (Some(tasks), Some(keeper)) => {
                    let openings = openings(restored.take_lazy(), &tasks, &owed);
                    hold(HostPid(restored.root()), &openings, &keeper)?;
                    Some(Faults::watch(openings, keeper).map_err(Error::from)?)
                }
                _ => None,
            };
            let ready: Ready = Box::new(Waiting { restored, put });
            Ok((ready, faults))
        })
    }
}

impl Gathering {
    /// How many processes live.
    pub(super) fn living(&self) -> Result<usize, Cause> {
        Ok(living(&image::tasks_of(&self.images)?).count())
    }

    pub(super) fn restore(
        mut self,
        lazy: Option<usize>,
        owed: &HashMap<SpaceId, PageSet>,
    ) -> Result<(Restored, Put), Cause> {
        let nothing = PageSet::new();
        for (space, (id, image)) in &self.into {
            let owed = owed.get(space).unwrap_or(&nothing);
            let finished = image.finish(&self.folder.path(), *space, *id, owed);
            finished.during("complete a pages image")?;
        }
        let inventory = self.images.get(INVENTORY).unwrap_or_default();
        if let (Some(ready), Some(living)) = (self.ready.take_if(|_| lazy.is_some()), lazy) {
            let restored = ready.restore(self.folder, inventory, living)?.until_restored()?;
            return Ok((restored, self.put));
        }
        drop(self.ready.take()); // it waits for a tree whose pages come late
        let path = self.folder.path().join(INVENTORY);
        let _ = std::fs::remove_file(&path);
        std::fs::write(path, inventory).during("write an inventory")?;
        let restored = match self.by {
            By::Stock(criu, container) => {
                let container = container.as_ref();
                let container = container.map(|bundle| (&bundle.container, &*bundle.folder));
                let kept = self.images.iter().any(|(name, _)| name.starts_with(CONNECTION));
                let tcp = if kept { Connections::Kept } else { OPTIONS.tcp };
                let options = RestoreOptions { lazy, tcp, ..OPTIONS };
                criu.restore(container, options, self.folder)?.until_restored()?
            }
            By::Served(serve) => {
                let tasks = image::tasks_of(&self.images).ok();
                let count = tasks.as_ref().map(|tasks| living(tasks).count());
                serve.until_restored(&self.folder, count, lazy.is_some())?
            }
        };
        Ok((restored, self.put))
    }
}

pub(super) fn living(tasks: &[Task]) -> impl Iterator<Item = (&Living, TaskId)> {
    tasks.iter().filter_map(|task| Some((task.living()?, task.id)))
}

/// What may be missing. CRIU has registered every mapping whose pages may follow, also those of which
/// none do.
fn openings(
    lazy: Vec<LazyProcess>,
    tasks: &[Task],
    owed: &HashMap<SpaceId, PageSet>,
) -> Vec<Opening> {
    let of = |LazyProcess { pid, uffd }| {
        let (_, id) = living(tasks).find(|(_, id)| id.0 == pid)?;
        let origin = SpaceId::Process(id);
        let owed = owed.get(&origin).cloned().unwrap_or_default();
        Some(Opening { origin, uffd: Uffd::adopt(uffd), owed })
    };
    lazy.into_iter().filter_map(of).collect()
}

/// Ours are all processes of the tree, whatever numbers they know themselves by.
fn hold(root: HostPid, openings: &[Opening], keeper: &Keeper) -> Result<()> {
    let processes =
        children::tree(root).into_iter().map(pidfd_open).collect::<tracee::Result<Vec<_>>>()?;
    let processes: Vec<_> = processes.iter().map(AsFd::as_fd).collect();
    let uffds: Vec<&Uffd> = openings.iter().map(|opening| &opening.uffd).collect();
    Ok(keeper.hold(&uffds, &processes)?)
}

/// CRIU waits for our answer.
pub(super) struct Waiting {
    pub(super) restored: Restored,
    pub(super) put: Put,
}

impl Staged for Waiting {
    fn run(self: Box<Self>) -> Step<Running> {
        Box::pin(async move {
            let (tell, told) = oneshot::channel();
            let Self { restored, put } = *self;
            put.files.iter().for_each(Files::hand_over);
            std::thread::spawn(move || tell.send(restored.run()));
            let root = HostPid(told.await.expect("it always tells")?);
            put.keep();
            Ok(Running { root, child: root })
        })
    }
}
