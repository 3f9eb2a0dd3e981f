//! CRIU's questions on its way.

use std::fmt;

/// What CRIU is about to do, or has just done, when it asks whether to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before it connects to an image streamer.
    PreStream,
    /// It listens for whoever wants lazy pages of a dump.
    StatusReady,
    /// Before anything of a dump.
    PreDump,
    /// The tree stands still; its network namespace may be locked.
    NetworkLock,
    /// Which files are external?
    QueryExtFiles,
    /// Every image is complete, and the tree stands still. No means: let it run.
    PostDump,
    /// Before anything of a restore.
    PreRestore,
    /// The namespaces of the root exist.
    SetupNamespaces,
    /// Its mounts too.
    PostSetupNamespaces,
    /// A terminal of the tree has no other end: here it is.
    OrphanPtsMaster,
    /// Every task is restored and none has run. No means: kill them.
    PostRestore,
    /// The network namespace is being unlocked.
    NetworkUnlock,
    /// One instruction from running. CRIU does not care about the answer.
    PreResume,
    /// They run. CRIU does not care about the answer.
    PostResume,
    /// One that has no business in what qmig asks for.
    Other(String),
}

impl Hook {
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "pre-stream" => Self::PreStream,
            "status-ready" => Self::StatusReady,
            "pre-dump" => Self::PreDump,
            "network-lock" => Self::NetworkLock,
            "query-ext-files" => Self::QueryExtFiles,
            "post-dump" => Self::PostDump,
            "pre-restore" => Self::PreRestore,
            "setup-namespaces" => Self::SetupNamespaces,
            "post-setup-namespaces" => Self::PostSetupNamespaces,
            "orphan-pts-master" => Self::OrphanPtsMaster,
            "post-restore" => Self::PostRestore,
            "network-unlock" => Self::NetworkUnlock,
            "pre-resume" => Self::PreResume,
            "post-resume" => Self::PostResume,
            other => Self::Other(other.escape_debug().take(64).collect()),
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreStream => "pre-stream",
            Self::StatusReady => "status-ready",
            Self::PreDump => "pre-dump",
            Self::NetworkLock => "network-lock",
            Self::QueryExtFiles => "query-ext-files",
            Self::PostDump => "post-dump",
            Self::PreRestore => "pre-restore",
            Self::SetupNamespaces => "setup-namespaces",
            Self::PostSetupNamespaces => "post-setup-namespaces",
            Self::OrphanPtsMaster => "orphan-pts-master",
            Self::PostRestore => "post-restore",
            Self::NetworkUnlock => "network-unlock",
            Self::PreResume => "pre-resume",
            Self::PostResume => "post-resume",
            Self::Other(name) => name,
        })
    }
}
