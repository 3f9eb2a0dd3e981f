//! Sets of images in a directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{BadImage, DirectoryError};
use crate::kind::ImageKind;
use crate::set::{ImageSet, ImageSetBuilder, Limits};

impl ImageSet {
    /// Writes every image into `directory`, which is made (mode 0700) unless it exists; files get
    /// mode 0600. Nothing there is overwritten and no symbolic link is followed. The inventory comes
    /// last, so a set without it is known to be incomplete: write pages images first. Nothing is synced
    /// to the disk, as CRIU does not either.
    pub fn to_directory(&self, directory: &Path) -> Result<(), DirectoryError> {
        make_directory(directory)?;
        for (name, bytes) in self.iter() {
            let path = directory.join(name);
            let mut file = create_file(&path)?;
            file.write_all(bytes).map_err(DirectoryError::os("write", &path))?;
        }
        Ok(())
    }

    /// Reads every image of `directory` except pages images. Files of other names (logs, runtimes'
    /// notes) are passed over.
    pub fn from_directory(directory: &Path, limits: Limits) -> Result<Self, DirectoryError> {
        check_directory(directory)?;
        let mut set = ImageSetBuilder::new(limits);
        let listing = fs::read_dir(directory).map_err(DirectoryError::os("list", directory))?;
        for entry in listing {
            let entry = entry.map_err(DirectoryError::os("list", directory))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.ends_with(".img")) else { continue };
            if matches!(ImageKind::of_name(name), Some((ImageKind::Pages, _))) {
                continue;
            }
            let path = directory.join(name);
            let room = set.room();
            let mut bytes = Vec::new();
            open_file(&path)?
                .take(room.saturating_add(1))
                .read_to_end(&mut bytes)
                .map_err(DirectoryError::os("read", &path))?;
            set.insert(name, bytes)?;
        }
        Ok(set.seal()?)
    }
}

/// Makes a directory for images, or checks that the one there can take them.
pub(crate) fn make_directory(directory: &Path) -> Result<(), DirectoryError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            check_directory(directory)
        }
        Err(error) => Err(DirectoryError::os("make directory", directory)(error)),
    }
}

fn check_directory(directory: &Path) -> Result<(), DirectoryError> {
    let about =
        fs::symlink_metadata(directory).map_err(DirectoryError::os("look at", directory))?;
    if about.is_dir() {
        Ok(())
    } else {
        Err(DirectoryError::Type { path: directory.to_path_buf(), expected: "directory" })
    }
}

/// A new file that only its owner can read.
pub(crate) fn create_file(path: &Path) -> Result<File, DirectoryError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(DirectoryError::os("create", path))
}

/// A plain file, opened without following a link or waiting for a pipe's other end.
pub(crate) fn open_file(path: &Path) -> Result<File, DirectoryError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => {
                DirectoryError::Type { path: path.to_path_buf(), expected: "plain file" }
            }
            _ => DirectoryError::os("open", path)(error),
        })?;
    let about = file.metadata().map_err(DirectoryError::os("look at", path))?;
    if about.is_file() {
        Ok(file)
    } else {
        Err(DirectoryError::Type { path: path.to_path_buf(), expected: "plain file" })
    }
}

/// The last part of a path, for errors.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A pagemap or pages image that must be there is not.
pub(crate) fn missing(path: &Path) -> DirectoryError {
    DirectoryError::Bad(BadImage::Missing { image: file_name(path) })
}
