//! Containers of runc, crun and Podman on the hosts of a lab.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bundle::Bundle;
use crate::criu::Criu;
use crate::host::Host;
use crate::running::GLANCE;
use crate::{Lab, LabError, Migration, Result};

mod podman;

/// How long a container may take for its next beat.
const SOON: Duration = Duration::from_secs(60);
/// The runtime of a host, with its own place for state. Dropped, its containers are gone.
#[derive(Debug)]
pub struct Runtime<'lab> {
    host: &'lab Host,
    program: PathBuf,
    ids: Vec<String>,
    /// What Podman is to connect its containers to.
    network: &'static str,
}

/// What a container has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// How often it has seen its whole memory.
    pub number: u64,
    /// How much of it was not as it should be.
    pub wrong: u64,
}

/// A container on the source, and who shall have it on the destination.
#[derive(Debug)]
pub struct Boxed<'lab> {
    lab: &'lab Lab,
    criu: Criu,
    /// The source's runtime.
    pub src: Runtime<'lab>,
    /// The destination's.
    pub dst: Runtime<'lab>,
    /// What it is called on the source.
    pub there: String,
    /// What it shall be called on the destination.
    pub here: String,
}

impl<'lab> Boxed<'lab> {
    /// A container of runc, or crun, that runs.
    pub fn start(lab: &'lab Lab, criu: &Criu, runtime: &str, bundle: &Bundle) -> Result<Self> {
        let [mut src, mut dst] = match runtime {
            "runc" => [lab.src(), lab.dst()].map(Runtime::runc),
            _ => [Runtime::crun(lab.src(), criu)?, Runtime::crun(lab.dst(), criu)?],
        };
        let (there, here) = (src.run(bundle)?, dst.name());
        Ok(Self { lab, criu: criu.clone(), src, dst, there, here })
    }

    /// Its move, in which it becomes one of that bundle.
    pub fn migration(&self, bundle: &Bundle) -> Result<Migration<'lab>> {
        self.migration_of(&self.there, &self.here, bundle)
    }

    /// The same of a container of another name, and to one.
    pub fn migration_of(
        &self,
        there: &str,
        here: &str,
        bundle: &Bundle,
    ) -> Result<Migration<'lab>> {
        let Self { lab, criu, src, dst, .. } = self;
        let migration = Migration::new(lab)?.deadline(SOON * 2).criu(criu);
        let migration = migration.container(src.program(), there);
        let kind = dst.program().file_name().unwrap_or_default().display();
        Ok(migration
            .dump_arg("--runtime-root")
            .dump_arg(src.state_folder().display())
            .restore_arg("--runtime-root")
            .restore_arg(dst.state_folder().display())
            .restore_arg(format!("--{kind}"))
            .restore_arg(here)
            .restore_arg("--bundle")
            .restore_arg(bundle.folder().display()))
    }
}

impl<'lab> Runtime<'lab> {
    /// The runc of this host.
    pub fn runc(host: &'lab Host) -> Self {
        Self { host, program: "runc".into(), ids: Vec::new(), network: podman::NONE }
    }

    /// Its crun: the one beside the CRIU, because Debian 12's knows nothing of CRIU. It refuses hosts with
    /// both versions of control groups.
    pub fn crun(host: &'lab Host, criu: &Criu) -> Result<Self> {
        let mut one = Command::new("sh");
        one.args([
            "-c",
            "! mountpoint -q /sys/fs/cgroup/unified || umount -l /sys/fs/cgroup/unified",
        ]);
        host.run(one)?;
        Ok(Self {
            host,
            program: criu.program().with_file_name("crun"),
            ids: Vec::new(),
            network: podman::NONE,
        })
    }

