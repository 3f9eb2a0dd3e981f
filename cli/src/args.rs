//! What was typed. No logic: what it means is worked out in [`crate::options`].

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use tracee::net::HostAddress;
use transport::encode::Compression;
use transport::quic::ByteRate;

/// Move a running process tree to another host over one QUIC connection.
///
/// On the destination type `qmig restore --listen [::]:4433`; it prints the line to type on the
/// source. Nothing is written to disk, nothing is readable on the wire, and both ends prove who they
/// are.
#[derive(Debug, Parser)]
#[command(name = "qmig", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Qmig {
    /// Print newline-delimited JSON events on stdout.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// No progress on stderr; errors are still printed.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,

    /// Log what happens inside (repeat for more; RUST_LOG overrides).
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    done: the tree moved (dump), or ran here and ended with 0 (restore)
  2    usage: the words typed make no sense; nothing was touched
  121  refused: it cannot be carried, or a peer said no; nothing was touched
  122  aborted: something failed on the way; the source runs
  123  stranded: it failed after the hand-over; the message tells what runs where
A restore that stays as the parent ends with the exit status of the tree (128+n for signal n).";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take a running process tree from this host: to another one, or into a directory.
    #[command(visible_alias = "checkpoint")]
    Dump(Dump),
    /// Run a process tree on this host: from another one, or from a directory.
    Restore(Restore),
    /// What this host can and cannot do, why, and what to change.
    Check(Check),
    /// Show this host's long-lived key (made on first use), for authorized_peers on other hosts.
    Identity(Identity),
    /// Show the images in a directory as JSON.
    Inspect(Inspect),
    /// Make two hosts on this machine and move a busy key-value server from one to the other.
    Demo(Demo),
    /// Migrations over emulated networks, as experiments with a report (`qmig lab` says how).
    #[command(disable_help_flag = true)]
    Lab(Lab),
    /// Write man pages or shell completions.
    #[command(hide = true)]
    Generate(Generate),
    /// What the demo runs inside its hosts.
    #[command(hide = true, name = "demo-part")]
    DemoPart(DemoPart),
}

/// All of it is for `qmig-lab`, which is a program of its own.
#[derive(Debug, Args)]
pub(crate) struct Lab {
    /// quick, run, page, compare or example, and what each of them needs.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Dump {
    /// Process id of the root of the tree to take.
    #[arg(long, short = 't', value_name = "PID", required_unless_present_any = ["runc", "crun"])]
    pub(crate) tree: Option<i32>,

    /// Take a container, by way of the runtime that owns it.
    #[command(flatten)]
    pub(crate) container: ContainerName,

    /// Where `qmig restore --listen` waits.
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "images_dir")]
    pub(crate) to: Option<String>,

    /// Write a plain checkpoint into this directory instead (CRIU's image format).
    #[arg(long, short = 'D', value_name = "DIR", conflicts_with = "to")]
    pub(crate) images_dir: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) trust: DumpTrust,

    /// How memory moves.
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub(crate) mode: Mode,

    /// How long the tree may stand still, for the modes that have a choice.
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = crate::options::parse_duration)]
    pub(crate) max_downtime: Duration,

    /// With rounds (see --mode): try no more than so many.
    #[arg(long, value_name = "N", default_value_t = checkpoint::MAX_ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_rounds: u32,

    /// With rounds: try for no longer than this; then what is left follows (hybrid, auto), or the
    /// tree stays (pre-copy). A round is made to end by then.
    #[arg(long, value_name = "TIME", value_parser = crate::options::parse_duration)]
    pub(crate) deadline: Option<Duration>,

    /// Send pages no faster than this, such as 100Mbit. Pages that the tree waits for, images and
    /// messages are not held back.
    #[arg(long, value_name = "RATE", value_parser = crate::options::parse_rate)]
    pub(crate) limit_rate: Option<ByteRate>,

    /// How pages are compressed: `auto` where it makes the whole faster, `none`, `lz4`, or `zstd`
    /// with a level from 1 to 19.
    #[arg(long, value_name = "auto|none|lz4|zstd[:LEVEL]", default_value = "auto", value_parser = str::parse::<Compression>)]
    pub(crate) compress: Compression,

    /// Who takes the tree.
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    pub(crate) engine: Engine,

    /// The tree uses the terminal qmig runs in; give it the terminal of `qmig restore` over there.
    #[arg(long, short = 'j')]
    pub(crate) shell_job: bool,

    /// Carry TCP connections along, their packets held back on the way.
    ///
    /// The other ends notice a pause and nothing else, if the address goes along too: see
    /// --release-ip here and --takeover-ip of restore.
    #[arg(long, conflicts_with = "tcp_close")]
    pub(crate) tcp_established: bool,

    /// Carry TCP connections as closed ones.
    #[arg(long)]
    pub(crate) tcp_close: bool,

    /// Take this address from its interface when the tree has been handed over (repeat for more).
    /// It cannot be the one that qmig itself uses.
    #[arg(long, value_name = "ADDR/LEN@DEV")]
    pub(crate) release_ip: Vec<HostAddress>,

    /// Largest unlinked file to carry along.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = crate::options::parse_bytes)]
    pub(crate) ghost_limit: u64,

    /// With --images-dir: let the tree run on afterwards.
    #[arg(long, short = 'R', conflicts_with_all = ["to", "leave_stopped"])]
    pub(crate) leave_running: bool,

    /// With --images-dir: leave the tree stopped (SIGSTOP) afterwards.
    #[arg(long, conflicts_with = "to")]
    pub(crate) leave_stopped: bool,

    /// Give up connecting, and reconnecting, after this long.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::options::parse_duration)]
    pub(crate) connect_timeout: Duration,

    /// An inherited, already bound UDP socket to use.
    #[arg(long, value_name = "FD")]
    pub(crate) socket_fd: Option<i32>,

    /// For measurements: what the link does without.
    #[arg(long, hide = true, value_enum, value_delimiter = ',')]
    pub(crate) link_without: Vec<Without>,
}

