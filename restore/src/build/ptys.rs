//! Pseudo-terminals whose master is in the tree: made again under their numbers.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

use image::state::{Checkpoint, File, FileId, FileKind, Tty};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::{fstat, minor};
use pages::TaskId;
use tracee::host::{Termios, set_termios, set_window_size};

use super::files::{open_quietly, status_flags};
use super::process::{Batch, Process};
use crate::error::{Error, Result, errno_of};

/// Most terminals that are opened only to get past their numbers.
const MOST_PASSED: usize = 4096;

/// The pairs of a tree, made before its processes: a session's terminal is inherited by birth.
#[derive(Default)]
pub(crate) struct Ptys {
    /// By number: the master; the slave, so that it is open all the time; whose session it is.
    pairs: BTreeMap<u32, (OwnedFd, OwnedFd, TaskId)>,
}

impl Ptys {
    /// Makes every pair whose master is in the tree.
    pub(crate) fn make(from: &Checkpoint) -> Result<Self> {
        let held = from.fd_tables.iter().flat_map(|table| &table.fds).map(|fd| fd.file);
        let held: HashSet<FileId> = held.collect();
        let files = from.files.iter().filter(|file| held.contains(&file.id));
        let mut masters: Vec<&Tty> =
            terminals(files).map(|(_, tty)| tty).filter(|tty| tty.is_master()).collect();
        masters.sort_by_key(|tty| tty.index);
        // Numbers are given out from the lowest that is free: those in between are held meanwhile.
        let (mut pairs, mut passed) = (BTreeMap::new(), Vec::new());
        for tty in masters {
            let failed = |act| move |errno| Error::Terminal { index: tty.index, act, errno };
            let master = loop {
                let (master, index) = any_master().map_err(failed("make"))?;
                match index.cmp(&tty.index) {
                    Ordering::Equal => break master,
                    Ordering::Less if passed.len() < MOST_PASSED => passed.push(master),
                    _ => return Err(failed("make")(Errno::EEXIST)),
                }
            };
            configure(&master, tty).map_err(failed("set the modes of"))?;
            let slave = open_slave(tty.index, OFlag::O_RDWR).map_err(failed("open"))?;
            pairs.insert(tty.index, (master.into(), slave, TaskId(tty.session)));
        }
        Ok(Self { pairs })
    }

    /// Opens every description of their ends among `files`.
    pub(crate) fn open_all(
        &self,
        files: &[&File],
        open: &mut HashMap<FileId, OwnedFd>,
    ) -> Result<()> {
        for (file, tty) in terminals(files.iter().copied()) {
            let Some((master, ..)) = self.pairs.get(&tty.index) else { continue };
            let failed = |errno| Error::Terminal { index: tty.index, act: "open", errno };
            let flags = status_flags(file.flags);
            let opened = if tty.is_master() {
                // There is one description of a master: another open(2) would make another pair.
                let master = master.try_clone().map_err(|error| failed(errno_of(&error)))?;
                fcntl(&master, FcntlArg::F_SETFL(flags)).map_err(failed)?;
                master
            } else {
                open_slave(tty.index, flags).map_err(failed)?
            };
            open.insert(file.id, opened);
        }
        Ok(())
    }

    /// Makes the terminal of the session that `leader` has just begun its own again
    /// (ioctl_tty(2)); who is born of it from here on has it too.
    pub(crate) fn control(&self, leader: &mut Process) -> Result<()> {
        let own = self.pairs.iter().find(|(_, (.., session))| *session == leader.id);
        let Some((index, _)) = own else { return Ok(()) };
        let fd = open_in(leader, *index)?;
        let mut batch = Batch::default();
        batch.must("make its terminal its own", libc::SYS_ioctl, &[fd, libc::TIOCSCTTY, 0]);
        batch.must("close its terminal", libc::SYS_close, &[fd]);
        leader.run(0, batch)?;
        Ok(())
    }
}

/// Says which group of the session that `leader` leads has its terminal.
pub(crate) fn choose_foreground(leader: &mut Process, from: &Checkpoint) -> Result<()> {
    let own = terminals(from.files.iter())
        .map(|(_, tty)| tty)
        .find(|tty| tty.is_master() && TaskId(tty.session) == leader.id && tty.foreground != 0);
    let Some(tty) = own else { return Ok(()) };
    let fd = open_in(leader, tty.index)?;
    let group = leader.put(&tty.foreground.to_le_bytes())?;
    let mut batch = Batch::default();
    batch.may("choose its foreground group", libc::SYS_ioctl, &[fd, libc::TIOCSPGRP, group]);
    batch.must("close its terminal", libc::SYS_close, &[fd]);
    leader.run(0, batch)?;
    Ok(())
}

