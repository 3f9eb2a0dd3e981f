//! Shared memory without a name: memfds and anonymous shared mappings.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use image::state::SharedMemory;
use nix::fcntl::{FcntlArg, fcntl};
use pages::{PAGE_SIZE, PageRange, PageSet, SharedId, VirtAddr};

use super::ghosts::data;
use crate::survey::huge;

/// Reads the object that `way` (under /proc) opens: what it is, which of its pages hold data (in
/// memory or swapped out; the others are holes), and a descriptor to read them through.
pub(super) fn read(
    id: SharedId,
    name: String,
    way: &Path,
) -> io::Result<(SharedMemory, PageSet, OwnedFd)> {
    let file = File::open(way)?;
    let stat = file.metadata()?;
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS)?;
    let pages = data_pages(&file, stat.size())?;
    let object = SharedMemory {
        id,
        name,
        size: stat.size(),
        seals: seals.cast_unsigned(),
        uid: stat.uid(),
        gid: stat.gid(),
        mode: stat.mode() & 0o7777,
        huge: huge::size_of(&file),
        sysv: None,
    };
    Ok((object, pages, file.into()))
}

/// The pages of an object of this size that hold data.
pub(crate) fn data_pages(file: &File, size: u64) -> io::Result<PageSet> {
    let pages = data(file, size)?.into_iter().filter_map(|(offset, length)| {
        let end = (offset + length).next_multiple_of(PAGE_SIZE as u64);
        PageRange::from_addrs(VirtAddr(offset), VirtAddr(end))
    });
    Ok(pages.collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    use nix::fcntl::SealFlag;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use pages::{PageCount, PageIndex};

    use super::*;

    #[test]
    fn size_seals_and_pages_are_told() {
        let flags = MFdFlags::MFD_ALLOW_SEALING;
        let memfd = File::from(memfd_create("journal", flags).expect("memfd"));
        memfd.set_len(10 * 4096 + 5).expect("size");
        memfd.write_all_at(b"x", 3 * 4096).expect("write");
        memfd.write_all_at(b"y", 10 * 4096 + 4).expect("write");
        fcntl(&memfd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).expect("seal");
        let way = format!("/proc/self/fd/{}", memfd.as_raw_fd());
        let (object, pages, _) =
            read(SharedId(1), "journal".into(), Path::new(&way)).expect("read");
        assert_eq!((object.size, object.seals), (10 * 4096 + 5, 4));
        let page = |index| PageRange::new(PageIndex(index), PageCount(1)).expect("a page");
        assert_eq!(pages.ranges(), [page(3), page(10)]);
    }
}
