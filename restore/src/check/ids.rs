//! Are the numbers of the tree free?

use std::collections::HashMap;
use std::fs;

use image::plan::{Plan, Refusal};
use tracee::HostPid;
use tracee::proc::children;
use tracee::proc::stat::Stat;

use super::HERE;
use crate::skeleton::BuildOptions;

/// What qmig proposes where numbers collide.
const HINT: &str = "end it, or restore with --pidns";

pub(super) fn check(plan: &Plan, options: BuildOptions, refusals: &mut Vec<Refusal>) {
    let most = highest();
    let used = if options.pidns { HashMap::new() } else { in_use() };
    for task in &plan.tasks {
        for thread in &task.threads {
            let object = format!("pid {thread}");
            if thread.0 >= most {
                let reason = format!("numbers end at {} here", most - 1);
                let hint = format!("sysctl kernel.pid_max={}", thread.0.saturating_add(1));
                refusals.push(Refusal::new(object, HERE, reason).hint(hint));
            } else if let Some(by) = used.get(&thread.0) {
                refusals.push(Refusal::new(object, HERE, by.clone()).hint(HINT));
            }
        }
    }
}

/// `kernel.pid_max`: the first number that is never given out.
fn highest() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    text.trim().parse().unwrap_or(u32::MAX)
}

/// Every number in use, and by whom: a process or thread, or a group or session whose leader is gone.
fn in_use() -> HashMap<u32, String> {
    let mut used = HashMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return used };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for pid in pids.map(HostPid) {
        // What ends meanwhile is no obstacle.
        let Ok(stat) = Stat::read(pid) else { continue };
        let zombie =
            if stat.state == 'Z' { ", which has ended and waits to be reaped" } else { "" };
        for tid in children::threads(pid).unwrap_or_else(|_| vec![pid]) {
            let by = if tid == pid {
                format!("taken by {}{zombie}", stat.comm)
            } else {
                format!("taken by a thread of {} ({pid})", stat.comm)
            };
            used.insert(tid.0.cast_unsigned(), by);
        }
        for (number, kind) in [(stat.pgrp, "group"), (stat.session, "session")] {
            used.entry(number.cast_unsigned())
                .or_insert_with(|| format!("still names the {kind} of {} ({pid})", stat.comm));
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use image::plan::PlannedTask;
    use pages::TaskId;

    use super::*;

    fn refusals(id: u32, pidns: bool) -> Vec<Refusal> {
        let mut plan = crate::check::tests::easy();
        let threads = vec![TaskId(id)];
        plan.tasks = vec![PlannedTask { id: TaskId(id), parent: None, comm: "x".into(), threads }];
        let mut refusals = Vec::new();
        check(&plan, BuildOptions { pidns, ..BuildOptions::default() }, &mut refusals);
        refusals
    }

    #[test]
    fn whoever_has_a_number_is_named() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleeps");
        let taken = refusals(child.id(), false);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].object, format!("pid {}", child.id()));
        assert!(taken[0].reason.contains("taken by"), "{}", taken[0]);
        assert!(refusals(child.id(), true).is_empty());
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(refusals(child.id(), false).is_empty());
    }

    #[test]
    fn a_number_beyond_the_last_is_refused_everywhere() {
        for pidns in [false, true] {
            let refusals = refusals(u32::MAX, pidns);
            assert!(refusals[0].reason.contains("numbers end at"), "{}", refusals[0]);
        }
    }
}
