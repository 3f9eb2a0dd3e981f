//! Containers of runc and crun on the hosts of a lab: a busybox, a program, and what is its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::criu::Criu;
use crate::host::Host;
use crate::requirements::which;
use crate::running::GLANCE;
use crate::{Lab, LabError, Result};

/// How long a container may take for its next beat.
const SOON: Duration = Duration::from_secs(60);
/// Podman's configuration.
const STORAGE: &str = "storage.conf";
const ENGINE: &str = "containers.conf";
/// What a container runs: it fills an array, then says again and again, in a file of a tmpfs, how
/// often it has seen the whole of it, and how much of it was wrong. It starts no program: CRIU cannot
/// stop one that waits in vfork(2) under the freezer of control groups version 1.
const BEAT: &str = r#"BEGIN {
    for (i = 0; i < 30000; i++) kept[i] = "number " i " and some more to fill pages with";
    for (beat = 1; ; beat++) {
        wrong = 0;
        for (i = 0; i < 30000; i++) if (kept[i] != "number " i " and some more to fill pages with") wrong++;
        print beat, wrong > "/tmp/beat"; close("/tmp/beat");
    }
}"#;

/// The runtime of a host, with its own place for state. Dropped, its containers are gone.
#[derive(Debug)]
pub struct Runtime<'lab> {
    host: &'lab Host,
    program: PathBuf,
    ids: Vec<String>,
}

/// A directory with a root file system and a configuration.
#[derive(Clone, Debug)]
pub struct Bundle {
    folder: PathBuf,
}

/// What a container has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// How often it has seen its whole memory.
    pub number: u64,
    /// How much of it was not as it should be.
    pub wrong: u64,
}

impl Bundle {
    /// One that both hosts see.
    pub fn make(lab: &Lab) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = lab.shared().join(format!("bundle-{number}"));
        let root = folder.join("rootfs");
        for name in ["bin", "dev", "proc", "sys", "tmp"] {
            let path = root.join(name);
            std::fs::create_dir_all(&path).map_err(LabError::file("make", &path))?;
        }
        let busybox = which("busybox").unwrap_or_default();
        let copy = root.join("bin/busybox");
        std::fs::copy(&busybox, &copy).map_err(LabError::file("copy", &busybox))?;
        for name in ["awk", "cat", "ip", "sh", "sleep"] {
            let path = root.join("bin").join(name);
            std::os::unix::fs::symlink("busybox", &path).map_err(LabError::file("link", &path))?;
        }
        let bundle = Self { folder };
        let path = bundle.config();
        let config = serde_json::to_vec_pretty(&config()).unwrap_or_default();
        std::fs::write(&path, config).map_err(LabError::file("write", &path))?;
        Ok(bundle)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.json")
    }
}

/// Namespaces of its own for everything, a tmpfs, no terminal.
fn config() -> Value {
    let own = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    let may = ["CAP_NET_ADMIN", "CAP_KILL"];
    let plain = ["nosuid", "noexec", "nodev"];
    let mount = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "hostname": "boxed",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/awk", BEAT],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": may, "effective": may, "permitted": may},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            mount("/proc", "proc", &plain),
            mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=1024k"]),
            mount("/tmp", "tmpfs", &["nosuid", "nodev", "size=16m"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "namespaces": own,
        },
    })
}

impl<'lab> Runtime<'lab> {
    /// The runc of this host.
    pub fn runc(host: &'lab Host) -> Self {
        Self { host, program: "runc".into(), ids: Vec::new() }
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
        Ok(Self { host, program: criu.program().with_file_name("crun"), ids: Vec::new() })
    }

    /// Its Podman, which keeps everything in the host's own directory.
    pub fn podman(host: &'lab Host) -> Result<Self> {
        let folder = host.scratch();
        let shown = folder.display();
        for (name, text) in [
            (STORAGE, format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{shown}/store\"\nrunroot = \"{shown}/run\"\n")),
            (ENGINE, "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nruntime = \"runc\"\n".to_owned()),
        ] {
            let path = host.path(folder.join(name));
            std::fs::write(&path, text).map_err(LabError::file("write", &path))?;
        }
        Ok(Self { host, program: "podman".into(), ids: Vec::new() })
    }

    /// What its program must see in its environment.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let folder = self.host.scratch();
        vec![
            ("CONTAINERS_STORAGE_CONF", folder.join(STORAGE)),
            ("CONTAINERS_CONF", folder.join(ENGINE)),
        ]
    }

    fn is_podman(&self) -> bool {
        self.program.ends_with("podman")
    }

    /// Stops a container, which stays.
    pub fn stop(&self, id: &str) -> Result<()> {
        self.host.run(self.command(&["stop", "--time", "0", id])).map(drop)
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
        let id = self.name();
        let mut shell = Command::new("sh");
        let line = "exec \"$@\" </dev/null >/dev/null 2>/dev/null";
        let log = self.host.scratch().join("runc.log");
        shell.args(["-c", line, "sh"]).arg(&self.program).envs(self.environment());
        if self.is_podman() {
            // Limits that qmig's machines can set, and no network, which is another program's.
            shell.args(["run", "--detach", "--network", "none", "--tmpfs", "/tmp", "--name", &id]);
            shell.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--rootfs"]);
            shell.arg(bundle.folder().join("rootfs")).args(["/bin/awk", BEAT]);
        } else {
            shell.arg("--log").arg(&log).arg("--root").arg(self.state_folder());
            shell.args(["run", "--detach", "--bundle"]).arg(bundle.folder()).arg(&id);
        }
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
            let _ = self.host.run(self.command(&[
                if self.is_podman() { "rm" } else { "delete" },
                "--force",
                id,
            ]));
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
