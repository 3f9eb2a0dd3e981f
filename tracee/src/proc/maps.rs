//! /proc/PID/maps and smaps: the mappings of an address space.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use pages::{PageRange, VirtAddr};

use super::Source;
use crate::{HostPid, Result};

const MAPS: Source = Source("/proc/PID/maps");
const SMAPS: Source = Source("/proc/PID/smaps");

/// One mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First byte.
    pub start: VirtAddr,
    /// One past the last byte.
    pub end: VirtAddr,
    /// PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4.
    pub prot: u32,
    /// MAP_SHARED.
    pub shared: bool,
    /// Byte offset in the file.
    pub offset: u64,
    /// Device of the file, major and minor.
    pub dev: (u32, u32),
    /// Its inode; zero if there is no file.
    pub inode: u64,
    /// Its path, or a name in brackets such as `[heap]`; `None` for plain anonymous memory. Newlines
    /// are as in the file's name, " (deleted)" is taken off.
    pub path: Option<PathBuf>,
    /// The name is gone (or the file is really called "… (deleted)": the kernel does not tell).
    pub deleted: bool,
    /// Bytes of the pages that the kernel maps here at least (`KernelPageSize`); zero from maps.
    pub kernel_page_size: u64,
    /// The two-letter `VmFlags` of proc(5); only from smaps.
    pub flags: Vec<[u8; 2]>,
}

impl Mapping {
    /// Its pages.
    pub fn range(&self) -> Option<PageRange> {
        PageRange::from_addrs(self.start, self.end)
    }

    /// The name in brackets, e.g. `[vdso]`, if it has one.
    pub fn special(&self) -> Option<&str> {
        let name = self.path.as_ref().filter(|_| self.inode == 0)?.to_str()?;
        name.starts_with('[').then_some(name)
    }

    /// True if smaps gave it this flag, e.g. `b"gd"`.
    pub fn has_flag(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }
}

/// Reads /proc/PID/maps.
pub fn read(pid: HostPid) -> Result<Vec<Mapping>> {
    parse(&super::read(format!("/proc/{pid}/maps"))?)
}

/// Reads /proc/PID/smaps: dearer, but with the flags.
pub fn read_with_flags(pid: HostPid) -> Result<Vec<Mapping>> {
    parse_smaps(&super::read(format!("/proc/{pid}/smaps"))?)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// Parses the text of maps.
pub fn parse(text: &[u8]) -> Result<Vec<Mapping>> {
    lines(text).map(|line| parse_line(MAPS, line)).collect()
}

/// Parses the text of smaps.
pub fn parse_smaps(text: &[u8]) -> Result<Vec<Mapping>> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in lines(text) {
        // A mapping begins with an address, a detail with a capital letter.
        if !line[0].is_ascii_uppercase() {
            all.push(parse_line(SMAPS, line)?);
        } else if let Some(size) = line.strip_prefix(b"KernelPageSize:") {
            let mapping = all.last_mut();
            let mapping = mapping.ok_or_else(|| SMAPS.error("KernelPageSize", "no mapping"))?;
            let text = std::str::from_utf8(size).unwrap_or_default();
            let kib = text.trim().strip_suffix(" kB").unwrap_or_default();
            mapping.kernel_page_size =
                SMAPS.number::<u64>("KernelPageSize", kib)?.saturating_mul(1024);
        } else if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            let mapping = all.last_mut().ok_or_else(|| SMAPS.error("VmFlags", "no mapping"))?;
            let words = flags.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
            mapping.flags = words
                .map(|word| word.try_into())
                .collect::<std::result::Result<_, _>>()
                .map_err(|_| SMAPS.error("VmFlags", &String::from_utf8_lossy(flags)))?;
        }
    }
    Ok(all)
}

fn parse_line(source: Source, line: &[u8]) -> Result<Mapping> {
    let whole = || String::from_utf8_lossy(line).into_owned();
    let mut rest = line;
    let mut word = |field| {
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.strip_prefix(b" ").unwrap_or(after);
        match std::str::from_utf8(word) {
            Ok(word) if !word.is_empty() => Ok(word),
            _ => Err(source.error(field, &whole())),
        }
    };
    let pair = |field, text: &str, at: char| {
        let (left, right) = text.split_once(at).ok_or_else(|| source.error(field, &whole()))?;
        Ok((source.hex(field, left)?, source.hex(field, right)?))
    };
    let (start, end) = pair("addresses", word("addresses")?, '-')?;
    if start >= end {
        return Err(source.error("addresses", &whole()));
    }
    let permissions = word("permissions")?.as_bytes();
    let &[read, write, execute, sharing @ (b's' | b'p')] = permissions else {
        return Err(source.error("permissions", &whole()));
    };
    let offset = source.hex("offset", word("offset")?)?;
    let (major, minor) = pair("device", word("device")?, ':')?;
    let narrow = |number| u32::try_from(number).map_err(|_| source.error("device", &whole()));
    let inode = source.number("inode", word("inode")?)?;
    let (path, deleted) = name(rest, inode);
    Ok(Mapping {
        start: VirtAddr(start),
        end: VirtAddr(end),
        prot: u32::from(read == b'r')
            | u32::from(write == b'w') << 1
            | u32::from(execute == b'x') << 2,
        shared: sharing == b's',
        offset,
        dev: (narrow(major)?, narrow(minor)?),
        inode,
        path,
        deleted,
        kernel_page_size: 0,
        flags: Vec::new(),
    })
}

