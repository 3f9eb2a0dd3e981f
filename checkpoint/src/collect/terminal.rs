//! A terminal outside the tree (`--shell-job`).

use std::fs::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use image::state::Tty;
use nix::sys::stat::{major, minor};
use tracee::HostPid;
use tracee::host::{termios, window_size};
use tracee::proc::stat::Stat;

use crate::error::CollectError;
use crate::survey::refusals::Trouble;

/// Reads the settings of a terminal that `holder` has open.
pub(super) fn read(
    copy: &OwnedFd,
    link: &Path,
    stat: &Metadata,
    holder: HostPid,
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
        index: index(stat.rdev(), u64::from(process.tty.cast_unsigned())),
        rdev: u32::try_from(stat.rdev()).unwrap_or(0),
        session: process.session.unsigned_abs(),
        foreground: u32::try_from(process.tty_pgrp).unwrap_or(0),
        modes: settings.modes,
        control: settings.control.to_vec(),
        window,
    }))
}

/// The number N of /dev/pts/N; /dev/tty is the controlling terminal, whatever that is.
fn index(rdev: u64, controlling: u64) -> u32 {
    let device = if (major(rdev), minor(rdev)) == (5, 0) { controlling } else { rdev };
    u32::try_from(minor(device)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use nix::libc::makedev;

    use super::*;

    #[test]
    fn the_controlling_terminal_stands_for_dev_tty() {
        assert_eq!(index(makedev(136, 4), 0), 4);
        assert_eq!(index(makedev(5, 0), makedev(136, 9)), 9);
    }
}
