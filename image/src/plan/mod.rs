//! What is going to travel and what it needs of a host, told before anything is touched.
//!
//! The source's survey makes a [`Plan`]; it is the first blob to cross, named [`PLAN`]. The
//! destination compares it with its own host and answers Ready, or every [`Refusal`] by name.

mod build_id;
mod fingerprint;
mod huge;
mod refusal;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::net::SocketAddr;

use pages::{ByteCount, TaskId};

pub use build_id::build_id;
pub use fingerprint::fingerprint;
pub use huge::{HUGE_FILE, HUGE_PAGES, huge_file, huge_file_of, huge_pages, huge_pages_of};
pub use refusal::Refusal;
pub use wire::BadPlan;

/// Name of the blob that a plan travels in.
pub const PLAN: &str = "plan";
/// What a plan needs that has established TCP connections.
pub const TCP_ESTABLISHED: &str = "tcp-established";
/// What a plan needs that has semaphores or message queues of System V.
pub const SYSTEM_V_IPC: &str = "system-v-ipc";
/// A need, with its name after it, of an interface that a socket is bound to.
pub const INTERFACE: &str = "interface ";
/// A need that only a stock CRIU on the destination meets.
pub const CRIU: &str = "criu";
/// A need that only the runtime of a container on the destination meets.
pub const CONTAINER: &str = "container";
/// A need of a container whose whole root file system comes along.
pub const ROOT_FILES: &str = "its root file system, which comes along";
/// A need, with an image after it, of a container whose changed files come along.
pub const CHANGED_FILES: &str = "the same image, ";
/// A need of a container whose TCP connections come along.
pub const CONNECTIONS: &str = "its TCP connections";
/// A need of a container that has a terminal.
pub const TERMINAL: &str = "its terminal";
/// A need, with its name after it, of a container in a network of Podman's.
pub const NETWORK: &str = "a network of Podman's, ";
/// A need of a container of Podman whose standard input is kept open.
pub const INPUT: &str = "its standard input";
/// A need, with its place after it, of a container of Podman in which something of elsewhere is mounted.
pub const MOUNT: &str = "something mounted at ";
/// Name of the blob of files that cross while a container runs.
pub const FILES: &str = "files";
/// Name of the blob of those that have changed meanwhile.
pub const FILES_AGAIN: &str = "files-again";
/// Most bytes of a plan.
pub const LONGEST_PLAN: usize = 16 << 20;

/// A tree of processes as the source sees it, and what a host must have to carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Version of the qmig that made it.
    pub qmig_version: String,
    /// Kernel release, uname(2).
    pub kernel: String,
    /// Machine, uname(2), e.g. `x86_64`.
    pub architecture: String,
    /// Bytes in a page.
    pub page_size: u32,
    /// Node name, uname(2).
    pub hostname: String,
    /// What the processor can do.
    pub cpu: Cpu,
    /// Hash of the vdso's bytes: equal hashes mean that it can be moved instead of redirected.
    pub vdso: Vec<u8>,
    /// The root of the tree.
    pub root: TaskId,
    /// Command name of the root.
    pub command: String,
    /// Parents before children; the first is the root.
    pub tasks: Vec<PlannedTask>,
    /// Every file that the destination must have.
    pub files: Vec<PlannedFile>,
    /// Addresses that must be free.
    pub listeners: Vec<Listener>,
    /// Names of unix sockets that must be free; abstract ones start with NUL.
    pub unix_names: Vec<Vec<u8>>,
    /// Highest hard limit of any task, indexed by RLIMIT_*; `u64::MAX` is infinity.
    pub hard_limits: [u64; 16],
    /// Highest descriptor number of any task.
    pub highest_fd: u32,
    /// Memory that is resident or swapped.
    pub resident: ByteCount,
    /// Content of files without a name.
    pub ghosts: ByteCount,
    /// The tree stands on a terminal from outside.
    pub shell_job: bool,
    /// Features by name that the destination must know how to restore.
    pub needs: Vec<String>,
}

/// What a processor can do with extended state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// XCR0: the state components in use by the kernel.
    pub features: u64,
    /// Bytes of an XSAVE area with all of them (CPUID leaf 0xD).
    pub xsave_size: u32,
    /// Vendor, e.g. `GenuineIntel`.
    pub vendor: String,
}

/// One process of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTask {
    /// Its process id.
    pub id: TaskId,
    /// Its parent within the tree; `None` for the root alone.
    pub parent: Option<TaskId>,
    /// Its name.
    pub comm: String,
    /// Its threads, the leader first; a zombie has that one alone.
    pub threads: Vec<TaskId>,
}

/// One file that the destination must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFile {
    /// Absolute path.
    pub path: String,
    /// What it is.
    pub kind: PlannedKind,
    /// Bytes, if they must agree.
    pub size: Option<u64>,
    /// st_mode.
    pub mode: u32,
    /// The ELF note, if it has one.
    pub build_id: Option<Vec<u8>>,
    /// st_rdev of a device.
    pub rdev: Option<u64>,
    /// Why it is needed, for people: `mapped by 1234`, `fd 3 of 1234`.
    pub used_as: String,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A pipe with a name.
    Fifo,
}

/// An address that a socket of the tree is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address.
    pub address: SocketAddr,
    /// IPV6_V6ONLY.
    pub v6_only: bool,
}

/// Transport protocol of a [`Listener`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// tcp(7).
    Tcp,
    /// udp(7).
    Udp,
}

impl Plan {
    /// How many threads there are in all.
    pub fn thread_count(&self) -> usize {
        self.tasks.iter().map(|task| task.threads.len()).sum()
    }
}

impl fmt::Display for Plan {
    /// For people, over several lines. Text that came from outside is shown escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} ({}) from {}: {} in {}, {} resident",
            self.root,
            self.command.escape_debug(),
            self.hostname.escape_debug(),
            counted(self.thread_count(), "thread"),
            counted(self.tasks.len(), "process"),
            self.resident,
        )?;
        writeln!(
            f,
            "kernel {} on {}, qmig {}",
            self.kernel.escape_debug(),
            self.architecture.escape_debug(),
            self.qmig_version.escape_debug(),
        )?;
        for task in &self.tasks {
            let threads = counted(task.threads.len(), "thread");
            writeln!(f, "  task {} ({}), {threads}", task.id, task.comm.escape_debug())?;
        }
        for file in &self.files {
            let (path, used_as) = (file.path.escape_debug(), file.used_as.escape_debug());
            writeln!(f, "  {} {path}: {used_as}", file.kind)?;
        }
        for Listener { protocol, address, .. } in &self.listeners {
            writeln!(f, "  {protocol} socket on {address}")?;
        }
        for name in &self.unix_names {
            writeln!(f, "  unix socket {}", name.escape_ascii())?;
        }
        if self.ghosts.0 > 0 {
            writeln!(f, "  {} in files without a name", self.ghosts)?;
        }
        if self.shell_job {
            writeln!(f, "  a terminal from outside")?;
        }
        for need in &self.needs {
            writeln!(f, "  needs {}", need.escape_debug())?;
        }
        Ok(())
    }
}

fn counted(count: usize, what: &str) -> String {
    match (count, what) {
        (1, _) => format!("1 {what}"),
        (_, "process") => format!("{count} processes"),
        _ => format!("{count} {what}s"),
    }
}

impl fmt::Display for PlannedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regular => "file",
            Self::Directory => "directory",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Fifo => "fifo",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}
