//! What an inotify instance watches: the kernel tells handles, a destination needs paths.

use std::os::fd::{AsFd, OwnedFd};

use image::state::Watch;
use tracee::HostPid;
use tracee::host::bytes_waiting;
use tracee::proc::fdinfo::InotifyWatch;

use super::mounts::Mounts;
use super::refusals::{BY_CRIU, Trouble};

const PLACE: &str = "anon_inode:inotify";

/// The watches of an instance of `pid`, ascending by number, each with a path that names the file
/// now.
pub(crate) fn watches(pid: HostPid, found: &[InotifyWatch]) -> Result<Vec<Watch>, Trouble> {
    let mounts = if found.is_empty() { Mounts::default() } else { Mounts::of(pid) };
    let watch = |watch: &InotifyWatch| match mounts.path(watch.sdev, watch.handle.as_ref()) {
        Some(path) => Ok(Watch {
            number: watch.wd.cast_unsigned(),
            mask: watch.mask,
            path,
            inode: watch.ino,
            dev: watch.sdev,
        }),
        None => {
            let reason =
                format!("the path of its watch {} (inode {}) cannot be found", watch.wd, watch.ino);
            Err(Trouble::new(PLACE, reason).but(BY_CRIU))
        }
    };
    let mut watches: Vec<Watch> = found.iter().map(watch).collect::<Result<_, _>>()?;
    watches.sort_by_key(|watch| watch.number);
    Ok(watches)
}

/// Refuses events that wait: no call puts one into an instance.
pub(crate) fn unread(instance: &OwnedFd) -> Option<Trouble> {
    let bytes = bytes_waiting(instance.as_fd()).ok().filter(|bytes| *bytes > 0)?;
    let reason = format!("{bytes} bytes of events that the program has not read");
    Some(Trouble::new(PLACE, reason).but("try again when it has read them"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::path::Path;

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    use tracee::proc::fdinfo::{Extra, FdInfo};

    use super::*;

    #[test]
    fn watched_files_are_found_by_their_handles() {
        let folder = std::env::temp_dir().join(format!("qmig watch {}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let moved = folder.join("moved");
        fs::write(folder.join("file"), "").expect("a file");
        let inotify = Inotify::init(InitFlags::empty()).expect("inotify");
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT;
        inotify.add_watch(&folder.join("file"), flags).expect("a watch");
        inotify.add_watch(&folder, AddWatchFlags::IN_CREATE).expect("a watch");
        fs::rename(folder.join("file"), &moved).expect("rename");
        let own = HostPid(std::process::id().cast_signed());
        let seen = || match FdInfo::read(own, inotify.as_fd().as_raw_fd()).expect("fdinfo").extra {
            Extra::Inotify(found) => watches(own, &found),
            other => panic!("an inotify instance: {other:?}"),
        };
        let found = seen().expect("both have names");
        let seen_as: Vec<_> =
            found.iter().map(|w| (w.number, w.mask, Path::new(&w.path))).collect();
        assert_eq!(seen_as, [(1, 0x8000_0002, &*moved), (2, 0x100, &*folder)]);
        fs::remove_dir_all(&folder).expect("clean");
    }
}
