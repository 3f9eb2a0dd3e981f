//! Objects of shared memory by the number that CRIU gives them: their inode's.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pages::SharedId;
use tracee::HostPid;
use tracee::proc::maps::{self, Mapping};

use crate::survey::{huge, tree};

/// What the kernel calls shared memory that has no file: every such object is on a file system of
/// the kernel's own, and it numbers those of all of them in one row.
const NAMES: [&str; 4] = ["/dev/zero", "/memfd:", "/SYSV", huge::ANONYMOUS];

/// Opens an object that one of `processes`, all of which stand still, has mapped or open.
pub(super) fn open(id: SharedId, processes: &[HostPid]) -> io::Result<OwnedFd> {
    for pid in processes {
        let mapped = maps::read(*pid).unwrap_or_default();
        if let Some(mapping) = mapped.iter().find(|mapping| is_it(id, mapping)) {
            let (start, end) = (mapping.start.0, mapping.end.0);
            let way = format!("/proc/{}/map_files/{start:x}-{end:x}", pid.0);
            return Ok(File::open(way)?.into());
        }
    }
    for pid in processes {
        for number in tree::descriptors(*pid).unwrap_or_default() {
            let way = format!("/proc/{}/fd/{number}", pid.0);
            let of_memory = fs::read_link(&way).is_ok_and(|name| is_memory(&name));
            if of_memory && fs::metadata(&way).is_ok_and(|about| number_of(about.ino()) == id) {
                return Ok(File::open(way)?.into());
            }
        }
    }
    let what = format!("nobody has shared object {} open or mapped", id.0);
    Err(io::Error::new(io::ErrorKind::NotFound, what))
}

fn is_it(id: SharedId, mapping: &Mapping) -> bool {
    mapping.shared
        && number_of(mapping.inode) == id
        && mapping.path.as_deref().is_some_and(is_memory)
}

fn is_memory(name: &Path) -> bool {
    let name = name.to_string_lossy();
    NAMES.iter().any(|known| name.starts_with(known))
}

/// CRIU keeps 32 bits of it.
fn number_of(inode: u64) -> SharedId {
    SharedId(u32::try_from(inode & u64::from(u32::MAX)).expect("masked"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn an_open_object_is_found_and_another_is_not() {
        let memfd = File::from(memfd_create("found", MFdFlags::MFD_CLOEXEC).expect("memfd"));
        memfd.write_all_at(b"abc", 0).expect("written");
        let id = number_of(memfd.metadata().expect("metadata").ino());
        let us = [HostPid(std::process::id().cast_signed())];
        let found = File::from(open(id, &us).expect("found"));
        assert_ne!(found.as_raw_fd(), memfd.as_raw_fd());
        let mut bytes = [0; 3];
        found.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(&bytes, b"abc");
        let error = open(SharedId(id.0 ^ 0x8000_0000), &us).expect_err("nobody's");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
