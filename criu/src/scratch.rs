//! A directory that only this process and its CRIU can see, in memory.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure,
    fsconfig_set_string, fsmount, fsopen, fspick,
};

use crate::error::{Error, Result};

/// A tmpfs that is mounted nowhere: no path of any mount namespace leads to it. It is gone, with
/// everything in it, when the last descriptor is closed, however we end.
#[derive(Debug)]
pub struct Scratch {
    folder: OwnedFd,
}

impl Scratch {
    /// An empty one that takes up to `most` bytes.
    pub fn new(most: u64) -> Result<Self> {
        let act = "make a directory in memory";
        let room = in_digits(most);
        let kind = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(Error::rustix(act))?;
        for (key, value) in [(c"size", room.as_c_str()), (c"mode", c"0700")] {
            fsconfig_set_string(kind.as_fd(), key, value).map_err(Error::rustix(act))?;
        }
        fsconfig_create(kind.as_fd()).map_err(Error::rustix(act))?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(kind.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(Error::rustix(act))?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = openat(&mount, ".", flags, Mode::empty()).map_err(Error::errno(act))?;
        Ok(Self { folder })
    }

    /// From now on it takes up to `most` bytes.
    pub fn resize(&self, most: u64) -> Result<()> {
        let act = "make room in memory";
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let kind = fspick(&self.folder, "", flags).map_err(Error::rustix(act))?;
        let room = in_digits(most);
        fsconfig_set_string(kind.as_fd(), c"size", room.as_c_str()).map_err(Error::rustix(act))?;
        fsconfig_reconfigure(kind.as_fd()).map_err(Error::rustix(act))
    }

    /// A path by which this process can use it, and which is a directory also to those who follow no
    /// symbolic link at its end.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/.", self.folder.as_raw_fd()))
    }

    /// A path by which other processes that may look into ours can use it as long as we live.
    pub(crate) fn path_for_others(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.folder.as_raw_fd()))
    }

    /// By this number CRIU finds it under our `/proc/PID/fd`.
    pub(crate) fn number(&self) -> i32 {
        self.folder.as_raw_fd()
    }
}

fn in_digits(most: u64) -> CString {
    CString::new(most.max(1 << 20).to_string()).expect("digits")
}

impl AsFd for Scratch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_files_is_found_in_no_mount_table_and_has_its_limit() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("SKIPPED: needs root");
            return;
        }
        let before = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let scratch = Scratch::new(1 << 20).expect("a scratch directory");
        let file = scratch.path().join("a");
        std::fs::write(&file, b"abc").expect("written");
        assert_eq!(std::fs::read(&file).expect("read"), b"abc");
        let after = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert_eq!(before.lines().count(), after.lines().count());
        let error = std::fs::write(&file, vec![1; 2 << 20]).expect_err("too much");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        scratch.resize(4 << 20).expect("larger");
        std::fs::write(&file, vec![1; 2 << 20]).expect("there is room now");
        let number = scratch.number();
        drop(scratch);
        assert!(std::fs::read(format!("/proc/self/fd/{number}/a")).is_err());
    }
}
