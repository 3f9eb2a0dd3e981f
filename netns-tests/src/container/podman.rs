//! What Podman can besides.

use std::process::Command;

use super::{Runtime, SOON};
use crate::bundle::{BEAT, BOTH, Bundle, ECHO, with_journal};
use crate::host::Host;
use crate::{LabError, Result};

/// No network of Podman's.
pub(super) const NONE: &str = "none";
/// Its configuration.
pub(super) const STORAGE: &str = "storage.conf";
pub(super) const ENGINE: &str = "containers.conf";

impl<'lab> Runtime<'lab> {
    /// Its Podman, which keeps everything in the host's own directory.
    pub fn podman(host: &'lab Host) -> Result<Self> {
        let folder = host.scratch();
        let shown = folder.display();
        for (name, text) in [
            (
                STORAGE,
                format!(
                    "[storage]\ndriver = \"vfs\"\ngraphroot = \"{shown}/store\"\nrunroot = \"{shown}/run\"\n"
                ),
            ),
            (
                ENGINE,
                format!(
                    "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nruntime = \"runc\"\n[network]\nnetwork_config_dir = \"{shown}/net\"\n"
                ),
            ),
        ] {
            let path = host.path(folder.join(name));
            std::fs::write(&path, text).map_err(LabError::file("write", &path))?;
        }
        Ok(Self { host, program: "podman".into(), ids: Vec::new(), network: NONE })
    }

    /// Its containers are in Podman's own network from now on, where each gets an address.
    pub fn networked(&mut self) -> Result<()> {
        // The addresses given out are the machine's otherwise.
        let mut own = Command::new("sh");
        own.args(["-c", "mkdir -p /var/lib/cni && mount -t tmpfs own /var/lib/cni"]);
        self.host.run(own)?;
        self.network = "podman";
        Ok(())
    }

    /// In another one too, with addresses of both kinds.
    pub fn networked_twice(&mut self) -> Result<()> {
        self.networked()?;
        let subnets = ["--subnet", "10.97.0.0/24", "--ipv6", "--subnet", "fd97::/64"];
        let words = [&["network", "create"], &subnets[..], &["back"]].concat();
        self.host.run(self.command(&words))?;
        self.network = "back,podman";
        Ok(())
    }

    /// Stops a container, which stays.
    pub fn stop(&self, id: &str) -> Result<()> {
        self.host.run(self.command(&["stop", "--time", "0", id])).map(drop)
    }

    /// Starts a container with these options too.
    pub fn run_with(&mut self, bundle: &Bundle, options: &[&str]) -> Result<String> {
        let id = self.name();
        let mut shell = self.podman_run(&id, options);
        shell.arg("--rootfs").arg(bundle.root()).args(["/bin/awk", BEAT]);
        self.host.run(shell)?;
        self.wait_beats(&id, 2)?;
        Ok(id)
    }

    /// Starts a container of an image that Podman has, which keeps a journal.
    pub fn run_image(&mut self, image: &str) -> Result<String> {
        let id = self.name();
        let mut shell = self.podman_run(&id, &[]);
        shell.args([image, "/bin/awk", &with_journal()]);
        self.host.run(shell)?;
        self.wait_beats(&id, 2)?;
        Ok(id)
    }

    /// Makes an image of a bundle's files, and gives it to other Podmans too.
    pub fn image_for(&self, others: &[&Self], bundle: &Bundle) -> Result<String> {
        let name = "qmig-box:latest";
        let (plain, image) = (bundle.folder().join("plain.tar"), bundle.folder().join("image.tar"));
        let mut tar = Command::new("tar");
        tar.arg("--directory")
            .arg(bundle.root())
            .arg("--create")
            .arg("--file")
            .arg(&plain)
            .arg(".");
        self.host.run(tar)?;
        let [plain, image] = [plain, image].map(|path| path.display().to_string());
        self.host.run(self.command(&["import", &plain, name]))?;
        self.host.run(self.command(&["save", "--output", &image, name]))?;
        for other in others {
            other.host.run(other.command(&["load", "--input", &image]))?;
        }
        Ok(format!("localhost/{name}"))
    }

    /// Limits that qmig's machines can set, and no network, which is another program's.
    fn podman_run(&self, id: &str, options: &[&str]) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" </dev/null >/dev/null 2>/dev/null", "sh"]);
        shell.arg(&self.program).envs(self.environment());
        shell.args(["run", "--detach", "--tmpfs", "/tmp", "--name", id]).args(options);
        if !options.contains(&"--network") {
            shell.args(["--network", self.network]);
        }
        shell.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        shell
    }

    /// Starts a container that numbers the lines of its terminal, and shows them.
    pub fn run_with_terminal(&mut self, bundle: &Bundle) -> Result<String> {
        let id = self.name();
        let mut shell = self.podman_run(&id, &["--tty"]);
        shell.arg("--rootfs").arg(bundle.root());
        shell.args(["/bin/sh", "-c", BOTH, BEAT, ECHO]);
        self.host.run(shell)?;
        self.wait_beats(&id, 2)?;
        Ok(id)
    }

    /// Types a line at the terminal of a container, and waits until it shows this.
    pub fn type_line(&self, id: &str, line: &str, shows: &str) -> Result<()> {
        let keys = self.host.scratch().join("keys");
        let mut pipe = Command::new("sh");
        pipe.args(["-c", "rm -f \"$0\"; mkfifo \"$0\""]).arg(&keys);
        self.host.run(pipe)?;
        // Of one that is open for writing too nobody reads the end.
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" <>\"$0\""]).arg(&keys);
        shell.arg(&self.program).args(["attach", id]).envs(self.environment());
        let attached = self.host.spawn(shell)?;
        let mut typed = Command::new("sh");
        typed.args(["-c", "echo \"$1\" >\"$0\""]).arg(&keys).arg(line);
        self.host.run(typed)?;
        let shown = |told: &str| told.trim_end().ends_with(shows).then_some(());
        attached.wait_line(shows, SOON, shown)?;
        attached.kill().map(drop)
    }

    /// What a container has written, or its terminal has shown, as Podman kept it.
    pub fn logs(&self, id: &str) -> Result<String> {
        let output = self.host.run(self.command(&["logs", id]))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
