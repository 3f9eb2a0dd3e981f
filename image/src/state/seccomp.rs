//! Which system calls a thread may make: seccomp(2).

use std::sync::Arc;

/// Rules of one thread. Threads of one process mostly have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// None.
    #[default]
    Off,
    /// Strict mode: read, write, exit and sigreturn.
    Strict,
    /// Programs, the one installed first in front; at least one.
    Filters(Arc<Vec<Filter>>),
}

/// One program of classic BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Its instructions (`struct sock_filter`), eight bytes each.
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_LOG.
    pub log: bool,
}

impl Filter {
    /// Bytes of an instruction.
    pub const INSTRUCTION: usize = 8;
    /// BPF_MAXINSNS, in bytes.
    pub const LONGEST: usize = 4096 * Self::INSTRUCTION;
}

impl Seccomp {
    /// Most filters of a thread: the kernel allows 32768 instructions in all, and counts four more for
    /// each filter.
    pub const MOST_FILTERS: usize = 8192;
}
