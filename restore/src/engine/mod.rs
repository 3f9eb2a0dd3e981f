//! The seam between the story of a restore and whoever builds trees: qmig itself ([`Native`]), or a
//! stock CRIU ([`Stock`]).
//!
//! The driver does not know which one it drives. Each value destroys what it has built when it is
//! dropped; the last one is a tree that may run.

mod auto;
mod config;
mod late;
mod native;
mod pages_image;
mod served;
mod stock;

use std::collections::HashMap;
use std::pin::Pin;

use image::ImageSet;
use image::plan::{Plan, Refusal};
use pages::{PageSet, SpaceId};
use tracee::Keeper;
use transport::wire::SpaceTotal;

use crate::build::{Roaming, Running, Sink, Trunk};
use crate::error::Result;
use crate::failure::Cause;
use crate::faults::Faults;
use crate::files::Files;
use crate::rounds::Early;
use crate::skeleton::BuildOptions;

pub use auto::Auto;
pub(crate) use late::Late;
pub use native::Native;
pub(crate) use pages_image::PagesImage;
pub use served::Served;
pub use stock::{Bundle, Stock};

/// Builds trees.
pub trait Engine {
    /// Every reason why this host cannot carry `plan`.
    fn check(&self, plan: &Plan) -> Result<(), Vec<Refusal>>;

    /// True if it builds while pages arrive, once those are here that must be.
    fn builds_early(&self) -> bool;

    /// Gets ready to build, while the other end stops the tree.
    fn get_ready(&self) {}

    /// Takes a place for the files that come along with what `plan` tells of; `None` if none do.
    fn files(&self, plan: &Plan) -> Result<Option<Files>, Cause>;

    /// Makes room for a tree: after this, pages of `spaces` can arrive.
    fn build(&self, arrived: Arrived, spaces: &[SpaceTotal]) -> Result<Hollow, Cause>;

    /// How a tree is grown while the program still runs elsewhere, if that can be.
    fn grows(&self) -> Option<BuildOptions>;
}

/// What is here before a tree is built.
pub struct Arrived {
    /// Every image but those of pages.
    pub images: ImageSet,
    /// A part of the tree that is there already.
    pub early: Option<Early>,
    /// Its first process, with the memory that others are born with, if there is such memory.
    pub trunk: Option<Trunk>,
    /// Files that came along.
    pub files: Option<Files>,
}

/// A step that takes a while.
pub type Step<T> = Pin<Box<dyn Future<Output = Result<T, Cause>>>>;

/// A tree under construction, whose memory is empty.
pub type Hollow = Box<dyn Shell>;

/// See [`Hollow`].
pub trait Shell {
    /// Lets the thread that builds use every CPU while pages arrive.
    fn roam(&self) -> Result<Option<Roaming>>;

    /// Where to write the pages of `space`; for any thread.
    fn sink(&self, space: SpaceId) -> Result<Sink>;

    /// Why pages could not be put into it, if it is not for the reason that whoever did so has.
    fn failure(&self) -> Option<Cause>;

    /// Does all the rest, now that what cannot wait is in its memory. Pages of `owed` follow, under
    /// the eyes of `keeper`.
    fn finish(
        self: Box<Self>,
        owed: HashMap<SpaceId, PageSet>,
        keeper: Option<Keeper>,
    ) -> Step<(Ready, Option<Faults>)>;
}

/// A tree that has not run, and could.
pub type Ready = Box<dyn Staged>;

/// See [`Ready`].
pub trait Staged {
    /// Lets it run. On an error it does not, and nothing of it is left.
    fn run(self: Box<Self>) -> Step<Running>;
}
