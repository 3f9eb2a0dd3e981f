//! Locks on files: `filelocks.img`.

use super::{Reader, Writer};
use crate::error::{BadField, BadImage};
use crate::kind::ImageKind;
use crate::messages::FileLockEntry;
use crate::state::check::task_id;
use crate::state::{FileLock, LockKind};

/// FL_POSIX, FL_FLOCK and FL_OFDLCK as CRIU counts them.
const POSIX: u32 = 1;
const FLOCK: u32 = 2;
const OFD: u32 = 4;
/// F_RDLCK, also for flock(2).
const SHARED: u32 = 0;
/// F_WRLCK, also for flock(2).
const EXCLUSIVE: u32 = 1;

pub(super) fn write(writer: &mut Writer<'_>) {
    let locks = &writer.checkpoint.locks;
    if !locks.is_empty() {
        writer.many(ImageKind::FileLocks, 0, locks.iter().map(FileLockEntry::from));
    }
}

pub(super) fn read(reader: &Reader<'_>) -> Result<Vec<FileLock>, BadImage> {
    let mut locks = Vec::new();
    reader.each(ImageKind::FileLocks, 0, |entry: FileLockEntry| {
        locks.push(FileLock::try_from(&entry)?);
        Ok(())
    })?;
    Ok(locks)
}

impl From<&FileLock> for FileLockEntry {
    fn from(lock: &FileLock) -> Self {
        Self {
            flag: match lock.kind {
                LockKind::Posix => POSIX,
                LockKind::Flock => FLOCK,
                LockKind::Ofd => OFD,
            },
            r#type: if lock.exclusive { EXCLUSIVE } else { SHARED },
            pid: lock.task.0.cast_signed(),
            fd: lock.fd.cast_signed(),
            start: lock.start.cast_signed(),
            len: lock.len.cast_signed(),
        }
    }
}

impl TryFrom<&FileLockEntry> for FileLock {
    type Error = BadField;

    fn try_from(entry: &FileLockEntry) -> Result<Self, BadField> {
        let kind = match entry.flag {
            POSIX => LockKind::Posix,
            FLOCK => LockKind::Flock,
            OFD => LockKind::Ofd,
            _ => return Err(BadField::unsupported("flag", "a lock that is a lease")),
        };
        let exclusive = match entry.r#type {
            SHARED => false,
            EXCLUSIVE => true,
            _ => return Err(BadField::unsupported("type", "a mandatory lock of flock(2)")),
        };
        let (Ok(start), Ok(len)) = (u64::try_from(entry.start), u64::try_from(entry.len)) else {
            let got = entry.start.cast_unsigned();
            return Err(BadField::value("start", got, "a range of bytes that are not negative"));
        };
        Ok(Self {
            kind,
            exclusive,
            task: task_id("pid", entry.pid.cast_unsigned())?,
            fd: entry.fd.cast_unsigned(),
            start,
            len,
        })
    }
}
