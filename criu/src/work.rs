//! Where CRIU works: its log, its sockets, and what it mounts on the way.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::scratch::Scratch;

/// A file system in memory that every Linux has.
const MEMORY: &str = "/dev/shm";

/// What the names of ours begin with.
const PREFIX: &str = "qmig-criu-";

/// CRIU's working directory.
#[derive(Debug)]
pub(crate) enum Work {
    /// Beside its images, in memory that is mounted nowhere.
    Beside(PathBuf, i32),
    /// A place where it can mount something, which takes a mounted file system: it does so to give a
    /// container its control groups. No image comes here.
    Mounted(TempDir, Flock<File>),
}

impl Work {
    /// Beside `images`.
    pub(crate) fn beside(images: &Scratch) -> Self {
        Self::Beside(images.path(), images.number())
    }

    /// An empty one that is mounted; gone when this is dropped, or if we die, with the next one.
    pub(crate) fn mounted() -> Result<Self> {
        let act = "make a working directory for CRIU";
        let memory = PathBuf::from(MEMORY);
        let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
        sweep(&place);
        loop {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&place);
            let folder = folder.map_err(Error::os(act))?;
            // Whoever sweeps may take it for abandoned until it is locked.
            let Some(handle) = locked(folder.path()) else { continue };
            if folder.path().is_dir() {
                return Ok(Self::Mounted(folder, handle));
            }
        }
    }

    /// By this path we find it.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Beside(path, _) => path,
            Self::Mounted(folder, _) => folder.path(),
        }
    }

    /// By this number CRIU finds it under our `/proc/PID/fd`.
    pub(crate) fn number(&self) -> i32 {
        match self {
            Self::Beside(_, number) => *number,
            Self::Mounted(_, handle) => handle.as_raw_fd(),
        }
    }
}

/// Removes those of qmigs that died: a living one has a lock on its own.
fn sweep(place: &Path) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if ours && let Some(_lock) = locked(&entry.path()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A lock on a folder, unless somebody else has it.
fn locked(folder: &Path) -> Option<Flock<File>> {
    Flock::lock(File::open(folder).ok()?, FlockArg::LockExclusiveNonblock).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_qmig_left_is_swept_and_what_a_living_one_has_is_not() {
        let abandoned = tempfile::Builder::new().prefix(PREFIX).tempdir_in(MEMORY).expect("made");
        let abandoned = abandoned.keep();
        std::fs::write(abandoned.join("criu.log"), "said").expect("written");
        let living = Work::mounted().expect("made");
        let another = Work::mounted().expect("made");
        assert!(!abandoned.exists());
        assert!(living.path().is_dir() && another.path().is_dir());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
