//! Ends outside the tree: pipes and unix sockets connect to processes that would stay behind.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tracee::HostPid;
use tracee::net::FourTuple;
use tracee::proc::stat::Stat;

use super::process::Look;
use super::refusals::{BY_CRIU, TCP_CLOSE, Trouble};
use super::terminal::{self, End};
use super::tree;

/// Ends found in the tree.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Who has a pipe, by what the kernel calls it: the first descriptor seen.
    pipes: BTreeMap<PathBuf, String>,
    /// Who has which file of /dev/shm: the first descriptor or mapping seen.
    memory: BTreeMap<String, String>,
    /// Who has a pidfd of which process.
    processes: Vec<(i32, String)>,
    /// Ends of terminals, the path of each, and who has it: the first descriptor seen.
    terminals: Vec<(End, PathBuf, String)>,
    /// Inodes of unix sockets in the tree.
    unix: HashSet<u32>,
    /// Who is connected to which inode.
    peers: Vec<(u32, u32, String)>,
    /// Files are on their way through sockets: they may be the other ends.
    flying: bool,
    /// Connections within this host.
    loops: HashMap<FourTuple, String>,
}

impl Ends {
    /// An end of a pipe; with a name or without, its link under /proc/PID/fd tells which.
    pub(super) fn pipe(&mut self, link: &Path, object: String) {
        self.pipes.entry(link.to_owned()).or_insert(object);
    }

    /// A file of /dev/shm that goes along.
    pub(super) fn memory(&mut self, path: &str, object: String) {
        self.memory.entry(path.to_owned()).or_insert(object);
    }

    /// One end of a terminal.
    pub(super) fn terminal(&mut self, end: End, path: &Path, object: String) {
        self.terminals.push((end, path.to_owned(), object));
    }

    /// A pidfd of process `pid`.
    pub(super) fn process(&mut self, pid: i32, object: String) {
        self.processes.push((pid, object));
    }

    /// Files were seen on their way.
    pub(super) fn files_fly(&mut self) {
        self.flying = true;
    }

    /// A TCP connection.
    pub(super) fn tcp(&mut self, ends: FourTuple, object: String) {
        let FourTuple { local, remote } = ends;
        if local.ip().to_canonical().is_loopback() || remote.ip().to_canonical().is_loopback() {
            self.loops.insert(plain(ends), object);
        }
    }

    /// A unix socket; `peer` is zero if it has none.
    pub(super) fn unix(&mut self, inode: u32, peer: u32, object: String) {
        if self.unix.insert(inode) && peer != 0 {
            self.peers.push((inode, peer, object));
        }
    }
}

/// Without the difference between an IPv4 address and the same in an IPv6 one.
fn plain(FourTuple { local, remote }: FourTuple) -> FourTuple {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    FourTuple { local: plain(local), remote: plain(remote) }
}

/// Refuses what connects to a process outside.
pub(super) fn judge(look: &mut Look) {
    let ends = std::mem::take(&mut look.ends);
    for (inode, peer, object) in ends.peers {
        // Whether it is on its way is known when nobody moves any more.
        if !ends.unix.contains(&peer) && !ends.flying {
            let place = format!("socket:[{inode}]");
            let reason = format!("connected to the unix socket {peer} outside the tree");
            look.refuse(Trouble::new(place, reason).but(BY_CRIU), object);
        }
    }
    let inside: BTreeSet<u32> = look.tasks.iter().map(|task| task.id.0).collect();
    for (pid, object) in ends.processes {
        if let Some(trouble) = stranger(pid, |pid| inside.contains(&pid)) {
            look.refuse(trouble, object);
        }
    }
    for (FourTuple { local, remote }, object) in &ends.loops {
        if !ends.loops.contains_key(&FourTuple { local: *remote, remote: *local }) {
            let place = format!("tcp:{local}->{remote}");
            let reason = "connected over the loopback device to a process outside the tree";
            look.refuse(Trouble::new(place, reason).but(TCP_CLOSE), object.as_str());
        }
    }
    let masters: Vec<End> = ends.terminals.iter().map(|(end, ..)| *end).collect();
    for (end, path, object) in ends.terminals {
        let masters = |index| masters.contains(&End::Master(index));
        match terminal::alone(end, masters, &path.to_string_lossy()) {
            Some(_) if look.options.shell_job => look.terminal = true,
            Some(trouble) => look.refuse(trouble, object),
            None => {}
        }
    }
    for (path, object) in &ends.memory {
        if let Some(holder) = memory_outside(&inside, path) {
            let reason = format!("process {holder} outside the tree has the shared memory too");
            let hint = "include that process, or end it first";
            look.refuse(Trouble::new(path, reason).but(hint), object.as_str());
        }
    }
    if ends.pipes.is_empty() {
        return;
    }
    let held = pipes_outside(&inside, &ends.pipes);
    for (link, object) in ends.pipes {
        if let Some(holder) = held.get(&link).filter(|holder| !came_since(**holder, &inside)) {
            let place = link.to_string_lossy();
            let reason = format!("process {holder} outside the tree has the pipe too");
            let hint = "give the program a file or /dev/null instead, or include that process";
            look.refuse(Trouble::new(place, reason).but(hint), object);
        }
    }
}

/// Refuses a pidfd of a process that does not come along.
pub(crate) fn stranger(pid: i32, inside: impl Fn(u32) -> bool) -> Option<Trouble> {
    let reason = match u32::try_from(pid) {
        Err(_) | Ok(0) => "a pidfd of a process that has ended".to_owned(),
        Ok(pid) if inside(pid) => return None,
        Ok(pid) => format!("a pidfd of process {pid} outside the tree"),
    };
    Some(Trouble::new("anon_inode:[pidfd]", reason))
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

/// A process outside the tree that has a file of /dev/shm mapped or open.
fn memory_outside(inside: &BTreeSet<u32>, path: &str) -> Option<u32> {
    let tasks = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = tasks.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let mapped = || {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            maps.lines().any(|line| line.ends_with(path))
        };
        let open = || {
            let numbers = tree::descriptors(HostPid(pid.cast_signed())).unwrap_or_default();
            let shows = |number| fs::read_link(format!("/proc/{pid}/fd/{number}"));
            numbers
                .into_iter()
                .any(|number| shows(number).is_ok_and(|link| link == Path::new(path)))
        };
        !inside.contains(pid) && (mapped() || open()) && !came_since(*pid, inside)
    })
}

/// Those of `wanted` that processes outside the tree have open, and one process that does.
fn pipes_outside(
    inside: &BTreeSet<u32>,
    wanted: &BTreeMap<PathBuf, String>,
) -> BTreeMap<PathBuf, u32> {
    let mut held = BTreeMap::new();
    let tasks = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = tasks.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| !inside.contains(pid)) {
        let Ok(numbers) = tree::descriptors(HostPid(pid.cast_signed())) else { continue };
        for number in numbers {
            let link = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
            if wanted.contains_key(&link) {
                held.entry(link).or_insert(pid);
            }
        }
    }
    held
}
