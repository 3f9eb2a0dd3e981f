//! `qmig check`: what this host can do, and whether a tree could be taken.

use std::fs;

use checkpoint::{SurveyError, SurveyOptions, survey};
use serde_json::json;
use tracee::HostPid;

use super::chain;
use crate::args::Check;
use crate::exit::Exit;
use crate::options;
use crate::progress::{Failure, Progress};

pub(crate) fn run(args: &Check, progress: &mut Progress) -> Result<Exit, Failure> {
    let options = SurveyOptions {
        shell_job: args.shell_job,
        tcp: options::tcp(args.tcp_established, args.tcp_close),
        ..SurveyOptions::default()
    };
    if args.all_processes {
        return all(&options, progress);
    }
    if let Some(tree) = args.tree {
        return match judge(HostPid(tree), &options, progress)? {
            true => Ok(Exit::Done),
            false => Ok(Exit::Refused),
        };
    }
    let mut fine = true;
    for item in restore::host_report() {
        fine &= item.ok || !item.needed;
        if progress.is_json() {
            progress.emit(
                "feature",
                json!({ "feature": item.feature, "ok": item.ok, "needed": item.needed,
                        "why": item.why, "change": item.change }),
            );
        } else {
            let mark = if item.ok {
                "yes"
            } else if item.needed {
                "NO "
            } else {
                "no "
            };
            println!("{mark}  {:32} {}", item.feature, item.why);
            if let (false, Some(change)) = (item.ok, &item.change) {
                println!("{:38}{change}", "");
            }
        }
    }
    Ok(if fine { Exit::Done } else { Exit::Refused })
}

/// Says whether a tree could be taken; a process that has ended meanwhile is no failure of ours.
fn judge(root: HostPid, options: &SurveyOptions, progress: &Progress) -> Result<bool, Failure> {
    let refusals = match survey(root, options) {
        Ok(plan) => {
            progress.emit("check", json!({ "root": root.0, "ok": true, "reasons": [] }));
            progress.say(&format!("{root} ({}) can be taken", plan.command));
            return Ok(true);
        }
        Err(SurveyError::Refused(refusals)) => refusals,
        Err(other) => return Err(Failure::here(chain(&other))),
    };
    let reasons: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    progress.say(&format!("{root} cannot be taken:"));
    reasons.iter().for_each(|reason| progress.say(&format!("  - {reason}")));
    progress.emit("check", json!({ "root": root.0, "ok": false, "reasons": reasons }));
    Ok(false)
}

fn all(options: &SurveyOptions, progress: &mut Progress) -> Result<Exit, Failure> {
    let entries =
        fs::read_dir("/proc").map_err(|error| Failure::here(format!("read /proc: {error}")))?;
    let mut pids: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        // Processes that end while they are looked at are no failure.
        if let Err(failure) = judge(HostPid(pid), options, progress) {
            progress.say(&format!("{pid}: {}", failure.what));
        }
    }
    Ok(Exit::Done)
}
