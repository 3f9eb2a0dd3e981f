//! Which files there are, and by what one can tell that they have changed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Dir, FileType, Mode, OFlags, Statx, openat};

use crate::beneath::{inode, is_nothing, stat_in};
use crate::error::{Error, Result};
use crate::pack::{Tree, Users};
use crate::path::RelPath;

/// Files of one tree.
const MOST: usize = 4 << 20;
/// Times of files are as coarse as this on some file systems: what changed so shortly before it was
/// looked at may have changed again with the same time.
const COARSE: Duration = Duration::from_secs(2);

/// The files of a tree at one moment; while they are in use, of a stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pub(crate) seen: BTreeMap<RelPath, Stamp>,
}

/// What differs between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What is not there any more, or is something else; not what was in it.
    pub gone: Vec<RelPath>,
    /// What is new or differs, in order.
    pub changed: BTreeSet<RelPath>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Device and number.
    pub(crate) inode: (u64, u64),
    /// Kind and permissions.
    pub(crate) mode: u16,
    owner: (u32, u32),
    pub(crate) links: u32,
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
    /// It may have changed since without showing it.
    uncertain: bool,
    /// Something else is mounted there.
    pub(crate) mounted: bool,
}

impl Stamp {
    fn of(stat: &Statx, now: SystemTime, mount: u64) -> Self {
        let changed = (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec);
        let long_ago = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(COARSE);
        let long_ago = (i64::try_from(long_ago.as_secs()).unwrap_or(0), long_ago.subsec_nanos());
        Self {
            inode: inode(stat),
            mode: stat.stx_mode,
            owner: (stat.stx_uid, stat.stx_gid),
            links: stat.stx_nlink,
            size: stat.stx_size,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            changed,
            uncertain: changed >= long_ago,
            mounted: stat.stx_mnt_id != mount,
        }
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode.into())
    }

    /// A plain file, or another that can have several names, that has them.
    pub(crate) fn has_more_names(&self) -> bool {
        self.kind() != FileType::Directory && self.links > 1
    }
}

impl Index {
    /// Looks at every file.
    pub fn look(tree: &Tree, users: Users) -> Result<Self> {
        let root = RelPath::root();
        let now = SystemTime::now();
        let stat = tree.beneath.stat(&root).map_err(Error::os("look at", &root))?;
        let mount = stat.stx_mnt_id;
        let mut index = Self::default();
        index.seen.insert(root.clone(), Stamp::of(&stat, now, mount));
        let mut folders = vec![root];
        while let Some(folder) = folders.pop() {
            match index.look_into(tree, &folder, mount, &mut folders) {
                Err(Error::Os { source, .. }) if users == Users::Run && is_nothing(&source) => {}
                other => other?,
            }
        }
        Ok(index)
    }

    fn look_into(
        &mut self,
        tree: &Tree,
        folder: &RelPath,
        mount: u64,
        folders: &mut Vec<RelPath>,
    ) -> Result<()> {
        let act = "look into";
        let opened = tree.beneath.at(folder, OFlags::RDONLY | OFlags::DIRECTORY);
        let opened = opened.map_err(Error::os(act, folder))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let again = openat(&opened, ".", flags, Mode::empty()).map_err(Error::os(act, folder))?;
        for entry in Dir::new(again).map_err(Error::os(act, folder))? {
            let entry = entry.map_err(Error::os(act, folder))?;
            let Some(name) = plain(entry.file_name()) else { continue };
            let path = folder.join(name)?;
            let now = SystemTime::now();
            let stat = match stat_in(&opened, name) {
                Err(error) if is_nothing(&error) => continue,
                other => other.map_err(Error::os("look at", &path))?,
            };
            let stamp = Stamp::of(&stat, now, mount);
            if stamp.kind() == FileType::Directory && !stamp.mounted {
                folders.push(path.clone());
            }
            self.seen.insert(path, stamp);
            if self.seen.len() > MOST {
                return Err(Error::TooMany(MOST));
            }
        }
        Ok(())
    }

    /// Everything, as if nothing had been there before.
    pub fn all(&self) -> Changes {
        Changes { gone: Vec::new(), changed: self.seen.keys().cloned().collect() }
    }

    /// Of these names, those that are there, and those that are not.
    pub fn only(&self, names: impl IntoIterator<Item = RelPath>) -> Changes {
        let mut changes = Changes::default();
        for name in names {
            match self.seen.contains_key(&name) {
                true => drop(changes.changed.insert(name)),
                false => changes.gone.push(name),
            }
        }
        changes
    }

