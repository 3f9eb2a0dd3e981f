//! The mounts of a process, and the paths of what the kernel knows by handle or number alone.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use tracee::HostPid;
use tracee::host::open_handle;

/// The mounts that a process sees.
#[derive(Debug, Default)]
pub(super) struct Mounts(Vec<Mount>);

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    number: u32,
    /// The kernel's own number, as fdinfo tells it.
    device: u32,
    place: PathBuf,
}

impl Mounts {
    /// Those of `pid`, from /proc/PID/mountinfo (proc(5)).
    pub(super) fn of(pid: HostPid) -> Self {
        let text = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        Self(text.split(|byte| *byte == b'\n').filter_map(mount).collect())
    }

    /// The path that names a file now, by its type of handle and its handle (name_to_handle_at(2)).
    pub(super) fn path(&self, device: u32, handle: Option<&(i32, Vec<u8>)>) -> Option<String> {
        let (kind, handle) = handle?;
        let mut places = self.0.iter().filter(|mount| mount.device == device);
        places.find_map(|mount| {
            let place = directory(&mount.place)?;
            let file = open_handle(place.as_fd(), *kind, handle).ok()?;
            name(&file)
        })
    }

    /// Where a mount is, by its number.
    pub(super) fn place(&self, number: u32) -> Option<String> {
        let mount = self.0.iter().find(|mount| mount.number == number)?;
        mount.place.to_str().map(str::to_owned)
    }

    /// Where a file system is mounted.
    pub(super) fn place_of_device(&self, device: u32) -> Option<String> {
        let mount = self.0.iter().find(|mount| mount.device == device)?;
        mount.place.to_str().map(str::to_owned)
    }
}

/// Number, device and place of a mount, from its line.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let number = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let device = std::str::from_utf8(words.nth(1)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    Some(Mount { number, device: major << 20 | minor, place: unescaped(words.nth(1)?) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_mounts_are_unescaped() {
        let line = br"36 35 98:0 / /mnt/a\040b\134c rw,noatime master:1 - ext4 /dev/root rw";
        let place = PathBuf::from("/mnt/a b\\c");
        assert_eq!(mount(line), Some(Mount { number: 36, device: 98 << 20, place }));
        assert_eq!(mount(b""), None);
    }
}
