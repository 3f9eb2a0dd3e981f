//! A fanotify group, and its marks.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use image::state::fanotify::{Mark, MarkOn};
use image::state::{Fanotify, FileId};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::fanotify::{self, EventFFlags, InitFlags, MarkFlags, MaskFlags};

use super::files::View;
use crate::error::{BadCheckpoint, Error, Result, errno_of};

/// linux/fanotify.h.
const NONBLOCK: u32 = 2;
const DONT_FOLLOW: u32 = 4;
const IGNORED_MASK: u32 = 0x20;
const IGNORED_SURV_MODIFY: u32 = 0x40;
const EVICTABLE: u32 = 0x200;
const IGNORE: u32 = 0x400;
const ADD: u32 = 1;

/// A group that hears of nothing before it [begins](Self::begin).
pub(super) struct Group {
    file: FileId,
    group: fanotify::Fanotify,
    marks: Vec<Mark>,
}

impl Group {
    /// The group, and a descriptor of it to give away.
    pub(super) fn make(
        file: FileId,
        state: &Fanotify,
        flags: OFlag,
    ) -> nix::Result<(Self, OwnedFd)> {
        let waits = if flags.contains(OFlag::O_NONBLOCK) { NONBLOCK } else { 0 };
        let how = InitFlags::from_bits_retain(state.flags & !NONBLOCK | waits);
        let events = EventFFlags::from_bits_retain(state.event_flags);
        let group = fanotify::Fanotify::init(how, events)?;
        // As a flag of the group it would be seen.
        fcntl(&group, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        let copy = group.as_fd().try_clone_to_owned().map_err(|error| errno_of(&error))?;
        Ok((Self { file, group, marks: state.marks.clone() }, copy))
    }

    /// Marks everything. What a mark is on beyond one file must be just that here too.
    pub(super) fn begin(self, view: &View) -> Result<()> {
        for mark in &self.marks {
            if !mark.path.starts_with('/') || mark.path.contains('\0') {
                return Err(BadCheckpoint::FilePath(self.file).into());
            }
            let path = view.path(&mark.path);
            let failed = |errno| Error::Path { act: "mark", path: path.clone(), errno };
            let kind = match mark.on {
                MarkOn::Inode { .. } => 0,
                MarkOn::Mount { .. } => MarkFlags::FAN_MARK_MOUNT.bits(),
                MarkOn::FileSystem { .. } => MarkFlags::FAN_MARK_FILESYSTEM.bits(),
            };
            if kind != 0 && !is_mount(&mark.path) {
                // Else it would hear of everything around.
                return Err(failed(Errno::ENOTBLK));
            }
            let evictable = mark.flags & EVICTABLE;
            let lasting = mark.flags & IGNORED_SURV_MODIFY;
            let ignore = if mark.flags & IGNORE != 0 { IGNORE } else { IGNORED_MASK };
            for (more, mask) in [(0, mark.mask), (ignore | lasting, mark.ignored)] {
                if mask == 0 {
                    continue;
                }
                let flags = ADD | DONT_FOLLOW | kind | evictable | more;
                let flags = MarkFlags::from_bits_retain(flags);
                let mask = MaskFlags::from_bits_retain(mask.into());
                self.group.mark(flags, mask, AT_FDCWD, Some(&path)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Is a mount at this very place?
fn is_mount(path: &str) -> bool {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let mut places = text.lines().filter_map(|line| line.split(' ').nth(4));
    places.any(|place| Path::new(place) == Path::new(path))
}
