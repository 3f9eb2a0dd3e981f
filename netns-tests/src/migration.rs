//! One migration by two real `qmig` processes.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::chaos::Fault;
use crate::criu::Criu;
use crate::init::beside_current_exe;
use crate::lab::{Lab, Side};
use crate::running::{GLANCE, Running};
use crate::subject::{Started, Verdict};
use crate::terminal::on_terminal;
use crate::{LabError, Result};

/// How long `qmig restore` may take until it listens.
const LISTEN: Duration = Duration::from_secs(20);
/// How long a whole migration may take unless told otherwise.
const MOVE: Duration = Duration::from_secs(60);
/// The port the destination listens on; each lab has its own network.
const PORT: u16 = 4433;

/// The built `qmig`: `QMIG_BIN`, else beside the running test's target folder.
pub fn qmig_binary() -> Result<PathBuf> {
    let named = std::env::var_os("QMIG_BIN").map(PathBuf::from);
    named.or_else(|| beside_current_exe("qmig")).filter(|path| path.is_file()).ok_or_else(|| {
        LabError::Missing {
            what: "the qmig binary".to_owned(),
            hint: "cargo build -p cli, or set QMIG_BIN".to_owned(),
        }
    })
}

/// A migration from the lab's source to its destination, before it begins.
#[derive(Debug)]
pub struct Migration<'lab> {
    lab: &'lab Lab,
    qmig: PathBuf,
    ticket: PathBuf,
    uses_ticket: bool,
    on_terminal: bool,
    dump_args: Vec<String>,
    restore_args: Vec<String>,
    fault: Option<Fault>,
    criu: Option<PathBuf>,
    container: Option<(PathBuf, String)>,
    environment: Vec<(&'static str, PathBuf)>,
    deadline: Duration,
}

impl<'lab> Migration<'lab> {
    /// With the built binary and no options but those that are needed.
    pub fn new(lab: &'lab Lab) -> Result<Self> {
        Ok(Self::with_binary(lab, qmig_binary()?))
    }

    /// With another qmig on both sides, such as one of an earlier version.
    pub fn with_binary(lab: &'lab Lab, qmig: PathBuf) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            lab,
            qmig,
            ticket: lab.shared().join(format!("ticket-{number}")),
            uses_ticket: true,
            on_terminal: false,
            dump_args: Vec::new(),
            restore_args: Vec::new(),
            fault: None,
            criu: None,
            container: None,
            environment: Vec::new(),
            deadline: MOVE,
        }
    }

    /// One more argument for `qmig dump`.
    #[must_use]
    pub fn dump_arg(mut self, arg: impl ToString) -> Self {
        self.dump_args.push(arg.to_string());
        self
    }

    /// One more argument for `qmig restore`.
    #[must_use]
    pub fn restore_arg(mut self, arg: impl ToString) -> Self {
        self.restore_args.push(arg.to_string());
        self
    }

    /// Neither side is told of a ticket: the arguments say how the two know each other.
    #[must_use]
    pub fn without_ticket(mut self) -> Self {
        self.uses_ticket = false;
        self
    }

    /// `qmig restore` runs on a terminal of its own, for `--shell-job`. What the moved tree writes
    /// to its terminal is then among the standard output of the restore.
    #[must_use]
    pub fn restore_on_terminal(mut self) -> Self {
        self.on_terminal = true;
        self
    }

    /// Let one of the two suffer this.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Who takes the tree, and who builds it: `native`, `criu` or `auto`.
    #[must_use]
    pub fn engines(self, dump: &str, restore: &str) -> Self {
        self.dump_arg("--engine").dump_arg(dump).restore_arg("--engine").restore_arg(restore)
    }

    /// Both find this CRIU.
    #[must_use]
    pub fn criu(mut self, criu: &Criu) -> Self {
        self.criu = Some(criu.program().to_owned());
        self
    }

    /// It is this container that moves, whatever pid is named, by a runtime that is this program.
    #[must_use]
    pub fn container(mut self, runtime: &Path, id: &str) -> Self {
        self.container = Some((runtime.to_owned(), id.to_owned()));
        self
    }

    /// Both qmigs see this in their environment, and what they start.
    #[must_use]
    pub fn environment(mut self, variables: &[(&'static str, PathBuf)]) -> Self {
        self.environment.extend_from_slice(variables);
        self
    }

    /// How long it may take from the start of `qmig dump` to its end.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Start `qmig restore` on the destination and wait until it listens.
    pub fn listen(self) -> Result<Listening<'lab>> {
        self.listen_on(Side::Destination)
    }

    /// The same on another host than usual.
    pub fn listen_on(self, side: Side) -> Result<Listening<'lab>> {
        let mut command = self.qmig(Side::Destination, "restore");
        command.arg("--listen").arg(format!("[::]:{PORT}"));
        command.args(&self.restore_args);
        if self.on_terminal {
            // What it says to people would come between what the tree says on the same terminal.
            command = on_terminal(command.arg("--quiet"));
        }
        let restore = self.lab.host(side).spawn(command)?;
        let said = restore.wait_line("qmig restore listen", LISTEN, QmigEvent::parse)?;
        if said.name() != "listening" {
            return Err(LabError::Ended {
                what: "`listening` as the first event of qmig restore".to_owned(),
                ended: format!("it said {:?}", said.name()),
                logs: restore.logs(),
            });
        }
        Ok(Listening { migration: self, restore })
    }

    /// Move the tree of `pid`: listen, dump, and wait for the end of the dump, whatever it is.
    pub fn run(self, pid: i32) -> Result<Moved> {
        self.listen()?.dump(pid)?.finish()
    }

    fn qmig(&self, side: Side, verb: &str) -> Command {
        let mut command = Command::new(&self.qmig);
        command.arg(verb).arg("--json");
        if self.uses_ticket {
            command.arg("--ticket-file").arg(&self.ticket);
        }
        if let Some(criu) = &self.criu {
            command.env("QMIG_CRIU", criu);
        }
        command.envs(self.environment.iter().cloned());
        let runtime = self.container.as_ref().and_then(|(runtime, _)| runtime.parent());
        let runtime = runtime.filter(|folder| !folder.as_os_str().is_empty());
        if let (Some(folder), Some(path)) = (runtime, std::env::var_os("PATH")) {
            let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(folders).unwrap_or(path));
        }
        if let Some(fault) = self.fault.as_ref().filter(|fault| fault.side() == side) {
            fault.set_on(&mut command);
        }
        command
    }
}

