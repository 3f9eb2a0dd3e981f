//! `qmig dump`: to another host, or into a directory.

use std::fs;

use checkpoint::engine::{Auto, Native, Stock};
use checkpoint::{Afterwards, Asks, Checkpointing, Failure as Ended, Job, SurveyOptions};
use criu::Container;
use pages::ByteCount;
use tracee::HostPid;
use transport::event::{Event, Watch as _};
use transport::quic::{FirstUse, Identity, KeyFingerprint, Pins, SourceTrust, Ticket};
use transport::session::{Outcome, Report};

use super::{chain, runtime, session, wishes};
use crate::args::{ContainerName, Dump, DumpTrust, Engine, Mode, Sending};
use crate::exit::Exit;
use crate::options;
use crate::progress::{Failure, Progress};

pub(crate) fn run(args: Dump, progress: &mut Progress) -> Result<Exit, Failure> {
    options::need_root()?;
    let survey = SurveyOptions {
        shell_job: args.shell_job,
        tcp: options::tcp(args.tcp_established, args.tcp_close),
        ghost_limit: ByteCount(args.ghost_limit),
    };
    let report = match (&args.to, &args.images_dir) {
        (Some(to), _) => migrate(&args, to.clone(), survey, progress)?,
        (None, Some(_)) if args.engine == Engine::Criu => {
            let what = "write a plain checkpoint with the criu engine";
            return Err(Failure::usage(what, "that is what `criu dump` itself does"));
        }
        (None, Some(directory)) => {
            let afterwards = match (args.leave_running, args.leave_stopped) {
                (true, _) => Afterwards::Run,
                (_, true) => Afterwards::Stop,
                _ => Afterwards::End,
            };
            let directory = directory.clone();
            let (root, _) = whom(&args)?;
            let release = args.release_ip.clone();
            let job = Checkpointing { root, survey, directory, afterwards, release };
            checkpoint::dump_to(&job, progress).map_err(told)?
        }
        (None, None) => {
            let (root, _) = whom(&args)?;
            let unknown = || Failure::usage("know where to", "give --to or --images-dir");
            return session::ask(root, !args.pre_dump, progress).ok_or_else(unknown)?;
        }
    };
    progress.event(Event::Report(report));
    Ok(Exit::Done)
}

fn migrate(
    args: &Dump,
    to: String,
    survey: SurveyOptions,
    progress: &mut Progress,
) -> Result<Report, Failure> {
    if args.leave_running && matches!(args.sending.mode, Mode::PostCopy | Mode::Hybrid) {
        let what = "leave the tree running while pages of it follow";
        return Err(Failure::usage(what, "use --mode stop, pre-copy or auto"));
    }
    let (root, container) = whom(args)?;
    let mut job = job(&args.sending, (root, to), survey, engine(args, container)?)?;
    job.leave_running = args.leave_running;
    if args.pre_dump {
        return pre_dump(job, progress);
    }
    runtime()?.block_on(async {
        let mut stop = wishes::listen()?;
        checkpoint::migrate_out(&job, &mut stop, progress).await.map_err(told)
    })
}

/// Holds a session, and does what later commands ask for.
fn pre_dump(mut job: Job, progress: &mut Progress) -> Result<Report, Failure> {
    job.mode = match job.mode {
        checkpoint::Mode::Auto => checkpoint::Mode::Hybrid,
        mode if mode.wants_rounds() => mode,
        _ => {
            let what = "send a round ahead in a mode without rounds";
            return Err(Failure::usage(what, "use --mode pre-copy or hybrid"));
        }
    };
    let (asker, asks) = Asks::pair();
    job.asks = Some(asks);
    runtime()?.block_on(async {
        let mut stop = wishes::listen()?;
        let door = session::Door::open(job.root, asker)?;
        let ended = checkpoint::migrate_out(&job, &mut stop, progress).await.map_err(told);
        match &ended {
            Ok(report) => door.close(Exit::Done, &report.to_string()).await,
            Err(failure) => door.close(failure.code, &failure.what).await,
        }
        ended
    })
}

/// What is moved, where to, and how.
pub(super) fn job(
    sending: &Sending,
    (root, to): (HostPid, String),
    survey: SurveyOptions,
    engine: Box<dyn checkpoint::engine::Engine>,
) -> Result<Job, Failure> {
    let mut link = options::link(sending.socket_fd, &sending.measured)?;
    link.connect_timeout = sending.connect_timeout;
    link.bulk_rate = sending.limit_rate;
    Ok(Job {
        root,
        trust: trust(&sending.trust, &to)?,
        to,
        link,
        survey,
        engine,
        mode: match sending.mode {
            Mode::Auto => checkpoint::Mode::Auto,
            Mode::Stop => checkpoint::Mode::Stop,
            Mode::PreCopy => checkpoint::Mode::PreCopy,
            Mode::PostCopy => checkpoint::Mode::PostCopy,
            Mode::Hybrid => checkpoint::Mode::Hybrid,
        },
        max_downtime: sending.max_downtime,
        max_rounds: sending.max_rounds,
        deadline: sending.deadline,
        auto_converge: sending.auto_converge,
        leave_running: false,
        asks: None,
        compress: sending.compress,
        software: options::software(),
        patience: sending.connect_timeout,
    })
}

