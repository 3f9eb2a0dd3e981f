//! Who a thread is, and what a process may use.

/// User, groups, capabilities, as seen inside the user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Creds {
    /// Real, effective, saved, file system user id.
    pub uids: [u32; 4],
    /// Real, effective, saved, file system group id.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Inheritable capabilities.
    pub cap_inheritable: u64,
    /// Permitted.
    pub cap_permitted: u64,
    /// Effective.
    pub cap_effective: u64,
    /// Bounding set.
    pub cap_bounding: u64,
    /// Ambient.
    pub cap_ambient: u64,
    /// prctl(PR_SET_SECUREBITS).
    pub securebits: u32,
    /// prctl(PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
}

/// One resource limit; `u64::MAX` is infinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rlimit {
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}
