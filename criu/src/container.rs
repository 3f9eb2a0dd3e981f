//! Containers, and the runtimes that own them.
//!
//! A container is dumped and restored through its own runtime, which knows its mounts, its cgroups and
//! its namespaces, and afterwards owns the restored one. The runtime starts a CRIU, and it is that
//! conversation which qmig joins ([`crate::shim`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Deserialize;

use crate::binary::Criu;
use crate::bundle::{has_terminal, shared_namespaces};
use crate::error::{Error, Result};
use crate::network::{self, Connected, NETWORK_STATUS};
use crate::scratch::Scratch;
use crate::shim::Door;

/// The file beside the images in which a runtime keeps what was on standard input, output and error.
pub const DESCRIPTORS: &str = "descriptors.json";
/// What a container is, in its bundle.
pub const CONFIG: &str = "config.json";
/// Where in a bundle podman keeps what its runtime writes beside images.
pub const CHECKPOINT: &str = "checkpoint";
const PODMAN: &str = "podman";
/// What podman is to tell of a container.
const INSPECT: &str = r#"{"pid": {{.State.Pid}}, "status": {{json .State.Status}}, "bundle": {{json .OCIConfigPath}}, "image": {{json .Image}}, "network": {{json .HostConfig.NetworkMode}}, "networks": {{json .NetworkSettings.Networks}}, "mounts": {{json .Mounts}}, "hears": {{json .Config.OpenStdin}}}"#;
/// Bytes of a runtime's answer that are read.
const MOST: usize = 64 << 10;

/// A container as its runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The runtime's program: `runc`, `crun`; or `podman`, which has one of its own.
    pub runtime: PathBuf,
    /// Where the runtime keeps its state, if not in its usual place.
    pub state: Option<PathBuf>,
    /// Its name.
    pub id: String,
    /// The socket at which somebody takes the terminal of a restored one.
    pub console: Option<PathBuf>,
}

/// What a runtime says of a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ContainerState {
    /// Its root process, as this host knows it; 0 if there is none.
    #[serde(default)]
    pub pid: i32,
    /// `running`, `stopped`…
    pub status: String,
    /// The directory with its `config.json`.
    pub bundle: PathBuf,
    /// The image that its files come from, if it is known to have one.
    #[serde(default)]
    pub image: String,
    /// How its runtime connects it, if that is its runtime's affair.
    #[serde(default)]
    pub network: String,
    /// What those networks have given to it.
    #[serde(default)]
    pub networks: Option<BTreeMap<String, Connected>>,
    /// What of elsewhere is mounted in it, if that is its runtime's affair.
    #[serde(default)]
    pub mounts: Option<Vec<Mount>>,
    /// Its runtime keeps its standard input open, for somebody who attaches.
    #[serde(default)]
    pub hears: bool,
}

/// A folder or file of elsewhere that is mounted in a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Mount {
    /// Where in the container.
    #[serde(rename = "Destination")]
    pub place: String,
}

/// Files that are not as in their image, by their paths in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ChangedFiles {
    /// Those that have changed; of folders, that something in them has.
    pub changed: Vec<PathBuf>,
    /// New ones.
    pub added: Vec<PathBuf>,
    /// Those that are gone.
    pub deleted: Vec<PathBuf>,
}

/// The files of a container, in reach of this host. Dropped, they are let go.
#[derive(Debug)]
pub struct Mounted {
    container: Container,
    folder: PathBuf,
}

impl Mounted {
    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut command = self.container.command();
        command.args(["container", "unmount"]).arg(&self.container.id);
        if let Err(error) = self.container.said(command, "let go of its files") {
            tracing::debug!(%error, "Podman unmounts it when it ends");
        }
    }
}

/// What a runtime is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task<'a> {
    /// `checkpoint`: the container ends.
    Checkpoint,
    /// `restore` from this bundle, detached.
    Restore(&'a Path),
}

/// A runtime at work.
#[derive(Debug)]
pub(crate) struct AtWork {
    pub(crate) child: Child,
    pub(crate) door: Door,
    name: String,
    said: File,
}

