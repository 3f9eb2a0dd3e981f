//! Address spaces: `mm-N.img`.

use pages::{PageRange, SharedId, TaskId, VirtAddr};
use prost::encoding::{DecodeContext, decode_key, skip_field};

use super::Reader;
use crate::error::{BadField, BadImage};
use crate::frame::FrameReader;
use crate::kind::ImageKind;
use crate::messages::{MmEntry, VmaEntry};
use crate::state::check::{address, bounded_text, page_range};
use crate::state::huge::MAP_HUGETLB;
use crate::state::{Advice, FileId, HugeSize, Mm, Vma, VmaFlags, VmaKind};

/// Most mappings of a process; vm.max_map_count is 65530 unless an operator raised it.
const MOST_VMAS: usize = 1 << 19;
/// ANON_VMA_NAME_MAX_LEN without its NUL.
const LONGEST_NAME: usize = 79;
/// Field number of `mm_entry.vmas`.
const VMAS: u32 = 14;

/// VMA_* status bits of CRIU.
mod status {
    pub(super) const REGULAR: u32 = 0x1;
    pub(super) const VSYSCALL: u32 = 0x4;
    pub(super) const VDSO: u32 = 0x8;
    pub(super) const HEAP: u32 = 0x20;
    pub(super) const FILE_PRIVATE: u32 = 0x40;
    pub(super) const FILE_SHARED: u32 = 0x80;
    pub(super) const ANON_SHARED: u32 = 0x100;
    pub(super) const ANON_PRIVATE: u32 = 0x200;
    pub(super) const SYSV_IPC: u32 = 0x400;
    pub(super) const SOCKET: u32 = 0x800;
    pub(super) const VVAR: u32 = 0x1000;
    pub(super) const AIO_RING: u32 = 0x2000;
    pub(super) const MEMFD: u32 = 0x4000;
    pub(super) const SHADOW_STACK: u32 = 0x8000;
    pub(super) const GUARD: u32 = 0x1_0000;
    pub(super) const PLUGIN: u32 = 0x800_0000;
}

const MAP_SHARED: u32 = 0x1;
const MAP_PRIVATE: u32 = 0x2;
const MAP_DROPPABLE: u32 = 0x8;
const MAP_ANONYMOUS: u32 = 0x20;
const VSYSCALL_START: u64 = 0xffff_ffff_ff60_0000;

impl From<&Mm> for MmEntry {
    fn from(mm: &Mm) -> Self {
        Self {
            mm_start_code: mm.start_code.0,
            mm_end_code: mm.end_code.0,
            mm_start_data: mm.start_data.0,
            mm_end_data: mm.end_data.0,
            mm_start_stack: mm.start_stack.0,
            mm_start_brk: mm.start_brk.0,
            mm_brk: mm.brk.0,
            mm_arg_start: mm.arg_start.0,
            mm_arg_end: mm.arg_end.0,
            mm_env_start: mm.env_start.0,
            mm_env_end: mm.env_end.0,
            exe_file_id: mm.exe.0,
            mm_saved_auxv: mm.auxv.clone(),
            vmas: mm
                .vmas
                .iter()
                .map(|vma| to_entry(vma, mm.start_brk..mm.brk))
                .chain(mm.guards.iter().map(guard))
                .collect(),
            dumpable: Some(mm.dumpable.cast_signed()),
            aios: Vec::new(),
            thp_disabled: Some(mm.thp_disabled),
        }
    }
}

/// CRIU writes guard pages behind all mappings, as what looks like one.
fn guard(range: &PageRange) -> VmaEntry {
    VmaEntry {
        start: range.start_addr().0,
        end: range.end_addr().0,
        status: status::GUARD,
        fd: -1,
        ..VmaEntry::default()
    }
}

