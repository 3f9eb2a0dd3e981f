//! What an inotify instance watches: the kernel tells handles, a destination needs paths.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use image::state::Watch;
use nix::libc;
use tracee::HostPid;
use tracee::host::{bytes_waiting, open_handle};
use tracee::proc::fdinfo::InotifyWatch;

use super::refusals::{BY_CRIU, Trouble};

const PLACE: &str = "anon_inode:inotify";

/// The watches of an instance of `pid`, ascending by number, each with a path that names the file
/// now.
pub(crate) fn watches(pid: HostPid, found: &[InotifyWatch]) -> Result<Vec<Watch>, Trouble> {
    let mut mounts = Vec::new();
    if !found.is_empty() {
        let text = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        mounts = text.split(|byte| *byte == b'\n').filter_map(mount).collect();
    }
    let watch = |watch: &InotifyWatch| match path(watch, &mounts) {
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

/// Device (the kernel's own number) and place of a mount, from its line in mountinfo (proc(5)).
fn mount(line: &[u8]) -> Option<(u32, PathBuf)> {
    let mut words = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(words.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    Some((major << 20 | minor, unescaped(words.nth(1)?)))
}

/// Blanks, tabs, newlines and backslashes are three octal digits there.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'\\').then(|| after.get(..3)).flatten();
        let code =
            code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(out))
}

fn path(watch: &InotifyWatch, mounts: &[(u32, PathBuf)]) -> Option<String> {
    let (kind, handle) = watch.handle.as_ref()?;
    let places = mounts.iter().filter(|(device, _)| *device == watch.sdev);
    places.map(|(_, place)| place).find_map(|place| {
        let place = directory(place)?;
        let file = open_handle(place.as_fd(), *kind, handle).ok()?;
        name(&file)
    })
}

fn directory(path: &Path) -> Option<File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path).ok()
}

/// The path of an open file, if it names that file.
fn name(file: &OwnedFd) -> Option<String> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = fs::read_link(&link).ok()?;
    let (open, named) = (fs::metadata(&link).ok()?, fs::symlink_metadata(&path).ok()?);
    let same = (open.dev(), open.ino()) == (named.dev(), named.ino());
    path.into_os_string().into_string().ok().filter(|_| same)
}

/// Refuses events that wait: no call puts one into an instance.
pub(crate) fn unread(instance: &OwnedFd) -> Option<Trouble> {
    let bytes = bytes_waiting(instance.as_fd()).ok().filter(|bytes| *bytes > 0)?;
    let reason = format!("{bytes} bytes of events that the program has not read");
    Some(Trouble::new(PLACE, reason).but("try again when it has read them"))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn places_of_mounts_are_unescaped() {
        let line = br"36 35 98:0 / /mnt/a\040b\134c rw,noatime master:1 - ext4 /dev/root rw";
        assert_eq!(mount(line), Some((98 << 20, PathBuf::from("/mnt/a b\\c"))));
        assert_eq!(mount(b""), None);
    }
}
