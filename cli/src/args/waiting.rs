//! How this host waits for a tree.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::link::{CaFiles, Measured};

/// Where, and for whom.
#[derive(Debug, Args)]
pub(crate) struct Waiting {
    /// Wait here (UDP) for a source. Not needed with --socket-fd, or if systemd passes a socket.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// Write the ticket into this file (mode 0600, complete before the port answers).
    #[arg(long, value_name = "FILE")]
    pub(crate) ticket_file: Option<PathBuf>,

    /// How long the ticket is good for.
    #[arg(long, value_name = "TIME", default_value = "10min", value_parser = crate::options::parse_duration)]
    pub(crate) ticket_expires: Duration,

    /// Make no ticket: only peers in authorized_peers, or of the CA, may come.
    #[arg(long)]
    pub(crate) no_ticket: bool,

    #[command(flatten)]
    pub(crate) ca: CaFiles,

    /// Directory of this host's key and of authorized_peers.
    #[arg(long, value_name = "DIR", env = "QMIG_HOME")]
    pub(crate) home: Option<PathBuf>,

    /// How long a tree that is ready here waits for a lost source before it is given up.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::options::parse_duration)]
    pub(crate) grace: Duration,

    /// An inherited, already bound UDP socket to use.
    #[arg(long, value_name = "FD", conflicts_with = "listen")]
    pub(crate) socket_fd: Option<i32>,

    #[command(flatten)]
    pub(crate) measured: Measured,
}
