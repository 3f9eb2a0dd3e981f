//! Segments of System V shared memory: who is attached, and who made what.

use std::collections::BTreeMap;
use std::fs;

use super::refusals::Trouble;

/// A segment, from its line in /proc/sysvipc/shm (proc_sysvipc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Its id.
    pub(crate) id: i32,
    /// Its key; zero is IPC_PRIVATE.
    pub(crate) key: i32,
    /// Bytes that it was made with.
    pub(crate) size: u64,
    /// Permissions, SHM_DEST 0o1000, SHM_LOCKED 0o2000.
    pub(crate) mode: u32,
    /// The process that made it.
    pub(crate) maker: i32,
    /// How many mappings show it, in all processes.
    pub(crate) attached: u64,
    /// Owner and group, then those of whoever made it.
    pub(crate) ids: [u32; 4],
}

/// Every segment of this IPC namespace.
pub(crate) fn segments() -> Vec<Segment> {
    let text = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    text.lines().skip(1).filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Segment> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |at: usize| words.get(at)?.parse().ok();
    Some(Segment {
        key: words.first()?.parse().ok()?,
        id: words.get(1)?.parse().ok()?,
        mode: u32::from_str_radix(words.get(2)?, 8).ok()?,
        size: words.get(3)?.parse().ok()?,
        maker: words.get(4)?.parse().ok()?,
        attached: words.get(6)?.parse().ok()?,
        ids: [number(7)?, number(8)?, number(9)?, number(10)?],
    })
}

/// What of `segments` cannot be carried, and its maker where it is not mapped: `mapped` tells how
/// many mappings of the tree show which, `member` who belongs to the tree.
pub(crate) fn troubles(
    segments: &[Segment],
    mapped: &BTreeMap<i32, u64>,
    member: impl Fn(i32) -> bool,
) -> Vec<(Trouble, i32)> {
    let mut troubles = Vec::new();
    for segment in segments {
        let place = format!("System V shared memory {} (key {:#x})", segment.id, segment.key);
        match mapped.get(&segment.id) {
            Some(own) if *own < segment.attached => {
                let others = segment.attached - own;
                let reason = format!("mapped {others} times outside the tree too");
                let hint = "include those processes (ipcs -mp tells some of them)";
                troubles.push((Trouble::new(place, reason).but(hint), segment.maker));
            }
            Some(_) => {}
            None if member(segment.maker) => {
                let reason = "the tree made it, and maps it nowhere: its content would be lost";
                let hint = "attach it, or remove it (ipcrm)";
                troubles.push((Trouble::new(place, reason).but(hint), segment.maker));
            }
            None => {}
        }
    }
    troubles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_its_tree_s_alone_and_mapped() {
        let line = "      4711      32769  1600             5001    77    78      3     0     5     6     7 0 0 0 8192 0";
        let segment = parse(line).expect("a line of Linux 6.18");
        let expected = Segment {
            id: 32769,
            key: 4711,
            size: 5001,
            mode: 0o1600,
            maker: 77,
            attached: 3,
            ids: [0, 5, 6, 7],
        };
        assert_eq!(segment, expected);
        assert_eq!(parse("       key      shmid"), None);
        let told = |mapped: &[(i32, u64)], member: i32| {
            let mapped = mapped.iter().copied().collect();
            troubles(&[segment], &mapped, |pid| pid == member).len()
        };
        for (mapped, member, expected) in
            [(&[(32769, 3)][..], 77, 0), (&[(32769, 2)], 77, 1), (&[], 77, 1), (&[], 78, 0)]
        {
            assert_eq!(told(mapped, member), expected, "{mapped:?} {member}");
        }
    }
}
