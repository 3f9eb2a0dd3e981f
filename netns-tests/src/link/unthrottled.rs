//! The link may use all of a processor.
//!
//! A process of SCHED_FIFO that never sleeps is held back for 50 ms of each second (sched(7),
//! `sched_rt_runtime_us`): at 1 Gbit/s the link has that much to do, and once a second everybody
//! waited for it.

use std::fs::{read_to_string, write};

const LIMIT: &str = "/proc/sys/kernel/sched_rt_runtime_us";
const NONE: &str = "-1";

/// While this lives real-time processes of this machine are not held back. Nothing changes where that
/// is not allowed, or where it is so already.
#[derive(Debug)]
pub(super) struct Unthrottled(Option<String>);

impl Unthrottled {
    pub(super) fn new() -> Self {
        let before = read_to_string(LIMIT).ok().filter(|limit| limit.trim() != NONE);
        Self(before.filter(|_| write(LIMIT, NONE).is_ok()))
    }
}

impl Drop for Unthrottled {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = write(LIMIT, before.trim());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_there_again() {
        let limit = || read_to_string(LIMIT).unwrap_or_default();
        let before = limit();
        let outer = Unthrottled::new();
        let inner = Unthrottled::new();
        assert!(inner.0.is_none() || outer.0.is_none(), "only one puts it back");
        drop(inner);
        let changed = outer.0.is_some();
        drop(outer);
        assert!(!changed || limit() == before, "{}", limit());
    }
}
