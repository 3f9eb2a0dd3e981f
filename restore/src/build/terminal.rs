//! `--shell-job`: the program's terminal is the one qmig was started on.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use image::state::Tty;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::stat::Mode;
use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::{Pid, tcgetpgrp, tcsetpgrp, ttyname};

use crate::error::{During, Error, Result};

/// Control characters of the kernel's `struct termios`; glibc has room for more.
const CONTROLS: usize = 19;

/// qmig's own terminal.
pub(crate) struct Terminal {
    path: PathBuf,
    kept: OwnedFd,
    /// How the first terminal file of the program had it.
    wanted: Option<Tty>,
    before: Option<(Termios, Option<Pid>)>,
}

impl Terminal {
    /// The terminal on qmig's standard input, output or error, if there is one.
    pub(crate) fn of_qmig() -> Option<Self> {
        let path = ttyname(std::io::stdin())
            .or_else(|_| ttyname(std::io::stdout()))
            .or_else(|_| ttyname(std::io::stderr()))
            .ok()?;
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let kept = open(&path, flags, Mode::empty()).ok()?;
        Some(Self { path, kept, wanted: None, before: None })
    }

    /// Opens it once more, as the program had its own.
    pub(crate) fn reopen(&mut self, tty: &Tty, flags: OFlag) -> Result<OwnedFd> {
        self.wanted.get_or_insert_with(|| tty.clone());
        let how = flags | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        open(&self.path, how, Mode::empty()).map_err(|errno| Error::Path {
            act: "open",
            path: self.path.clone(),
            errno,
        })
    }

    /// Sets the modes the program had chosen and its foreground group; the window stays.
    ///
    /// `foreground` tells this host's number of a group of the tree.
    pub(crate) fn take_over(&mut self, foreground: impl Fn(u32) -> Option<Pid>) -> Result<()> {
        let Some(wanted) = self.wanted.clone() else { return Ok(()) };
        let before = tcgetattr(&self.kept).during("read the terminal's modes")?;
        let group_before = tcgetpgrp(&self.kept).ok();
        let mut modes = before.clone();
        self.before = Some((before, group_before));
        modes.input_flags = InputFlags::from_bits_retain(wanted.modes[0]);
        modes.output_flags = OutputFlags::from_bits_retain(wanted.modes[1]);
        modes.control_flags = ControlFlags::from_bits_retain(wanted.modes[2]);
        modes.local_flags = LocalFlags::from_bits_retain(wanted.modes[3]);
        for (slot, byte) in modes.control_chars.iter_mut().zip(&wanted.control).take(CONTROLS) {
            *slot = *byte;
        }
        let group = foreground(wanted.foreground);
        self.set(&modes, group).during("set the terminal's modes")
    }

    /// The tree runs: the terminal stays as it is now.
    pub(crate) fn keep(&mut self) {
        self.before = None;
    }

    /// Sets modes and foreground group although qmig may be in the background (SIGTTOU, setpgid(2)).
    fn set(&self, modes: &Termios, group: Option<Pid>) -> nix::Result<()> {
        let mut quiet = SigSet::empty();
        quiet.add(Signal::SIGTTOU);
        let mut old = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&quiet), Some(&mut old))?;
        let outcome = tcsetattr(&self.kept, SetArg::TCSANOW, modes).and_then(|()| match group {
            // Not qmig's session: the program will not be able to use it as its own either.
            Some(group) => match tcsetpgrp(&self.kept, group) {
                Err(Errno::ENOTTY | Errno::EPERM) => Ok(()),
                other => other,
            },
            None => Ok(()),
        });
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&old), None)?;
        outcome
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some((modes, group)) = self.before.take() {
            let _ = self.set(&modes, group);
        }
    }
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "terminal {} ({})", self.path.display(), self.kept.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use nix::pty::openpty;

    use super::*;

    #[test]
    fn modes_are_taken_over_and_given_back_if_nothing_ran() {
        let pty = openpty(None, None).expect("a terminal");
        let path = ttyname(&pty.slave).expect("a name");
        let tty = Tty {
            path: "/dev/pts/99".into(),
            index: 99,
            rdev: 0,
            session: 1,
            foreground: 1,
            modes: [0, 0, 0o277, 0],
            control: vec![7; 32],
            window: [0; 4],
        };
        let take = |keep: bool| {
            let kept = pty.slave.try_clone().expect("a copy");
            let mut terminal = Terminal { path: path.clone(), kept, wanted: None, before: None };
            let opened = terminal.reopen(&tty, OFlag::O_RDWR).expect("opened");
            assert_eq!(ttyname(&opened), Ok(path.clone()));
            terminal.take_over(|_| None).expect("taken over");
            assert!(tcgetattr(&pty.slave).expect("modes").local_flags.is_empty());
            if keep {
                terminal.keep();
            }
        };
        let before = tcgetattr(&pty.slave).expect("modes");
        take(false);
        let after = tcgetattr(&pty.slave).expect("modes");
        assert_eq!(after.local_flags, before.local_flags);
        assert_eq!(after.control_chars, before.control_chars);
        take(true);
        assert!(tcgetattr(&pty.slave).expect("modes").local_flags.is_empty());
    }
}