fn to_entry(vma: &Vma, heap: std::ops::Range<VirtAddr>) -> VmaEntry {
    let anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    let file = |is_shared, bits| match is_shared {
        true => (status::REGULAR | status::FILE_SHARED | bits, MAP_SHARED),
        false => (status::REGULAR | status::FILE_PRIVATE | bits, MAP_PRIVATE),
    };
    let ((status, flags), place) = match vma.kind {
        VmaKind::Anon => {
            let is_heap = heap.contains(&vma.range.start_addr());
            let heap = if is_heap { status::HEAP } else { 0 };
            ((status::REGULAR | status::ANON_PRIVATE | heap, anonymous), None)
        }
        VmaKind::Huge(size) => {
            ((status::REGULAR | status::ANON_PRIVATE, anonymous | size.map_flags()), None)
        }
        VmaKind::File { file: id, offset, shared, access } => {
            (file(shared, 0), Some((id, offset, access)))
        }
        VmaKind::Memfd { file: id, offset, shared, access } => {
            (file(shared, status::MEMFD), Some((id, offset, access)))
        }
        VmaKind::SysV { shared, offset, access } => {
            let status = status::REGULAR | status::ANON_SHARED | status::SYSV_IPC;
            ((status, MAP_SHARED | MAP_ANONYMOUS), Some((FileId(shared.0), offset, access)))
        }
        VmaKind::Vdso => ((status::REGULAR | status::VDSO | status::ANON_PRIVATE, anonymous), None),
        VmaKind::Vvar => ((status::REGULAR | status::VVAR | status::ANON_PRIVATE, anonymous), None),
        VmaKind::Vsyscall => ((status::VSYSCALL | status::ANON_PRIVATE, anonymous), None),
    };
    let advice = vma.advice.bits();
    VmaEntry {
        start: vma.range.start_addr().0,
        end: vma.range.end_addr().0,
        pgoff: place.map_or(0, |(_, offset, _)| offset),
        shmid: place.map_or(0, |(id, ..)| u64::from(id.0)),
        prot: vma.prot,
        flags: flags | (vma.flags - VmaFlags::ON_FAULT).bits(),
        status,
        fd: -1,
        madv: (advice != 0).then_some(advice),
        fdflags: place.map(|(.., access)| access),
        name: vma.name.clone(),
        lock_on_fault: vma.flags.contains(VmaFlags::ON_FAULT).then_some(true),
    }
}

pub(super) fn read(reader: &mut Reader<'_>, task: TaskId) -> Result<Mm, BadImage> {
    let name = ImageKind::Mm.name(task.0);
    let at = |lie: BadField| lie.at(&name, 1);
    let bytes = reader.images.get(&name);
    let bytes = bytes.ok_or_else(|| BadImage::Missing { image: name.clone() })?;
    let mut frame = FrameReader::open(&name, ImageKind::Mm, bytes)?;
    if let Some(entry) = frame.entry()? {
        // A mapping takes two bytes at least and fifty times that in memory: count them first.
        let count = count_field(entry, VMAS);
        if count > MOST_VMAS {
            return Err(at(BadField::count("vmas", count, "at most 524288 mappings")));
        }
    }
    let entry: MmEntry = reader.one(ImageKind::Mm, task.0)?;
    from_entry(&entry, reader).map_err(at)
}

/// How often a field occurs in a message; a broken message may give any answer.
fn count_field(mut message: &[u8], wanted: u32) -> usize {
    let mut count = 0;
    while let Ok((number, wire_type)) = decode_key(&mut message) {
        count += usize::from(number == wanted);
        if skip_field(wire_type, number, &mut message, DecodeContext::default()).is_err() {
            break;
        }
    }
    count
}

