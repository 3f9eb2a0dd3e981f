//! A real host, reached by the user's own `ssh`.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::running::Running;
use crate::{LabError, Result};

/// A host somewhere else, and a folder on it that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Remote {
    /// The program and its options.
    ssh: Vec<String>,
    /// `user@host`, as that program understands it.
    target: String,
    /// The folder; there are no characters in it that a shell would look at twice.
    folder: String,
    /// What makes a root of the user: nothing, or `sudo -n`.
    sudo: &'static str,
}

impl Remote {
    /// Log in to `target` (`ssh:user@host` or without the `ssh:`), and make `folder` there.
    pub(super) fn log_in(ssh: &str, target: &str, folder: &str) -> Result<Self> {
        let ssh = ssh.split_whitespace().map(str::to_owned).collect();
        let target = target.strip_prefix("ssh:").unwrap_or(target).to_owned();
        let mut remote = Self { ssh, target, folder: folder.to_owned(), sudo: "" };
        let is_root = remote.run("id -u")? == "0";
        remote.sudo = if is_root { "" } else { "sudo -n " };
        remote.run(&format!("umask 077 && mkdir {folder}"))?;
        Ok(remote)
    }

    /// Run `script` to its end; what it said.
    pub(super) fn run(&self, script: &str) -> Result<String> {
        self.give(script, &[])
    }

    /// The same, with these bytes as its input.
    pub(super) fn give(&self, script: &str, input: &[u8]) -> Result<String> {
        let mut child = self.spawn(script)?;
        feed(&mut child, input);
        let output = child
            .wait_with_output()
            .map_err(|source| LabError::Spawn { program: self.ssh.join(" "), source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(LabError::Command {
            line: format!("{} {} {script}", self.ssh.join(" "), self.target),
            status: output.status,
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Put a program into the folder, for its owner alone.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = format!("{}/{name}", self.folder);
        self.give(&format!("umask 077 && cat > {file} && chmod 700 {file}"), bytes).map(drop)
    }

    /// Start `script` in the folder, with these bytes as its input.
    pub(super) fn start(&self, name: &str, script: &str, input: &[u8]) -> Result<Running> {
        let mut child = self.spawn(&format!("cd {} && {script}", self.folder))?;
        feed(&mut child, input);
        let pid = i32::try_from(child.id()).unwrap_or(-1);
        Ok(Running::new(format!("{name} on {}", host_of(&self.target)), pid, child))
    }

    fn spawn(&self, script: &str) -> Result<Child> {
        let mut command = Command::new(self.ssh.first().map_or("ssh", String::as_str));
        command.args(self.ssh.iter().skip(1)).arg(&self.target);
        command.arg(format!("{}sh -c {}", self.sudo, quoted(script)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(|source| LabError::Spawn { program: self.ssh.join(" "), source })
    }

    /// The line of `file` in the folder that begins with one of `words` (with `|` between them), once
    /// it is there.
    pub(super) fn await_line(&self, file: &str, words: &str, within: Duration) -> Result<String> {
        let (folder, glances) = (&self.folder, within.as_secs() * 20);
        self.run(&format!(
            "n=0; until grep -E '^({words})' {folder}/{file} 2>/dev/null; do \
             n=$((n+1)); [ $n -lt {glances} ] || exit 1; sleep 0.05; done"
        ))
    }

    /// What is in a file of the folder; nothing if it is not there.
    pub(super) fn read(&self, file: &str) -> Result<String> {
        self.run(&format!("cat {}/{file} 2>/dev/null || true", self.folder))
    }

    /// End whatever of ours still runs there: all of it has the folder as its directory.
    pub(super) fn tidy(&self) {
        let folder = &self.folder;
        let _ = self.run(&format!(
            "for p in /proc/[0-9]*; do [ \"$(readlink $p/cwd)\" = {folder} ] && kill -9 ${{p#/proc/}}; done; \
             rm -f {folder}/result*"
        ));
    }
}

/// What does not want its input says so by its status.
fn feed(child: &mut Child, input: &[u8]) {
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input);
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.tidy();
        let _ = self.run(&format!("rm -rf {}", self.folder));
    }
}

/// The host of `ssh:user@host`.
pub(super) fn host_of(target: &str) -> &str {
    let target = target.strip_prefix("ssh:").unwrap_or(target);
    target.rsplit_once('@').map_or(target, |(_, host)| host)
}

/// As one word of a shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_a_host() {
        for target in ["ssh:root@h.example", "root@h.example", "ssh:h.example", "h.example"] {
            assert_eq!(host_of(target), "h.example", "{target}");
        }
    }

    #[test]
    fn a_script_is_one_word() {
        let output = Command::new("sh")
            .args(["-c", &format!("printf %s {}", quoted("it's \"$HOME\""))])
            .output()
            .expect("a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "it's \"$HOME\"");
    }
}
