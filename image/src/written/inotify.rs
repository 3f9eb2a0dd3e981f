//! What inotify instances watch.

use crate::error::BadField;
use crate::messages::{FhEntry, InotifyWdEntry};
use crate::state::Watch;
use crate::state::check::absolute_path;

/// CRIU's handles have room for 128 bytes, always.
const HANDLE_WORDS: usize = 16;

impl FhEntry {
    /// Of a file that is known by its path.
    pub(super) fn by_path() -> Self {
        let handle = vec![0; HANDLE_WORDS];
        Self { bytes: 0, r#type: 0, handle, path: None, mnt_id: None }
    }
}

impl From<&Watch> for InotifyWdEntry {
    /// With a path CRIU needs no handle, and the destination's would be another.
    fn from(watch: &Watch) -> Self {
        Self {
            id: 0,
            i_ino: watch.inode,
            mask: watch.mask,
            ignored_mask: 0,
            s_dev: watch.dev,
            wd: watch.number,
            f_handle: FhEntry { path: Some(watch.path.clone()), ..FhEntry::by_path() },
        }
    }
}

impl TryFrom<&InotifyWdEntry> for Watch {
    type Error = BadField;

    fn try_from(entry: &InotifyWdEntry) -> Result<Self, BadField> {
        let Some(path) = entry.f_handle.path.clone() else {
            let what = "a watched file that is known by its handle alone";
            return Err(BadField::unsupported("ify.wd.f_handle", what));
        };
        // CRIU's are relative to the root of the mounts.
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        absolute_path("ify.wd.f_handle.path", &path)?;
        if !(1..=i32::MAX.cast_unsigned()).contains(&entry.wd) {
            return Err(BadField::value("ify.wd.wd", entry.wd, "a watch's number"));
        }
        let (mask, inode, dev) = (entry.mask, entry.i_ino, entry.s_dev);
        Ok(Self { number: entry.wd, mask, path, inode, dev })
    }
}

/// The watches of one instance; their numbers ascend.
pub(super) fn watches(entries: &[InotifyWdEntry]) -> Result<Vec<Watch>, BadField> {
    let watches: Vec<Watch> = entries.iter().map(Watch::try_from).collect::<Result<_, _>>()?;
    let numbers = watches.iter().map(|watch| watch.number);
    match numbers.clone().zip(numbers.skip(1)).find(|(a, b)| a >= b) {
        Some((_, number)) => Err(BadField::value("ify.wd.wd", number, "ascending numbers")),
        None => Ok(watches),
    }
}
