//! Process state written down in CRIU's image format. Knows no kernel and no network.
//!
//! - [`state`]: what each kind of kernel state is.
//! - [`messages`]: how CRIU writes it down; [`kind`] tells which file holds which message, [`frame`]
//!   how a file is built.
//! - [`ImageSet`]: named images in memory or in a directory. [`state::Checkpoint::to_images`] and
//!   [`state::Checkpoint::from_images`] go between state and images.
//! - [`PagesWriter`], [`PagesReader`]: the content of pages, which is never part of a set.
//! - [`Outline`]: what a round of pre-copy needs room for.
//! - [`Plan`]: what travels first and what it needs of a host.
//! - [`inspect`](mod@inspect): any image as text for people.

mod directory;
mod error;
pub mod frame;
pub mod heritage;
pub mod inspect;
pub mod kept;
pub mod kind;
pub mod magic;
pub mod messages;
pub mod outline;
pub mod pagemap;
mod pages_images;
pub mod plan;
mod set;
pub mod state;
mod written;

pub use error::{BadField, BadImage, DirectoryError, Flaw, FrameFlaw};
pub use heritage::Heritage;
pub use inspect::inspect;
pub use kind::ImageKind;
pub use outline::Outline;
pub use pages_images::{PagesReader, PagesWriter};
pub use plan::{Plan, Refusal};
pub use set::{ImageSet, ImageSetBuilder, Limits};
pub use written::{NamespaceIds, tasks_of};
