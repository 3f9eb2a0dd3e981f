//! The address space: every mapping in its place, empty; vdso, bounds and program file.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use image::outline::LASTING;
use image::state::{Advice, FileId, Fs, Mm, Vma, VmaFlags, VmaKind};
use nix::libc;
use pages::{PageCount, PageRange, PageSet, VirtAddr};
use tracee::{Memory, find_gate};

use super::channel::{Channel, words};
use super::files::Files;
use super::huge;
use super::layout::Hole;
use super::memfds::Memfds;
use super::process::{Batch, Process};
use super::sysv;
use super::vdso::Parked;
use crate::error::{BadCheckpoint, Error, Result};

/// PR_SET_MM_MAP, linux/prctl.h (Linux 3.18).
const PR_SET_MM_MAP: u64 = 14;
/// asm-generic/mman-common.h (Linux 6.13).
const MADV_GUARD_INSTALL: u64 = 102;
/// linux/prctl.h (Linux 5.17).
const PR_SET_VMA: u64 = 0x5356_4d41;
const PR_SET_VMA_ANON_NAME: u64 = 0;
/// `struct prctl_mm_map`.
const MM_MAP_SIZE: u64 = 104;
/// The kernel keeps some 50 words of auxiliary vector; CRIU's format 44.
const AUXV_WORDS: usize = 256;
/// Bytes of vdso in which a `syscall` instruction is looked for.
const VDSO_MOST: PageCount = PageCount(64);

/// Gives `process` the address space `mm` and its place `fs` in the file system. Anonymous memory
/// of `kept` is there already.
pub(crate) fn map(
    process: &mut Process,
    (mm, fs): (&Mm, &Fs),
    kept: &PageSet,
    files: &mut Files,
    channel: &Channel,
    (hole, parked): (&Hole, &Parked),
) -> Result<()> {
    let borrowed = Borrowed::fetch(process, mm, fs, files, channel)?;
    map_all(process, mm, kept, &files.memfds, &borrowed)?;
    place_vdso(process, mm, hole, parked)?;
    describe(process, mm, borrowed.exe)?;
    stand(process, fs, &borrowed)?;
    let last = u64::from(channel.number().saturating_sub(1));
    process.call("close the files it has mapped", libc::SYS_close_range, &[0, last, 0])?;
    Ok(())
}

/// Which pages hold content of their own, and which are the kernel's and are left alone.
pub(crate) fn content(mm: &Mm) -> (PageSet, PageSet) {
    let (mut own, mut kernels) = (PageSet::new(), PageSet::new());
    for vma in &mm.vmas {
        match vma.kind {
            VmaKind::Anon
            | VmaKind::Huge(_)
            | VmaKind::File { shared: false, .. }
            | VmaKind::Memfd { shared: false, .. } => own.insert(vma.range),
            VmaKind::Vdso | VmaKind::Vvar | VmaKind::Vsyscall => kernels.insert(vma.range),
            VmaKind::File { .. } | VmaKind::Memfd { .. } | VmaKind::SysV { .. } => {}
        }
    }
    (own, kernels)
}

/// How many descriptors mapping `mm` takes for a moment.
pub(crate) fn descriptors(mm: &Mm) -> usize {
    let mapped: std::collections::BTreeSet<_> = mm.vmas.iter().filter_map(mapped_file).collect();
    mapped.len() + 3
}

/// Installs guard pages again, once no page will be written there any more. Before memory is locked,
/// for then the kernel does not.
pub(crate) fn guard(process: &mut Process, mm: &Mm) -> Result<()> {
    let mut batch = Batch::default();
    for range in &mm.guards {
        let args = [range.start_addr().0, range.bytes().0, MADV_GUARD_INSTALL];
        batch.must("install guard pages", libc::SYS_madvise, &args);
    }
    process.run(0, batch)?;
    Ok(())
}

/// Gives memory the names the program had given it. Those of one process are mostly the same few.
pub(crate) fn name(process: &mut Process, mm: &Mm) -> Result<()> {
    let names: BTreeSet<&str> = mm.vmas.iter().filter_map(|vma| vma.name.as_deref()).collect();
    for name in names {
        let at = process.put(&[name.as_bytes(), b"\0"].concat())?;
        let mut batch = Batch::default();
        let same = |vma: &&Vma| vma.name.as_deref() == Some(name);
        for vma in mm.vmas.iter().filter(same) {
            let (start, size) = (vma.range.start_addr().0, vma.range.bytes().0);
            let args = [PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, size, at];
            batch.may("name its memory", libc::SYS_prctl, &args);
        }
        process.run(0, batch)?;
    }
    Ok(())
}

