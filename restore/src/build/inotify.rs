//! inotify instances and fanotify groups, and what they watch.

use std::os::fd::{AsFd, OwnedFd};

use image::state::{Fanotify, FileId, Watch};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::fanotify::Group;
use super::files::View;
use crate::error::{BadCheckpoint, Error, Result, errno_of};

/// The instances among the descriptors. They begin to watch at the very end, so that nothing that
/// building the tree does to a file is told to the program.
pub(crate) struct Watchers {
    view: View,
    all: Vec<Watcher>,
    groups: Vec<Group>,
}

struct Watcher {
    file: FileId,
    instance: Inotify,
    watches: Vec<Watch>,
}

impl Watchers {
    /// None yet; what they watch is reached by `view`.
    pub(crate) fn new(view: View) -> Self {
        Self { view, all: Vec::new(), groups: Vec::new() }
    }

    /// An instance that watches nothing yet.
    pub(crate) fn make(
        &mut self,
        file: FileId,
        watches: &[Watch],
        flags: OFlag,
    ) -> nix::Result<OwnedFd> {
        let mut how = InitFlags::IN_CLOEXEC;
        how.set(InitFlags::IN_NONBLOCK, flags.contains(OFlag::O_NONBLOCK));
        let instance = Inotify::init(how)?;
        let copy = instance.as_fd().try_clone_to_owned().map_err(|error| errno_of(&error))?;
        self.all.push(Watcher { file, instance, watches: watches.to_vec() });
        Ok(copy)
    }

    /// A fanotify group that has marked nothing yet.
    pub(crate) fn group(
        &mut self,
        file: FileId,
        group: &Fanotify,
        flags: OFlag,
    ) -> nix::Result<OwnedFd> {
        let (made, copy) = Group::make(file, group, flags)?;
        self.groups.push(made);
        Ok(copy)
    }

    /// Watches everything, under the numbers the program knows.
    pub(crate) fn begin(&mut self) -> Result<()> {
        for group in self.groups.drain(..) {
            group.begin(&self.view)?;
        }
        for Watcher { file, instance, watches } in self.all.drain(..) {
            for watch in watches {
                if !watch.path.starts_with('/') || watch.path.contains('\0') {
                    return Err(BadCheckpoint::FilePath(file).into());
                }
                let path = self.view.path(&watch.path);
                let failed = |errno| Error::Path { act: "watch", path: path.clone(), errno };
                let number = watch.number.cast_signed();
                tracee::host::set_next_watch(instance.as_fd(), number)
                    .map_err(|error| failed(errno_of(&error)))?;
                // The path is that of the file itself, whatever a link was called.
                let mask = AddWatchFlags::from_bits_retain(watch.mask);
                let mask = mask | AddWatchFlags::IN_DONT_FOLLOW;
                let got = instance.add_watch(&path, mask).map_err(failed)?;
                if got.as_raw() != number {
                    return Err(failed(Errno::EEXIST));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::read;

    use super::*;

    #[test]
    fn numbers_and_masks_come_back_and_nothing_is_told_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("file");
        std::fs::write(&inner, "").expect("a file");
        let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
        let watch = |number, mask, path| Watch { number, mask, path, inode: 0, dev: 0 };
        let watches = [watch(4, 0x100, path(folder.path())), watch(9, 0x8000_0020, path(&inner))];
        let mut watchers = Watchers::new(View::default());
        let fd = watchers.make(FileId(1), &watches, OFlag::O_NONBLOCK).expect("inotify");
        std::fs::read(&inner).expect("not yet watched");
        watchers.begin().expect("watching");
        let mut event = [0; 64];
        assert_eq!(read(&fd, &mut event), Err(Errno::EAGAIN));
        std::fs::read(&inner).expect("opened");
        // The event and, because it was to be told once, the end of the watch.
        assert_eq!(read(&fd, &mut event), Ok(32));
        assert_eq!((event[0], event[4], event[16], event[21]), (9, 0x20, 9, 0x80));
        let gone = [watch(2, 0x100, "/no/such/file".into())];
        watchers.make(FileId(1), &gone, OFlag::empty()).expect("inotify");
        assert!(watchers.begin().is_err());
    }
}
