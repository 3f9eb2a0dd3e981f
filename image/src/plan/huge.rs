//! How a plan says how many huge pages it needs, and where files of them.

use crate::state::HugeSize;

/// A need, with size and number after it, of huge pages.
pub const HUGE_PAGES: &str = "huge pages of ";

/// The need of `count` pages of `size`: `huge pages of 2048 kB: 3`.
pub fn huge_pages(size: HugeSize, count: u64) -> String {
    format!("{HUGE_PAGES}{size}: {count}")
}

/// What [`huge_pages`] said; `None` if it is something else.
pub fn huge_pages_of(need: &str) -> Option<(HugeSize, u64)> {
    let (size, count) = need.strip_prefix(HUGE_PAGES)?.split_once(" kB: ")?;
    let size = HugeSize::of_bytes(size.parse::<u64>().ok()?.checked_mul(1024)?)?;
    Some((size, count.parse().ok()?))
}

/// A need, with size and path after it, of a place for a file of huge pages: a hugetlbfs.
pub const HUGE_FILE: &str = "a file of huge pages of ";

/// The need of a place for the file `path` of pages of `size`: `a file of huge pages of 2048 kB: /mnt/a`.
pub fn huge_file(size: HugeSize, path: &str) -> String {
    format!("{HUGE_FILE}{size}: {path}")
}

/// What [`huge_file`] said; `None` if it is something else.
pub fn huge_file_of(need: &str) -> Option<(HugeSize, &str)> {
    let (size, path) = need.strip_prefix(HUGE_FILE)?.split_once(" kB: ")?;
    let size = HugeSize::of_bytes(size.parse::<u64>().ok()?.checked_mul(1024)?)?;
    path.starts_with('/').then_some((size, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_is_understood() {
        let size = HugeSize::of_bytes(2 << 20).expect("2 MiB");
        assert_eq!(huge_pages(size, 3), "huge pages of 2048 kB: 3");
        assert_eq!(huge_pages_of("huge pages of 2048 kB: 3"), Some((size, 3)));
        for other in ["huge pages of 2047 kB: 3", "huge pages of 2048 kB: x", "criu"] {
            assert_eq!(huge_pages_of(other), None, "{other}");
        }
        let need = huge_file(size, "/mnt/a kB: b");
        assert_eq!(need, "a file of huge pages of 2048 kB: /mnt/a kB: b");
        assert_eq!(huge_file_of(&need), Some((size, "/mnt/a kB: b")));
        assert_eq!(huge_file_of("a file of huge pages of 2048 kB: mnt"), None);
    }
}