fn from_entry(entry: &MmEntry, reader: &mut Reader<'_>) -> Result<Mm, BadField> {
    if !entry.aios.is_empty() {
        return Err(BadField::unsupported("aios", "an asynchronous I/O context, io_setup(2)"));
    }
    if entry.mm_saved_auxv.len() > 128 {
        return Err(BadField::count(
            "mm_saved_auxv",
            entry.mm_saved_auxv.len(),
            "at most 128 words",
        ));
    }
    let dumpable = entry.dumpable.unwrap_or(1).cast_unsigned();
    if dumpable > 2 {
        return Err(BadField::value("dumpable", dumpable, "0, 1 or 2"));
    }
    Ok(Mm {
        start_code: address("mm_start_code", entry.mm_start_code)?,
        end_code: address("mm_end_code", entry.mm_end_code)?,
        start_data: address("mm_start_data", entry.mm_start_data)?,
        end_data: address("mm_end_data", entry.mm_end_data)?,
        start_stack: address("mm_start_stack", entry.mm_start_stack)?,
        start_brk: address("mm_start_brk", entry.mm_start_brk)?,
        brk: address("mm_brk", entry.mm_brk)?,
        arg_start: address("mm_arg_start", entry.mm_arg_start)?,
        arg_end: address("mm_arg_end", entry.mm_arg_end)?,
        env_start: address("mm_env_start", entry.mm_env_start)?,
        env_end: address("mm_env_end", entry.mm_env_end)?,
        auxv: entry.mm_saved_auxv.clone(),
        exe: FileId(entry.exe_file_id),
        vmas: entry
            .vmas
            .iter()
            .filter(|vma| vma.status & status::GUARD == 0)
            .map(|vma| vma_from(vma, reader))
            .collect::<Result<_, _>>()?,
        guards: entry
            .vmas
            .iter()
            .filter(|vma| vma.status & status::GUARD != 0)
            .map(|guard| page_range("vmas.start", guard.start, guard.end))
            .collect::<Result<_, _>>()?,
        dumpable,
        thp_disabled: entry.thp_disabled.unwrap_or(false),
    })
}

fn vma_from(entry: &VmaEntry, reader: &mut Reader<'_>) -> Result<Vma, BadField> {
    refuse_special(entry)?;
    let range = match entry.status & status::VSYSCALL {
        0 => page_range("vmas.start", entry.start, entry.end)?,
        _ => vsyscall_range(entry)?,
    };
    if entry.prot & !7 != 0 {
        return Err(BadField::value("vmas.prot", entry.prot, "PROT_READ, PROT_WRITE, PROT_EXEC"));
    }
    let kind = kind_from(entry, range, reader)?;
    let known = MAP_SHARED | MAP_PRIVATE | MAP_ANONYMOUS;
    // CRIU tells of a shared mapping too that its object is one of huge pages.
    let size = if entry.flags & MAP_HUGETLB != 0 { HugeSize::all_map_flags() } else { 0 };
    let flags = VmaFlags::from_bits(entry.flags & !known & !size)
        .filter(|flags| !flags.contains(VmaFlags::ON_FAULT))
        .ok_or_else(|| BadField::value("vmas.flags", entry.flags, "flags of mmap(2) that stay"))?;
    let flags = match entry.lock_on_fault {
        Some(true) => flags | VmaFlags::ON_FAULT,
        _ => flags,
    };
    let advice = entry.madv.unwrap_or(0);
    let advice = Advice::from_bits(advice)
        .ok_or_else(|| BadField::value("vmas.madv", advice, "advice of madvise(2) that stays"))?;
    if let Some(name) = &entry.name {
        bounded_text("vmas.name", name, LONGEST_NAME)?;
    }
    Ok(Vma { range, prot: entry.prot, kind, flags, advice, name: entry.name.clone() })
}

fn vsyscall_range(entry: &VmaEntry) -> Result<PageRange, BadField> {
    match PageRange::from_addrs(VirtAddr(entry.start), VirtAddr(entry.end)) {
        Some(range) if entry.start == VSYSCALL_START => Ok(range),
        _ => Err(BadField::value("vmas.start", entry.start, "the address of the vsyscall page")),
    }
}