/// Root of what is to be taken, and the container that it is.
fn whom(args: &Dump) -> Result<(HostPid, Option<Container>), Failure> {
    let ContainerName { runc, crun, podman, runtime_root, .. } = &args.container;
    let [runc, crun, podman] = [runc, crun, podman].map(Option::as_deref);
    let container = options::container(runc, crun, podman, runtime_root.as_deref());
    let Some(container) = container else {
        let tree = args.tree.ok_or_else(|| {
            Failure::usage("know what", "give --tree, --runc, --crun or --podman")
        })?;
        return Ok((HostPid(tree), None));
    };
    let state = container.ask().map_err(|error| {
        let list = if container.is_kept() { "ps" } else { "list" };
        let hint = format!("`{} {list}` shows its containers", container.runtime.display());
        Failure { code: Exit::Refused, ..Failure::here(error.to_string()) }.hint(&hint)
    })?;
    Ok((HostPid(state.pid), Some(container)))
}

fn engine(
    args: &Dump,
    container: Option<Container>,
) -> Result<Box<dyn checkpoint::engine::Engine>, Failure> {
    let native = Native { release: args.release_ip.clone() };
    let plain = args.release_ip.is_empty();
    if let Some(container) = container {
        if args.engine == Engine::Native || !plain || args.shell_job {
            let what = "take a container with the native engine, --release-ip or --shell-job";
            return Err(Failure::usage(what, "leave them out: its runtime and a CRIU take it"));
        }
        let stock = Stock::of_container(options::criu()?, container);
        return Ok(Box::new(if args.container.with_rootfs { stock.with_rootfs() } else { stock }));
    }
    Ok(match args.engine {
        Engine::Native => Box::new(native),
        Engine::Criu if plain => Box::new(Stock::new(options::criu()?)),
        Engine::Criu => {
            let what = "release addresses with the criu engine";
            return Err(Failure::usage(what, "use `--engine native`"));
        }
        Engine::Auto => {
            let stock = options::criu().ok().filter(|_| plain).map(Stock::new);
            Box::new(Auto::new(native, stock))
        }
    })
}

/// How this host proves itself to the one at `to`, and what that one must prove.
pub(super) fn trust(args: &DumpTrust, to: &str) -> Result<SourceTrust, Failure> {
    if let Some(text) = ticket_text(args)? {
        let ticket = text.parse::<Ticket>().map_err(|error| {
            Failure::usage(
                format!("read the ticket: {}", chain(&error)),
                "copy the whole line that `qmig restore --listen` printed",
            )
        })?;
        return Ok(SourceTrust::Ticket(ticket));
    }
    if let Some(ca) = options::ca_files(&args.ca)? {
        return Ok(SourceTrust::Ca(ca));
    }
    let home = options::home(args.home.as_deref());
    let known_peers = home.join("known_peers");
    let identity = Identity::load_or_create(&home.join("identity"))
        .map_err(|error| Failure::here(chain(&error)))?;
    let mut pins = Pins::load(&known_peers).map_err(|error| Failure::here(chain(&error)))?;
    if let Some(key) = &args.peer {
        let key: KeyFingerprint = key.parse().map_err(|_| {
            Failure::usage(
                format!("read the key {key}"),
                "copy the line that `qmig identity` prints on the destination",
            )
        })?;
        if pins.key(to) != Some(key) {
            Pins::append(&known_peers, to, key).map_err(|error| Failure::here(chain(&error)))?;
            pins = pins.with(to, key);
        }
    }
    Ok(SourceTrust::Known { identity, pins, first_use: FirstUse::Refuse })
}

fn ticket_text(args: &DumpTrust) -> Result<Option<String>, Failure> {
    if let Some(text) = &args.ticket {
        return Ok(Some(text.clone()));
    }
    let Some(path) = &args.ticket_file else { return Ok(None) };
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::usage(
            format!("read the ticket file {}: {error}", path.display()),
            "it is the file that `qmig restore --ticket-file` wrote",
        )
    })?;
    Ok(Some(text))
}

/// A failed dump in the words of the command line.
pub(super) fn told(ended: Ended) -> Failure {
    let code = match ended.outcome {
        Outcome::Refused => Exit::Refused,
        Outcome::Moved | Outcome::Copied | Outcome::Aborted | Outcome::TakenBack => Exit::Aborted,
        Outcome::Stranded => Exit::Stranded,
    };
    Failure {
        code,
        whose: ended.whose(),
        hint: ended.hint(),
        reasons: ended.reasons(),
        runs_on: ended.runs_on(),
        what: chain(&*ended.cause),
    }
}