/// Ways of being connected that need nothing of the runtime over there.
const PLAIN_NETWORKS: [&str; 3] = ["", "none", "host"];
/// The one in which Podman puts it into networks of its own.
const BRIDGE: &str = "bridge";

impl ContainerState {
    /// True if its runtime has put it into a network, with an address that it chose.
    pub fn is_networked(&self) -> bool {
        !PLAIN_NETWORKS.contains(&self.network.as_str())
    }

    /// The networks that its runtime has put it into, not another container whose network it shares; and
    /// what it has there.
    pub fn own_networks(&self) -> impl Iterator<Item = (&str, &Connected)> {
        let own = self.networks.iter().filter(|_| self.network == BRIDGE);
        own.flatten().map(|(name, has)| (name.as_str(), has))
    }

    /// Where in it something of elsewhere is mounted: volumes, folders of the host.
    pub fn mounted(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().flatten().map(|mount| mount.place.as_str())
    }

    /// The kinds of namespaces that it has in common with somebody else, beside its network.
    pub fn shared_namespaces(&self) -> Vec<String> {
        shared_namespaces(&self.bundle)
    }

    /// Its configuration gives it a terminal.
    pub fn has_terminal(&self) -> bool {
        has_terminal(&self.bundle)
    }
}

impl Container {
    /// Whether its runtime keeps its bundle too, so that it must be there before it is restored.
    pub fn is_kept(&self) -> bool {
        self.name() == PODMAN
    }

    /// Asks the runtime about it.
    pub fn ask(&self) -> Result<ContainerState> {
        let mut command = self.command();
        match self.is_kept() {
            true => command.args(["container", "inspect", "--format", INSPECT]),
            false => command.arg("state"),
        };
        command.arg(&self.id);
        let said = self.said(command, "tell its state")?;
        let state: ContainerState = serde_json::from_slice(&said)
            .map_err(|error| self.failed("tell its state", &error.to_string()))?;
        // Podman tells of the configuration in it.
        let is_config = state.bundle.file_name().is_some_and(|name| name == CONFIG);
        let folder = state.bundle.parent().filter(|_| is_config).map(Path::to_owned);
        Ok(ContainerState { bundle: folder.unwrap_or(state.bundle), ..state })
    }

    /// Files of a container that is kept which are not as in its image.
    pub fn changed_files(&self) -> Result<ChangedFiles> {
        let mut command = self.command();
        command.args(["diff", "--format", "json"]).arg(&self.id);
        let what = "tell its changed files";
        let said = self.said(command, what)?;
        serde_json::from_slice(&said).map_err(|error| self.failed(what, &error.to_string()))
    }

    /// Brings the files of a container that is kept into reach.
    pub fn mount(&self) -> Result<Mounted> {
        let mut command = self.command();
        command.args(["container", "mount"]).arg(&self.id);
        let said = self.said(command, "show its files")?;
        let folder = String::from_utf8_lossy(&said).trim_end().into();
        Ok(Mounted { container: self.clone(), folder })
    }

    /// What it says on its standard output.
    fn said(&self, mut command: Command, what: &'static str) -> Result<Vec<u8>> {
        let answer = command.stdin(Stdio::null()).output();
        let answer = answer.map_err(|source| self.unstarted(source))?;
        match answer.status.success() {
            true => Ok(answer.stdout),
            false => Err(self.failed(what, &String::from_utf8_lossy(&answer.stderr))),
        }
    }

