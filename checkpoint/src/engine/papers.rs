//! What a container's runtime wants to see beside the images.

use std::path::Path;

use criu::{CONFIG, Container, DESCRIPTORS};
use image::ImageSet;

use crate::failure::Cause;

/// A container's configuration, for a destination whose bundle has none.
pub(super) struct Papers(Vec<u8>);

impl Papers {
    /// Of a container that runs.
    pub(super) fn of(container: &Container) -> Result<Self, Cause> {
        read(&container.ask()?.bundle, CONFIG).map(Self)
    }

    /// Lays them beside its images, and what the runtime has written in `folder` too.
    pub(super) fn lay(self, folder: &Path, images: &mut ImageSet) -> Result<(), Cause> {
        for (name, bytes) in [(DESCRIPTORS, read(folder, DESCRIPTORS)?), (CONFIG, self.0)] {
            images.add(name, bytes).map_err(|bad| Cause::CriuImages(bad.into()))?;
        }
        Ok(())
    }
}

fn read(folder: &Path, name: &str) -> Result<Vec<u8>, Cause> {
    let path = folder.join(name);
    std::fs::read(&path).map_err(|source| Cause::Papers { path, source })
}