/// Opens a slave in a process under construction, at a number that is free.
fn open_in(process: &mut Process, index: u32) -> Result<u64> {
    const AT_FDCWD: u64 = (-100_i64).cast_unsigned();
    let path = process.put(format!("/dev/pts/{index}\0").as_bytes())?;
    let flags = (libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK).cast_unsigned();
    process.call("open its terminal", libc::SYS_openat, &[AT_FDCWD, path, flags.into(), 0])
}

fn open_slave(index: u32, flags: OFlag) -> nix::Result<OwnedFd> {
    let opened = open_quietly(format!("/dev/pts/{index}").as_ref(), flags)?;
    match minor(fstat(&opened)?.st_rdev) == u64::from(index) {
        true => Ok(opened),
        false => Err(Errno::ENODEV),
    }
}

fn terminals<'a>(
    files: impl Iterator<Item = &'a File>,
) -> impl Iterator<Item = (&'a File, &'a Tty)> {
    files.filter_map(|file| match &file.kind {
        FileKind::Tty(tty) => Some((file, tty)),
        _ => None,
    })
}

/// A new pair: its master, and the number of its slave.
fn any_master() -> nix::Result<(PtyMaster, u32)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    let name = ptsname_r(&master)?;
    let index = name.strip_prefix("/dev/pts/").and_then(|index| index.parse().ok());
    Ok((master, index.ok_or(Errno::ENODEV)?))
}

fn configure(master: &PtyMaster, tty: &Tty) -> nix::Result<()> {
    grantpt(master)?;
    unlockpt(master)?;
    let mut settings = Termios { modes: tty.modes, ..Termios::default() };
    for (slot, byte) in settings.control.iter_mut().zip(&tty.control) {
        *slot = *byte;
    }
    set_termios(master.as_fd(), &settings).map_err(|error| errno_of(&error))?;
    set_window_size(master.as_fd(), tty.window).map_err(|error| errno_of(&error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use image::state::{Clocks, Fd, FdTable, FdTableId, Owner};
    use tracee::host::{termios, window_size};

    use super::*;

    fn checkpoint(files: Vec<File>, table: FdTable) -> Checkpoint {
        Checkpoint {
            clocks: Clocks { monotonic: Duration::ZERO, boottime: Duration::ZERO },
            tasks: Vec::new(),
            fd_tables: vec![table],
            files,
            pipes: Vec::new(),
            ghosts: Vec::new(),
            shared: Vec::new(),
            semaphores: Vec::new(),
            queues: Vec::new(),
            locks: Vec::new(),
        }
    }

    fn tty(id: u32, index: u32, rdev: u32, path: &str) -> File {
        let tty = Tty {
            path: path.into(),
            index,
            rdev,
            session: 0,
            foreground: 0,
            modes: [0x500, 5, 0xbf, 0x8a3b],
            control: (1..=19).collect(),
            window: [33, 44, 5, 6],
        };
        let flags = (libc::O_RDWR | libc::O_NONBLOCK).cast_unsigned();
        File { id: FileId(id), flags, owner: Owner::default(), kind: FileKind::Tty(tty) }
    }

    #[test]
    fn a_pair_has_its_number_its_modes_and_its_window() {
        // A number that is free now; others may take it before us, then another one will do.
        for _ in 0..50 {
            let (probe, index) = any_master().expect("a terminal");
            drop(probe);
            let files = [
                tty(1, index, 5 << 8 | 2, "/dev/ptmx"),
                tty(2, index, 136 << 8 | index, &format!("/dev/pts/{index}")),
                tty(3, index + 1, 136 << 8 | index, "/dev/pts/outside"),
            ];
            let mut open = HashMap::new();
            let fd = |id| Fd { number: id, file: FileId(id), close_on_exec: false };
            let table = FdTable { id: FdTableId(1), fds: vec![fd(1), fd(2), fd(3)] };
            let ptys = match Ptys::make(&checkpoint(files.to_vec(), table)) {
                Err(Error::Terminal { errno: Errno::EEXIST, .. }) => continue,
                other => other.expect("made"),
            };
            ptys.open_all(&files.iter().collect::<Vec<_>>(), &mut open).expect("opened");
            assert_eq!(open.len(), 2, "the third is not ours");
            let slave = open[&FileId(2)].as_fd();
            assert_eq!(termios(slave).expect("modes").modes, [0x500, 5, 0xbf, 0x8a3b]);
            assert_eq!(window_size(slave).expect("a window"), [33, 44, 5, 6]);
            nix::unistd::write(&open[&FileId(1)], b"word\n").expect("typed");
            return;
        }
        panic!("somebody takes every terminal");
    }
}