    /// What its program must see in its environment.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let folder = self.host.scratch();
        vec![
            ("CONTAINERS_STORAGE_CONF", folder.join(podman::STORAGE)),
            ("CONTAINERS_CONF", folder.join(podman::ENGINE)),
        ]
    }

    fn is_podman(&self) -> bool {
        self.program.ends_with("podman")
    }

    /// Its program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A name for a container that nobody else on this machine uses: control groups are the machine's.
    pub fn name(&mut self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("qmig-{}-{number}", std::process::id());
        self.ids.push(id.clone());
        id
    }

    /// Where it keeps its state.
    pub fn state_folder(&self) -> PathBuf {
        self.host.scratch().join("runc")
    }

    /// Starts a container and waits for its first beats.
    pub fn run(&mut self, bundle: &Bundle) -> Result<String> {
        if self.is_podman() {
            return self.run_with(bundle, &[]);
        }
        let id = self.name();
        let log = self.host.scratch().join("runc.log");
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" </dev/null >/dev/null 2>/dev/null", "sh"]);
        shell.arg(&self.program);
        shell.arg("--log").arg(&log).arg("--root").arg(self.state_folder());
        shell.args(["run", "--detach", "--bundle"]).arg(bundle.folder());
        if let Some(console) = bundle.console() {
            shell.arg("--console-socket").arg(console);
        }
        shell.arg(&id);
        self.host.run(shell).map_err(|error| match error {
            LabError::Command { line, status, .. } => {
                let output = std::fs::read_to_string(self.host.path(&log)).unwrap_or_default();
                LabError::Command { line, status, output }
            }
            other => other,
        })?;
        self.wait_beats(&id, 2)?;
        Ok(id)
    }

    /// What the runtime says of a container: its status and its first process; `None` if it knows none
    /// of that name.
    pub fn state(&self, id: &str) -> Option<(String, i32)> {
        const INSPECT: &str = r#"{"pid": {{.State.Pid}}, "status": {{json .State.Status}}}"#;
        let inspect = ["container", "inspect", "--format", INSPECT, id];
        let words = if self.is_podman() { &inspect[..] } else { &["state", id] };
        let output = self.host.run(self.command(words)).ok()?;
        let state: Value = serde_json::from_slice(&output.stdout).ok()?;
        let pid = state["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())?;
        Some((state["status"].as_str()?.to_owned(), pid))
    }

    /// A program inside of a container, to its end; what it says.
    pub fn exec(&self, id: &str, words: &[&str]) -> Result<String> {
        let output = self.host.run(self.command(&[&["exec", id], words].concat()))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What a container said last.
    pub fn beat(&self, id: &str) -> Option<Beat> {
        let (_, pid) = self.state(id)?;
        let path = self.host.path(format!("/proc/{pid}/root/tmp/beat"));
        let text = std::fs::read_to_string(path).ok()?;
        // It may be being written.
        let mut numbers = text.strip_suffix('\n')?.split_whitespace().map(|word| word.parse().ok());
        Some(Beat { number: numbers.next()??, wrong: numbers.next()?? })
    }

    /// Waits until a container has beaten so many times more, and tells the last beat.
    pub fn wait_beats(&self, id: &str, more: u64) -> Result<Beat> {
        let end = Instant::now() + SOON;
        let mut first = None;
        loop {
            if let Some(beat) = self.beat(id)
                && beat.number >= *first.get_or_insert(beat.number) + more
            {
                return Ok(beat);
            }
            if Instant::now() >= end {
                let what = format!("{more} beats of {id} after {first:?}");
                let logs = format!("its runtime says {:?}", self.state(id));
                return Err(LabError::Deadline { what, within: SOON, logs });
            }
            std::thread::sleep(GLANCE);
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        if !self.is_podman() {
            command.arg("--root").arg(self.state_folder());
        }
        command.args(words).envs(self.environment());
        command
    }
}

impl Drop for Runtime<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            let words = if self.is_podman() {
                &["rm", "--force", "--time", "0", id][..]
            } else {
                &["delete", "--force", id]
            };
            let _ = self.host.run(self.command(words));
            // On a machine with both versions of control groups CRIU makes one that crun knows nothing of.
            remove_group(&Path::new("/sys/fs/cgroup/unified").join(id));
        }
        if self.is_podman() {
            // Podman's own parent of all, unless another still has something in it.
            for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
                let parent = controller.path().join("libpod_parent");
                let inner = std::fs::read_dir(&parent).into_iter().flatten().flatten();
                inner.for_each(|inner| drop(std::fs::remove_dir(inner.path())));
                let _ = std::fs::remove_dir(parent);
            }
        }
    }
}

/// Removes a control group with those in it: CRIU makes a copy of every one that it found beside the
/// processes. Its own files go with a group.
fn remove_group(group: &Path) {
    let inner = std::fs::read_dir(group).into_iter().flatten().flatten();
    inner.filter(|entry| entry.path().is_dir()).for_each(|entry| remove_group(&entry.path()));
    let _ = std::fs::remove_dir(group);
}
