//! The address space: its mappings and bounds.

use image::state::{Advice, FileId, Mm, Vma, VmaFlags, VmaKind};
use pages::{PageRange, VirtAddr};
use tracee::HostPid;
use tracee::proc::maps::Mapping;
use tracee::proc::stat::Stat;

use super::Refusals;
use super::advised::Advised;
use super::contents::{Contents, MemoryLook};
use super::files::Files;
use crate::error::CollectError;
use crate::survey::mapped::{MappedFiles, Shows, place, shows};
use crate::survey::refusals::{Trouble, Whose};

/// The mappings of a process, read before anything of ours was mapped into it.
pub(super) struct Layout {
    vmas: Vec<Vma>,
    /// The kernel's code.
    pub(super) vdso: Option<PageRange>,
}

impl Layout {
    /// Reads /proc/PID/smaps, or maps if smaps was read before.
    pub(super) fn read(
        whose: &Whose,
        advised: &Advised,
        files: &mut Files,
        refusals: &mut Refusals,
    ) -> Result<Self, CollectError> {
        let pid = whose.pid;
        let mut seen = MappedFiles::default();
        let mut layout = Self { vmas: Vec::new(), vdso: None };
        for mapping in advised.mappings(pid)? {
            let object = || whose.mapping(mapping.start.0, mapping.end.0);
            let kind = match shows(&mapping) {
                Ok(Some(Shows::Anon)) => VmaKind::Anon,
                Ok(Some(Shows::Huge(size))) => VmaKind::Huge(size),
                Ok(Some(Shows::Vdso)) => VmaKind::Vdso,
                Ok(Some(Shows::Vvar)) => VmaKind::Vvar,
                Ok(Some(Shows::Vsyscall)) => VmaKind::Vsyscall,
                Ok(_) => match seen.behind(pid, &mapping, files.ghost_limit()) {
                    Some(Ok(file)) => {
                        let (offset, shared) = (mapping.offset, mapping.shared);
                        let access = access(&mapping);
                        match file.shows {
                            Shows::SysV(id) => {
                                let shared = files.segment(pid, id, file)?;
                                VmaKind::SysV { shared, offset, access }
                            }
                            Shows::Memfd(_) => {
                                let file = files.mapped(pid, file)?;
                                VmaKind::Memfd { file, offset, shared, access }
                            }
                            _ => {
                                let file = files.mapped(pid, file)?;
                                VmaKind::File { file, offset, shared, access }
                            }
                        }
                    }
                    Some(Err(trouble)) => {
                        refusals.add(trouble.clone(), object());
                        continue;
                    }
                    None => {
                        refusals.add(
                            Trouble::new(place(&mapping), "its file cannot be seen"),
                            object(),
                        );
                        continue;
                    }
                },
                Err(trouble) => {
                    refusals.add(trouble, object());
                    continue;
                }
            };
            let range = PageRange::from_addrs(mapping.start, mapping.end)
                .ok_or(CollectError::Nonsense { what: "the mappings", pid })?;
            layout.add(&mapping, range, kind);
        }
        Ok(layout)
    }

    fn add(&mut self, mapping: &Mapping, range: PageRange, kind: VmaKind) {
        if kind == VmaKind::Vdso {
            self.vdso = Some(range);
        }
        // [vvar] and [vvar_vclock] (Linux 6.13) are one thing.
        if let Some(last) = self.vmas.last_mut()
            && (last.kind, kind) == (VmaKind::Vvar, VmaKind::Vvar)
            && last.range.end() == range.start()
        {
            last.range = PageRange::between(last.range.start(), range.end()).unwrap_or(range);
            return;
        }
        let kernels = matches!(kind, VmaKind::Vdso | VmaKind::Vvar | VmaKind::Vsyscall);
        self.vmas.push(Vma {
            range,
            prot: mapping.prot,
            kind,
            flags: flags(mapping),
            advice: if kernels { Advice::empty() } else { advice(mapping) },
            name: name(mapping),
        });
    }

    /// The address space, and what of it must travel.
    pub(super) fn finish(
        self,
        pid: HostPid,
        stat: &Stat,
        exe: FileId,
        told: (VirtAddr, u32, bool),
        memory: MemoryLook,
    ) -> Result<(Mm, Contents), CollectError> {
        let mut contents = Contents::of(pid, &self.vmas, memory)?;
        let (brk, dumpable, thp_disabled) = told;
        let mm = Mm {
            start_code: VirtAddr(stat.start_code),
            end_code: VirtAddr(stat.end_code),
            start_data: VirtAddr(stat.start_data),
            end_data: VirtAddr(stat.end_data),
            start_stack: VirtAddr(stat.start_stack),
            start_brk: VirtAddr(stat.start_brk),
            brk,
            arg_start: VirtAddr(stat.arg_start),
            arg_end: VirtAddr(stat.arg_end),
            env_start: VirtAddr(stat.env_start),
            env_end: VirtAddr(stat.env_end),
            auxv: auxv(pid)?,
            exe,
            vmas: self.vmas,
            guards: std::mem::take(&mut contents.guards).ranges().to_vec(),
            dumpable,
            thp_disabled,
        };
        Ok((mm, contents))
    }
}

