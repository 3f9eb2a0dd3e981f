//! Shared memory: `memfd.img`. Segments of System V are elsewhere ([`super::sysv`]).

use std::collections::HashMap;

use pages::SharedId;

use super::{Reader, Writer};
use crate::error::{BadField, BadImage};
use crate::kind::ImageKind;
use crate::messages::MemfdInodeEntry;
use crate::state::check::{USER_END, bounded_text};
use crate::state::{FileId, HugeSize, SharedMemory};

/// What F_GET_SEALS says of a memfd that cannot be sealed, as anonymous shared memory is.
const SEAL_SEAL: u32 = 1;

/// Anonymous shared memory in the form that CRIU used before it wrote it as memfds: a mapping
/// names the object, and no image tells of the object itself.
#[derive(Debug, Default)]
pub(super) struct OldShared {
    /// Object to (file it becomes, bytes that mappings reach).
    objects: HashMap<u32, (FileId, u64)>,
    next_file: u32,
}

impl OldShared {
    /// Files made here get ids from `next_file` down.
    pub(super) fn new(next_file: u32) -> Self {
        Self { objects: HashMap::new(), next_file }
    }

    pub(super) fn file_of(&mut self, id: u64, end: u64) -> Result<FileId, BadField> {
        let number = u32::try_from(id)
            .map_err(|_| BadField::value("vmas.shmid", id, "an object of shared memory"))?;
        let next = FileId(self.next_file);
        let (file, size) = self.objects.entry(number).or_insert((next, 0));
        if *file == next {
            self.next_file = self.next_file.saturating_sub(1);
        }
        *size = (*size).max(end);
        Ok(*file)
    }

    /// The objects, in the form that memfds have.
    pub(super) fn objects(&self) -> Vec<(FileId, SharedMemory)> {
        let object = |(id, (file, size)): (&u32, &(FileId, u64))| {
            let object = SharedMemory {
                id: SharedId(*id),
                name: "/dev/zero".into(),
                size: *size,
                seals: SEAL_SEAL,
                uid: 0,
                gid: 0,
                mode: 0o777,
                huge: None,
                sysv: None,
            };
            (*file, object)
        };
        let mut objects: Vec<_> = self.objects.iter().map(object).collect();
        objects.sort_by_key(|(_, object)| object.id);
        objects
    }
}

/// S_IFREG, which CRIU writes with the permissions.
const REGULAR_FILE: u32 = 0o100_000;

pub(super) fn write(writer: &mut Writer<'_>) {
    let entry = |object: &SharedMemory| MemfdInodeEntry {
        name: object.name.clone(),
        uid: object.uid,
        gid: object.gid,
        size: object.size,
        shmid: object.id.0,
        seals: object.seals,
        inode_id: u64::from(object.id.0),
        hugetlb_flag: object.huge.map(HugeSize::memfd_flags),
        mode: Some(REGULAR_FILE | object.mode),
    };
    let memfds = || writer.checkpoint.shared.iter().filter(|object| object.sysv.is_none());
    if memfds().next().is_some() {
        let entries: Vec<MemfdInodeEntry> = memfds().map(entry).collect();
        writer.many(ImageKind::Memfd, 0, entries.into_iter());
    }
}

/// The objects, and which inode number names which.
pub(super) fn read(
    reader: &Reader<'_>,
) -> Result<(Vec<SharedMemory>, HashMap<u32, SharedId>), BadImage> {
    let (mut objects, mut inodes) = (Vec::new(), HashMap::new());
    reader.each(ImageKind::Memfd, 0, |entry: MemfdInodeEntry| {
        let id = SharedId(entry.shmid);
        let inode = u32::try_from(entry.inode_id)
            .map_err(|_| BadField::value("inode_id", entry.inode_id, "a number of 32 bits"))?;
        if inodes.insert(inode, id).is_some() {
            return Err(BadField::twice("inode_id", "memfd", inode));
        }
        objects.push(SharedMemory::try_from(&entry)?);
        Ok(())
    })?;
    Ok((objects, inodes))
}

/// The size of huge pages that a field tells, of any object.
pub(super) fn huge_of(hugetlb_flag: Option<u32>) -> Result<Option<HugeSize>, BadField> {
    let told = hugetlb_flag.filter(|flags| *flags != 0);
    let size = |flags| {
        let wrong = || BadField::value("hugetlb_flag", flags, "a size of huge pages");
        HugeSize::in_flags(flags).ok_or_else(wrong)
    };
    told.map(size).transpose()
}

impl TryFrom<&MemfdInodeEntry> for SharedMemory {
    type Error = BadField;

    fn try_from(entry: &MemfdInodeEntry) -> Result<Self, BadField> {
        let huge = huge_of(entry.hugetlb_flag)?;
        // memfd_create(2): the name has at most 249 bytes.
        bounded_text("name", &entry.name, 249)?;
        if entry.size >= USER_END {
            return Err(BadField::value("size", entry.size, "the size of a file"));
        }
        Ok(Self {
            id: SharedId(entry.shmid),
            name: entry.name.clone(),
            size: entry.size,
            seals: entry.seals,
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode.unwrap_or(0o777) & 0o7777,
            huge,
            sysv: None,
        })
    }
}