/// The rest of the line: blanks, then the name with newlines written as `\012`.
fn name(rest: &[u8], inode: u64) -> (Option<PathBuf>, bool) {
    let start = rest.iter().position(|byte| *byte != b' ').unwrap_or(rest.len());
    let name = &rest[start..];
    if name.is_empty() {
        return (None, false);
    }
    let (name, deleted) = match name.strip_suffix(b" (deleted)") {
        Some(shorter) if inode != 0 => (shorter, true),
        _ => (name, false),
    };
    let mut plain = Vec::with_capacity(name.len());
    let mut left = name;
    while let Some((first, after)) = left.split_first() {
        match left.strip_prefix(b"\\012") {
            Some(after) => {
                plain.push(b'\n');
                left = after;
            }
            None => {
                plain.push(*first);
                left = after;
            }
        }
    }
    let path = std::ffi::OsString::from_vec(plain);
    (Some(PathBuf::from(path)), deleted)
}

/// True if the path is one that map_files and readlink(2) would show as deleted.
pub fn says_deleted(link: &OsStr) -> bool {
    link.as_bytes().ends_with(b" (deleted)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &[u8] = b"\
00400000-00401000 r-xp 00000000 00:01 1027                               /memfd:seed (deleted)
7f0000000000-7f0000001000 rw-s 00002000 fd:00 12  /tmp/two\\012lines and blanks
7f0000001000-7f0000002000 ---p 00000000 00:00 0 \n\
7f0000002000-7f0000003000 rw-p 00000000 00:00 0                          [anon:glibc: malloc]
7ffe00000000-7ffe00001000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn odd_names_are_read_as_they_are() {
        let all = parse(ODD).expect("a sound text");
        assert_eq!(all.len(), 6);
        assert_eq!(all[0].path.as_deref(), Some("/memfd:seed".as_ref()));
        assert!(all[0].deleted && !all[0].shared);
        assert_eq!((all[0].prot, all[0].dev, all[0].inode), (5, (0, 1), 1027));
        assert_eq!(all[1].path.as_deref(), Some("/tmp/two\nlines and blanks".as_ref()));
        assert!(all[1].shared && !all[1].deleted);
        assert_eq!((all[1].offset, all[1].dev), (0x2000, (0xfd, 0)));
        assert_eq!((all[2].path.as_deref(), all[2].prot), (None, 0));
        assert_eq!(all[3].special(), Some("[anon:glibc: malloc]"));
        assert_eq!(all[4].special(), Some("[vdso]"));
        assert_eq!(all[5].range().map(|range| range.count().0), Some(1));
    }

    #[test]
    fn smaps_gives_the_flags_too() {
        let text = b"\
7ffc0000-7ffd0000 rw-p 00000000 00:00 0   [stack]
Rss:                  84 kB
VmFlags: rd wr mr mw me gd ac \n\
7ffe0000-7fff0000 r-xp 00000000 00:00 0   [vdso]
VmFlags: rd ex mr mw me de sd \n";
        let all = parse_smaps(text).expect("a sound text");
        assert!(all[0].has_flag(b"gd") && !all[1].has_flag(b"gd"));
        assert_eq!(all[1].flags.len(), 7);
    }

    #[test]
    fn nonsense_is_named() {
        for (text, what) in [
            ("xyz", "addresses"),
            ("2000-1000 r-xp 0 0:0 0", "addresses"),
            ("1000-2000 r-x 0 0:0 0", "permissions"),
            ("1000-2000 r-xp 0 0:0 x", "inode"),
            ("1000-2000 r-xp 0", "device"),
        ] {
            match parse(text.as_bytes()) {
                Err(crate::Error::Parse { field, .. }) => assert_eq!(field, what, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn our_own_mappings_are_read() {
        let pid = HostPid(std::process::id().cast_signed());
        let all = read_with_flags(pid).expect("our own smaps");
        let here = read as *const () as u64;
        let code = all.iter().find(|map| (map.start.0..map.end.0).contains(&here));
        assert!(code.is_some_and(|map| map.prot == 5 && map.has_flag(b"ex")), "{code:?}");
        assert!(read(pid).expect("our own maps").iter().any(|map| map.special() == Some("[vdso]")));
    }
}
