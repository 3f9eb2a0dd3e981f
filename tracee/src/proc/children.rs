//! Who belongs to whom: /proc/PID/task and /proc/PID/task/TID/children.

use std::collections::BTreeSet;

use super::Source;
use super::stat::Stat;
use crate::{Error, HostPid, Result};

const CHILDREN: Source = Source("/proc/PID/task/TID/children");

/// The threads of a process, ascending.
pub fn threads(pid: HostPid) -> Result<Vec<HostPid>> {
    let path = format!("/proc/{pid}/task");
    let failed = |source| Error::Proc { path: path.clone().into(), source };
    let mut tids = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        tids.push(HostPid(Source("/proc/PID/task").number("thread", &name)?));
    }
    tids.sort_unstable();
    Ok(tids)
}

/// The number under which /proc shows memory and files of process `pid`: if its main thread has ended,
/// that is the one of the first thread that lives. Without any, or if it is gone, `pid`.
pub fn shown_as(pid: HostPid) -> HostPid {
    let ended = |tid| Stat::read(tid).map_or(true, |stat| matches!(stat.state, 'Z' | 'X'));
    if !ended(pid) {
        return pid;
    }
    let others = threads(pid).unwrap_or_default();
    others.into_iter().find(|tid| *tid != pid && !ended(*tid)).unwrap_or(pid)
}

/// The child processes a thread has made (or inherited), zombies included.
///
/// Only reliable while the thread is stopped (proc(5)).
pub fn of_thread(pid: HostPid, tid: HostPid) -> Result<Vec<HostPid>> {
    parse(&super::read_text(format!("/proc/{pid}/task/{tid}/children"))?)
}

/// All children of a process.
pub fn of_process(pid: HostPid) -> Result<Vec<HostPid>> {
    let all: Result<Vec<_>> = threads(pid)?.into_iter().map(|tid| of_thread(pid, tid)).collect();
    Ok(all?.concat())
}

/// The processes under (and with) `root`, parents before children, zombies included. They may come
/// and go while one looks, unless the tree stands still.
pub fn tree(root: HostPid) -> Vec<HostPid> {
    let mut found = vec![root];
    let mut known = BTreeSet::from([root]);
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        // A process that has gone has no children any more.
        let mut born = of_process(*pid).unwrap_or_default();
        born.retain(|child| known.insert(*child));
        found.append(&mut born);
        next += 1;
    }
    found
}

/// Parses the text of a children file.
pub fn parse(text: &str) -> Result<Vec<HostPid>> {
    text.split_whitespace().map(|word| CHILDREN.number("child", word).map(HostPid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_numbers_with_blanks_between() {
        assert_eq!(parse("12 13 ").expect("a sound text"), [HostPid(12), HostPid(13)]);
        assert_eq!(parse("").expect("childless"), []);
        assert!(parse("12 x").is_err());
    }
}