/// `--runc`, `--crun`.
fn runtime_flag(runtime: &Path) -> String {
    format!("--{}", runtime.file_name().unwrap_or_default().display())
}

/// `qmig restore` listens; nothing has been dialled yet.
#[derive(Debug)]
pub struct Listening<'lab> {
    migration: Migration<'lab>,
    restore: Running,
}

impl Listening<'_> {
    /// The `qmig restore`.
    pub fn restore(&self) -> &Running {
        &self.restore
    }

    /// The file with the ticket, the same on both hosts.
    pub fn ticket(&self) -> &Path {
        &self.migration.ticket
    }

    /// The command line of `qmig dump` of the tree of `pid`, over IPv4.
    pub fn dump_command(&self, pid: i32) -> Command {
        let migration = &self.migration;
        let mut command = migration.qmig(Side::Source, "dump");
        match &migration.container {
            Some((runtime, id)) => command.arg(runtime_flag(runtime)).arg(id),
            None => command.arg("--tree").arg(pid.to_string()),
        };
        command.arg("--to").arg(format!("{}:{PORT}", migration.lab.dst().addr()));
        command.args(&migration.dump_args);
        command
    }

    /// Start `qmig dump` of the tree of `pid`. Does not wait for anything.
    pub fn dump(self, pid: i32) -> Result<Moving> {
        let command = self.dump_command(pid);
        self.dump_with(command)
    }

    /// The same with a command line of one's own.
    pub fn dump_with(self, command: Command) -> Result<Moving> {
        let dump = self.migration.lab.src().spawn(command)?;
        Ok(Moving { dump, restore: self.restore, deadline: self.migration.deadline })
    }
}

/// Both run. For tests that interfere; the others call [`Migration::run`].
#[derive(Debug)]
pub struct Moving {
    dump: Running,
    restore: Running,
    deadline: Duration,
}

impl Moving {
    /// The qmig of that side.
    pub fn qmig(&self, side: Side) -> &Running {
        match side {
            Side::Source => &self.dump,
            Side::Destination => &self.restore,
        }
    }

    /// Everything both sides wrote.
    pub fn logs(&self) -> String {
        self.dump.logs() + &self.restore.logs()
    }

