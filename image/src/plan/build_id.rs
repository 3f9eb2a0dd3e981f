//! The build id of an ELF file: the note `.note.gnu.build-id`, found by its program headers
//! (elf(5)). Two files with the same id are the same program.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The build id of the file at `path`; `None` if it is no ELF file, has none, or cannot be read.
pub fn build_id(path: &Path) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let mut header = [0; EHDR];
    file.read_exact_at(&mut header, 0).ok()?;
    let table = Table::of(&header)?;
    let mut headers = vec![0; usize::from(table.count) * PHDR];
    file.read_exact_at(&mut headers, table.offset).ok()?;
    headers.chunks_exact(PHDR).filter(|header| word(header, 0) == Some(PT_NOTE)).find_map(
        |header| {
            let (offset, size) = (long(header, 8)?, long(header, 32)?);
            let size = usize::try_from(size).ok().filter(|size| *size <= LONGEST_NOTES)?;
            let mut notes = vec![0; size];
            file.read_exact_at(&mut notes, offset).ok()?;
            find(&notes)
        },
    )
}

/// `Elf64_Ehdr`.
const EHDR: usize = 64;
/// `Elf64_Phdr`.
const PHDR: usize = 56;
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
/// More notes than this no linker writes.
const LONGEST_NOTES: usize = 64 << 10;
/// More program headers than this no linker writes.
const MOST_HEADERS: u16 = 512;

/// Where the program headers are.
struct Table {
    offset: u64,
    count: u16,
}

impl Table {
    /// Of a 64-bit little-endian ELF file.
    fn of(header: &[u8; EHDR]) -> Option<Self> {
        if !header.starts_with(b"\x7fELF\x02\x01") || half(header, 54)? as usize != PHDR {
            return None;
        }
        let count = half(header, 56).filter(|count| *count <= MOST_HEADERS)?;
        Some(Self { offset: long(header, 32)?, count })
    }
}

/// Walks notes: name length, content length, type, name, content, each padded to 4 bytes.
fn find(mut notes: &[u8]) -> Option<Vec<u8>> {
    loop {
        let (name, content) = (word(notes, 0)? as usize, word(notes, 4)? as usize);
        let kind = word(notes, 8)?;
        let at = 12_usize.checked_add(name.next_multiple_of(4))?;
        let body = notes.get(at..at.checked_add(content)?)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..12 + name)? == b"GNU\0" {
            return Some(body.to_vec());
        }
        notes = notes.get(at + content.next_multiple_of(4)..)?;
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_found_behind_others() {
        let mut notes = vec![4, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0];
        notes.extend_from_slice(b"GNU\0ab\0\0");
        notes.extend_from_slice(&[4, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0]);
        notes.extend_from_slice(b"GNU\0\x01\x02\x03\0");
        assert_eq!(find(&notes), Some(vec![1, 2, 3]));
        for length in 0..notes.len() - 1 {
            assert_eq!(find(&notes[..length]), None, "cut at {length}");
        }
        assert_eq!(find(&[0xff; 64]), None, "lengths beyond the end");
    }

    #[test]
    fn what_is_no_elf_file_has_none() {
        assert_eq!(build_id(Path::new("/proc/self/cmdline")), None);
        assert_eq!(build_id(Path::new("/dev/null")), None);
        assert_eq!(build_id(Path::new("/nonexistent")), None);
    }
}
