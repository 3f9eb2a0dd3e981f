//! The seam between the story of a dump and whoever stops trees and reads their state: qmig itself
//! ([`Native`]), or a stock CRIU ([`Stock`]).
//!
//! The driver does not know which one it drives. What it holds is a right, not a tree: a [`Still`]
//! tree runs on when it is dropped, a [`Doomed`] one dies.

mod auto;
mod captured;
mod native;
mod papers;
mod shared;
mod standing;
mod stock;

use std::pin::Pin;

use image::ImageSet;
use image::plan::Plan;
use image::state::{SharedMemory, Task};
use tracee::HostPid;

use crate::collect::SpacePages;
use crate::downtime::Downtime;
use crate::error::SurveyError;
use crate::failure::Cause;
use crate::files::Files;
use crate::rounds::Rounds;
use crate::survey::SurveyOptions;

pub use auto::Auto;
pub use captured::Captured;
pub use native::Native;
pub(crate) use native::stop_and_read;
pub use stock::Stock;

/// Stops trees and writes down what they are.
pub trait Engine {
    /// Looks at a tree without touching it, and refuses by name.
    fn survey(&self, root: HostPid, options: &SurveyOptions) -> Result<Plan, SurveyError>;

    /// Gets ready to stop it, while the other end is asked. It is not touched.
    fn get_ready(&self, _root: HostPid, _options: &SurveyOptions) {}

    /// Files that go along with the tree under `root`; `None` if none do.
    fn files(&self, root: HostPid) -> Result<Option<Files>, Cause>;

    /// True if what a tree writes while its pages are sent can be told.
    fn pre_copies(&self) -> bool;

    /// Stops it and reads everything but its pages; if it was watched, only those that are not there
    /// yet. On an error it runs on.
    fn freeze<'a>(
        &'a self,
        root: HostPid,
        known: (&'a Plan, Option<&'a Rounds>),
        options: &'a SurveyOptions,
        downtime: &'a mut Downtime,
    ) -> Freezing<'a>;
}

/// A freeze under way.
pub type Freezing<'a> = Pin<Box<dyn Future<Output = Result<(Still, Taken), Cause>> + 'a>>;

/// What a tree is that stands still.
#[derive(Debug)]
pub struct Taken {
    /// Every image but those of pages.
    pub(crate) images: ImageSet,
    /// Its processes, if they are understood: a stock CRIU writes more than qmig can say.
    pub(crate) tasks: Option<Vec<Task>>,
    /// Its shared memory, if these processes may be made otherwise than in the order of their images.
    pub(crate) shared: Option<Vec<SharedMemory>>,
    /// Its pages, to be read as long as it stands still.
    pub(crate) spaces: Vec<SpacePages>,
}

/// A tree that stands still. Dropped, it runs on, and so it does if we die.
pub type Still = Box<dyn Hold>;

/// See [`Still`].
pub trait Hold {
    /// From here on the tree cannot run any more, whatever happens to us. If nobody can promise
    /// that, it is handed back as it was.
    fn doom(self: Box<Self>) -> Result<Doomed, (Still, Cause)>;
}

/// A stopped tree whose right to run has left: it cannot outlive us, and it dies when this is
/// dropped.
pub type Doomed = Box<dyn Doom>;

/// See [`Doomed`].
pub trait Doom {
    /// Lets its locks on files go, so that the tree that takes its place can have them where both
    /// hosts see the same files.
    fn unlock(&mut self);

    /// The destination said that its copy is gone: ours may run again, with its locks on files.
    fn reprieve(self: Box<Self>) -> Still;

    /// Ends it.
    fn kill(self: Box<Self>) -> Result<(), Cause>;
}
