//! A shell pipeline on a terminal: it counts, and not a number may be lost, doubled or swapped.

use std::path::PathBuf;
use std::process::Command;

use super::{SOON, folder, until, write};
use crate::host::Host;
use crate::running::Running;
use crate::terminal::on_terminal;
use crate::workshop::source;
use crate::{Lab, Result};

/// `(count) | cat | sed`, writing to its terminal.
#[derive(Debug)]
pub struct Pipeline {
    /// The terminal and what is around the pipeline.
    terminal: Running,
    pid: i32,
    folder: PathBuf,
}

impl Pipeline {
    /// Start it on a terminal on `host` and wait until it counts. As `leader` the pipeline's shell
    /// leads the session of the terminal; otherwise another shell outside of its tree does, as when
    /// a job is started from an interactive one.
    pub fn start(lab: &Lab, host: &Host, pid: i32, leader: bool) -> Result<Self> {
        let folder = folder(lab, "pipeline")?;
        let script = source("pipeline", "sh");
        let mut command = Command::new("sh");
        if leader {
            command.arg(&script);
        } else {
            // The `true` keeps the outer shell from becoming the inner one.
            command.arg("-c").arg(format!("sh {}; true", script.display()));
        }
        let mut command = on_terminal(&command);
        command.current_dir(&folder);
        host.next_pid(pid)?;
        let terminal = host.spawn(command)?;
        let pid = until("the shell say its pid", &terminal, || {
            std::fs::read_to_string(folder.join("pid")).ok()?.trim().parse().ok()
        })?;
        terminal.wait_line("it count", SOON, |line| line.contains("[number 20]").then_some(()))?;
        Ok(Self { terminal, pid, folder })
    }

    /// The pipeline's shell: the root of the tree.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The terminal it was started on: its standard output is what was written to it.
    pub fn terminal(&self) -> &Running {
        &self.terminal
    }

    /// Let it come to its end.
    pub fn end(&self) -> Result<()> {
        write(&self.folder.join("go"), "")
    }
}

/// What a pipeline wrote to two terminals, one after the other: the last number if all numbers from
/// 1 to it are there once and in order, else what is wrong.
pub fn counted(terminals: [&Running; 2]) -> std::result::Result<u64, String> {
    let mut last = 0;
    let lines = terminals.iter().flat_map(|terminal| terminal.stdout().lines());
    for line in lines {
        let line = line.trim_end_matches('\r');
        if let Some(text) = line.strip_prefix("[end ") {
            let end = text.trim_end_matches(']');
            return if end == last.to_string() {
                Ok(last)
            } else {
                Err(format!("{end} ends, after {last}"))
            };
        }
        if let Some(text) = line.strip_prefix("[number ") {
            let number: u64 = text.trim_end_matches(']').parse().map_err(|_| line.to_owned())?;
            if number != last + 1 {
                return Err(format!("{number} follows {last}"));
            }
            last = number;
        }
    }
    Err(format!("it has no end; the last number is {last}"))
}