fn kind_from(
    entry: &VmaEntry,
    range: PageRange,
    reader: &mut Reader<'_>,
) -> Result<VmaKind, BadField> {
    let has = |bit| entry.status & bit != 0;
    let shared = has(status::FILE_SHARED);
    if has(status::VSYSCALL) {
        return Ok(VmaKind::Vsyscall);
    }
    if !has(status::REGULAR) {
        return Err(BadField::value("vmas.status", entry.status, "a mapping to restore"));
    }
    if has(status::VDSO) {
        return Ok(VmaKind::Vdso);
    }
    if has(status::VVAR) {
        return Ok(VmaKind::Vvar);
    }
    if shared || has(status::FILE_PRIVATE) {
        let file = file_id(entry.shmid)?;
        let offset = page_offset(entry.pgoff, range)?;
        let guess = if shared && entry.prot & 2 != 0 { 2 } else { 0 };
        let access = match entry.fdflags.unwrap_or(guess) & 3 {
            3 => return Err(BadField::value("vmas.fdflags", 3_u32, "an access mode, 0 to 2")),
            access => access,
        };
        return Ok(match has(status::MEMFD) {
            true => VmaKind::Memfd { file, offset, shared, access },
            false => VmaKind::File { file, offset, shared, access },
        });
    }
    if has(status::ANON_SHARED) {
        let offset = page_offset(entry.pgoff, range)?;
        if has(status::SYSV_IPC) {
            let shared = SharedId(file_id(entry.shmid)?.0);
            // CRIU does not say: it asks for what the protection needs.
            let guess = entry.prot & 2;
            let access = if entry.fdflags.unwrap_or(guess) & 2 != 0 { 2 } else { 0 };
            return Ok(VmaKind::SysV { shared, offset, access });
        }
        let file = reader.old_shared.file_of(entry.shmid, offset + range.bytes().0)?;
        return Ok(VmaKind::Memfd { file, offset, shared: true, access: 2 });
    }
    if has(status::ANON_PRIVATE) {
        return huge_from(entry, range).map(|size| size.map_or(VmaKind::Anon, VmaKind::Huge));
    }
    Err(BadField::value("vmas.status", entry.status, "a mapping of a file or of memory"))
}

fn huge_from(entry: &VmaEntry, range: PageRange) -> Result<Option<HugeSize>, BadField> {
    if entry.flags & MAP_HUGETLB == 0 {
        return Ok(None);
    }
    match HugeSize::in_flags(entry.flags).filter(|size| size.divides(range)) {
        Some(size) => Ok(Some(size)),
        None => Err(BadField::value("vmas.flags", entry.flags, "huge pages that fill the mapping")),
    }
}

fn refuse_special(entry: &VmaEntry) -> Result<(), BadField> {
    let what = [
        (status::SOCKET, "a mapped ring of a packet socket"),
        (status::AIO_RING, "an asynchronous I/O context, io_setup(2)"),
        (status::SHADOW_STACK, "a shadow stack"),
        (status::PLUGIN, "a mapping of a plugin of CRIU"),
    ];
    if let Some((_, what)) = what.iter().find(|(bit, _)| entry.status & bit != 0) {
        return Err(BadField::unsupported("vmas.status", what));
    }
    match entry.flags & MAP_DROPPABLE {
        0 => Ok(()),
        _ => Err(BadField::unsupported("vmas.flags", "droppable memory")),
    }
}

fn file_id(id: u64) -> Result<FileId, BadField> {
    u32::try_from(id).map(FileId).map_err(|_| BadField::value("vmas.shmid", id, "a file's id"))
}

fn page_offset(offset: u64, range: PageRange) -> Result<u64, BadField> {
    let fits = VirtAddr(offset).is_page_aligned()
        && offset.checked_add(range.bytes().0).is_some_and(|end| end <= i64::MAX.cast_unsigned());
    match fits {
        true => Ok(offset),
        false => {
            Err(BadField::value("vmas.pgoff", offset, "a whole number of pages within a file"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_have_a_size_that_fits() {
        let entry = |start, flags| VmaEntry { start, end: 0x80_0000, flags, ..VmaEntry::default() };
        let range = |entry: &VmaEntry| page_range("", entry.start, entry.end).expect("a range");
        for (start, flags, bytes) in [
            (0x40_0000, 0x22, Ok(None)),
            (0x40_0000, 0x5404_0022, Ok(Some(2 << 20))),
            (0x40_1000, 0x5404_0022, Err(())),
            (0x40_0000, 0x0004_0022, Err(())),
        ] {
            let entry = entry(start, flags);
            let size = huge_from(&entry, range(&entry)).map(|size| size.map(HugeSize::bytes));
            assert_eq!(size.map_err(drop), bytes, "{start:#x} {flags:#x}");
        }
    }
}
