//! The tree as it is while it runs: tasks may come and go while one looks.

use std::collections::BTreeSet;
use std::io;

use tracee::HostPid;
use tracee::proc::children;

/// The processes under (and with) `root`, parents before children, zombies included.
pub(crate) fn processes(root: HostPid) -> Vec<HostPid> {
    let mut found = vec![root];
    let mut known = BTreeSet::from([root]);
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        // A process that has gone has no children any more.
        let mut born = children::of_process(*pid).unwrap_or_default();
        born.retain(|child| known.insert(*child));
        found.append(&mut born);
        next += 1;
    }
    found
}

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
