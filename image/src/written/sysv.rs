//! System V shared memory: `ipcns-shm-N.img`, where N is the IPC namespace.

use pages::SharedId;

use super::shared::huge_of;
use super::{Reader, Writer};
use crate::error::{BadField, BadImage};
use crate::kind::ImageKind;
use crate::messages::{IpcDescEntry, IpcShmEntry};
use crate::state::check::USER_END;
use crate::state::{HugeSize, SharedMemory, SysV};

/// Permission bits, and SHM_DEST.
const MODE: u32 = 0o1777;

pub(super) fn write(writer: &mut Writer<'_>) {
    let segments = writer.checkpoint.shared.iter().filter_map(entry);
    let segments: Vec<IpcShmEntry> = segments.collect();
    if !segments.is_empty() {
        writer.many(ImageKind::IpcShared, writer.namespaces.ipc, segments.into_iter());
    }
}

fn entry(object: &SharedMemory) -> Option<IpcShmEntry> {
    let sysv = object.sysv?;
    let desc = IpcDescEntry {
        key: sysv.key,
        uid: object.uid,
        gid: object.gid,
        cuid: sysv.creator.0,
        cgid: sysv.creator.1,
        mode: object.mode,
        id: object.id.0,
    };
    let hugetlb_flag = object.huge.map(HugeSize::segment_flags);
    Some(IpcShmEntry { desc, size: sysv.told, in_pagemaps: Some(true), hugetlb_flag })
}

pub(super) fn read(reader: &Reader<'_>) -> Result<Vec<SharedMemory>, BadImage> {
    let mut segments = Vec::new();
    let namespace = reader.root_ids.ipc_ns_id.unwrap_or(0);
    reader.each(ImageKind::IpcShared, namespace, |entry: IpcShmEntry| {
        segments.push(SharedMemory::try_from(&entry)?);
        Ok(())
    })?;
    Ok(segments)
}

impl TryFrom<&IpcShmEntry> for SharedMemory {
    type Error = BadField;

    fn try_from(entry: &IpcShmEntry) -> Result<Self, BadField> {
        if entry.in_pagemaps != Some(true) {
            let what = "a segment whose content is no pagemap";
            return Err(BadField::unsupported("in_pagemaps", what));
        }
        let huge = huge_of(entry.hugetlb_flag)?;
        let size = huge.map_or(Some(entry.size), |huge| huge.whole(entry.size));
        let size = size.filter(|size| *size < USER_END);
        let size =
            size.ok_or_else(|| BadField::value("size", entry.size, "the size of a segment"))?;
        if entry.size == 0 {
            return Err(BadField::value("size", entry.size, "the size of a segment"));
        }
        let desc = &entry.desc;
        if desc.id > i32::MAX.cast_unsigned() {
            return Err(BadField::value("desc.id", desc.id, "the id of a segment"));
        }
        Ok(Self {
            id: SharedId(desc.id),
            name: format!("SYSV{:08x}", desc.key),
            size,
            seals: 0,
            uid: desc.uid,
            gid: desc.gid,
            mode: desc.mode & MODE,
            huge,
            sysv: Some(SysV { key: desc.key, creator: (desc.cuid, desc.cgid), told: entry.size }),
        })
    }
}
