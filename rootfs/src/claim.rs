//! A folder that is ours until a container runs in it.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// An empty folder for files to come. Dropped, it is as it was; if we die, what is left in it is known
/// to be ours by a mark beside it, and the next claim removes it.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    mark: PathBuf,
    /// It was there before.
    stays: bool,
    /// A container has it.
    kept: bool,
}

impl Claim {
    /// Why it cannot be had.
    pub fn refusal(folder: &Path) -> Option<String> {
        let about = match fs::symlink_metadata(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(error.to_string()),
            Ok(about) => about,
        };
        if !about.is_dir() {
            return Some("it is no directory".to_owned());
        }
        if mark(folder).is_file() {
            return None;
        }
        match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
            Ok(false) => None,
            Ok(true) => Some("it is not empty".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Takes it, and makes it if it is not there.
    pub fn take(folder: &Path) -> Result<Self> {
        let fail = |act| {
            let folder = folder.display().to_string();
            move |source| Error::Folder { act, folder, source }
        };
        if let Some(why) = Self::refusal(folder) {
            return Err(fail("take")(io::Error::other(why)));
        }
        let mark = mark(folder);
        let stays = folder.is_dir();
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&mark)
            .map_err(fail("mark"))?;
        let claim = Self { folder: folder.to_owned(), mark, stays, kept: false };
        match stays {
            true => empty(folder).map_err(fail("empty"))?,
            false => fs::create_dir(folder).map_err(fail("make"))?,
        }
        Ok(claim)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// From now on nobody takes it for left over, whatever happens to us.
    pub fn unmark(&self) {
        let _ = fs::remove_file(&self.mark);
    }

    /// A container runs in it.
    pub fn keep(mut self) {
        self.unmark();
        self.kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let removed = match self.stays {
            true => empty(&self.folder),
            false => fs::remove_dir_all(&self.folder),
        };
        match removed {
            Ok(()) => self.unmark(),
            Err(error) => tracing::warn!(%error, folder = %self.folder.display(), "files are left"),
        }
    }
}

fn mark(folder: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(folder.file_name().unwrap_or_default());
    name.push(".qmig");
    folder.with_file_name(name)
}

fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_it_was_unless_it_is_kept_and_what_is_left_of_us_is_ours() -> Result<()> {
        let around = tempfile::tempdir().expect("a folder");
        let folder = around.path().join("rootfs");
        let left = || fs::read_dir(around.path()).expect("read").count();
        let fill = |claim: &Claim| {
            fs::create_dir(claim.folder().join("d")).expect("made");
            fs::write(claim.folder().join("d/f"), b"x").expect("written");
        };
        let claim = Claim::take(&folder)?;
        fill(&claim);
        drop(claim);
        assert_eq!(left(), 0);
        fs::create_dir(&folder).expect("made");
        let claim = Claim::take(&folder)?;
        fill(&claim);
        std::mem::forget(claim); // as if we had been killed
        let claim = Claim::take(&folder)?;
        assert_eq!(fs::read_dir(&folder).expect("read").count(), 0);
        drop(claim);
        assert_eq!(left(), 1, "it was there before");
        let claim = Claim::take(&folder)?;
        fill(&claim);
        claim.keep();
        assert_eq!(left(), 1);
        assert!(Claim::take(&folder).is_err_and(|error| error.to_string().contains("not empty")));
        fs::remove_dir_all(&folder).expect("removed");
        std::os::unix::fs::symlink("/tmp", &folder).expect("a link");
        assert!(
            Claim::take(&folder).is_err_and(|error| error.to_string().contains("no directory"))
        );
        Ok(())
    }
}