/// /proc/PID/auxv: the auxiliary vector without the AT_NULL that ends it, which CRIU's 44 words have
/// no room for and the kernel adds again (PR_SET_MM_MAP, prctl(2)).
fn auxv(pid: HostPid) -> Result<Vec<u64>, CollectError> {
    let bytes = std::fs::read(format!("/proc/{}/auxv", pid.0))
        .map_err(CollectError::io("read the auxiliary vector", pid))?;
    let pairs = bytes.chunks_exact(16).map(|pair| [super::long(pair, 0), super::long(pair, 8)]);
    Ok(pairs.take_while(|[kind, _]| *kind != 0).flatten().collect())
}

/// The access mode a mapped file must be opened with. A shared mapping may ever be made writable
/// only if its file was opened for writing (`mw`); of a private one only reading is asked.
fn access(mapping: &Mapping) -> u32 {
    let writable = mapping.shared && mapping.has_flag(b"mw");
    let mode = if writable { nix::libc::O_RDWR } else { nix::libc::O_RDONLY };
    mode.cast_unsigned()
}

/// VmFlags that mmap(2) and mlock(2) have set (Documentation/filesystems/proc.rst).
fn flags(mapping: &Mapping) -> VmaFlags {
    // Linux 6.18 has a name for the last, before it is `??`.
    let on_fault = mapping.has_flag(b"lf") || mapping.has_flag(b"lo") && mapping.has_flag(b"??");
    let on_fault = on_fault.then_some(VmaFlags::ON_FAULT).into_iter();
    [(b"gd", VmaFlags::GROWS_DOWN), (b"lo", VmaFlags::LOCKED), (b"nr", VmaFlags::NO_RESERVE)]
        .into_iter()
        .filter(|(flag, _)| mapping.has_flag(flag))
        .map(|(_, flag)| flag)
        .chain(on_fault)
        .collect()
}

/// `[anon:NAME]`, or `[anon_shmem:NAME]` of shared memory: what the program calls it (Linux 5.17).
fn name(mapping: &Mapping) -> Option<String> {
    let shown = mapping.path.as_ref()?.to_str()?;
    let name = shown.strip_prefix("[anon:").or_else(|| shown.strip_prefix("[anon_shmem:"))?;
    name.strip_suffix(']').map(str::to_owned)
}

/// VmFlags that madvise(2) has set.
fn advice(mapping: &Mapping) -> Advice {
    [
        (b"rr", Advice::RANDOM),
        (b"sr", Advice::SEQUENTIAL),
        (b"dc", Advice::DONT_FORK),
        (b"mg", Advice::MERGEABLE),
        (b"hg", Advice::HUGE_PAGE),
        (b"nh", Advice::NO_HUGE_PAGE),
        (b"dd", Advice::DONT_DUMP),
        (b"wf", Advice::WIPE_ON_FORK),
    ]
    .into_iter()
    .filter(|(flag, _)| mapping.has_flag(flag))
    .map(|(_, advice)| advice)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(shared: bool, flags: &[&[u8; 2]]) -> Mapping {
        Mapping { shared, flags: flags.iter().map(|flag| **flag).collect(), ..Mapping::default() }
    }

    #[test]
    fn flags_of_a_mapping_become_what_the_program_asked_for() {
        let stack = mapping(false, &[b"rd", b"wr", b"mw", b"gd", b"ac"]);
        assert_eq!((flags(&stack), advice(&stack)), (VmaFlags::GROWS_DOWN, Advice::empty()));
        let arena = mapping(false, &[b"nr", b"hg", b"dd", b"lo"]);
        assert_eq!(flags(&arena), VmaFlags::NO_RESERVE | VmaFlags::LOCKED);
        assert_eq!(advice(&arena), Advice::HUGE_PAGE | Advice::DONT_DUMP);
    }

    #[test]
    fn only_shared_mappings_that_may_be_written_want_write_access() {
        assert_eq!(access(&mapping(true, &[b"mw"])), 2);
        assert_eq!(access(&mapping(true, &[b"rd"])), 0);
        assert_eq!(access(&mapping(false, &[b"mw"])), 0);
    }
}
