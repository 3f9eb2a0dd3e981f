//! `qmig demo`: two hosts on this machine, a key-value server under load, and one move.

mod client;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use netns_tests::{Host, InitCommand, Lab, LabError, Running, in_session};
use pages::ByteCount;

use crate::args::{Demo, DemoPart, Part};
use crate::exit::Exit;
use crate::progress::{Failure, Progress};

/// Where the server listens on whichever host it is on.
const PORT: u16 = 7000;
/// Where `qmig restore` waits.
const MIGRATION_PORT: u16 = 4433;
/// The pid of the server: free on both hosts.
const SERVER_PID: i32 = 10_000;
/// The private directory of each host.
const SCRATCH: &str = "/run/qmig-demo";
/// No step of the demo takes longer than this on a machine that works.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &Demo, progress: &mut Progress) -> Result<Exit, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::here("build two hosts out of namespaces without root")
            .hint("run it as root: sudo qmig demo"));
    }
    let verdict = play(args, progress).map_err(|error| {
        Failure::here(format!("play the demo: {error}"))
            .hint("qmig check tells what this host lacks")
    })?;
    progress.say("");
    progress.say(&format!(
        "{} writes were acknowledged, {} before and {} after the move; longest wait of the client {} ms",
        verdict.acknowledged, verdict.before, verdict.after, verdict.longest_wait_ms
    ));
    if verdict.wrong > 0 || verdict.after == 0 {
        let what = format!(
            "keep every acknowledged write: {} of {} are wrong or gone",
            verdict.wrong, verdict.acknowledged
        );
        return Err(Failure::here(what));
    }
    progress.say("every acknowledged write is there. The demo is over; both hosts are gone.");
    Ok(Exit::Done)
}

/// One part of the demo, inside a host.
pub(crate) fn part(args: DemoPart) -> u8 {
    let words = args.words;
    match args.part {
        Part::Init => {
            netns_tests::init_main(words.into_iter().map(Into::into));
            0
        }
        Part::Server => server::run(&words),
        Part::Client => client::run(&words),
    }
}

fn play(args: &Demo, progress: &Progress) -> Result<client::Verdict, LabError> {
    let qmig = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("qmig"));
    let init = InitCommand::new(&qmig, ["demo-part", "init", "--"]);
    let lab = Lab::plan().init(&init).scratch(Path::new(SCRATCH)).build()?;
    let (src, dst) = (lab.src(), lab.dst());
    progress.say(&format!("two hosts: src {} and dst {}, one link", src.addr(), dst.addr()));

    src.next_pid(SERVER_PID)?;
    let server = src.spawn_quiet(server_command(&qmig, args.size))?;
    let client = dst.spawn(client_command(&qmig, &lab))?;
    client.wait_line("the client's first acknowledged writes", DEADLINE, |line| {
        (line == "WARM").then_some(())
    })?;
    progress.say(&format!(
        "src# key-value server, pid {}, {}, under load from a client",
        server.pid(),
        ByteCount(args.size)
    ));

    let restore = dst.spawn(restore_command(&qmig))?;
    let ticket = wait_for_ticket(&restore)?;
    progress.say(&format!("dst# qmig restore --listen [::]:{MIGRATION_PORT}"));
    let to = format!("{}:{MIGRATION_PORT}", dst.addr());
    progress.say(&format!(
        "src# qmig dump --tree {} --to {to} --tcp-close --ticket qmig1…",
        server.pid()
    ));
    let dump = src.spawn(dump_command(&qmig, server.pid(), &to, &ticket))?;
    let ended = dump.output(DEADLINE)?;
    for line in String::from_utf8_lossy(&ended.stderr).lines() {
        progress.say(&format!("     {line}"));
    }
    if !ended.status.success() {
        progress.say(&restore.logs());
        return Err(LabError::Ended {
            what: "the migration".to_owned(),
            ended: ended.status.to_string(),
            logs: dump.logs(),
        });
    }
    show_where(progress, src, dst);
    let verdict = stop_and_ask(&lab, &client)?;
    drop((server, restore));
    Ok(verdict)
}

fn server_command(qmig: &Path, size: u64) -> Command {
    let mut command = in_session(qmig);
    command.args(["demo-part", "server", "--", &PORT.to_string(), &size.to_string()]);
    command
}

fn client_command(qmig: &Path, lab: &Lab) -> Command {
    let mut command = Command::new(qmig);
    command.args(["demo-part", "client", "--"]);
    command.args([lab.src().addr(), lab.dst().addr()].map(|addr| format!("{addr}:{PORT}")));
    command.arg(lab.shared());
    command
}

fn restore_command(qmig: &Path) -> Command {
    let mut command = Command::new(qmig);
    command.args(["restore", "--json", "--listen", &format!("[::]:{MIGRATION_PORT}")]);
    command.args(["--home", SCRATCH]);
    command
}

fn dump_command(qmig: &Path, pid: i32, to: &str, ticket: &str) -> Command {
    let mut command = Command::new(qmig);
    command.args(["dump", "--tree", &pid.to_string(), "--to", to, "--ticket", ticket]);
    command.args(["--tcp-close", "--home", SCRATCH]);
    command
}

fn wait_for_ticket(restore: &Running) -> Result<String, LabError> {
    restore.wait_line("the ticket", DEADLINE, |line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(event.get("ticket")?.as_str()?.to_owned())
    })
}

fn show_where(progress: &Progress, src: &Host, dst: &Host) {
    let lives = |host: &Host| host.process(SERVER_PID).is_some_and(|it| it.state != 'Z');
    let on = |host| if lives(host) { "runs" } else { "gone" };
    progress.say(&format!("pid {SERVER_PID}: on src {}, on dst {}", on(src), on(dst)));
}

/// Lets the client write a little more, then read back everything that was acknowledged.
fn stop_and_ask(lab: &Lab, client: &Running) -> Result<client::Verdict, LabError> {
    client.wait_line("writes after the move", DEADLINE, |line| (line == "MOVED").then_some(()))?;
    let stop = lab.shared().join("stop");
    std::fs::write(&stop, b"").map_err(|source| LabError::File {
        act: "write",
        path: stop,
        source,
    })?;
    client.wait_line("the verdict", DEADLINE, client::Verdict::parse)
}
