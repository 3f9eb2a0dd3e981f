//! Terminals: those whose master is in the tree, and those outside (`--shell-job`).

use std::fs::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use image::state::{FileKind, Tty};
use nix::sys::stat::minor;
use tracee::HostPid;
use tracee::host::{termios, window_size};
use tracee::proc::stat::Stat;

use super::Refusals;
use super::files::Files;
use crate::error::CollectError;
use crate::survey::refusals::Trouble;
use crate::survey::terminal::{End, alone, controlling};

/// Reads the settings of a terminal that `holder` has open.
pub(super) fn read(
    copy: &OwnedFd,
    link: &Path,
    stat: &Metadata,
    holder: HostPid,
    end: End,
) -> Result<Result<Tty, Trouble>, CollectError> {
    let Some(path) = link.to_str() else {
        return Ok(Err(Trouble::new(link.to_string_lossy(), "the path is not UTF-8 text")));
    };
    let failed = CollectError::io("read the terminal", holder);
    let settings = termios(copy.as_fd()).map_err(&failed)?;
    let window = window_size(copy.as_fd()).map_err(&failed)?;
    // TIOCGSID and TIOCGPGRP answer only inside the session; /proc/PID/stat answers everybody.
    let process = Stat::read(holder)?;
    Ok(Ok(Tty {
        path: path.to_owned(),
        index: match end {
            End::Master(index) | End::Slave(index) => index,
            End::Other => u32::try_from(minor(stat.rdev())).unwrap_or(0),
        },
        rdev: u32::try_from(stat.rdev()).unwrap_or(0),
        session: process.session.unsigned_abs(),
        foreground: u32::try_from(process.tty_pgrp).unwrap_or(0),
        modes: settings.modes,
        control: settings.control.to_vec(),
        window,
    }))
}

/// Major number of pseudo-terminals' slaves.
const SLAVES: u32 = 136;

impl Files<'_> {
    /// Tells which terminals stay behind, and gives both ends of the others the session and the
    /// foreground group that `tasks` say they have.
    pub(super) fn settle_terminals<'s>(
        &mut self,
        tasks: impl Iterator<Item = &'s Stat>,
        refusals: &mut Refusals,
    ) {
        if self.terminals.is_empty() {
            return;
        }
        let tasks: Vec<&Stat> = tasks.collect();
        let ends: Vec<End> = self.terminals.iter().map(|(_, end, _)| *end).collect();
        let masters = |index| ends.contains(&End::Master(index));
        for (id, end, object) in &self.terminals {
            let file = self.files.iter_mut().find(|file| file.id == *id);
            let Some(FileKind::Tty(tty)) = file.map(|file| &mut file.kind) else { continue };
            if let Some(trouble) = alone(*end, masters, &tty.path) {
                if !self.shell_job {
                    refusals.add(trouble, object.clone());
                }
                continue;
            }
            let slave = End::Slave(tty.index);
            if *end == slave {
                // Not /dev/tty: that is a name for whoever opens it.
                tty.path = format!("/dev/pts/{}", tty.index);
                tty.rdev = SLAVES << 8 | tty.index & 0xff | (tty.index & !0xff) << 12;
            }
            let user = tasks.iter().find(|stat| controlling(stat) == slave);
            tty.session = user.map_or(0, |stat| stat.session.unsigned_abs());
            tty.foreground = user.map_or(0, |stat| u32::try_from(stat.tty_pgrp).unwrap_or(0));
        }
    }
}
