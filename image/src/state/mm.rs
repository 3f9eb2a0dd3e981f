//! The address space: its bounds and mappings. The content of pages is not here.

use bitflags::bitflags;
use pages::{PageRange, SharedId, VirtAddr};

use super::{FileId, HugeSize};

/// Address space of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // prctl(2), PR_SET_MM_MAP names the bounds
pub struct Mm {
    pub start_code: VirtAddr,
    pub end_code: VirtAddr,
    pub start_data: VirtAddr,
    pub end_data: VirtAddr,
    pub start_stack: VirtAddr,
    pub start_brk: VirtAddr,
    pub brk: VirtAddr,
    pub arg_start: VirtAddr,
    pub arg_end: VirtAddr,
    pub env_start: VirtAddr,
    pub env_end: VirtAddr,
    /// The auxiliary vector, as words.
    pub auxv: Vec<u64>,
    /// The program file (/proc/PID/exe).
    pub exe: FileId,
    /// Ascending and disjoint.
    pub vmas: Vec<Vma>,
    /// Guard pages (madvise(2), MADV_GUARD_INSTALL): they may not be touched, whatever their mapping says.
    pub guards: Vec<PageRange>,
    /// prctl(PR_SET_DUMPABLE).
    pub dumpable: u32,
    /// prctl(PR_SET_THP_DISABLE).
    pub thp_disabled: bool,
}

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vma {
    /// Where.
    pub range: PageRange,
    /// PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4.
    pub prot: u32,
    /// What is mapped.
    pub kind: VmaKind,
    /// How.
    pub flags: VmaFlags,
    /// Advice given by madvise(2) that stays with the mapping.
    pub advice: Advice,
    /// What the program calls it (PR_SET_VMA_ANON_NAME), if it is anonymous.
    pub name: Option<String>,
}

/// What a mapping shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmaKind {
    /// Private anonymous memory; heaps and stacks too.
    Anon,
    /// Private anonymous memory of huge pages (MAP_HUGETLB).
    Huge(HugeSize),
    /// A regular file or device, private (copy on write) or shared.
    File {
        /// Which file.
        file: FileId,
        /// Byte offset, page aligned.
        offset: u64,
        /// MAP_SHARED.
        shared: bool,
        /// Access mode the file was opened with: O_RDONLY 0, O_WRONLY 1, O_RDWR 2.
        access: u32,
    },
    /// Shared memory without a name in the file system: a memfd, or anonymous shared memory, which
    /// CRIU's format writes as a memfd called `/dev/zero`.
    Memfd {
        /// A file of kind memfd.
        file: FileId,
        /// Byte offset, page aligned.
        offset: u64,
        /// MAP_SHARED.
        shared: bool,
        /// Access mode the memfd was opened with.
        access: u32,
    },
    /// A piece of a segment of System V shared memory (shmat(2)).
    SysV {
        /// Which segment: an object with [`SharedMemory::sysv`].
        shared: SharedId,
        /// Byte offset, page aligned.
        offset: u64,
        /// O_RDONLY 0 (SHM_RDONLY) or O_RDWR 2.
        access: u32,
    },
    /// The kernel's code page(s), whose content travels too.
    Vdso,
    /// The kernel's data pages (with `[vvar_vclock]` since Linux 6.13); no content.
    Vvar,
    /// The fixed page at the top of the address space; nothing to restore.
    Vsyscall,
}

bitflags! {
    /// Flags of mmap(2) that stay with a mapping, by their MAP_* numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VmaFlags: u32 {
        /// MAP_GROWSDOWN.
        const GROWS_DOWN = 0x100;
        /// MAP_LOCKED (also by mlock).
        const LOCKED = 0x2000;
        /// MAP_NORESERVE.
        const NO_RESERVE = 0x4000;
        /// With [`Self::LOCKED`]: each page when it is touched (MLOCK_ONFAULT). No flag of mmap(2), it has a
        /// field of its own in the image.
        const ON_FAULT = 0x8000_0000;
    }
}

bitflags! {
    /// Lasting advice of madvise(2): bit n is advice number n.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Advice: u64 {
        /// MADV_RANDOM.
        const RANDOM = 1 << 1;
        /// MADV_SEQUENTIAL.
        const SEQUENTIAL = 1 << 2;
        /// MADV_DONTFORK.
        const DONT_FORK = 1 << 10;
        /// MADV_MERGEABLE.
        const MERGEABLE = 1 << 12;
        /// MADV_HUGEPAGE.
        const HUGE_PAGE = 1 << 14;
        /// MADV_NOHUGEPAGE.
        const NO_HUGE_PAGE = 1 << 15;
        /// MADV_DONTDUMP.
        const DONT_DUMP = 1 << 16;
        /// MADV_WIPEONFORK.
        const WIPE_ON_FORK = 1 << 18;
    }
}

/// One object of shared memory. Its pages travel once, as a space of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedMemory {
    /// Unique within the checkpoint.
    pub id: SharedId,
    /// memfd name; `/dev/zero` for anonymous shared mappings.
    pub name: String,
    /// Bytes, not always whole pages.
    pub size: u64,
    /// F_SEAL_*.
    pub seals: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits; of a System V segment also SHM_DEST 0o1000 (gone with its last mapping).
    pub mode: u32,
    /// It is made of huge pages (MFD_HUGETLB, MAP_HUGETLB, SHM_HUGETLB) of this size.
    pub huge: Option<HugeSize>,
    /// It is a segment of System V shared memory, whose id is [`Self::id`].
    pub sysv: Option<SysV>,
}

/// What only a segment of System V shared memory has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysV {
    /// Its key; zero is IPC_PRIVATE.
    pub key: u32,
    /// Who made it.
    pub creator: (u32, u32),
    /// The bytes that it was made with, as IPC_STAT tells: its huge pages are whole.
    pub told: u64,
}
