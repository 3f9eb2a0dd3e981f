//! What was typed. No logic: what it means is worked out in [`crate::options`].

mod link;
mod probe;
mod sending;
mod streams;
mod waiting;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use tracee::net::HostAddress;

pub(crate) use link::{CaFiles, Measured, With, Without};
pub(crate) use probe::Probe;
pub(crate) use sending::{DumpTrust, Mode, Sending};
pub(crate) use streams::{Cache, Proxy};
pub(crate) use waiting::Waiting;

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
    Probe(Probe),
    /// Take the tree of a `criu dump --stream` that you start yourself to another host.
    Proxy(Proxy),
    /// Take a tree in for a `criu restore --stream` that you start yourself.
    Cache(Cache),
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
    #[arg(long, short = 't', value_name = "PID", required_unless_present_any = ["runc", "crun", "podman"])]
    pub(crate) tree: Option<i32>,

    /// Take a container, by way of the runtime that owns it.
    #[command(flatten)]
    pub(crate) container: ContainerName,

    /// Where `qmig restore --listen` waits. Not needed where `--pre-dump` has begun a session for this
    /// tree.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) to: Option<String>,

    /// Write a plain checkpoint into this directory instead (CRIU's image format).
    #[arg(long, short = 'D', value_name = "DIR", conflicts_with = "to")]
    pub(crate) images_dir: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) sending: Sending,

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

    /// Only send a round, and keep the session, in this very command: the same without --to sends
    /// another round, and `qmig dump -t PID` without it finishes.
    #[arg(long, conflicts_with_all = ["images_dir", "leave_running"])]
    pub(crate) pre_dump: bool,

    /// Let the tree run on here afterwards: with --to, a copy of it runs on the destination.
    #[arg(long, short = 'R', conflicts_with_all = ["leave_stopped", "tcp_established", "release_ip"])]
    pub(crate) leave_running: bool,

    /// With --images-dir: leave the tree stopped (SIGSTOP) afterwards.
    #[arg(long, conflicts_with = "to")]
    pub(crate) leave_stopped: bool,
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

    /// A container of Podman.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["runc", "crun", "tree", "images_dir", "runtime_root"])]
    pub(crate) podman: Option<String>,

    /// Where the runtime keeps the state of its containers (its --root).
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime_root: Option<PathBuf>,

    /// Send the root file system of a container of runc or crun along, as it is when the container
    /// stops; over there must be none. Without this it must be there already. Changed files of a
    /// container of Podman go along anyway.
    #[arg(long, conflicts_with_all = ["podman", "tree", "images_dir"])]
    pub(crate) with_rootfs: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Restore the checkpoint in this directory instead.
    #[arg(long, short = 'D', value_name = "DIR", conflicts_with_all = ["listen", "socket_fd", "ticket_file"])]
    pub(crate) images_dir: Option<PathBuf>,

    /// Wait for a container, which shall become one of this name here.
    #[command(flatten)]
    pub(crate) container: RestoreContainer,

    #[command(flatten)]
    pub(crate) waiting: Waiting,

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

    /// The same with Podman: a container like it must be here, and have run and been stopped.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["runc", "crun", "images_dir", "bundle", "runtime_root"])]
    pub(crate) podman: Option<String>,

    /// Directory with the container's root file system; without a config.json there, it gets the
    /// one of the source.
    #[arg(long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,

    /// Where the runtime keeps the state of its containers (its --root).
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime_root: Option<PathBuf>,

    /// The socket to which the runtime sends the other end of a terminal, if the container has one.
    #[arg(long, value_name = "SOCKET", requires = "bundle")]
    pub(crate) console_socket: Option<PathBuf>,
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
pub(crate) enum Engine {
    /// native, as long as it can carry the tree; else criu.
    Auto,
    /// qmig's own.
    Native,
    /// The stock CRIU of this host ($QMIG_CRIU, or `criu` in $PATH).
    Criu,
}
