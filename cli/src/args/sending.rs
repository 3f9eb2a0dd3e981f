//! How a tree leaves this host.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use transport::encode::Compression;
use transport::quic::ByteRate;

use super::link::{CaFiles, Measured};

/// How, how fast, and to whom.
#[derive(Debug, Args)]
pub(crate) struct Sending {
    #[command(flatten)]
    pub(crate) trust: DumpTrust,

    /// How memory moves.
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub(crate) mode: Mode,

    /// How long the tree may stand still, for the modes that have a choice. Rounds (see --mode) make
    /// it shorter than that as long as each gains more than it costs.
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = crate::options::parse_duration)]
    pub(crate) max_downtime: Duration,

    /// With rounds (see --mode): try no more than so many.
    #[arg(long, value_name = "N", default_value_t = checkpoint::MAX_ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_rounds: u32,

    /// With rounds: try for no longer than this; then what is left follows (hybrid, auto), or the
    /// tree stays (pre-copy). A round is made to end by then.
    #[arg(long, value_name = "TIME", value_parser = crate::options::parse_duration)]
    pub(crate) deadline: Option<Duration>,

    /// With rounds: if it writes as fast as they send, hold the tree back, for up to 95 % of the time.
    /// It runs at full speed again when rounds end, and if qmig dies.
    #[arg(long)]
    pub(crate) auto_converge: bool,

    /// Send pages no faster than this, such as 100Mbit. Pages that the tree waits for, images and
    /// messages are not held back.
    #[arg(long, value_name = "RATE", value_parser = crate::options::parse_rate)]
    pub(crate) limit_rate: Option<ByteRate>,

    /// How pages are compressed: `auto` where it makes the whole faster, `none`, `lz4`, or `zstd`
    /// with a level from 1 to 19.
    #[arg(long, value_name = "auto|none|lz4|zstd[:LEVEL]", default_value = "auto", value_parser = str::parse::<Compression>)]
    pub(crate) compress: Compression,

    /// Give up connecting, and reconnecting, after this long.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::options::parse_duration)]
    pub(crate) connect_timeout: Duration,

    /// An inherited, already bound UDP socket to use.
    #[arg(long, value_name = "FD")]
    pub(crate) socket_fd: Option<i32>,

    #[command(flatten)]
    pub(crate) measured: Measured,
}

/// How the source proves itself, and how it knows the destination.
#[derive(Debug, Args)]
pub(crate) struct DumpTrust {
    /// The one-time ticket that `qmig restore --listen` printed.
    #[arg(long, value_name = "TICKET", conflicts_with_all = ["ticket_file", "cacert"])]
    pub(crate) ticket: Option<String>,

    /// Read the ticket from this file.
    #[arg(long, value_name = "FILE", conflicts_with = "cacert")]
    pub(crate) ticket_file: Option<PathBuf>,

    /// Without a ticket: the destination's key, as its `qmig identity` prints it. Remembered.
    #[arg(long, value_name = "KEY", conflicts_with_all = ["ticket", "ticket_file", "cacert"])]
    pub(crate) peer: Option<String>,

    #[command(flatten)]
    pub(crate) ca: CaFiles,

    /// Directory of this host's key and of known peers.
    #[arg(long, value_name = "DIR", env = "QMIG_HOME")]
    pub(crate) home: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// As hybrid for a tree of 64 MiB and more (8 MiB where a round trip takes 1 ms and more); a
    /// smaller one crosses while it stands still if that ends in --max-downtime, else as post-copy.
    Auto,
    /// Stop the tree, copy everything, run it there.
    Stop,
    /// Copy while it runs, round by round, until what is left fits --max-downtime; if it writes too
    /// fast for that, it stays here.
    PreCopy,
    /// Run it there at once; pages follow when they are touched, and in the background.
    PostCopy,
    /// Copy while it runs, as pre-copy; if it writes too fast for that, run it there at once, and
    /// only what changed last follows as in post-copy.
    Hybrid,
}
