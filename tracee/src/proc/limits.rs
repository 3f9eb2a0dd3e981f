//! /proc/PID/limits (proc_pid_limits(5)): readable where prlimit(2) is not, which wants
//! CAP_SYS_RESOURCE for a task of another user.

use super::Source;
use crate::{HostPid, Result};

/// Soft and hard limit by RLIMIT_* number; `u64::MAX` is infinity.
pub type Limits = [(u64, u64); 16];

/// Column where the soft limit begins, behind the name.
const SOFT: usize = 26;
/// Column where the hard limit begins.
const HARD: usize = 47;

/// The limits of a process.
pub fn read(pid: HostPid) -> Result<Limits> {
    let text = super::read_text(format!("/proc/{pid}/limits"))?;
    parse(&text).ok_or_else(|| Source("/proc/PID/limits").error("a limit", &text))
}

/// The lines come in the order of the RLIMIT_* numbers, below a line of headings.
pub fn parse(text: &str) -> Option<Limits> {
    let mut limits = [(0, 0); 16];
    let mut lines = text.lines().skip(1);
    for limit in &mut limits {
        let line = lines.next()?;
        *limit = (number(line.get(SOFT..HARD)?)?, number(line.get(HARD..)?)?);
    }
    Some(limits)
}

fn number(column: &str) -> Option<u64> {
    match column.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        digits => digits.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_prlimit_for_ourselves() {
        let me = HostPid(nix::unistd::getpid().as_raw());
        let limits = read(me).expect("our own limits");
        for (resource, limit) in (0_u32..).zip(limits) {
            assert_eq!(crate::sys::process::rlimit(me.0, resource, None), Ok(limit), "{resource}");
        }
    }

    #[test]
    fn a_text_cut_short_is_no_table() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("Limit  Soft Limit\nMax cpu time  unlimited\n"), None);
    }
}
