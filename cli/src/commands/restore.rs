//! `qmig restore`: from another host, or from a directory; then the parent of the tree.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use restore::engine::{Auto, Bundle, Native, Stock};
use restore::{BuildOptions, Failure as Ended, Farewell, Host, Offspring};
use serde_json::json;
use tokio::signal::unix::SignalKind;
use transport::event::{Event, Watch as _};
use transport::quic::{AuthorizedPeers, DestinationTrust, Identity, Listener};
use transport::session::Outcome;
use transport::stop::Stop;

use super::{chain, runtime, wishes};
use crate::args::{Engine, Restore, RestoreContainer, Waiting};
use crate::exit::Exit;
use crate::options;
use crate::progress::{Failure, Progress, used};

/// How long a source whose link was lost may come back after the tree has been left to init.
const SEE_OFF: Duration = Duration::from_secs(30);

pub(crate) fn run(args: Restore, progress: &mut Progress) -> Result<Exit, Failure> {
    options::need_root()?;
    // Wanted as long as this process lives.
    let takeover = Vec::leak(args.takeover_ip.clone());
    let build = BuildOptions { pidns: args.pidns, shell_job: args.shell_job, takeover };
    if let Some(directory) = &args.images_dir {
        // Before there is a runtime: it blocks, on the thread that traces.
        let offspring = restore::restore_from(directory, build, progress).map_err(told)?;
        return runtime()?.block_on(outlive(offspring, None, Keeps::of(&args), progress));
    }
    runtime()?.block_on(async {
        // Before it says that it listens: whoever reads that may ask it to end at once.
        let mut stop = wishes::listen()?;
        let engine = engine(&args, build)?;
        let what = what(&args);
        let keeps = Keeps { container: container(&args).0.is_some(), ..Keeps::of(&args) };
        take_in(&*engine, &args.waiting, &what, keeps, &mut stop, progress).await
    })
}

/// What is kept when a tree is here, or is not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keeps {
    /// Go on listening after a failure.
    listening: bool,
    /// The tree has the terminal.
    shell_job: bool,
    /// It is left to init.
    detach: bool,
    /// It is somebody else's: a runtime's.
    container: bool,
}

impl Keeps {
    fn of(args: &Restore) -> Self {
        let Restore { keep, shell_job, detach, .. } = *args;
        Self { listening: keep, shell_job, detach, container: false }
    }

    /// The tree is the child of whoever started its CRIU.
    pub(super) fn nothing() -> Self {
        Self { container: true, ..Self::default() }
    }
}

/// What is to be typed on the source, after `qmig`.
fn what(args: &Restore) -> String {
    container(args).0.map_or_else(
        || "dump --tree PID".to_owned(),
        |container| format!("dump --{} ID", container.runtime.display()),
    )
}

/// Waits for a tree, has it built, and sees it off.
pub(super) async fn take_in(
    engine: &dyn restore::engine::Engine,
    waiting: &Waiting,
    what: &str,
    keeps: Keeps,
    stop: &mut Stop,
    progress: &mut Progress,
) -> Result<Exit, Failure> {
    let listener = listen(waiting, what, progress).await?;
    let software = options::software();
    let host = Host { listener: &listener, engine, grace: waiting.grace, software };
    let (offspring, farewell) = next(&host, waiting, keeps, stop, progress).await?;
    outlive(offspring, Some((farewell, &listener)), keeps, progress).await
}

fn engine(
    args: &Restore,
    build: BuildOptions,
) -> Result<Box<dyn restore::engine::Engine>, Failure> {
    let plain = build == BuildOptions::default();
    if let (Some(container), folder) = container(args) {
        if args.engine == Engine::Native || !plain {
            let what = "restore a container with the native engine or options of its";
            return Err(Failure::usage(what, "leave them out: its runtime and a CRIU build it"));
        }
        // The runtime is told of it from another directory than ours.
        let kept = container.is_kept().then(|| container.ask().map(|state| state.bundle).ok());
        let folder = kept
            .flatten()
            .or_else(|| folder.and_then(|folder| std::path::absolute(folder).ok()))
            .unwrap_or_default();
        return Ok(Box::new(Stock::of_container(options::criu()?, Bundle { container, folder })));
    }
    Ok(match args.engine {
        Engine::Native => Box::new(Native { options: build }),
        Engine::Criu if plain => Box::new(Stock::new(options::criu()?)),
        Engine::Criu => {
            let what = "use --pidns, --shell-job or --takeover-ip with the criu engine";
            return Err(Failure::usage(what, "use `--engine native`"));
        }
        Engine::Auto => {
            let stock = options::criu().ok().filter(|_| plain).map(Stock::new);
            Box::new(Auto::new(build, stock))
        }
    })
}

