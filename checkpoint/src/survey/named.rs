//! Files by name: does the path the kernel shows still name the file that is open?

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::huge;
use super::refusals::{BY_CRIU, Trouble};

/// What the kernel appends to the path of a file whose name is gone.
const DELETED: &[u8] = b" (deleted)";

/// How a file with a path is found again on the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// By its path.
    Path(String),
    /// By its path, which it brings along with its content: a file of /dev/shm, or of a hugetlbfs, is memory of
    /// this host.
    Carried(String),
    /// Not at all: its last name was removed (it was the path here), its content must travel.
    Ghost(String),
}

/// Judges the file `open` that the kernel shows as `link`.
pub(crate) fn named(link: &Path, open: &Metadata, ghost_limit: u64) -> Result<Named, Trouble> {
    let shown = link.to_string_lossy();
    if open.nlink() == 0 {
        return ghost(link, open, ghost_limit);
    }
    let Some(path) = link.to_str().filter(|path| path.starts_with('/')) else {
        return Err(Trouble::new(shown, "the path is not absolute UTF-8 text"));
    };
    match fs::symlink_metadata(path) {
        Ok(found) if (found.dev(), found.ino()) == (open.dev(), open.ino()) => {
            match open.is_file() && is_memory(path, open) {
                true => carried(path, open, ghost_limit),
                false => Ok(Named::Path(path.to_owned())),
            }
        }
        Ok(_) => Err(Trouble::new(shown, "the path now names another file").but(BY_CRIU)),
        Err(_) if let Some(path) = other_name(link, open) => carried(&path, open, ghost_limit),
        Err(_) if link.as_os_str().as_bytes().ends_with(DELETED) => Err(Trouble::new(
            without_deleted(link.as_os_str()).to_string_lossy(),
            "the name was removed, but the file has other names",
        )
        .but(BY_CRIU)),
        Err(source) => Err(Trouble::new(shown, format!("the path cannot be looked at: {source}"))),
    }
}

/// Memory of this host with a name: in /dev/shm, or in a hugetlbfs.
fn is_memory(path: &str, open: &Metadata) -> bool {
    is_shared_memory(path) || huge::size_at(Path::new(path), open).is_some()
}

/// POSIX shared memory and semaphores: shm_overview(7), sem_overview(7).
fn is_shared_memory(path: &str) -> bool {
    path.starts_with("/dev/shm/")
        && statfs(path).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

/// The name in /dev/shm of a file that was opened by another: so sem_open(3) makes semaphores.
fn other_name(link: &Path, open: &Metadata) -> Option<String> {
    let folder = Path::new(without_deleted(link.as_os_str())).parent()?;
    if !open.is_file() || !folder.starts_with("/dev/shm") {
        return None;
    }
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    let same = |found: Metadata| (found.dev(), found.ino()) == (open.dev(), open.ino());
    let entry = entries.find(|entry| entry.metadata().is_ok_and(same))?;
    let path = entry.path().into_os_string().into_string().ok()?;
    is_shared_memory(&path).then_some(path)
}

fn carried(path: &str, open: &Metadata, limit: u64) -> Result<Named, Trouble> {
    let bytes = allocated(open);
    if bytes > limit {
        let reason = format!("shared memory of {bytes} bytes in a file; the limit is {limit}");
        return Err(Trouble::new(path, reason).but("raise `--ghost-limit`"));
    }
    Ok(Named::Carried(path.to_owned()))
}

fn ghost(link: &Path, open: &Metadata, limit: u64) -> Result<Named, Trouble> {
    let name = without_deleted(link.as_os_str());
    let shown = name.to_string_lossy();
    if !open.is_file() {
        let kind = open.file_type();
        let what = match (kind.is_dir(), kind.is_fifo()) {
            (true, _) => "directory",
            (_, true) => "FIFO",
            _ => "node",
        };
        return Err(Trouble::new(shown, format!("a deleted {what}")));
    }
    let bytes = allocated(open);
    if bytes > limit {
        let reason = format!("a deleted file of {bytes} bytes; the limit is {limit}");
        return Err(Trouble::new(shown, reason).but("raise `--ghost-limit`"));
    }
    match name.to_str() {
        Some(name) => Ok(Named::Ghost(name.to_owned())),
        None => Err(Trouble::new(shown, "the path is not UTF-8 text")),
    }
}

/// Bytes the file takes: holes are free.
pub(crate) fn allocated(file: &Metadata) -> u64 {
    file.blocks().saturating_mul(512)
}

/// The path without the kernel's " (deleted)".
pub(crate) fn without_deleted(link: &OsStr) -> &OsStr {
    OsStr::from_bytes(link.as_bytes().strip_suffix(DELETED).unwrap_or_else(|| link.as_bytes()))
}

/// True for the device nodes every Linux host has: null, zero, full, random, urandom, kmsg.
pub(crate) fn is_memory_device(file: &Metadata) -> bool {
    file.file_type().is_char_device() && nix::sys::stat::major(file.rdev()) == 1
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    fn judged(file: &File, limit: u64) -> Result<Named, Trouble> {
        let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("own fd");
        named(&link, &file.metadata().expect("open"), limit)
    }

    #[test]
    fn a_name_is_believed_only_while_it_names_the_file() {
        let folder = std::env::temp_dir().join(format!("qmig-named-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("a (deleted)");
        let shown = path.to_string_lossy().into_owned();
        let file = File::create(&path).expect("a file");
        assert_eq!(judged(&file, 0), Ok(Named::Path(shown.clone())), "an odd name is a name");

        let other = folder.join("b");
        fs::rename(&path, &other).expect("rename");
        File::create(&path).expect("another file");
        assert_eq!(judged(&file, 0), Ok(Named::Path(other.to_string_lossy().into_owned())));

        fs::hard_link(&other, folder.join("c")).expect("link");
        fs::remove_file(&other).expect("remove");
        let trouble = judged(&file, 0).expect_err("a name we cannot know");
        assert!(trouble.reason.contains("other names"), "{trouble:?}");

        fs::remove_file(folder.join("c")).expect("remove");
        assert!(matches!(judged(&file, 0), Ok(Named::Ghost(name)) if name.ends_with("/b")));
        std::io::Write::write_all(&mut &file, &[1; 8192]).expect("write");
        file.sync_all().expect("allocated");
        assert!(judged(&file, 4096).is_err(), "above the limit");
        fs::remove_dir_all(&folder).expect("clean");
    }
}
