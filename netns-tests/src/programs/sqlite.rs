//! sqlite3 in the middle of a transaction, fed by a pipe from inside its own tree.

use std::path::PathBuf;
use std::process::Command;

use super::{folder, until, write};
use crate::host::{Host, in_session};
use crate::running::Running;
use crate::workshop::source;
use crate::{Lab, LabError, Result};

/// Rows the transaction inserts.
const ROWS: u32 = 1000;

const LOOK: &str = "
    rm -f copy copy-journal
    cp db copy
    [ ! -e db-journal ] || cp db-journal copy-journal
    exec sqlite3 -batch -separator ' ' copy \
        'PRAGMA integrity_check; SELECT count(*), sum(number) FROM t;'";

/// Another writer, in no need to wait.
const WRITE: &str = "sqlite3 -batch db 'BEGIN IMMEDIATE; ROLLBACK;' 2>&1 && echo may write; true";

/// A shell whose pipe feeds `sqlite3`: BEGIN, many INSERTs, and COMMIT once it is told to.
#[derive(Debug)]
pub struct Transaction {
    running: Running,
    folder: PathBuf,
}

impl Transaction {
    /// Start one on `host` and wait until all rows are inserted and none is committed.
    pub fn start(lab: &Lab, host: &Host, pid: i32) -> Result<Self> {
        let folder = folder(lab, "sqlite")?;
        let mut command = in_session("sh");
        command.arg(source("transaction", "sh")).arg(ROWS.to_string()).current_dir(&folder);
        host.next_pid(pid)?;
        let this = Self { running: host.spawn_quiet(command)?, folder };
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

    /// Let it commit, and see on `host` that every row is there and the file is sound. `parent`
    /// ends when the shell does.
    pub fn commit(&self, host: &Host, parent: &Running) -> Result<()> {
        let before = self.look(host)?;
        write(&self.folder.join("go"), "")?;
        let status = parent.wait(super::SOON)?;
        let after = self.look(host)?;
        let sound = format!("ok {ROWS} {}", u64::from(ROWS) * u64::from(ROWS + 1) / 2);
        if status.success() && before == "ok 0" && after == sound {
            return Ok(());
        }
        Err(LabError::Ended {
            what: format!("nothing before the commit and {sound:?} after it"),
            ended: format!("{before:?}, then {status}, then {after:?}"),
            logs: parent.logs(),
        })
    }

    /// True if another sqlite3 on `host` that wants to write is told that the file is locked; false
    /// if it may.
    pub fn keeps_others_out(&self, host: &Host) -> Result<bool> {
        let mut shell = Command::new("sh");
        shell.current_dir(&self.folder).args(["-c", WRITE]);
        let output = host.run(shell)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match said.trim_end() {
            "may write" => Ok(false),
            locked if locked.contains("database is locked") => Ok(true),
            other => Err(LabError::Ended {
                what: "another writer that may, or is locked out".to_owned(),
                ended: other.to_owned(),
                logs: self.running.logs(),
            }),
        }
    }

    /// Integrity, count and sum of the rows, as another reader sees them. The reader keeps out of
    /// the writer's way: it looks at a copy.
    fn look(&self, host: &Host) -> Result<String> {
        let mut shell = Command::new("sh");
        shell.current_dir(&self.folder).args(["-ec", LOOK]);
        let output = host.run(shell)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}
