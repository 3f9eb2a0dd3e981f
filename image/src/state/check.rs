//! Checks of single values from outside; what they allow, the kernel allows too.

use pages::{PAGE_SIZE, PageRange, TaskId, VirtAddr};

use crate::error::BadField;

/// One past the highest pid of any kernel (PID_MAX_LIMIT).
const PID_END: u32 = 1 << 22;
/// End of user addresses with five-level page tables; with four the kernel itself refuses more.
pub(crate) const USER_END: u64 = (1 << 56) - PAGE_SIZE as u64;
/// PATH_MAX, with its final NUL.
const LONGEST_PATH: usize = 4095;
/// TASK_COMM_LEN without its final NUL.
const LONGEST_COMM: usize = 15;

pub(crate) fn task_id(field: &'static str, id: u32) -> Result<TaskId, BadField> {
    match id {
        1..PID_END => Ok(TaskId(id)),
        _ => Err(BadField::value(field, id, "a task's number, 1 to 4194303")),
    }
}

/// A process group or session; zero if it lies outside the pid namespace.
pub(crate) fn group_id(field: &'static str, id: u32) -> Result<TaskId, BadField> {
    if id == 0 { Ok(TaskId(0)) } else { task_id(field, id) }
}

pub(crate) fn address(field: &'static str, address: u64) -> Result<VirtAddr, BadField> {
    if address < USER_END {
        Ok(VirtAddr(address))
    } else {
        Err(BadField::value(field, address, "an address of user space"))
    }
}

pub(crate) fn page_range(field: &'static str, start: u64, end: u64) -> Result<PageRange, BadField> {
    if end > USER_END {
        return Err(BadField::value(field, end, "an address of user space"));
    }
    PageRange::from_addrs(VirtAddr(start), VirtAddr(end))
        .ok_or_else(|| BadField::value(field, end, "whole pages, the end after the start"))
}

pub(crate) fn absolute_path(field: &'static str, path: &str) -> Result<(), BadField> {
    if path.starts_with('/') && path.len() <= LONGEST_PATH && !path.contains('\0') {
        Ok(())
    } else {
        Err(BadField::text(field, path, "an absolute path"))
    }
}

pub(crate) fn comm(field: &'static str, name: &str) -> Result<(), BadField> {
    bounded_text(field, name, LONGEST_COMM)
}

pub(crate) fn bounded_text(field: &'static str, text: &str, most: usize) -> Result<(), BadField> {
    if text.len() > most {
        return Err(BadField::text(field, text, "shorter text"));
    }
    if text.contains('\0') {
        return Err(BadField::text(field, text, "text without NUL"));
    }
    Ok(())
}

/// A signal's number; zero means none.
pub(crate) fn signal(field: &'static str, number: u32) -> Result<u32, BadField> {
    match number {
        0..=64 => Ok(number),
        _ => Err(BadField::value(field, number, "a signal, 0 to 64")),
    }
}
