//! What a path is measured with.

use std::time::Duration;

use clap::Args;

use super::sending::DumpTrust;

/// Measure the path to a destination that listens, and leave it as it is.
///
/// Round trip, rate, loss, and how long a program would wait for a page after a post-copy migration: over
/// the same connection that a migration has, with the same trust. It uses up no ticket, and the
/// destination goes on listening; while a migration is under way it is told to come back later.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// Where `qmig restore --listen` waits.
    #[arg(value_name = "HOST:PORT")]
    pub(crate) to: String,

    #[command(flatten)]
    pub(crate) trust: DumpTrust,

    /// Also say what a migration of this process tree would take; it must be one that `qmig check` lets
    /// pass.
    #[arg(long, short = 't', value_name = "PID")]
    pub(crate) tree: Option<i32>,

    /// Send no more than this, from 1MiB to 1GiB.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = crate::options::parse_bytes)]
    pub(crate) max_bytes: u64,

    /// Send for no longer than this, at most 60s.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = crate::options::parse_duration)]
    pub(crate) max_time: Duration,

    /// Give up connecting after this long.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::options::parse_duration)]
    pub(crate) connect_timeout: Duration,

    /// An inherited, already bound UDP socket to use.
    #[arg(long, value_name = "FD")]
    pub(crate) socket_fd: Option<i32>,
}
