//! Ends outside the tree: pipes and unix sockets connect to processes that would stay behind.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;

use tracee::HostPid;
use tracee::proc::stat::Stat;

use super::process::Look;
use super::refusals::{BY_CRIU, Trouble};
use super::tree;

/// Ends found in the tree.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Who has a pipe, by inode: the first descriptor seen.
    pipes: BTreeMap<u64, String>,
    /// Inodes of unix sockets in the tree.
    unix: HashSet<u32>,
    /// Who is connected to which inode.
    peers: Vec<(u32, u32, String)>,
}

impl Ends {
    /// An end of a pipe.
    pub(super) fn pipe(&mut self, inode: u64, object: String) {
        self.pipes.entry(inode).or_insert(object);
    }

    /// A unix socket; `peer` is zero if it has none.
    pub(super) fn unix(&mut self, inode: u32, peer: u32, object: String) {
        if self.unix.insert(inode) && peer != 0 {
            self.peers.push((inode, peer, object));
        }
    }
}

/// Refuses what connects to a process outside.
pub(super) fn judge(look: &mut Look) {
    let ends = std::mem::take(&mut look.ends);
    for (inode, peer, object) in ends.peers {
        if !ends.unix.contains(&peer) {
            let place = format!("socket:[{inode}]");
            let reason = format!("connected to the unix socket {peer} outside the tree");
            look.refuse(Trouble::new(place, reason).but(BY_CRIU), object);
        }
    }
    if ends.pipes.is_empty() {
        return;
    }
    let inside: BTreeSet<u32> = look.tasks.iter().map(|task| task.id.0).collect();
    let held = pipes_outside(&inside);
    for (inode, object) in ends.pipes {
        if let Some(holder) = held.get(&inode).filter(|holder| !came_since(**holder, &inside)) {
            let place = format!("pipe:[{inode}]");
            let reason = format!("process {holder} outside the tree has the pipe too");
            let hint = "give the program a file or /dev/null instead, or include that process";
            look.refuse(Trouble::new(place, reason).but(hint), object);
        }
    }
}

/// True for a process that was born into the tree since the tree was listed, or has ended: a shell
/// loop that starts a program a millisecond is no reason to refuse. The freeze will see it all.
fn came_since(pid: u32, inside: &BTreeSet<u32>) -> bool {
    let mut pid = pid;
    for _ in 0..64 {
        match Stat::read(HostPid(pid.cast_signed())) {
            Ok(stat) if inside.contains(&stat.ppid.cast_unsigned()) => return true,
            Ok(stat) if stat.ppid <= 1 => return false,
            Ok(stat) => pid = stat.ppid.cast_unsigned(),
            Err(_) => return true,
        }
    }
    false
}

/// Pipes that processes outside the tree have open, by inode, and one process that does.
fn pipes_outside(inside: &BTreeSet<u32>) -> BTreeMap<u64, u32> {
    let mut held = BTreeMap::new();
    let tasks = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = tasks.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| !inside.contains(pid)) {
        let Ok(numbers) = tree::descriptors(HostPid(pid.cast_signed())) else { continue };
        for number in numbers {
            let link = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
            let inode = link.to_str().and_then(|link| link.strip_prefix("pipe:["));
            if let Some(inode) = inode.and_then(|inode| inode.strip_suffix(']')?.parse().ok()) {
                held.entry(inode).or_insert(pid);
            }
        }
    }
    held
}
