//! PostgreSQL with its backends, its shared memory, and clients in the middle of something.

use std::path::PathBuf;
use std::process::Command;

use super::{folder, until, write};
use crate::host::{Host, in_session};
use crate::running::Running;
use crate::workshop::source;
use crate::{Lab, LabError, Result};

/// Rows the transaction inserts.
const ROWS: u32 = 10_000;
/// Debian keeps each version's programs in a folder of its own.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A shell that runs a server of its own, and clients of it.
#[derive(Debug)]
pub struct Postgres {
    running: Running,
    folder: PathBuf,
    programs: PathBuf,
}

impl Postgres {
    /// Where Debian has installed the newest server, if it has.
    pub fn programs() -> Option<PathBuf> {
        let versions = std::fs::read_dir(VERSIONS).ok()?.flatten();
        let programs = versions.map(|version| version.path().join("bin"));
        programs.filter(|programs| programs.join("postgres").exists()).max()
    }

    /// Start one on `host` and wait until all rows are inserted and none is committed. The server
    /// refuses to run as root: all of it belongs to the user that Debian has made for it.
    pub fn start(lab: &Lab, host: &Host, pid: i32, programs: PathBuf) -> Result<Self> {
        let folder = folder(lab, "postgres")?;
        let mut give = Command::new("chown");
        give.arg("postgres:postgres").arg(&folder);
        host.run(give)?;
        let mut command = in_session("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "sh"]);
        command.arg(source("database", "sh")).arg(&programs).arg(ROWS.to_string());
        command.arg(host.scratch());
        command.current_dir(&folder);
        host.next_pid(pid)?;
        let this = Self { running: host.spawn_quiet(command)?, folder, programs };
        let inserted = this.folder.join("inserted");
        until("all rows inserted", &this.running, || {
            std::fs::read_to_string(&inserted).ok().filter(|text| *text == format!("{ROWS}\n"))
        })?;
        Ok(this)
    }

    /// The shell.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// The process that was started.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// What a new client on `host` sees: how many rows there are, and how many backends.
    pub fn ask(&self, host: &Host, query: &str) -> Result<String> {
        let mut client = Command::new(self.programs.join("psql"));
        client.args(["-U", "postgres", "-d", "postgres", "-qAtc", query, "-h"]).arg(host.scratch());
        let output = host.run(client)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Let it commit. `parent` ends when the shell does, which has seen to it that both clients were
    /// answered, and has shut the server down.
    pub fn commit(&self, parent: &Running) -> Result<()> {
        write(&self.folder.join("go"), "")?;
        let status = parent.wait(super::SOON)?;
        if status.success() {
            return Ok(());
        }
        let log = std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        Err(LabError::Ended {
            what: "both clients answered and the server shut down".to_owned(),
            ended: status.to_string(),
            logs: format!("{}\n{log}", parent.logs()),
        })
    }

    /// What the server says of itself at its end.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }
}
