//! The tree as it is while it runs: tasks may come and go while one looks.

use std::io;

use tracee::HostPid;
use tracee::proc::children;

pub(crate) use tracee::proc::children::tree as processes;

/// All threads of `processes`.
pub(crate) fn threads(processes: &[HostPid]) -> Vec<HostPid> {
    processes.iter().flat_map(|pid| children::threads(*pid).unwrap_or_default()).collect()
}

/// The open descriptors of a process, ascending.
pub(crate) fn descriptors(pid: HostPid) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", pid.0))? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}
