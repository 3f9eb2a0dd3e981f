//! The flags of mappings, without keeping the program waiting for them.
//!
//! Only /proc/PID/smaps tells them, and to write it the kernel walks every page: 33 ms for 1 GiB of
//! small pages, where maps takes 0.2 ms. So smaps of a large process is read before the freeze; after
//! it, mappings that are as they were are taken to have the flags they had. What this misses is
//! madvise(2) or mlock(2) on a whole mapping in the milliseconds between the two; if rounds came before,
//! they are those of a short round, and never more than a second.

use std::collections::HashMap;

use tracee::HostPid;
use tracee::proc::children::shown_as;
use tracee::proc::maps::{self, Mapping};
use tracee::proc::status::Status;

/// The mappings of large processes as they were before a freeze.
#[derive(Clone, Debug, Default)]
pub(crate) struct Advised {
    before: HashMap<HostPid, Vec<Mapping>>,
    /// We watch what the tree writes; the flag of it is none of the program's.
    pub(super) watched: bool,
}

/// KiB of resident memory from which on it pays to look before.
const LARGE: u64 = 16 << 10;
/// Mappings from which on it does: 60,000 of them take the kernel half a second.
const MANY: usize = 1000;

impl Advised {
    /// Looks at those of `pids` that are large.
    pub(crate) fn sample(pids: &[HostPid]) -> Self {
        let pids: Vec<HostPid> = pids.iter().map(|pid| shown_as(*pid)).collect();
        let large = pids.iter().filter(|pid| {
            Status::read(**pid).is_ok_and(|status| status.vm_rss + status.vm_swap >= LARGE)
                || maps::read(**pid).is_ok_and(|mappings| mappings.len() >= MANY)
        });
        let before = large.filter_map(|pid| Some((*pid, maps::read_with_flags(*pid).ok()?)));
        Self { before: before.collect(), watched: false }
    }

    /// True if none is large.
    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_empty()
    }

    /// The mappings of a process as they are now, with flags.
    pub(super) fn mappings(&self, pid: HostPid) -> tracee::Result<Vec<Mapping>> {
        let mut mappings = self.with_flags(pid)?;
        if self.watched {
            mappings.iter_mut().for_each(|mapping| mapping.flags.retain(|flag| flag != b"uw"));
        }
        Ok(mappings)
    }

    fn with_flags(&self, pid: HostPid) -> tracee::Result<Vec<Mapping>> {
        if let Some(before) = self.before.get(&pid) {
            let mut now = maps::read(pid)?;
            if take_over(&mut now, before) {
                return Ok(now);
            }
        }
        maps::read_with_flags(pid)
    }
}

/// Gives `now` the flags of `before`, if they are the same mappings.
///
/// One end may have moved: the kernel lets a mapping grow into another only if their flags agree,
/// and to flag a part of one makes two of it, so the number tells.
fn take_over(now: &mut [Mapping], before: &[Mapping]) -> bool {
    let same = now.len() == before.len()
        && now.iter().zip(before).all(|(now, before)| {
            let what = |one: &Mapping| (one.prot, one.shared, one.dev, one.inode);
            let starts = now.start == before.start && now.offset == before.offset;
            let ends = now.end == before.end && (now.inode == 0 || starts);
            what(now) == what(before) && now.path == before.path && (starts || ends)
        });
    if same {
        for (now, before) in now.iter_mut().zip(before) {
            now.flags.clone_from(&before.flags);
            now.kernel_page_size = before.kernel_page_size;
        }
    }
    same
}

#[cfg(test)]
mod tests {
    use pages::VirtAddr;

    use super::*;

    fn mapping(start: u64, end: u64, prot: u32, flags: &[&[u8; 2]]) -> Mapping {
        Mapping {
            start: VirtAddr(start),
            end: VirtAddr(end),
            prot,
            flags: flags.iter().map(|flag| **flag).collect(),
            ..Mapping::default()
        }
    }

    #[test]
    fn mappings_that_only_grew_keep_their_flags_and_others_are_looked_at_anew() {
        let before = [mapping(0x1000, 0x5000, 3, &[b"hg"]), mapping(0x5000, 0x9000, 0, &[b"nr"])];
        let table: [(&str, &[Mapping], bool); 5] = [
            ("the same", &[mapping(0x1000, 0x5000, 3, &[]), mapping(0x5000, 0x9000, 0, &[])], true),
            (
                "an arena grew",
                &[mapping(0x1000, 0x6000, 3, &[]), mapping(0x6000, 0x9000, 0, &[])],
                true,
            ),
            (
                "a part was advised on",
                &[
                    mapping(0x1000, 0x2000, 3, &[]),
                    mapping(0x2000, 0x5000, 3, &[]),
                    mapping(0x5000, 0x9000, 0, &[]),
                ],
                false,
            ),
            (
                "another protection",
                &[mapping(0x1000, 0x5000, 1, &[]), mapping(0x5000, 0x9000, 0, &[])],
                false,
            ),
            (
                "another place",
                &[mapping(0x1000, 0x5000, 3, &[]), mapping(0xa000, 0xb000, 0, &[])],
                false,
            ),
        ];
        for (name, now, same) in table {
            let mut now = now.to_vec();
            assert_eq!(take_over(&mut now, &before), same, "{name}");
            let flags: Vec<_> = now.iter().map(|one| one.flags.clone()).collect();
            let expected =
                if same { [vec![*b"hg"], vec![*b"nr"]].to_vec() } else { vec![vec![]; now.len()] };
            assert_eq!(flags, expected, "{name}");
        }
    }
}
