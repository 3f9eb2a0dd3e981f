//! Descriptor tables: every description at its number.

use std::os::fd::BorrowedFd;

use image::state::{Fd, FdTable, File, Owner};
use nix::fcntl::OFlag;
use nix::libc;

use super::channel::{Channel, words};
use super::files::{Files, status_flags};
use super::process::{Batch, Process};
use crate::error::{BadCheckpoint, Result};

/// F_SETOWN_EX, linux/fcntl.h.
const F_SETOWN_EX: u64 = 15;
/// F_SETSIG.
const F_SETSIG: u64 = 10;

/// Fills the table of `process`, in which only the channel is open, and closes the channel.
///
/// The descriptions arrive at 0, 1, 2, … in the order of their final numbers. The i-th smallest of
/// distinct numbers is never below i, so moving them from the last to the first never overwrites
/// one that has not moved yet.
pub(crate) fn place(
    process: &mut Process,
    table: &FdTable,
    files: &Files<'_>,
    channel: &Channel,
) -> Result<()> {
    check_order(table, channel.number())?;
    let fds: Vec<BorrowedFd<'_>> =
        table.fds.iter().map(|fd| files.get(fd.file)).collect::<Result<_>>()?;
    channel.give(process, &fds, 0)?;
    let mut batch = Batch::default();
    for (from, fd) in moves(&table.fds) {
        let (flag, dup_flag) = match fd.close_on_exec {
            true => (libc::FD_CLOEXEC, libc::O_CLOEXEC),
            false => (0, 0),
        };
        let to = u64::from(fd.number);
        if from == to {
            let args = [to, libc::F_SETFD.cast_unsigned().into(), flag.cast_unsigned().into()];
            batch.must("mark a descriptor", libc::SYS_fcntl, &args);
        } else {
            let args = [from, to, dup_flag.cast_unsigned().into()];
            batch.must("move a descriptor to its number", libc::SYS_dup3, &args);
        }
    }
    for spare in spares(&table.fds) {
        batch.must("close a spare descriptor", libc::SYS_close, &[spare]);
    }
    batch.must("close the channel", libc::SYS_close, &[u64::from(channel.number())]);
    process.run(0, batch)?;
    Ok(())
}

/// (arrived at, belongs at), last first.
fn moves(fds: &[Fd]) -> impl Iterator<Item = (u64, &Fd)> {
    fds.iter().enumerate().rev().map(|(from, fd)| (from as u64, fd))
}

/// Numbers at which a description arrived but none stays.
fn spares(fds: &[Fd]) -> Vec<u64> {
    (0..fds.len() as u64)
        .filter(|number| fds.binary_search_by_key(number, |fd| u64::from(fd.number)).is_err())
        .collect()
}

fn check_order(table: &FdTable, below: u32) -> Result<()> {
    let numbers = || table.fds.iter().map(|fd| fd.number);
    let wrong = numbers().zip(numbers().skip(1)).find(|(a, b)| a >= b).map(|(_, b)| b);
    match wrong.or_else(|| numbers().find(|number| *number >= below)) {
        Some(number) => Err(BadCheckpoint::FdNumber { table: table.id, number }.into()),
        None => Ok(()),
    }
}

/// True if somebody is to get signals about it.
pub(crate) fn is_owned(file: &File) -> bool {
    file.owner != Owner::default() || file.flags & libc::O_ASYNC.cast_unsigned() != 0
}

/// Says who gets signals about the descriptors of `table` (fcntl(2), F_SETOWN_EX and F_SETSIG).
///
/// `process` does it itself, when it is who it will be: the kernel notes the caller's user ids, and
/// the owner's number counts in its PID namespace.
pub(crate) fn own(process: &mut Process, table: &FdTable, files: &[&File]) -> Result<()> {
    let mut batch = Batch::default();
    for file in files {
        let Some(fd) = table.fds.iter().find(|fd| fd.file == file.id) else { continue };
        let number = u64::from(fd.number);
        if file.owner.signal != 0 {
            let args = [number, F_SETSIG, u64::from(file.owner.signal)];
            batch.must("choose the signal of a descriptor", libc::SYS_fcntl, &args);
        }
        if file.owner.pid != 0 {
            let who = u64::from(file.owner.pid_type) | u64::from(file.owner.pid) << 32;
            let at = process.put(&words(&[who]))?;
            batch.may("set the owner of a descriptor", libc::SYS_fcntl, &[number, F_SETOWN_EX, at]);
        }
        if file.flags & libc::O_ASYNC.cast_unsigned() != 0 {
            // The number is told with each signal.
            let flags = status_flags(file.flags) | OFlag::O_ASYNC;
            let set = libc::F_SETFL.cast_unsigned().into();
            let args = [number, set, flags.bits().cast_unsigned().into()];
            batch.must("turn a descriptor's signals on", libc::SYS_fcntl, &args);
        }
    }
    process.run(0, batch)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use image::state::{FdTableId, FileId};

    use super::*;

    fn table(numbers: &[u32]) -> FdTable {
        let fd = |number: &u32| Fd { number: *number, file: FileId(1), close_on_exec: false };
        FdTable { id: FdTableId(1), fds: numbers.iter().map(fd).collect() }
    }

    #[test]
    fn moving_last_first_never_overwrites() {
        let table = table(&[0, 2, 3, 5, 90]);
        let mut slots: BTreeMap<u64, u64> = (0..5).map(|i| (i, i)).collect();
        for (from, fd) in moves(&table.fds) {
            slots.insert(fd.number.into(), slots[&from]);
        }
        for spare in spares(&table.fds) {
            slots.remove(&spare);
        }
        let wanted: BTreeMap<u64, u64> =
            (0..).zip(&table.fds).map(|(from, fd)| (u64::from(fd.number), from)).collect();
        assert_eq!(slots, wanted);
    }

    #[test]
    fn disorder_is_named() {
        assert!(check_order(&table(&[0, 1, 7]), 8).is_ok());
        for (numbers, wrong) in [(&[0, 0][..], 0), (&[3, 2], 2), (&[0, 8], 8)] {
            match check_order(&table(numbers), 8) {
                Err(crate::Error::BadCheckpoint(BadCheckpoint::FdNumber { number, .. })) => {
                    assert_eq!(number, wrong);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
