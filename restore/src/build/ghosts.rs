//! Files without a name: made again, filled, and their new name taken away. Files of /dev/shm keep it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use image::state::Ghost;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::{Mode, fchmod, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, mkdir, unlinkat};

use super::files::reopen;
use crate::error::{BadCheckpoint, Error, Result, errno_of};

/// Where a nameless file goes if its old directory does not exist or cannot hold one.
const FALLBACKS: [&str; 3] = ["/tmp", "/dev/shm", "/run"];

/// A nameless file like `ghost`, once at `path`; answers a descriptor (O_PATH) that keeps it.
///
/// The descriptor that wrote it is closed: a program that is open for writing cannot be run.
pub(crate) fn recreate(ghost: &Ghost, path: &Path) -> Result<OwnedFd> {
    let failed = |act, errno| Error::Path { act, path: path.to_owned(), errno };
    let made = match ghost.mode & libc::S_IFMT {
        libc::S_IFREG if ghost.named => named_file(path),
        libc::S_IFREG => nameless_file(path),
        libc::S_IFDIR => nameless_directory(path),
        _ => return Err(BadCheckpoint::Ghost(ghost.id).into()),
    };
    let act = if ghost.named { "make anew" } else { "make a nameless copy of" };
    let mut made = made.map_err(|errno| failed(act, errno))?;
    if ghost.mode & libc::S_IFMT == libc::S_IFREG {
        made = fill(made, ghost).map_err(|errno| failed("fill the nameless copy of", errno))?;
    }
    dress(&made, ghost).map_err(|errno| failed("set owner, mode and times of", errno))?;
    reopen(&made, OFlag::O_PATH).map_err(|errno| failed("keep the nameless copy of", errno))
}

fn directories(path: &Path) -> impl Iterator<Item = PathBuf> {
    path.parent().map(Path::to_owned).into_iter().chain(FALLBACKS.map(PathBuf::from))
}

/// One that nobody has here yet.
fn named_file(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR)
}

pub(super) fn nameless_file(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let private = Mode::S_IRUSR | Mode::S_IWUSR;
    let mut outcome = Err(Errno::ENOENT);
    for directory in directories(path) {
        outcome = open(&directory, flags, private).or_else(|_| named_then_not(&directory));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// For file systems without O_TMPFILE: a private name, taken away at once.
fn named_then_not(directory: &Path) -> nix::Result<OwnedFd> {
    let name = private_name(directory);
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let made = open(&name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    nix::unistd::unlink(&name)?;
    Ok(made)
}

fn nameless_directory(path: &Path) -> nix::Result<OwnedFd> {
    let mut outcome = Err(Errno::ENOENT);
    for directory in directories(path) {
        let name = private_name(&directory);
        outcome = mkdir(&name, Mode::S_IRWXU).and_then(|()| {
            let opened = open(&name, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
            unlinkat(nix::fcntl::AT_FDCWD, &name, UnlinkatFlags::RemoveDir)?;
            opened
        });
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// A name nobody else has: process id and a count.
fn private_name(directory: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    directory.join(format!(".qmig-{}-{count}", std::process::id()))
}

fn fill(made: OwnedFd, ghost: &Ghost) -> nix::Result<OwnedFd> {
    let file = File::from(made);
    let write = || {
        file.set_len(ghost.size)?;
        for (offset, bytes) in &ghost.body.chunks {
            let end = offset.checked_add(bytes.len() as u64);
            if end.is_none_or(|end| end > ghost.size) {
                return Err(std::io::Error::from(Errno::EINVAL));
            }
            file.write_all_at(bytes, *offset)?;
        }
        Ok(())
    };
    write().map_err(|error: std::io::Error| errno_of(&error))?;
    Ok(file.into())
}

pub(super) fn dress(made: &OwnedFd, ghost: &Ghost) -> nix::Result<()> {
    fchown(made, Some(Uid::from_raw(ghost.uid)), Some(Gid::from_raw(ghost.gid)))?;
    // After fchown, which takes the set-user-id bits away.
    fchmod(made, Mode::from_bits_truncate(ghost.mode & 0o7777))?;
    futimens(made, &time(ghost.accessed), &time(ghost.modified))
}

fn time((seconds, micros): (u64, u64)) -> TimeSpec {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    TimeSpec::new(seconds, i64::try_from(micros % 1_000_000).unwrap_or(0) * 1000)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use image::state::{GhostBody, GhostId};
    use nix::sys::stat::fstat;

    use super::*;

    fn ghost(mode: u32) -> Ghost {
        Ghost {
            named: false,
            paged: None,
            huge: None,
            id: GhostId(1),
            uid: 0,
            gid: 0,
            mode,
            size: 10,
            accessed: (7, 5),
            modified: (1_000_000, 250_000),
            body: GhostBody { chunks: vec![(2, b"abc".to_vec())] },
        }
    }

    #[test]
    fn content_holes_mode_and_times_come_back_and_no_name() {
        for path in ["/tmp/gone", "/no/such/directory/gone"] {
            let kept = recreate(&ghost(0o100_640), Path::new(path)).expect("a ghost");
            let mut text = String::new();
            let opened = reopen(&kept, OFlag::O_RDONLY).expect("opened again");
            let stat = fstat(&opened).expect("a file");
            File::from(opened).read_to_string(&mut text).expect("readable");
            assert_eq!(text, "\0\0abc\0\0\0\0\0");
            assert_eq!((stat.st_mode, stat.st_nlink), (0o100_640, 0));
            assert_eq!((stat.st_mtime, stat.st_mtime_nsec), (1_000_000, 250_000_000));
        }
    }

    #[test]
    fn a_file_that_has_its_name_gets_it_unless_it_is_taken() {
        let path = PathBuf::from(format!("/dev/shm/qmig-named-{}", std::process::id()));
        let wanted = Ghost { named: true, ..ghost(0o100_640) };
        let kept = recreate(&wanted, &path).expect("a file");
        assert_eq!(fstat(&kept).expect("a file").st_nlink, 1);
        let taken = recreate(&wanted, &path).expect_err("it is there").to_string();
        std::fs::remove_file(&path).expect("removed");
        assert!(taken.contains("qmig-named"), "{taken}");
    }

    #[test]
    fn a_directory_without_a_name_can_still_be_stood_in() {
        let kept = recreate(&ghost(0o040_755), Path::new("/tmp/gone")).expect("a ghost");
        assert_eq!(fstat(&kept).expect("a directory").st_mode, 0o040_755);
    }

    #[test]
    fn content_beyond_the_size_is_refused() {
        let wrong = Ghost { size: 3, ..ghost(0o100_600) };
        assert!(recreate(&wrong, Path::new("/tmp/gone")).is_err());
    }
}
