//! Processes that have ended and wait for their parents to ask.

use std::os::fd::AsFd;

use image::state::{Body, Checkpoint};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracee::Regs;

use super::{Tree, kill};
use crate::build::process::{Batch, Process};
use crate::error::{During, Error, Result};

/// How long ending may take, in milliseconds.
const PATIENCE: u16 = 10_000;
/// WCOREFLAG, wait(2).
const CORE: i32 = 0x80;

impl Tree {
    /// Lets every zombie of `from` end the way it ended; their parents find them unreaped.
    pub(super) fn bury_zombies(&mut self, from: &Checkpoint) -> Result<()> {
        for task in &from.tasks {
            let Body::Zombie { comm, status } = &task.body else { continue };
            let Some(mut process) = self.tasks.remove(&task.id.0) else { continue };
            let host = process.host;
            if let Err(error) = die(&mut process, comm, *status) {
                kill::end(&mut process);
                self.zombies.push((task.id, host));
                return Err(error);
            }
            self.zombies.push((task.id, host));
        }
        Ok(())
    }
}

/// Lets `process` end with `status` and waits until it has.
fn die(process: &mut Process, comm: &str, status: i32) -> Result<()> {
    let mut name = [0; 16];
    let len = comm.len().min(15);
    name[..len].copy_from_slice(&comm.as_bytes()[..len]);
    let name = process.put(&name)?;
    let prctl = |option: libc::c_int| u64::from(option.cast_unsigned());
    let mut batch = Batch::default();
    batch.must("set its name", libc::SYS_prctl, &[prctl(libc::PR_SET_NAME), name, 0, 0, 0]);
    // So that a signal that dumps core does not.
    batch.must("keep it from dumping core", libc::SYS_prctl, &[prctl(libc::PR_SET_DUMPABLE), 0]);
    process.run(0, batch)?;
    let signal = status & 0x7f;
    if status & CORE != 0 {
        tracing::warn!(task = process.id.0, "a zombie will not say that it dumped core");
    }
    if signal == libc::SIGKILL {
        kill::end(process);
        return Ok(());
    }
    let exit = Regs {
        rip: process.gate.0,
        rax: libc::SYS_exit_group.cast_unsigned(),
        rdi: u64::from(((status >> 8) & 0xff).cast_unsigned()),
        orig_rax: Regs::NO_CALL,
        ..process.threads[0].regs()?
    };
    process.threads[0].set_regs(&exit)?;
    process.threads[0].set_blocked(0)?;
    let watch = tracee::host::pidfd_open(process.host)?;
    if signal != 0 {
        tracee::host::kill(process.host, signal)?;
    }
    if let Some(thread) = process.threads.pop() {
        thread.detach()?;
    }
    let mut ended = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ended, PollTimeout::from(PATIENCE)).during("wait for a zombie")? {
        0 => Err(Error::NotDead { task: process.id }),
        _ => Ok(()),
    }
}
