//! For a CRIU that somebody else starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{Sending, Waiting};

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    /// Where your CRIU finds qmig: give it the same --images-dir. No image comes here.
    #[arg(long, short = 'D', value_name = "DIR")]
    pub(crate) images_dir: PathBuf,

    /// Listen for the pages of a CRIU with --page-server here; it must be the one that asks.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) page_server: Option<SocketAddr>,

    /// Where `qmig cache`, or `qmig restore --engine criu`, waits.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) to: String,

    #[command(flatten)]
    pub(crate) sending: Sending,
}

#[derive(Debug, Args)]
pub(crate) struct Cache {
    /// Where your CRIU finds qmig: give it the same --images-dir. No image comes here.
    #[arg(long, short = 'D', value_name = "DIR")]
    pub(crate) images_dir: PathBuf,

    #[command(flatten)]
    pub(crate) waiting: Waiting,
}