/// Locks what was locked, once its pages are there.
pub(crate) fn lock(process: &mut Process, mm: &Mm) -> Result<()> {
    let mut batch = Batch::default();
    for vma in mm.vmas.iter().filter(|vma| vma.flags.contains(VmaFlags::LOCKED)) {
        let on_fault = u64::from(vma.flags.contains(VmaFlags::ON_FAULT));
        let args = [vma.range.start_addr().0, vma.range.bytes().0, on_fault];
        batch.may("lock its memory", libc::SYS_mlock2, &args);
    }
    process.run(0, batch)?;
    Ok(())
}

/// Files a process holds while it maps them: their numbers in it.
struct Borrowed {
    mapped: BTreeMap<(FileId, u32), u64>,
    exe: u64,
    cwd: u64,
    /// `None`: the root directory is the ordinary one.
    root: Option<u64>,
}

impl Borrowed {
    fn fetch(
        process: &mut Process,
        mm: &Mm,
        fs: &Fs,
        files: &mut Files,
        channel: &Channel,
    ) -> Result<Self> {
        let mut opened = Vec::new();
        let mut mapped = BTreeMap::new();
        for key in mm.vmas.iter().filter_map(mapped_file) {
            if let std::collections::btree_map::Entry::Vacant(entry) = mapped.entry(key) {
                entry.insert(opened.len() as u64);
                opened.push(files.for_mapping(key.0, key.1)?);
            }
        }
        let exe = opened.len() as u64;
        opened.push(files.for_mapping(mm.exe, libc::O_RDONLY.cast_unsigned())?);
        let cwd = opened.len() as u64;
        opened.push(files.directory(fs.cwd)?);
        let root = match files.is_plain_root(fs.root)? {
            true => None,
            false => {
                opened.push(files.directory(fs.root)?);
                Some(cwd + 1)
            }
        };
        let fds: Vec<_> = opened.iter().map(|file| file.as_fd()).collect();
        channel.give(process, &fds, 0)?;
        Ok(Self { mapped, exe, cwd, root })
    }
}

fn mapped_file(vma: &Vma) -> Option<(FileId, u32)> {
    match vma.kind {
        VmaKind::File { file, access, .. } | VmaKind::Memfd { file, access, .. } => {
            Some((file, access))
        }
        _ => None,
    }
}

fn map_all(
    process: &mut Process,
    mm: &Mm,
    kept: &PageSet,
    memfds: &Memfds,
    borrowed: &Borrowed,
) -> Result<()> {
    let mut batch = Batch::default();
    // First, because a segment is attached whole, also over what belongs to others later.
    sysv::attach(&mut batch, mm, memfds)?;
    for vma in &mm.vmas {
        let lasting = (vma.flags & LASTING).bits();
        let fixed = libc::MAP_FIXED_NOREPLACE.cast_unsigned() | lasting;
        let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).cast_unsigned();
        let (flags, fd, offset) = match vma.kind {
            VmaKind::Anon => (anonymous, u64::MAX, 0),
            VmaKind::Huge(size) => (anonymous | size.map_flags(), u64::MAX, 0),
            VmaKind::File { file, offset, shared, access }
            | VmaKind::Memfd { file, offset, shared, access } => {
                let how = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
                (how.cast_unsigned(), borrowed.mapped[&(file, access)], offset)
            }
            VmaKind::SysV { .. } => {
                advise(&mut batch, vma);
                continue;
            }
            VmaKind::Vdso | VmaKind::Vvar | VmaKind::Vsyscall => continue,
        };
        let prot = u64::from(huge::early_prot(vma) & 7);
        let (there, missing) = parts(vma, kept);
        // First what is there gets its protection, then the kernel joins the rest to it.
        for range in there.ranges() {
            let args = [range.start_addr().0, range.bytes().0, prot];
            batch.must("protect its memory", libc::SYS_mprotect, &args);
        }
        for range in missing.ranges() {
            let (start, size) = (range.start_addr().0, range.bytes().0);
            let args = [start, size, prot, u64::from(flags | fixed), fd, offset];
            batch.must("map its memory", libc::SYS_mmap, &args);
        }
        advise(&mut batch, vma);
    }
    process.run(0, batch)?;
    Ok(())
}

/// The pages of a mapping that are there, and those that are not.
fn parts(vma: &Vma, kept: &PageSet) -> (PageSet, PageSet) {
    let mut missing: PageSet = [vma.range].into_iter().collect();
    if vma.kind != VmaKind::Anon {
        return (PageSet::new(), missing);
    }
    let there = missing.intersect(kept);
    missing.remove_all(&there);
    (there, missing)
}

/// Maps private anonymous memory where nothing is.
pub(crate) fn map_anew(batch: &mut Batch, vma: &Vma) {
    let (at, len, prot) = (vma.range.start_addr().0, vma.range.bytes().0, vma.prot & 7);
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let flags = private.cast_unsigned() | (vma.flags & LASTING).bits();
    let args = [at, len, u64::from(prot), u64::from(flags), u64::MAX, 0];
    batch.must("map its memory", libc::SYS_mmap, &args);
    advise(batch, vma);
}