/// What an arriving container becomes, and where its bundle is.
fn container(args: &Restore) -> (Option<criu::Container>, Option<&Path>) {
    let RestoreContainer { runc, crun, podman, bundle, runtime_root, console_socket } =
        &args.container;
    let state = runtime_root.as_deref();
    let [runc, crun, podman] = [runc, crun, podman].map(Option::as_deref);
    // The runtime goes to the bundle first.
    let console = console_socket.as_ref().and_then(|socket| std::path::absolute(socket).ok());
    let container = options::container(runc, crun, podman, state);
    (container.map(|container| criu::Container { console, ..container }), bundle.as_deref())
}

/// The next tree that arrives; with `--keep`, after any number that did not.
async fn next(
    host: &Host<'_>,
    waiting: &Waiting,
    keeps: Keeps,
    stop: &mut Stop,
    progress: &mut Progress,
) -> Result<(Offspring, Farewell), Failure> {
    loop {
        match restore::migrate_in(host, stop, progress).await {
            Ok(arrived) => return Ok(arrived),
            Err(ended) if keeps.listening && !ended.is_final() => {
                if let Some(session) = ended.session {
                    host.listener.renew(session, waiting.ticket_expires);
                }
                progress.failure(&told(ended));
            }
            Err(ended) => {
                host.listener.wait_idle().await;
                return Err(told(ended));
            }
        }
    }
}

/// Addresses of this host that a ticket tells: they make it longer, and a source that finds nobody
/// tries each.
const TOLD: usize = 3;

/// Binds, makes the ticket, and says what to type on the source.
async fn listen(args: &Waiting, what: &str, progress: &mut Progress) -> Result<Listener, Failure> {
    let socket = match args.listen {
        Some(_) => None,
        None => Some(args.socket_fd.map_or_else(options::activated, Ok)?),
    };
    let link = options::link(socket, &args.measured)?;
    let address = args.listen.map_or_else(|| "[::]:0".to_owned(), |addr| addr.to_string());
    let listener = Listener::bind(&address, trust(args)?, &link)
        .await
        .map_err(|error| Failure::here(chain(&error)))?;
    let local = listener
        .local_addr()
        .map_err(|error| Failure::here(format!("learn the port listened on: {error}")))?;
    let reachable = reachable(local);
    let ticket = (!args.no_ticket)
        .then(|| listener.ticket(args.ticket_expires))
        .transpose()
        .map_err(|error| Failure::here(format!("make a ticket: {}", chain(&error))))?
        .map(|ticket| ticket.with_addresses(reachable.iter().copied().take(TOLD)).to_string());
    if let (Some(path), Some(ticket)) = (&args.ticket_file, &ticket) {
        write_ticket(path, ticket).map_err(|error| {
            Failure::here(format!("write the ticket to {}: {error}", path.display()))
        })?;
    }
    let mut command = format!("qmig {what} --to {}", reachable[0]);
    match (&ticket, &args.ticket_file) {
        (Some(_), Some(path)) => command += &format!(" --ticket-file {}", path.display()),
        (Some(ticket), None) => command += &format!(" --ticket {ticket}"),
        (None, _) => {}
    }
    progress.event(Event::Listening { address: local.to_string(), ticket, command });
    Ok(listener)
}

