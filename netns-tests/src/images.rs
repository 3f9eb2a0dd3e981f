//! A tree in a directory: `qmig dump --images-dir` and `qmig restore --images-dir`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::host::Host;
use crate::migration::{QmigEvent, qmig_binary};
use crate::running::Running;
use crate::{Lab, LabError, Result};

/// How long a dump, or a restore until the tree runs, may take.
const SOON: Duration = Duration::from_secs(60);

/// A directory for images that both hosts see, and the qmig that fills and reads it.
#[derive(Debug)]
pub struct Images {
    qmig: PathBuf,
    folder: PathBuf,
}

impl Images {
    /// An empty directory in the lab's shared one.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let folder = lab.shared().join(name);
        std::fs::create_dir(&folder).map_err(LabError::file("make", &folder))?;
        Ok(Self { qmig: qmig_binary()?, folder })
    }

    /// A directory that is somewhere else.
    pub fn at(folder: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { qmig: qmig_binary()?, folder: folder.into() })
    }

    /// Where it is, as the hosts call it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Run `qmig dump` of the tree of `pid` to its end, whatever that is.
    pub fn dump(&self, host: &Host, pid: i32, args: &[&str]) -> Result<Running> {
        let mut command = self.qmig("dump");
        command.arg("--tree").arg(pid.to_string()).args(args);
        let dump = host.spawn(command)?;
        dump.wait(SOON)?;
        Ok(dump)
    }

    /// Start `qmig restore` and wait until it says that the tree runs.
    pub fn restore(&self, host: &Host, args: &[&str]) -> Result<Running> {
        let mut command = self.qmig("restore");
        command.args(args);
        let restore = host.spawn(command)?;
        restore.wait_line("the restored tree run", SOON, |line| {
            QmigEvent::parse(line).filter(|event| event.name() == "running")
        })?;
        Ok(restore)
    }

    /// What `qmig inspect` shows: one member for each image.
    pub fn inspect(&self, host: &Host) -> Result<Value> {
        let mut command = Command::new(&self.qmig);
        command.arg("inspect").arg(&self.folder);
        let line = format!("{command:?}");
        let output = host.run(command)?;
        serde_json::from_slice(&output.stdout).map_err(|error| LabError::Ended {
            what: format!("JSON from {line}"),
            ended: error.to_string(),
            logs: String::from_utf8_lossy(&output.stdout).into_owned(),
        })
    }

    fn qmig(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.qmig);
        command.arg(verb).arg("--json").arg("--images-dir").arg(&self.folder);
        command
    }
}