/// A container by the name its runtime knows it by.
#[derive(Debug, Args)]
pub(crate) struct ContainerName {
    /// A container of runc.
    #[arg(long, value_name = "ID", conflicts_with_all = ["crun", "tree", "images_dir"])]
    pub(crate) runc: Option<String>,

    /// A container of crun (one that was built with CRIU).
    #[arg(long, value_name = "ID", conflicts_with_all = ["tree", "images_dir"])]
    pub(crate) crun: Option<String>,

    /// Where the runtime keeps the state of its containers (its --root).
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime_root: Option<PathBuf>,
}

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

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Wait here (UDP) for a source. Not needed with --socket-fd, or if systemd passes a socket.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// Restore the checkpoint in this directory instead.
    #[arg(long, short = 'D', value_name = "DIR", conflicts_with_all = ["listen", "socket_fd"])]
    pub(crate) images_dir: Option<PathBuf>,

    /// Wait for a container, which shall become one of this name here.
    #[command(flatten)]
    pub(crate) container: RestoreContainer,

    /// Write the ticket into this file (mode 0600, complete before the port answers).
    #[arg(long, value_name = "FILE", conflicts_with = "images_dir")]
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

    /// Leave the restored tree to init and exit as soon as it runs.
    #[arg(long, short)]
    pub(crate) detach: bool,

    /// Who builds the tree. Either can take what the other has sent.
    #[arg(long, value_enum, default_value_t = Engine::Auto, conflicts_with = "images_dir")]
    pub(crate) engine: Engine,

    /// Give the tree a PID namespace of its own, so that its PIDs are always free.
    #[arg(long)]
    pub(crate) pidns: bool,

    /// The tree was taken with --shell-job: give it this terminal.
    #[arg(long, short = 'j')]
    pub(crate) shell_job: bool,

    /// Take this address over from the source: it is added to the interface the moment the tree may
    /// run here, and the neighbours are told (repeat for more).
    #[arg(long, value_name = "ADDR/LEN@DEV")]
    pub(crate) takeover_ip: Vec<HostAddress>,

    /// Go on listening after a migration that was refused or aborted.
    #[arg(long)]
    pub(crate) keep: bool,

    /// How long a tree that is ready here waits for a lost source before it is given up.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::options::parse_duration)]
    pub(crate) grace: Duration,

    /// An inherited, already bound UDP socket to use.
    #[arg(long, value_name = "FD", conflicts_with = "listen")]
    pub(crate) socket_fd: Option<i32>,

    /// For measurements: what the link does without.
    #[arg(long, hide = true, value_enum, value_delimiter = ',')]
    pub(crate) link_without: Vec<Without>,
}

/// What an arriving container becomes.
#[derive(Debug, Args)]
pub(crate) struct RestoreContainer {
    /// Wait for a container; it becomes this one of runc, which owns it from then on.
    #[arg(long, value_name = "ID", conflicts_with_all = ["crun", "images_dir"], requires = "bundle")]
    pub(crate) runc: Option<String>,

    /// The same with crun (one that was built with CRIU).
    #[arg(long, value_name = "ID", conflicts_with = "images_dir", requires = "bundle")]
    pub(crate) crun: Option<String>,

    /// Directory with the container's root file system; without a config.json there, it gets the
    /// one of the source.
    #[arg(long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,

    /// Where the runtime keeps the state of its containers (its --root).
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime_root: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Also say whether this process tree could be taken.
    #[arg(long, short = 't', value_name = "PID", conflicts_with = "all_processes")]
    pub(crate) tree: Option<i32>,

    /// Say so for every process of this host.
    #[arg(long)]
    pub(crate) all_processes: bool,

    /// As for dump.
    #[arg(long, short = 'j')]
    pub(crate) shell_job: bool,

    /// As for dump.
    #[arg(long, conflicts_with = "tcp_close")]
    pub(crate) tcp_established: bool,

    /// As for dump.
    #[arg(long)]
    pub(crate) tcp_close: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Identity {
    /// Directory of this host's key.
    #[arg(long, value_name = "DIR", env = "QMIG_HOME")]
    pub(crate) home: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A directory of images, or one image.
    pub(crate) path: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Memory of the demo server.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = crate::options::parse_bytes)]
    pub(crate) size: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// What to write.
    #[arg(value_enum)]
    pub(crate) what: Generated,
    /// Where to.
    pub(crate) dir: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Generated {
    /// One page a command.
    Man,
    /// For bash, zsh, fish.
    Completions,
}

#[derive(Debug, Args)]
pub(crate) struct DemoPart {
    /// Which part.
    #[arg(value_enum)]
    pub(crate) part: Part,
    /// What the part needs.
    pub(crate) words: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// pid 1 of a host.
    Init,
    /// The key-value server.
    Server,
    /// Who writes to it.
    Client,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// native, as long as it can carry the tree; else criu.
    Auto,
    /// qmig's own.
    Native,
    /// The stock CRIU of this host ($QMIG_CRIU, or `criu` in $PATH).
    Criu,
}
