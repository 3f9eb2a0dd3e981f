//! Bundles for containers: a busybox, a program, and what is its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::console::ConsoleSocket;
use crate::requirements::which;
use crate::{Lab, LabError, Result};

/// What a container runs: it fills an array, then says again and again, in a file of a tmpfs, how
/// often it has seen the whole of it, and how much of it was wrong. It starts no program: CRIU cannot
/// stop one that waits in vfork(2) under the freezer of control groups version 1.
pub(crate) const BEAT: &str = r#"BEGIN {
    for (i = 0; i < 30000; i++) kept[i] = "number " i " and some more to fill pages with";
    for (beat = 1; ; beat++) {
        wrong = 0;
        for (i = 0; i < 30000; i++) if (kept[i] != "number " i " and some more to fill pages with") wrong++;
        print beat, wrong > "/tmp/beat"; close("/tmp/beat");
    }
}"#;

/// The same, and it also says so in a file of its root file system, which it keeps open.
const JOURNAL: &str = r#"print beat >>"/journal"; fflush("/journal");"#;

/// Tells every beat over a connection of its own to a program of its own, which writes it down.
const TALK: &str = "ip link set lo up; sleep 100000 | nc -l -p 7000 >/tmp/came & \
    awk \"$0\" | { sleep 1; exec nc 127.0.0.1 7000; }";

/// Shows the lines that are typed, numbered.
pub(crate) const ECHO: &str = "{ print NR, $0; fflush() }";
/// Two programs.
pub(crate) const BOTH: &str = r#"awk "$0" & exec awk "$1""#;

/// A directory with a root file system and a configuration.
#[derive(Clone, Debug)]
pub struct Bundle {
    folder: PathBuf,
    console: Option<PathBuf>,
}

impl Bundle {
    /// One that both hosts see.
    pub fn make(lab: &Lab) -> Result<Self> {
        Self::running(lab, &["/bin/awk", BEAT])
    }

    /// The same with a container that says its beats over a TCP connection, to be found in `/tmp/came`.
    pub fn with_connection(lab: &Lab) -> Result<Self> {
        let beats = BEAT.replace("print beat, wrong", "print beat; fflush(); print beat, wrong");
        Self::running(lab, &["/bin/sh", "-c", TALK, &beats])
    }

    /// The same with a container that keeps a journal on its root file system.
    pub fn with_journal(lab: &Lab) -> Result<Self> {
        Self::running(lab, &["/bin/awk", &with_journal()])
    }

    /// The same with a container that also numbers the lines of its terminal, and shows them.
    pub fn with_terminal(lab: &Lab, console: &ConsoleSocket) -> Result<Self> {
        let mut bundle = Self::running(lab, &["/bin/sh", "-c", BOTH, BEAT, ECHO])?;
        let path = bundle.config();
        let text = std::fs::read(&path).map_err(LabError::file("read", &path))?;
        let mut config: Value = serde_json::from_slice(&text).unwrap_or_default();
        config["process"]["terminal"] = true.into();
        let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
        if let Some(mounts) = config["mounts"].as_array_mut() {
            mounts.insert(2, mount("/dev/pts", "devpts", &options));
        }
        let config = serde_json::to_vec_pretty(&config).unwrap_or_default();
        std::fs::write(&path, config).map_err(LabError::file("write", &path))?;
        bundle.console = Some(console.path().to_owned());
        Ok(bundle)
    }

    /// Who takes its terminal, if it has one.
    pub fn console(&self) -> Option<&Path> {
        self.console.as_deref()
    }

    /// A folder with nothing in it.
    pub fn empty(lab: &Lab) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = lab.shared().join(format!("bundle-{number}"));
        std::fs::create_dir(&folder).map_err(LabError::file("make", &folder))?;
        Ok(Self { folder, console: None })
    }

    fn running(lab: &Lab, args: &[&str]) -> Result<Self> {
        let bundle = Self::empty(lab)?;
        let root = bundle.root();
        for name in ["bin", "dev", "proc", "sys", "tmp"] {
            let path = root.join(name);
            std::fs::create_dir_all(&path).map_err(LabError::file("make", &path))?;
        }
        let busybox = which("busybox").unwrap_or_default();
        let copy = root.join("bin/busybox");
        std::fs::copy(&busybox, &copy).map_err(LabError::file("copy", &busybox))?;
        for name in ["awk", "cat", "ip", "nc", "sh", "sleep"] {
            let path = root.join("bin").join(name);
            std::os::unix::fs::symlink("busybox", &path).map_err(LabError::file("link", &path))?;
        }
        let path = bundle.config();
        let config = serde_json::to_vec_pretty(&config(args)).unwrap_or_default();
        std::fs::write(&path, config).map_err(LabError::file("write", &path))?;
        Ok(bundle)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its root file system.
    pub fn root(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.json")
    }
}

/// [`BEAT`] with [`JOURNAL`].
pub(crate) fn with_journal() -> String {
    BEAT.replace("print beat, wrong", &format!("{JOURNAL} print beat, wrong"))
}

fn mount(to: &str, kind: &str, options: &[&str]) -> Value {
    json!({"destination": to, "type": kind, "source": kind, "options": options})
}

/// Namespaces of its own for everything, a tmpfs, no terminal.
fn config(args: &[&str]) -> Value {
    let own = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    let may = ["CAP_NET_ADMIN", "CAP_KILL"];
    let plain = ["nosuid", "noexec", "nodev"];
    json!({
        "ociVersion": "1.0.2",
        "hostname": "boxed",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
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
