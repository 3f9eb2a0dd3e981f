//! What a mapping shows, told from its line and flags in /proc/PID/smaps and the link under
//! /proc/PID/map_files.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use image::state::HugeSize;
use tracee::HostPid;
use tracee::proc::maps::Mapping;

use super::descriptor::{by_file_system, memfd_name};
use super::huge;
use super::named::{Named, is_memory_device, named};
use super::refusals::{BY_CRIU, Trouble};

/// What a mapping shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    /// Private anonymous memory.
    Anon,
    /// The same, of huge pages.
    Huge(HugeSize),
    /// The kernel's code pages.
    Vdso,
    /// The kernel's data pages.
    Vvar,
    /// The fixed page at the top.
    Vsyscall,
    /// A file with a path (or once with one).
    File(Named),
    /// A memfd, or anonymous shared memory; with its name.
    Memfd(String),
    /// System V shared memory, with its id.
    SysV(i32),
}

/// The name CRIU's format gives to anonymous shared memory, which is how the kernel shows it.
pub(crate) const DEV_ZERO: &str = "/dev/zero";

/// A mapped file.
#[derive(Clone, Debug)]
pub(crate) struct MappedFile {
    /// What it is.
    pub(crate) shows: Shows,
    /// Its stat.
    pub(crate) stat: Metadata,
    /// A path under /proc that opens it.
    pub(crate) way: PathBuf,
}

/// Device, inode and path.
type FileKey = ((u32, u32), u64, Option<PathBuf>);

/// The files one process maps, each looked at once however many mappings show it.
#[derive(Debug, Default)]
pub(crate) struct MappedFiles {
    seen: HashMap<FileKey, Option<Result<MappedFile, Trouble>>>,
}

impl MappedFiles {
    /// The file behind a mapping; `None` if the mapping went away meanwhile.
    pub(crate) fn behind(
        &mut self,
        pid: HostPid,
        mapping: &Mapping,
        ghost_limit: u64,
    ) -> Option<&Result<MappedFile, Trouble>> {
        let key = (mapping.dev, mapping.inode, mapping.path.clone());
        self.seen.entry(key).or_insert_with(|| look(pid, mapping, ghost_limit)).as_ref()
    }
}

fn look(pid: HostPid, mapping: &Mapping, limit: u64) -> Option<Result<MappedFile, Trouble>> {
    let (start, end) = (mapping.start.0, mapping.end.0);
    let way = PathBuf::from(format!("/proc/{}/map_files/{start:x}-{end:x}", pid.0));
    let link = fs::read_link(&way).ok()?;
    let stat = fs::metadata(&way).ok()?;
    let shown = link.to_string_lossy();
    let kind = stat.file_type();
    let refuse = |reason: &str| Some(Err(Trouble::new(shown.clone(), reason)));
    let shows = if shown.starts_with("/[aio]") {
        return Some(Err(Trouble::new(shown, "requests of io_setup(2)").but(BY_CRIU)));
    } else if is_segment(&shown, &stat) {
        // The kernel numbers the file like the segment.
        Shows::SysV(i32::try_from(stat.ino()).ok()?)
    } else if shown == "/dev/zero (deleted)" && kind.is_file() {
        Shows::Memfd(DEV_ZERO.to_owned())
    } else if mapping.has_flag(b"ht") && huge::of_mapping(mapping).is_some() {
        Shows::Memfd(huge::ANONYMOUS.to_owned())
    } else if let Some(name) = memfd_name(&link, &stat) {
        match name {
            Ok(name) => Shows::Memfd(name),
            Err(trouble) => return Some(Err(trouble)),
        }
    } else if kind.is_char_device() && !is_memory_device(&stat) {
        return refuse("memory of a device");
    } else if !kind.is_file() && !kind.is_char_device() {
        return refuse("memory of a kernel object");
    } else {
        match named(&link, &stat, limit) {
            Ok(named) => Shows::File(named),
            Err(trouble) => return Some(Err(by_file_system(&way).unwrap_or(trouble))),
        }
    };
    Some(Ok(MappedFile { shows, stat, way }))
}

/// `/SYSV` and its key, and never had any other name.
fn is_segment(shown: &str, stat: &Metadata) -> bool {
    let key = shown.strip_prefix("/SYSV").and_then(|rest| rest.strip_suffix(" (deleted)"));
    let hex = |key: &str| key.len() == 8 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    key.is_some_and(hex) && stat.nlink() == 0
}

