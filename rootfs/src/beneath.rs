//! A folder out of which no step leads.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx};
use rustix::io::{Errno, retry_on_intr};

use crate::path::RelPath;

/// Every way begins at the folder, stays beneath it and on its mount, and follows no link:
/// openat2(2), Linux 5.6.
const STAY: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const LOOK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

/// See [`STAY`].
#[derive(Debug)]
pub(crate) struct Beneath {
    folder: OwnedFd,
    /// The folder within it that was used last.
    last: RefCell<Option<(RelPath, Arc<OwnedFd>)>>,
}

impl Beneath {
    /// This folder of the host's, however it is called.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        Ok(Self { folder, last: RefCell::new(None) })
    }

    /// Opens something in it, and not what a link there leads to.
    pub(crate) fn at(&self, path: &RelPath, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened =
            retry_on_intr(|| openat2(&self.folder, path.as_path(), flags, Mode::empty(), STAY));
        Ok(opened?)
    }

    /// A folder in it, for system calls on what is in that.
    pub(crate) fn folder(&self, path: &RelPath) -> io::Result<Arc<OwnedFd>> {
        let mut last = self.last.borrow_mut();
        if let Some((_, folder)) = last.as_ref().filter(|(known, _)| known == path) {
            return Ok(Arc::clone(folder));
        }
        let folder = Arc::new(self.at(path, OFlags::PATH | OFlags::DIRECTORY)?);
        *last = Some((path.clone(), Arc::clone(&folder)));
        Ok(folder)
    }

    /// The folder that something is in, and its name there.
    pub(crate) fn parent<'a>(&self, path: &'a RelPath) -> io::Result<(Arc<OwnedFd>, &'a OsStr)> {
        let (folder, name) = path.split().ok_or(Errno::ISDIR)?;
        Ok((self.folder(&folder)?, name))
    }

    /// What is known of something in it; of a mount point, what is mounted there.
    pub(crate) fn stat(&self, path: &RelPath) -> io::Result<Statx> {
        match path.split() {
            None => stat_of(&self.folder),
            Some((folder, name)) => stat_in(&self.folder(&folder)?, name),
        }
    }

    /// Removes whatever is there. True if there was something.
    pub(crate) fn remove(&self, path: &RelPath) -> io::Result<bool> {
        let (folder, name) = match self.parent(path) {
            Err(error) if is_nothing(&error) => return Ok(false),
            other => other?,
        };
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::ISDIR) => {
                *self.last.borrow_mut() = None;
                std::fs::remove_dir_all(path_of(&folder).join(name)).map(|()| true)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The same of something in an open folder.
pub(crate) fn stat_in(folder: impl AsFd, name: &OsStr) -> io::Result<Statx> {
    Ok(statx(folder, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, LOOK)?)
}

/// The same of what is open.
pub(crate) fn stat_of(opened: impl AsFd) -> io::Result<Statx> {
    Ok(statx(opened, "", AtFlags::EMPTY_PATH, LOOK)?)
}

/// Device and number: which file it is, whatever its names.
pub(crate) fn inode(stat: &Statx) -> (u64, u64) {
    (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino)
}

/// A path for system calls that take no descriptor without rights. It is what was opened, even if that
/// is a symbolic link.
pub(crate) fn path_of(opened: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

/// There is nothing of that name, or no such way any more.
pub(crate) fn is_nothing(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV];
    gone.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
