//! What a container's runtime wants to see beside the images.

use std::path::{Path, PathBuf};

use criu::{CHECKPOINT, CONFIG, Container, DESCRIPTORS};
use image::ImageSet;

use crate::failure::Cause;

/// A container's configuration, for a destination whose bundle has none.
pub(super) struct Papers {
    config: Vec<u8>,
    /// Where the runtime writes beside images, if not among them.
    beside: Option<PathBuf>,
}

impl Papers {
    /// Of a container that runs.
    pub(super) fn of(container: &Container) -> Result<Self, Cause> {
        let bundle = container.ask()?.bundle;
        let beside = container.is_kept().then(|| bundle.join(CHECKPOINT));
        Ok(Self { config: read(&bundle, CONFIG)?, beside })
    }

    /// Lays them beside its images, which the runtime believes to be in `folder`, and what the runtime
    /// has written too.
    pub(super) fn lay(self, folder: &Path, images: &mut ImageSet) -> Result<(), Cause> {
        let descriptors = read(self.beside.as_deref().unwrap_or(folder), DESCRIPTORS)?;
        for (name, bytes) in [(DESCRIPTORS, descriptors), (CONFIG, self.config)] {
            images.add(name, bytes).map_err(|bad| Cause::CriuImages(bad.into()))?;
        }
        Ok(())
    }
}

fn read(folder: &Path, name: &str) -> Result<Vec<u8>, Cause> {
    let path = folder.join(name);
    std::fs::read(&path).map_err(|source| Cause::Papers { path, source })
}
