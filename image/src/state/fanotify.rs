//! fanotify(7) groups. What they had not told yet is not carried.

/// A fanotify group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fanotify {
    /// Given to fanotify_init(2): FAN_*.
    pub flags: u32,
    /// O_* of the files that come with events.
    pub event_flags: u32,
    /// What it has marked.
    pub marks: Vec<Mark>,
}

/// One mark: fanotify_mark(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// On what, as the source knows it.
    pub on: MarkOn,
    /// Path of the file, or of the mount.
    pub path: String,
    /// FAN_MARK_IGNORED_SURV_MODIFY, FAN_MARK_EVICTABLE, FAN_MARK_IGNORE.
    pub flags: u32,
    /// FAN_*: what is told.
    pub mask: u32,
    /// FAN_*: what is not.
    pub ignored: u32,
}

/// What a mark is on; the numbers are the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkOn {
    /// A file.
    Inode {
        /// Its inode.
        inode: u64,
        /// Its device.
        dev: u32,
    },
    /// All of a mount.
    Mount {
        /// Its number.
        number: u32,
    },
    /// All of a file system.
    FileSystem {
        /// Its device.
        dev: u32,
    },
}