fn advise(batch: &mut Batch, vma: &Vma) {
    for advice in vma.advice.iter().filter(|advice| Advice::all().contains(*advice)) {
        let number = u64::from(advice.bits().trailing_zeros());
        let args = [vma.range.start_addr().0, vma.range.bytes().0, number];
        batch.may("advise on its memory", libc::SYS_madvise, &args);
    }
}

/// Moves the parked vdso to where the program looks for it, and leaves the seed behind.
fn place_vdso(process: &mut Process, mm: &Mm, hole: &Hole, parked: &Parked) -> Result<()> {
    let task = process.id;
    let refuse = |why| Error::Vdso { task, why };
    let vdso = mm.vmas.iter().find(|vma| vma.kind == VmaKind::Vdso);
    let vdso = vdso.ok_or_else(|| refuse("the program has unmapped it"))?.range;
    let kernels: PageSet = mm
        .vmas
        .iter()
        .filter(|vma| matches!(vma.kind, VmaKind::Vdso | VmaKind::Vvar))
        .map(|vma| vma.range)
        .collect();
    let moves = parked.moves_to(vdso).map_err(refuse)?;
    let mut batch = Batch::default();
    for (from, to) in moves {
        if !kernels.ranges().iter().any(|range| range.covers(to)) {
            return Err(refuse("its parts lie otherwise in the program than on this kernel"));
        }
        batch.must("move its vdso into place", libc::SYS_mremap, &remap(from, to));
    }
    batch.must("leave the seed behind", libc::SYS_munmap, &[hole.seed.0, PageCount(1).bytes().0]);
    process.run(0, batch)?;

    let (first, _) = vdso.split_at(VDSO_MOST);
    let mut bytes = vec![0; usize::try_from(first.bytes().0).unwrap_or(0)];
    Memory::open(process.host)?.read(first.start_addr(), &mut bytes)?;
    process.gate = find_gate(&bytes, first.start_addr())
        .ok_or_else(|| refuse("there is no syscall instruction in it"))?;
    Ok(())
}

/// Arguments of mremap(2) that move `from` exactly to `to`.
pub(crate) fn remap(from: PageRange, to: PageRange) -> [u64; 5] {
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED).cast_unsigned();
    let (old, size) = (from.start_addr().0, from.bytes().0);
    [old, size, size, u64::from(flags), to.start_addr().0]
}

/// Bounds, auxiliary vector and program file in one call (prctl(2), PR_SET_MM_MAP).
fn describe(process: &mut Process, mm: &Mm, exe: u64) -> Result<()> {
    if mm.auxv.len() > AUXV_WORDS {
        let size = mm.auxv.len() as u64;
        return Err(BadCheckpoint::TooLarge { what: "an auxiliary vector", size }.into());
    }
    let auxv = process.put(&words(&mm.auxv))?;
    let auxv_size = 8 * mm.auxv.len() as u64;
    let bounds = [
        mm.start_code,
        mm.end_code,
        mm.start_data,
        mm.end_data,
        mm.start_brk,
        mm.brk,
        mm.start_stack,
        mm.arg_start,
        mm.arg_end,
        mm.env_start,
        mm.env_end,
    ];
    let mut map: Vec<u64> = bounds.iter().map(|VirtAddr(at)| *at).collect();
    map.extend([auxv, auxv_size | exe << 32]);
    let map = process.put(&words(&map))?;
    let mut batch = Batch::default();
    let args = [libc::PR_SET_MM.cast_unsigned().into(), PR_SET_MM_MAP, map, MM_MAP_SIZE, 0];
    batch.must("set its memory bounds and program file", libc::SYS_prctl, &args);
    if mm.thp_disabled {
        let args = [libc::PR_SET_THP_DISABLE.cast_unsigned().into(), 1, 0, 0, 0];
        batch.must("forbid it huge pages", libc::SYS_prctl, &args);
    }
    process.run(0, batch)?;
    Ok(())
}

/// Root directory, working directory, umask.
fn stand(process: &mut Process, fs: &Fs, borrowed: &Borrowed) -> Result<()> {
    let dot = process.put(b".\0")?;
    let mut batch = Batch::default();
    if let Some(root) = borrowed.root {
        batch.must("enter its root directory", libc::SYS_fchdir, &[root]);
        batch.must("set its root directory", libc::SYS_chroot, &[dot]);
    }
    batch.must("set its working directory", libc::SYS_fchdir, &[borrowed.cwd]);
    batch.must("set its umask", libc::SYS_umask, &[u64::from(fs.umask & 0o777)]);
    process.run(0, batch)?;
    Ok(())
}
