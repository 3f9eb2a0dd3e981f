//! Segments of System V shared memory: what a held tree maps of them, and what is left when it is dead.

use image::state::{SharedMemory, SysV};
use nix::errno::Errno;
use pages::SharedId;
use tracee::HostPid;
use tracee::ipc::Object;

use super::Refusals;
use super::files::Files;
use super::shared;
use crate::error::CollectError;
use crate::survey::mapped::MappedFile;
use crate::survey::sysv;

/// The segments that are a tree's alone.
#[derive(Debug, Default)]
pub(crate) struct Segments(Vec<i32>);

impl Segments {
    /// Removes them once the tree is dead: nobody else would, and its next copy here wants the same
    /// keys.
    pub(crate) fn remove(&self) {
        for id in &self.0 {
            match Object::Segment(*id).remove() {
                // It was to go with its last mapping, and has.
                Ok(()) | Err(Errno::EINVAL | Errno::EIDRM) => {}
                Err(errno) => tracing::warn!(id, %errno, "System V shared memory is left"),
            }
        }
    }
}

impl Files<'_> {
    /// The segment of System V shared memory that a mapping shows.
    pub(super) fn segment(
        &mut self,
        pid: HostPid,
        id: i32,
        file: &MappedFile,
    ) -> Result<SharedId, CollectError> {
        *self.attached.entry(id).or_default() += 1;
        let shared = SharedId(id.cast_unsigned());
        if self.attached[&id] > 1 {
            return Ok(shared);
        }
        let failed = CollectError::io("read System V shared memory", pid);
        let segment = self.segments.iter().find(|segment| segment.id == id);
        let nonsense = CollectError::Nonsense { what: "/proc/sysvipc/shm", pid };
        let segment = *segment.ok_or(nonsense)?;
        let name = format!("SYSV{:08x}", segment.key);
        let (object, pages, content) = shared::read(shared, name, &file.way).map_err(failed)?;
        let [uid, gid, cuid, cgid] = segment.ids;
        self.objects.push(SharedMemory {
            seals: 0,
            uid,
            gid,
            mode: segment.mode & 0o1777,
            sysv: Some(SysV {
                key: segment.key.cast_unsigned(),
                creator: (cuid, cgid),
                told: segment.size,
            }),
            ..object
        });
        self.contents.push((shared, pages, content));
        Ok(shared)
    }

    /// Tells what of System V shared memory is not the tree's alone; the rest is.
    pub(super) fn settle_segments(&mut self, refusals: &mut Refusals) -> Segments {
        let member = |pid: i32| self.members.contains(&pid.cast_unsigned());
        for (trouble, maker) in sysv::troubles(&self.segments, &self.attached, member) {
            refusals.add(trouble, format!("process {maker}"));
        }
        Segments(self.attached.keys().copied().collect())
    }
}