    pub(crate) fn start(&self, task: Task<'_>, criu: &Criu, images: &Scratch) -> Result<AtWork> {
        let act = "start a container runtime";
        let door = Door::open(&criu.path)?;
        let mut command = self.command();
        let place = images.path_for_others();
        match (task, self.is_kept()) {
            (Task::Checkpoint, false) => command.arg("checkpoint"),
            (Task::Restore(bundle), false) => {
                if let Some(console) = self.console.as_ref().filter(|_| has_terminal(bundle)) {
                    command.args(["restore", "--console-socket"]).arg(console);
                } else {
                    command.arg("restore");
                }
                command.args(["--detach", "--bundle"]).arg(bundle)
            }
            (Task::Checkpoint, true) => command.args(["container", "checkpoint"]),
            (Task::Restore(bundle), true) => {
                pretend(bundle, images).map_err(Error::os(act))?;
                command.args(["container", "restore"])
            }
        };
        if !self.is_kept() {
            command.arg("--image-path").arg(&place).arg("--work-path").arg(&place);
        }
        command.arg(&self.id);
        door.lead(&mut command);
        let said = memfd_create("runtime", MFdFlags::MFD_CLOEXEC).map_err(Error::errno(act))?;
        let said = File::from(said);
        let ours = said.try_clone().map_err(Error::os(act))?;
        // What the container had on its standard descriptors was, or becomes, nothing.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        command.process_group(0); // Ctrl-C is for us, who will tell CRIU what to do
        let child = command.spawn().map_err(|source| self.unstarted(source))?;
        Ok(AtWork { child, door, name: self.name(), said: ours })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.runtime);
        if let Some(state) = &self.state {
            command.arg("--root").arg(state);
        }
        command
    }

    fn name(&self) -> String {
        let name = self.runtime.file_name().unwrap_or(self.runtime.as_os_str());
        name.to_string_lossy().into_owned()
    }

    fn unstarted(&self, source: std::io::Error) -> Error {
        Error::Start { program: self.runtime.clone(), source }
    }

    fn failed(&self, what: &'static str, said: &str) -> Error {
        Error::Runtime { runtime: self.name(), what, said: told(said) }
    }
}

impl AtWork {
    /// Waits for its end. An error if it says that it failed.
    pub(crate) fn end(&mut self) -> Result<()> {
        let status = self.child.wait().map_err(Error::os("wait for a container runtime"))?;
        if status.success() { Ok(()) } else { Err(self.failed()) }
    }

    /// It has ended, or will, without having done its part.
    pub(crate) fn failed(&self) -> Error {
        let mut bytes = vec![0; MOST];
        let length = self.said.read_at(&mut bytes, 0).unwrap_or(0);
        let said = told(&String::from_utf8_lossy(&bytes[..length]));
        Error::Runtime { runtime: self.name.clone(), what: "do its part", said }
    }
}

/// Podman restores only what it has checkpointed, by these two files, with what its network had given to
/// it; no image comes there.
fn pretend(bundle: &Path, images: &Scratch) -> io::Result<()> {
    let folder = bundle.join(CHECKPOINT);
    std::fs::create_dir_all(&folder)?;
    for name in [DESCRIPTORS, "inventory.img"] {
        std::fs::copy(images.path().join(name), folder.join(name))?;
    }
    if let Ok(came) = std::fs::read(images.path().join(NETWORK_STATUS)) {
        let status = network::checked(&came).ok_or(io::ErrorKind::InvalidData)?;
        std::fs::write(bundle.join(NETWORK_STATUS), status)?;
    }
    Ok(())
}

/// The lines of a runtime that tell something, on one; its log format is taken off.
fn told(said: &str) -> String {
    let message = |line: &str| {
        let message = line.split_once("msg=\"").map_or(line, |(_, message)| message);
        message.trim_end_matches('"').escape_debug().to_string()
    };
    let lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).map(message).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::{ContainerState, told};

    #[test]
    fn a_network_of_the_runtimes_is_told_from_none() {
        let state = |network: &str| {
            let text = format!(r#"{{"status": "running", "bundle": "/b"{network}}}"#);
            let state: ContainerState = serde_json::from_str(&text).expect("a state");
            (state.is_networked(), state.own_networks().count())
        };
        for (network, is_networked, own) in [
            ("", false, 0),
            (r#", "network": "none", "networks": null"#, false, 0),
            (r#", "network": "host", "networks": {}"#, false, 0),
            (r#", "network": "bridge", "networks": {"a": {}, "b": {}}"#, true, 2),
            (r#", "network": "container:c0ffee", "networks": {"a": {}}"#, true, 0),
        ] {
            assert_eq!(state(network), (is_networked, own), "{network}");
        }
    }

    #[test]
    fn a_runtimes_log_is_told_without_its_form() {
        let said =
            "time=\"2026-11-25T16:33:58Z\" level=error msg=\"container still running\"\n\nplain\n";
        assert_eq!(told(said), "container still running; plain");
    }
}