    /// What has changed since an earlier look, or may have: `written` are files, by number, that
    /// somebody can write without it showing, because they are mapped.
    pub fn since(&self, before: &Self, written: &HashSet<u64>) -> Changes {
        let mut changes = Changes::default();
        let mut names = HashSet::new();
        for (path, stamp) in &self.seen {
            let earlier = before.seen.get(path);
            let same = |earlier: &Stamp| {
                Stamp { uncertain: false, ..*earlier } == Stamp { uncertain: false, ..*stamp }
            };
            let plain = stamp.kind() != FileType::Directory;
            let doubtful =
                |earlier: &Stamp| (plain && earlier.uncertain) || written.contains(&stamp.inode.1);
            if earlier.is_some_and(|earlier| same(earlier) && !doubtful(earlier)) {
                continue;
            }
            if earlier.is_some_and(|earlier| earlier.kind() != stamp.kind()) {
                changes.gone.push(path.clone());
            }
            changes.changed.insert(path.clone());
            if stamp.has_more_names() {
                names.insert(stamp.inode);
            }
        }
        // A file that is sent again is a new one over there, under each of its names.
        let others = self
            .seen
            .iter()
            .filter(|(_, stamp)| stamp.has_more_names() && names.contains(&stamp.inode));
        changes.changed.extend(others.map(|(path, _)| path.clone()));
        for path in before.seen.keys().filter(|path| !self.seen.contains_key(path)) {
            // What was in a folder that is gone comes right after it.
            if !changes.gone.last().is_some_and(|folder| path.starts_with(folder)) {
                changes.gone.push(path.clone());
            }
        }
        changes
    }
}

/// A name that is not one of the two that every folder has.
fn plain(name: &CStr) -> Option<&OsStr> {
    let bytes = name.to_bytes();
    (bytes != b"." && bytes != b"..").then(|| OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: u16 = 0o040_755;
    const FILE: u16 = 0o100_644;

    fn path(name: &str) -> RelPath {
        RelPath::parse(name.into()).expect("a good name")
    }

    fn stamp(mode: u16, inode: u64, changed: i64) -> Stamp {
        Stamp {
            inode: (1, inode),
            mode,
            owner: (0, 0),
            links: 1,
            size: 0,
            modified: (0, 0),
            changed: (changed, 0),
            uncertain: false,
            mounted: false,
        }
    }

    fn index(files: &[(&str, Stamp)]) -> Index {
        Index { seen: files.iter().map(|(name, stamp)| (path(name), *stamp)).collect() }
    }

    #[test]
    fn what_differs_is_told_and_nothing_else() {
        let (dir, file) = (stamp(FOLDER, 1, 5), stamp(FILE, 2, 5));
        let other = |inode| Stamp { inode: (1, inode), ..file };
        let twice = |stamp: Stamp| Stamp { links: 2, ..stamp };
        let uncertain = |stamp: Stamp| Stamp { uncertain: true, ..stamp };
        type Files<'a> = &'a [(&'a str, Stamp)];
        let table: [(Files<'_>, Files<'_>, &[&str], &[&str]); 9] = [
            (&[("", dir), ("a", file)], &[("", dir), ("a", file)], &[], &[]),
            (&[("a", file)], &[("a", Stamp { changed: (6, 0), ..file })], &[], &["a"]),
            (&[("a", file)], &[("a", Stamp { size: 1, ..file })], &[], &["a"]),
            (&[("a", file)], &[("a", other(3))], &[], &["a"]),
            (&[("a", uncertain(file))], &[("a", file)], &[], &["a"]),
            (&[("a", uncertain(dir))], &[("a", dir)], &[], &[]),
            // A folder in the place of a file, and the other way round.
            (&[("a", file)], &[("a", dir), ("a/b", other(3))], &["a"], &["a", "a/b"]),
            (&[("a", dir), ("a/b", file), ("c", file)], &[("c", file)], &["a"], &[]),
            // Every name of a file that changed under one of them.
            (
                &[("a", twice(file)), ("b", uncertain(twice(file))), ("c", file)],
                &[("a", twice(file)), ("b", twice(file)), ("c", file)],
                &[],
                &["a", "b"],
            ),
        ];
        for (before, after, gone, changed) in table {
            let changes = index(after).since(&index(before), &HashSet::new());
            assert_eq!(changes.gone, gone.iter().map(|name| path(name)).collect::<Vec<_>>());
            assert_eq!(changes.changed, changed.iter().map(|name| path(name)).collect());
        }
        let same = index(&[("a", file), ("b", other(3))]);
        let written = HashSet::from([file.inode.1]);
        assert_eq!(same.since(&same, &written).changed, BTreeSet::from([path("a")]));
    }
}
