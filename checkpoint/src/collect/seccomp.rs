//! Rules of seccomp(2), read with ptrace(2): PTRACE_SECCOMP_GET_FILTER (Linux 4.4, needs CAP_SYS_ADMIN)
//! and PTRACE_SECCOMP_GET_METADATA (4.16).

use std::sync::Arc;

use image::state::{Filter, Seccomp};
use tracee::Stopped;

use crate::error::CollectError;
use crate::survey::refusals::Trouble;

/// The rules of a thread whose mode (/proc/PID/status) is `mode`. Those of `before`, another thread
/// of the process, are shared if they are the same.
pub(super) fn rules(
    thread: &Stopped,
    mode: u32,
    before: Option<&Seccomp>,
) -> Result<Result<Seccomp, Trouble>, CollectError> {
    match mode {
        0 => return Ok(Ok(Seccomp::Off)),
        1 => return Ok(Ok(Seccomp::Strict)),
        _ => {}
    }
    let mut filters = Vec::new();
    while let Some(found) = thread.seccomp_filter(filters.len())? {
        if asks_a_supervisor(&found.program) {
            let reason = "a seccomp filter that asks a supervisor (SECCOMP_RET_USER_NOTIF)";
            return Ok(Err(Trouble::new("", reason)));
        }
        filters.push(Filter { program: found.program, log: found.log });
        if filters.len() > Seccomp::MOST_FILTERS {
            return Ok(Err(Trouble::new("", "more seccomp filters than Linux allows")));
        }
    }
    Ok(Ok(match before {
        Some(Seccomp::Filters(known)) if **known == filters => Seccomp::Filters(Arc::clone(known)),
        _ => Seccomp::Filters(Arc::new(filters)),
    }))
}

/// True if a program may return SECCOMP_RET_USER_NOTIF: whoever listens would be lost.
fn asks_a_supervisor(program: &[u8]) -> bool {
    /// BPF_RET | BPF_K; SECCOMP_RET_ACTION_FULL and SECCOMP_RET_USER_NOTIF.
    const RETURN: u16 = 0x06;
    const ACTION: u32 = 0xffff_0000;
    const USER_NOTIF: u32 = 0x7fc0_0000;
    program.chunks_exact(Filter::INSTRUCTION).any(|instruction| {
        let code = u16::from_ne_bytes(instruction[..2].try_into().expect("two bytes"));
        code == RETURN && super::int(instruction, 4) & ACTION == USER_NOTIF
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_with_a_listener_is_known_by_what_it_returns() {
        let load = [0x20, 0, 0, 0, 0, 0, 0xc0, 0x7f];
        let allow = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];
        let notify = [0x06, 0, 0, 0, 0, 0, 0xc0, 0x7f];
        assert!(!asks_a_supervisor(&[load, allow].concat()));
        assert!(asks_a_supervisor(&[load, notify, allow].concat()));
    }
}
