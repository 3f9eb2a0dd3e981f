//! Files without a name: their content is read through a descriptor or a mapping.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use image::state::{Ghost, GhostBody, GhostId};
use nix::errno::Errno;
use nix::libc;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};
use pages::{ByteCount, PageSet, SharedId};

use super::shared::data_pages;
use crate::objects::pays;
use crate::survey::huge;

/// Where the numbers of spaces begin that are such a file's: above those of memfds.
const PAGED: u32 = 0x7f80_0000;

/// What a file is, and where its pages are if its content shall come as such.
pub(super) type Found = (Ghost, Option<(PageSet, OwnedFd)>);

/// Reads the file that `way` (under /proc) opens. Its size was judged before.
pub(super) fn read(id: GhostId, stat: &Metadata, way: &Path) -> io::Result<Found> {
    let file = open(way)?;
    // write(2) does not reach it, so it can only come as pages.
    if let Some(huge) = huge::size_of(&file) {
        let (ghost, content) = paged(id, stat, file)?;
        return Ok((Ghost { huge: Some(huge), ..ghost }, content));
    }
    let mut body = GhostBody::default();
    for (offset, length) in data(&file, stat.size())? {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset)?;
        body.chunks.push((offset, bytes));
    }
    Ok((described(id, stat, body), None))
}

/// The same, with its content as pages if that pays and is possible: what is written to while it is
/// made cannot be run.
pub(super) fn read_paged(id: GhostId, stat: &Metadata, way: &Path) -> io::Result<Found> {
    let file = open(way)?;
    let memory = fstatfs(&file)?.filesystem_type() == TMPFS_MAGIC;
    if !memory || stat.mode() & 0o111 != 0 || !pays(ByteCount(stat.size())) {
        return read(id, stat, way);
    }
    paged(id, stat, file)
}

fn paged(id: GhostId, stat: &Metadata, file: File) -> io::Result<Found> {
    let pages = data_pages(&file, stat.size())?;
    let ghost = described(id, stat, GhostBody::default());
    Ok((Ghost { paged: Some(SharedId(PAGED | id.0)), ..ghost }, Some((pages, file.into()))))
}

/// Reading changes nothing of a file, where that is allowed: if it is ours, or we may do anything.
fn open(way: &Path) -> io::Result<File> {
    let quiet = OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(way);
    quiet.or_else(|_| File::open(way))
}

fn described(id: GhostId, stat: &Metadata, body: GhostBody) -> Ghost {
    Ghost {
        id,
        uid: stat.uid(),
        gid: stat.gid(),
        mode: stat.mode(),
        size: stat.size(),
        accessed: time(stat.atime(), stat.atime_nsec()),
        modified: time(stat.mtime(), stat.mtime_nsec()),
        body,
        named: false,
        paged: None,
        huge: None,
    }
}

/// Seconds and microseconds; before 1970 is 1970.
fn time(seconds: i64, nanos: i64) -> (u64, u64) {
    match (u64::try_from(seconds), u64::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) => (seconds, nanos / 1000),
        _ => (0, 0),
    }
}

/// The stretches of a file that are no holes (lseek(2), SEEK_DATA): offset and length, ascending.
pub(super) fn data(file: impl AsFd, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut stretches = Vec::new();
    let mut at = 0;
    while at < size {
        let from = match lseek(&file, signed(at)?, Whence::SeekData) {
            Ok(from) => from.unsigned_abs(),
            Err(Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let to = lseek(&file, signed(from)?, Whence::SeekHole)?.unsigned_abs().min(size);
        if to <= from {
            break;
        }
        stretches.push((from, to - from));
        at = to;
    }
    Ok(stretches)
}

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn holes_are_left_out_and_the_rest_is_exact() {
        let file = File::from(memfd_create("ghost", MFdFlags::empty()).expect("memfd"));
        file.set_len(100_000).expect("sparse");
        file.write_all_at(b"head", 0).expect("write");
        file.write_all_at(b"tail", 90_000).expect("write");
        let way = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let stat = file.metadata().expect("stat");
        let (ghost, _) = read(GhostId(1), &stat, Path::new(&way)).expect("read");
        let mut whole = vec![0; 100_000];
        file.read_exact_at(&mut whole, 0).expect("read");
        let mut built = vec![0; 100_000];
        for (offset, bytes) in &ghost.body.chunks {
            let at = usize::try_from(*offset).expect("small");
            built[at..][..bytes.len()].copy_from_slice(bytes);
        }
        assert!(built == whole, "the same bytes");
        let carried: usize = ghost.body.chunks.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(carried < 20_000, "{carried} bytes for two pages of data");
        assert_eq!(ghost.size, 100_000);
    }
}
