//! Entering namespaces, only ever on a thread that ends right after.
//!
//! `unshare` and `setns` change the calling thread, and a thread that has entered a host can never
//! come back. So each entry gets a thread of its own: it enters, starts one program, and ends.
//! Nothing else of this process notices.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};

use nix::sched::{CloneFlags, setns, unshare};

use crate::{LabError, Result};

/// The five namespaces that make a host. Holding them keeps them alive.
#[derive(Debug)]
pub(crate) struct Namespaces {
    net: File,
    mnt: File,
    uts: File,
    ipc: File,
    pid: File,
}

/// Start `command` as process 1 of new network, mount, host-name, IPC and pid namespaces.
pub(crate) fn spawn_in_new(command: &mut Command) -> Result<Child> {
    let new = CloneFlags::CLONE_FS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID;
    on_own_thread(command, || {
        unshare(new).map_err(LabError::namespace("make namespaces (root is needed)"))
    })
}

impl Namespaces {
    /// Those of the process `/proc/PID`, given as that folder.
    pub(crate) fn of(process: &Path) -> Result<Self> {
        let open = |name: &str| {
            let path = process.join("ns").join(name);
            File::open(&path).map_err(LabError::file("open", path))
        };
        // Process 1 of a pid namespace is in the namespace it was born into.
        Ok(Self {
            net: open("net")?,
            mnt: open("mnt")?,
            uts: open("uts")?,
            ipc: open("ipc")?,
            pid: open("pid")?,
        })
    }

    /// Start `command` inside all five.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Child> {
        on_own_thread(command, || {
            // A thread that shares its root and working directory may not change mounts.
            unshare(CloneFlags::CLONE_FS).map_err(LabError::namespace("leave the shared root"))?;
            let enter =
                |file: &File, kind, act| setns(file, kind).map_err(LabError::namespace(act));
            enter(&self.net, CloneFlags::CLONE_NEWNET, "enter the host's network")?;
            enter(&self.uts, CloneFlags::CLONE_NEWUTS, "enter the host's name")?;
            enter(&self.ipc, CloneFlags::CLONE_NEWIPC, "enter the host's IPC")?;
            enter(&self.pid, CloneFlags::CLONE_NEWPID, "enter the host's pids")?;
            enter(&self.mnt, CloneFlags::CLONE_NEWNS, "enter the host's mounts")
        })
    }

    /// Start `command` with the host's network only, so that it still sees every pid.
    pub(crate) fn spawn_on_network(&self, command: &mut Command) -> Result<Child> {
        on_own_thread(command, || {
            setns(&self.net, CloneFlags::CLONE_NEWNET)
                .map_err(LabError::namespace("enter the host's network"))
        })
    }
}

fn on_own_thread(
    command: &mut Command,
    enter: impl FnOnce() -> Result<()> + Send,
) -> Result<Child> {
    let program = command.get_program().display().to_string();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("enter-host".to_owned());
        let started = thread.spawn_scoped(scope, || {
            enter()?;
            command.spawn().map_err(|source| LabError::Spawn { program: program.clone(), source })
        });
        match started {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(source) => Err(LabError::Spawn { program: "a thread".to_owned(), source }),
        }
    })
}