    /// Wait until that side has said this event.
    pub fn wait_event(&self, side: Side, name: &str) -> Result<QmigEvent> {
        let what = format!("event {name} of the {}", side.name());
        self.qmig(side).wait_line(&what, self.deadline, |line| {
            QmigEvent::parse(line).filter(|event| event.name() == name)
        })
    }

    /// Wait until the tree runs on the destination, or `qmig dump` has ended without that: whether
    /// it runs.
    pub fn wait_running(&self) -> Result<bool> {
        let end = Instant::now() + self.deadline;
        let runs = || QmigEvent::all_of(&self.restore).iter().any(|it| it.name() == "running");
        loop {
            // Asked before the look: what the destination said before that end is then seen.
            let ended = self.dump.ended().is_some() || self.restore.ended().is_some();
            if runs() {
                return Ok(true);
            }
            if ended {
                return Ok(false);
            }
            if Instant::now() >= end {
                let what = "the tree run on the destination".to_owned();
                return Err(LabError::Deadline { what, within: self.deadline, logs: self.logs() });
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Wait for the end of `qmig dump`.
    pub fn finish(self) -> Result<Moved> {
        // Its end and everything it wrote: the last event may be a moment behind the end.
        match self.dump.output(self.deadline).map(|output| output.status) {
            Ok(dumped) => Ok(Moved { dumped, dump: self.dump, restore: self.restore }),
            Err(LabError::Deadline { what, within, logs }) => {
                let logs = logs + &self.restore.logs();
                Err(LabError::Deadline { what, within, logs })
            }
            Err(other) => Err(other),
        }
    }
}

/// `qmig dump` has ended; `qmig restore` may still run, as the parent of the tree.
#[derive(Debug)]
pub struct Moved {
    dumped: ExitStatus,
    dump: Running,
    restore: Running,
}

impl Moved {
    /// How `qmig dump` ended.
    pub fn dumped(&self) -> ExitStatus {
        self.dumped
    }

    /// The `qmig dump` that has ended.
    pub fn dump(&self) -> &Running {
        &self.dump
    }

    /// The `qmig restore`.
    pub fn restore(&self) -> &Running {
        &self.restore
    }

    /// What that side has said so far, in order.
    pub fn events(&self, side: Side) -> Vec<QmigEvent> {
        QmigEvent::all_of(match side {
            Side::Source => &self.dump,
            Side::Destination => &self.restore,
        })
    }

    /// The last `event` of that name and side.
    pub fn event(&self, side: Side, name: &str) -> Option<QmigEvent> {
        self.events(side).into_iter().rfind(|event| event.name() == name)
    }

    /// Both sides' logs unless `qmig dump` succeeded.
    pub fn succeeded(&self) -> Result<()> {
        if self.dumped.success() {
            return Ok(());
        }
        Err(LabError::Ended {
            what: "a migration succeed".to_owned(),
            ended: format!("qmig dump ended: {}", self.dumped),
            logs: self.logs(),
        })
    }

    /// Ask the moved subject, on the destination, for its verdict.
    pub fn ask(&self, lab: &Lab, subject: &Started) -> Result<Verdict> {
        self.succeeded()?;
        subject.ask_at(lab.dst(), &self.restore).map_err(|error| match error {
            LabError::Ended { what, ended, logs } => {
                LabError::Ended { what, ended, logs: logs + &self.logs() }
            }
            LabError::Deadline { what, within, logs } => {
                LabError::Deadline { what, within, logs: logs + &self.logs() }
            }
            other => other,
        })
    }

    /// Everything both sides wrote.
    pub fn logs(&self) -> String {
        self.dump.logs() + &self.restore.logs()
    }
}

/// One line of `--json`.
#[derive(Clone, Debug)]
pub struct QmigEvent(Value);

impl QmigEvent {
    /// All that this qmig has said so far, in order.
    pub fn all_of(qmig: &Running) -> Vec<Self> {
        qmig.stdout().lines().iter().filter_map(|line| Self::parse(line)).collect()
    }

    /// From a line of standard output; `None` if it is no event.
    pub fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        value.get("event")?.as_str()?;
        Some(Self(value))
    }

    /// The whole line.
    pub fn into_value(self) -> Value {
        self.0
    }

    /// Which event.
    pub fn name(&self) -> &str {
        self.0["event"].as_str().unwrap_or_default()
    }

    /// A field of it; `Null` if it has none such.
    pub fn field(&self, name: &str) -> &Value {
        &self.0[name]
    }
}