/// The kinds of mappings that are the kernel's own; `None` for all others.
fn special(path: &str) -> Option<Shows> {
    match path {
        "[vdso]" => Some(Shows::Vdso),
        "[vvar]" | "[vvar_vclock]" => Some(Shows::Vvar),
        "[vsyscall]" => Some(Shows::Vsyscall),
        _ => None,
    }
}

/// What a mapping is called in a refusal.
pub(crate) fn place(mapping: &Mapping) -> String {
    let path = mapping.path.as_deref().map(Path::to_string_lossy);
    path.map_or_else(|| "anonymous memory".to_owned(), String::from)
}

/// Judges a mapping without its file.
///
/// `Ok(None)` means that a file is behind it: ask [`MappedFiles`].
pub(crate) fn shows(mapping: &Mapping) -> Result<Option<Shows>, Trouble> {
    if let Some(special) = mapping.special().and_then(special) {
        return Ok(Some(special));
    }
    let place = place(mapping);
    let refuse = |reason: &str| Err(Trouble::new(&*place, reason));
    if place == "[uprobes]" {
        return refuse("the kernel probes this program (uprobes)");
    }
    if place.starts_with("anon_inode:") || place.starts_with("socket:") {
        return refuse("memory of a kernel object");
    }
    for (flag, reason, criu) in REFUSED_FLAGS {
        if mapping.has_flag(flag) {
            let trouble = Trouble::new(place, *reason);
            return Err(if *criu { trouble.but(BY_CRIU) } else { trouble });
        }
    }
    if mapping.has_flag(b"ht") {
        // Of shared memory the object is what travels, and of a file of a hugetlbfs.
        let memfd = mapping.deleted && place.starts_with("/memfd:");
        return match huge::of_mapping(mapping) {
            Some(size) if !mapping.shared => Ok(Some(Shows::Huge(size))),
            _ if mapping.shared => Ok(None),
            None if memfd => refuse("a private mapping of a memfd of huge pages"),
            _ => {
                Err(Trouble::new(place, "a private mapping of a file of huge pages").but(UNSHARED))
            }
        };
    }
    // The first segment of System V shared memory has the number 0, and so has its file.
    Ok((mapping.inode == 0 && !place.starts_with("/SYSV")).then_some(Shows::Anon))
}

/// What else a program can do.
const UNSHARED: &str = "have it map the file shared, or memory without a file (MAP_HUGETLB)";
/// VmFlags of /proc/PID/smaps (Documentation/filesystems/proc.rst), what each means, and whether
/// CRIU carries it.
const REFUSED_FLAGS: &[(&[u8; 2], &str, bool)] = &[
    (b"ss", "a shadow stack", true),
    (b"io", "memory of a device", false),
    (b"pf", "memory of a device", false),
    (b"um", "watched with userfaultfd", false),
    (b"uw", "watched with userfaultfd", false),
    (b"ui", "watched with userfaultfd", false),
    (b"dp", "droppable memory (MAP_DROPPABLE)", true),
    (b"sl", "sealed (mseal)", false),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(path: &str, inode: u64, flags: &[&[u8; 2]]) -> Mapping {
        Mapping {
            path: (!path.is_empty()).then(|| path.into()),
            inode,
            flags: flags.iter().map(|flag| **flag).collect(),
            ..Mapping::default()
        }
    }

    #[test]
    fn lines_tell_most_kinds() {
        let special = [b"rd", b"ex", b"io", b"de", b"pf"];
        assert_eq!(shows(&mapping("[vvar]", 0, &special)), Ok(Some(Shows::Vvar)));
        assert_eq!(shows(&mapping("[vdso]", 0, &[])), Ok(Some(Shows::Vdso)));
        assert_eq!(shows(&mapping("[heap]", 0, &[b"rd"])), Ok(Some(Shows::Anon)));
        assert_eq!(shows(&mapping("[anon:arena]", 0, &[b"rd"])), Ok(Some(Shows::Anon)));
        assert_eq!(shows(&mapping("/bin/true", 9, &[b"rd"])), Ok(None));
        for (path, flag) in [("/dev/mem", b"io"), ("", b"ht"), ("", b"ss"), ("", b"sl")] {
            assert!(shows(&mapping(path, 0, &[flag])).is_err(), "{path} {flag:?}");
        }
        assert!(shows(&mapping("[uprobes]", 0, &[])).is_err());
        assert!(shows(&mapping("anon_inode:[io_uring]", 12, &[])).is_err());
    }
}
