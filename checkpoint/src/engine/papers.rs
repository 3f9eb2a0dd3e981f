//! What a container's runtime wants to see beside the images.

use std::path::{Path, PathBuf};

use criu::{CHECKPOINT, CONFIG, Container, DESCRIPTORS, NETWORK_STATUS};
use image::ImageSet;

use crate::failure::Cause;
use crate::networks::networks_of;

/// A container's configuration, for a destination whose bundle has none, and what its networks gave it.
pub(super) struct Papers {
    config: Vec<u8>,
    network: Option<Vec<u8>>,
    /// Where the runtime writes beside images, if not among them.
    beside: Option<PathBuf>,
}

impl Papers {
    /// Of a container that runs.
    pub(super) fn of(container: &Container) -> Result<Self, Cause> {
        let state = container.ask()?;
        let networks = networks_of(&state).map_err(|source| {
            let path = format!("/proc/{}/ns/net", state.pid).into();
            Cause::Papers { path, source }
        })?;
        // Those without an interface were refused.
        let known =
            networks.into_iter().filter_map(|(name, interface, has)| Some((name, interface?, has)));
        let known: Vec<_> = known.collect();
        let network = (!known.is_empty()).then(|| criu::network_status(known));
        let bundle = state.bundle;
        let beside = container.is_kept().then(|| bundle.join(CHECKPOINT));
        Ok(Self { config: read(&bundle, CONFIG)?, network, beside })
    }

    /// Lays them beside its images, which the runtime believes to be in `folder`, and what the runtime
    /// has written too.
    pub(super) fn lay(self, folder: &Path, images: &mut ImageSet) -> Result<(), Cause> {
        let descriptors = read(self.beside.as_deref().unwrap_or(folder), DESCRIPTORS)?;
        let network = self.network.map(|status| (NETWORK_STATUS, status));
        let papers = [(DESCRIPTORS, descriptors), (CONFIG, self.config)];
        for (name, bytes) in papers.into_iter().chain(network) {
            images.add(name, bytes).map_err(|bad| Cause::CriuImages(bad.into()))?;
        }
        Ok(())
    }
}

fn read(folder: &Path, name: &str) -> Result<Vec<u8>, Cause> {
    let path = folder.join(name);
    std::fs::read(&path).map_err(|source| Cause::Papers { path, source })
}