fn trust(args: &Waiting) -> Result<DestinationTrust, Failure> {
    let fail = |error: &dyn std::error::Error| Failure::here(chain(error));
    if let Some(ca) = options::ca_files(&args.ca)? {
        return Ok(DestinationTrust::with_ca(ca));
    }
    let home = options::home(args.home.as_deref());
    let (key, peers) = (home.join("identity"), home.join("authorized_peers"));
    // A destination that is only ever reached by ticket leaves nothing on the disk.
    let identity = if args.no_ticket || key.exists() {
        Identity::load_or_create(&key).map_err(|error| fail(&error))?
    } else {
        Identity::generate().map_err(|error| fail(&error))?
    };
    let trust = DestinationTrust::new(identity);
    if !peers.exists() && !args.no_ticket {
        return Ok(trust);
    }
    let peers = AuthorizedPeers::load(&peers).map_err(|error| fail(&error))?;
    Ok(trust.with_peers(peers))
}

/// Mode 0600, complete under its name at once: a reader sees all of it or nothing.
fn write_ticket(path: &Path, ticket: &str) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let _ = fs::remove_file(&part);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    writeln!(file, "{ticket}")?;
    fs::rename(&part, path)
}

/// Addresses by which the source can reach us, the likeliest first; where the one listened on is a
/// wildcard, all of this host. Never none.
fn reachable(local: SocketAddr) -> Vec<SocketAddr> {
    if !local.ip().is_unspecified() {
        return vec![local];
    }
    let ours = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
        let v6 = address.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip()));
        v4.or(v6)
    });
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => local.is_ipv6() && !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let mut usable: Vec<_> = ours.filter(usable).collect();
    usable.sort_by_key(IpAddr::is_ipv6);
    if usable.is_empty() {
        usable.push(IpAddr::from([127, 0, 0, 1]));
    }
    usable.into_iter().map(|ip| SocketAddr::new(ip, local.port())).collect()
}

/// Stays as the parent of the tree until it ends; answers a source that still asks meanwhile.
async fn outlive(
    offspring: Offspring,
    farewell: Option<(Farewell, &Listener)>,
    keeps: Keeps,
    progress: &mut Progress,
) -> Result<Exit, Failure> {
    progress.say(&format!("it runs here, pid {}", offspring.root()));
    let progress = RefCell::new(progress);
    let lazy = Cell::new(farewell.as_ref().is_some_and(|(farewell, _)| farewell.is_lazy()));
    let tell = |event| {
        if let Event::Drained(..) = event {
            lazy.set(false);
        }
        progress.borrow_mut().event(event);
    };
    let source = async {
        if let Some((mut farewell, listener)) = farewell {
            farewell.see_off(listener, SEE_OFF, &tell).await;
        }
        progress.borrow_mut().finish();
    };
    if keeps.detach || keeps.container {
        source.await;
        return Ok(Exit::Done);
    }
    let mut interrupt = wishes::open(SignalKind::interrupt())?;
    let mut terminate = wishes::open(SignalKind::terminate())?;
    let ended = offspring.ended();
    tokio::pin!(source, ended);
    let mut asking = true;
    let mut status = None;
    loop {
        tokio::select! {
            () = &mut source, if asking => asking = false,
            // To a shell job the terminal sends its SIGINT by itself.
            Some(()) = interrupt.recv(), if !keeps.shell_job => match status {
                None => offspring.signal(Signal::SIGINT),
                // Its number may be another's by now.
                Some(_) => asking &= lazy.get(),
            },
            Some(()) = terminate.recv() => match status {
                None => offspring.signal(Signal::SIGTERM),
                Some(_) => asking &= lazy.get(),
            },
            end = &mut ended, if status.is_none() => status = Some(end.status()),
        }
        // If it ended early, others of the tree may still need pages that only this qmig can bring,
        // and the source waits to be told that it is not needed any more: over a link that was lost
        // at the last moment that takes a while.
        if let Some(status) = status.filter(|_| !asking) {
            progress.borrow().emit("exited", json!({ "status": status, "used": used() }));
            return Ok(Exit::Tree(status));
        }
    }
}

/// A failed restore in the words of the command line.
fn told(ended: Ended) -> Failure {
    let code = match ended.outcome {
        Outcome::Refused => Exit::Refused,
        _ => Exit::Aborted,
    };
    Failure {
        code,
        whose: ended.whose(),
        hint: ended.hint().map(str::to_owned),
        reasons: ended.reasons(),
        runs_on: ended.runs_on(),
        what: chain(&*ended.cause),
    }
}
