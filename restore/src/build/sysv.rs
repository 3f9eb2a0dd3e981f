//! Segments of System V shared memory: made once under their ids, then attached by each process.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use image::state::{HugeSize, Mm, SharedMemory, SysV, VmaKind};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;
use pages::{ByteCount, PageCount, PageRange, PageSet, SharedId, VirtAddr};
use tracee::ipc::Object;

use super::memfds::Memfds;
use super::process::{Batch, Process};
use crate::error::{BadCheckpoint, Error, Result, errno_of};

/// Where the kernel is told which id comes next (CONFIG_CHECKPOINT_RESTORE, Linux 3.8).
const NEXT_ID: &str = "/proc/sys/kernel/shm_next_id";
/// SHM_DEST: it goes with its last mapping.
const DOOMED: u32 = 0o1000;
/// `struct shmid64_ds`, and its beginning that IPC_SET reads.
const SHMID_DS: usize = 112;

/// The segments made here. Dropped before the tree runs, they are removed again.
#[derive(Default)]
pub(crate) struct Segments {
    made: Vec<(i32, u32)>,
}

impl Segments {
    /// Makes a segment, through `maker`; the descriptor opens its content.
    pub(crate) fn make(
        &mut self,
        object: &SharedMemory,
        sysv: SysV,
        maker: &mut Process,
    ) -> Result<OwnedFd> {
        let id = object.id.0.cast_signed();
        let occupied = |errno| Error::Segment { id, key: sysv.key, errno };
        std::fs::write(NEXT_ID, id.to_string()).map_err(|error| Error::Path {
            act: "write",
            path: NEXT_ID.into(),
            errno: errno_of(&error),
        })?;
        let huge = object.huge.map_or(0, HugeSize::segment_flags);
        let how = (libc::IPC_CREAT | libc::IPC_EXCL).cast_unsigned() | huge | object.mode & 0o777;
        let key = u64::from(sysv.key);
        let act = "make System V shared memory";
        let got = match maker.call(act, libc::SYS_shmget, &[key, sysv.told, how.into()]) {
            Err(Error::Call { errno: Errno::EEXIST, .. }) => return Err(occupied(Errno::EEXIST)),
            other => i32::try_from(other?).unwrap_or(-1),
        };
        self.made.push((got, object.mode));
        if got != id {
            return Err(occupied(Errno::EEXIST));
        }
        describe(object, sysv, maker)?;
        content(object, maker)
    }

    /// One that was made early is what `object` says it is now.
    pub(crate) fn adopt(
        &mut self,
        early: &mut Self,
        object: &SharedMemory,
        sysv: SysV,
        maker: &mut Process,
    ) -> Result<()> {
        let id = object.id.0.cast_signed();
        early.made.retain(|(made, _)| *made != id);
        self.made.push((id, object.mode));
        describe(object, sysv, maker)
    }

    /// Every process has attached: those that are to go with their last mapping may.
    pub(crate) fn settle(&self) {
        for (id, _) in self.made.iter().filter(|(_, mode)| mode & DOOMED != 0) {
            if let Err(errno) = Object::Segment(*id).remove() {
                tracing::warn!(id, %errno, "System V shared memory will outlive its last mapping");
            }
        }
    }

    /// The tree runs: they are its own.
    pub(crate) fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        for (id, _) in &self.made {
            // It may be gone already, which is as good.
            let _ = Object::Segment(*id).remove();
        }
    }
}

/// Owner and mode.
fn describe(object: &SharedMemory, sysv: SysV, maker: &mut Process) -> Result<()> {
    let owner = [sysv.key, object.uid, object.gid, 0, 0, object.mode & 0o777];
    let mut wanted: Vec<u8> = owner.iter().flat_map(|word| word.to_le_bytes()).collect();
    wanted.resize(SHMID_DS, 0);
    let wanted = maker.put(&wanted)?;
    let set = libc::IPC_SET.cast_unsigned().into();
    let args = [u64::from(object.id.0), set, wanted];
    maker.call("give System V shared memory its owner", libc::SYS_shmctl, &args)?;
    Ok(())
}

/// Opens the content of a segment while `maker` maps it for a moment (proc_pid_map_files(5)).
fn content(object: &SharedMemory, maker: &mut Process) -> Result<OwnedFd> {
    let len = PageCount::covering(ByteCount(object.size)).bytes().0;
    let id = u64::from(object.id.0);
    let at = maker.call("attach System V shared memory", libc::SYS_shmat, &[id, 0, 0])?;
    let link = format!("/proc/{}/map_files/{at:x}-{:x}", maker.host, at.saturating_add(len));
    let opened = open(link.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    maker.call("detach System V shared memory", libc::SYS_shmdt, &[at])?;
    opened.map_err(|errno| Error::Path { act: "open", path: link.into(), errno })
}

/// Where a process attaches a segment, and what of it is mapped.
#[derive(Debug, Default, PartialEq, Eq)]
struct Attachment {
    pieces: PageSet,
    writable: bool,
    executable: bool,
}

/// Has a process attach its segments, each whole, and unmap what it has not.
pub(crate) fn attach(batch: &mut Batch, mm: &Mm, objects: &Memfds) -> Result<()> {
    for ((base, shared), attachment) in attachments(mm)? {
        let size = objects.size(shared)?;
        let whole = VirtAddr(base).page();
        let whole = PageRange::new(whole, PageCount::covering(ByteCount(size)));
        let whole = whole.ok_or(BadCheckpoint::Shared(shared))?;
        let mut how = 0;
        if !attachment.writable {
            how |= libc::SHM_RDONLY;
        }
        if attachment.executable {
            how |= libc::SHM_EXEC;
        }
        let args = [u64::from(shared.0), base, how.cast_unsigned().into()];
        batch.must("attach System V shared memory", libc::SYS_shmat, &args);
        let mut rest: PageSet = std::iter::once(whole).collect();
        attachment.pieces.ranges().iter().for_each(|piece| rest.remove(*piece));
        for gap in rest.ranges() {
            let args = [gap.start_addr().0, gap.bytes().0];
            batch.must("unmap a part of it", libc::SYS_munmap, &args);
        }
    }
    for vma in &mm.vmas {
        if matches!(vma.kind, VmaKind::SysV { .. }) {
            let args = [vma.range.start_addr().0, vma.range.bytes().0, u64::from(vma.prot & 7)];
            batch.must("protect System V shared memory", libc::SYS_mprotect, &args);
        }
    }
    Ok(())
}

/// The attachments of an address space, by address and segment.
fn attachments(mm: &Mm) -> Result<BTreeMap<(u64, SharedId), Attachment>> {
    let mut found: BTreeMap<(u64, SharedId), Attachment> = BTreeMap::new();
    for vma in &mm.vmas {
        let VmaKind::SysV { shared, offset, access } = vma.kind else { continue };
        let start = vma.range.start_addr().0;
        let base = start.checked_sub(offset).ok_or(BadCheckpoint::Shared(shared))?;
        let attachment = found.entry((base, shared)).or_default();
        attachment.pieces.insert(vma.range);
        attachment.writable |= access != 0;
        attachment.executable |= vma.prot & 4 != 0;
    }
    Ok(found)
}
