//! Files of memory whose content comes in pages, perhaps before the program stands still: made without a
//! name, filled, and given the name that they bring along.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use image::state::{Checkpoint, FileKind, Ghost, HugeSize};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::linkat;
use pages::SharedId;

use super::files::{View, reopen};
use super::ghosts::{dress, nameless_file};
use super::huge::huge_size_of;
use crate::error::{BadCheckpoint, Error, Result, errno_of};

/// Those of a tree.
#[derive(Default)]
pub(crate) struct Paged(HashMap<SharedId, Made>);

struct Made {
    /// Open for writing.
    file: OwnedFd,
    size: u64,
    is_huge: bool,
}

impl Paged {
    /// All that a tree has; those of `early` that are among it are there already.
    pub(crate) fn create(from: &Checkpoint, view: &View, mut early: Self) -> Result<Self> {
        let mut all = Self::default();
        for ghost in &from.ghosts {
            let Some(id) = ghost.paged else { continue };
            match early.0.remove(&id) {
                Some(early) => {
                    let file = resized(early.file, ghost.size)
                        .map_err(|errno| failed("resize", path_of(ghost, from), errno))?;
                    all.0.insert(id, Made { file, size: ghost.size, ..early });
                }
                None => all.make(id, from, view)?,
            }
        }
        Ok(all)
    }

    /// One more, empty.
    pub(crate) fn make(&mut self, id: SharedId, from: &Checkpoint, view: &View) -> Result<()> {
        let ghost = from.ghosts.iter().find(|ghost| ghost.paged == Some(id));
        let ghost = ghost.ok_or(BadCheckpoint::Shared(id))?;
        let path = view.path(path_of(ghost, from));
        if ghost.named && path.symlink_metadata().is_ok() {
            return Err(failed("make anew", &path, Errno::EEXIST));
        }
        let file = match ghost.huge {
            Some(size) => nameless_huge_file(&path, size),
            None => nameless_file(&path),
        };
        let file = file.and_then(|file| resized(file, ghost.size));
        let file = file.map_err(|errno| failed("make", &path, errno))?;
        self.0.insert(id, Made { file, size: ghost.size, is_huge: ghost.huge.is_some() });
        Ok(())
    }

    /// True if one has been made for this space.
    pub(crate) fn has(&self, id: SharedId) -> bool {
        self.0.contains_key(&id)
    }

    /// A descriptor to write pages through, and the file's size.
    pub(crate) fn writer(&self, id: SharedId) -> Option<io::Result<(File, u64)>> {
        let made = self.0.get(&id)?;
        Some(made.file.try_clone().map(|file| (file.into(), made.size)))
    }

    /// True if write(2) does not reach it.
    pub(crate) fn is_huge(&self, id: SharedId) -> bool {
        self.0.get(&id).is_some_and(|made| made.is_huge)
    }

    /// Makes it what the tree has at `path`, which nobody else may have; answers a descriptor
    /// (O_PATH) that keeps it.
    pub(crate) fn place(&self, id: SharedId, ghost: &Ghost, path: &Path) -> Result<OwnedFd> {
        let Made { file, .. } = self.0.get(&id).ok_or(BadCheckpoint::Shared(id))?;
        let place = || {
            let kept = if ghost.named {
                // What shows as its path is what it is opened by.
                let own = format!("/proc/self/fd/{}", file.as_raw_fd());
                linkat(AT_FDCWD, own.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?;
                let keep = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                open(path, keep, Mode::empty())?
            } else {
                reopen(file, OFlag::O_PATH)?
            };
            dress(file, ghost)?;
            Ok(kept)
        };
        place().map_err(|errno| failed("make anew", path, errno))
    }

    /// Every page is there: their times are again what they were.
    pub(crate) fn settle(&self, from: &Checkpoint) -> Result<()> {
        for ghost in &from.ghosts {
            let Some(made) = ghost.paged.and_then(|id| self.0.get(&id)) else { continue };
            dress(&made.file, ghost).map_err(|errno| {
                failed("set owner, mode and times of", path_of(ghost, from), errno)
            })?;
        }
        Ok(())
    }
}

/// In the folder of `path`, which must be a hugetlbfs with pages of `size`.
fn nameless_huge_file(path: &Path, size: HugeSize) -> nix::Result<OwnedFd> {
    let folder = path.parent().filter(|folder| huge_size_of(folder) == Some(size));
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    open(folder.ok_or(Errno::EXDEV)?, flags, Mode::S_IRUSR | Mode::S_IWUSR)
}

fn resized(file: OwnedFd, size: u64) -> nix::Result<OwnedFd> {
    let file = File::from(file);
    file.set_len(size).map_err(|error| errno_of(&error))?;
    Ok(file.into())
}

fn failed(act: &'static str, path: impl AsRef<Path>, errno: Errno) -> Error {
    Error::Path { act, path: path.as_ref().to_owned(), errno }
}

/// Where the tree has it, or had it.
fn path_of<'a>(ghost: &Ghost, from: &'a Checkpoint) -> &'a str {
    let path = from.files.iter().find_map(|file| match &file.kind {
        FileKind::Regular(regular) if regular.ghost == Some(ghost.id) => Some(&*regular.path),
        _ => None,
    });
    path.unwrap_or_default()
}
