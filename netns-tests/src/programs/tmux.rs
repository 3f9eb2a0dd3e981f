//! tmux: a server with a shell on a terminal of its own.

use std::path::PathBuf;
use std::process::Command;

use super::until;
use crate::host::{Host, in_session};
use crate::running::Running;
use crate::{Lab, Result};

/// A tmux server in the foreground, and its one session.
#[derive(Debug)]
pub struct Tmux {
    running: Running,
    socket: PathBuf,
}

impl Tmux {
    /// Start it on `host`, with terminals of the host's own, and wait for the prompt of its shell.
    pub fn start(lab: &Lab, host: &Host, pid: i32) -> Result<Self> {
        lab.part_terminals()?;
        let socket = host.scratch().join("tmux");
        let mut command = in_session("tmux");
        command.args(["-D", "-f", "/dev/null", "-S"]).arg(&socket).current_dir("/");
        command.env("LC_ALL", "C.UTF-8").env("PS1", "ready> ").env("SHELL", "/bin/sh");
        host.next_pid(pid)?;
        let this = Self { running: host.spawn_quiet(command)?, socket };
        until("tmux make a session", &this.running, || {
            this.tell(host, &["new-session", "-d", "-x", "80", "-y", "24", "/bin/sh"]).ok()
        })?;
        this.see(host, &this.running, "ready>")?;
        Ok(this)
    }

    /// The server's pid.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// The process that was started.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Give the server on `host` a command; its answer.
    pub fn tell(&self, host: &Host, words: &[&str]) -> Result<String> {
        let mut command = Command::new("tmux");
        // -N: a client that is early must not start a server of its own.
        command.env("LC_ALL", "C.UTF-8").args(["-N", "-S"]).arg(&self.socket).args(words);
        Ok(String::from_utf8_lossy(&host.run(command)?.stdout).trim().to_owned())
    }

    /// Wait until the screen shows `text`. `parent` ends when the server does.
    pub fn see(&self, host: &Host, parent: &Running, text: &str) -> Result<()> {
        let mut screen = String::new();
        until(&format!("the screen show {text:?}"), parent, || {
            screen = self.tell(host, &["capture-pane", "-p"]).ok()?;
            screen.contains(text).then_some(())
        })
        .inspect_err(|_| eprintln!("the screen shows:\n{screen}"))
    }
}
