//! Files of /dev/shm: memory of this host with a name, which goes where the tree goes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Their names here.
#[derive(Debug, Default)]
pub(crate) struct Carried(Vec<Name>);

#[derive(Debug)]
struct Name {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Carried {
    /// One more.
    pub(super) fn note(&mut self, path: &str, device: u64, inode: u64) {
        self.0.push(Name { path: path.into(), device, inode });
    }

    /// Takes the names away once the tree is dead: nobody else would, and if the tree comes back it
    /// brings them along.
    pub(crate) fn remove(&self) {
        for Name { path, device, inode } in &self.0 {
            let same = fs::symlink_metadata(path)
                .is_ok_and(|found| (found.dev(), found.ino()) == (*device, *inode));
            if !same {
                continue;
            }
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "shared memory is left");
            }
        }
    }
}
