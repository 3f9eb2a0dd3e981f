//! What both ends say about the link.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Something that the link does without, to see what it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Without {
    /// Cubic in the place of delay-based congestion control.
    DelayControl,
    /// Bulk on its way has no bound.
    Credit,
    /// No lane goes before another.
    Priorities,
    /// All pages over one stream.
    Streams,
    /// The kernel's own buffers of sockets.
    SocketBuffer,
}

/// Something that is not qmig's, to see what it would be worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum With {
    /// Faults over a connection of their own.
    SecondConnection,
}

/// For measurements; the same on both sides.
#[derive(Debug, Default, Args)]
pub(crate) struct Measured {
    /// For measurements: what the link does without.
    #[arg(long, hide = true, value_enum, value_delimiter = ',')]
    pub(crate) link_without: Vec<Without>,

    /// For measurements: what the link does besides.
    #[arg(long, hide = true, value_enum, value_delimiter = ',')]
    pub(crate) link_with: Vec<With>,
}

/// Trust by a certificate authority of one's own.
#[derive(Debug, Args)]
pub(crate) struct CaFiles {
    /// Trust peers whose certificate this authority (PEM) signed.
    #[arg(long, value_name = "FILE", requires_all = ["cert", "key"])]
    pub(crate) cacert: Option<PathBuf>,

    /// This host's certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "cacert")]
    pub(crate) cert: Option<PathBuf>,

    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "cacert")]
    pub(crate) key: Option<PathBuf>,
}
