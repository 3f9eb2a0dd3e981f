//! How a plan says how many huge pages it needs.

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
    }
}
