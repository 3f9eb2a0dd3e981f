//! Rules of seccomp(2): installed while the task may still do so whoever it will be, and in force from
//! the moment it runs on (`PTRACE_O_SUSPEND_SECCOMP` holds them off until then).

use image::state::{Filter, Living, Seccomp};
use nix::errno::Errno;
use nix::libc;
use tracee::HostPid;
use tracee::proc::status::Status;

use super::channel::words;
use super::process::{Batch, Process};
use crate::error::{Error, Result};

/// linux/seccomp.h.
const SECCOMP_SET_MODE_FILTER: u64 = 1;
const TSYNC: u64 = 1;
const LOG: u64 = 2;
/// What a filter costs in speculation is a setting of its own.
const SPEC_ALLOW: u64 = 4;
const SECCOMP_MODE_STRICT: u64 = 1;
const ACT: &str = "install its seccomp filters";

/// Gives every thread of `process` its rules.
///
/// Rules that all threads have are installed for all at once, so that the program may add to them for
/// all at once later: threads with filters of their own cannot follow one another.
pub(crate) fn install(process: &mut Process, living: &Living) -> Result<()> {
    let threads = &living.threads;
    if threads.iter().all(|thread| thread.seccomp == Seccomp::Off) {
        return Ok(());
    }
    let me = HostPid(nix::unistd::gettid().as_raw());
    if Status::read(me)?.seccomp != 0 {
        // The rules would hold for what is still to do, too.
        return Err(Error::Call { task: process.id, act: ACT, errno: Errno::EPERM });
    }
    let alike = threads.iter().all(|thread| thread.seccomp == threads[0].seccomp);
    for (at, thread) in threads.iter().enumerate() {
        match &thread.seccomp {
            Seccomp::Off => {}
            Seccomp::Strict => {
                let mut batch = Batch::default();
                let set = u64::from(libc::PR_SET_SECCOMP.cast_unsigned());
                let args = [set, SECCOMP_MODE_STRICT, 0, 0, 0];
                batch.must("enter strict mode", libc::SYS_prctl, &args);
                process.run(at, batch)?;
            }
            Seccomp::Filters(_) if alike && at > 0 => {}
            Seccomp::Filters(filters) => {
                let all = if alike { TSYNC } else { 0 };
                filters.iter().try_for_each(|filter| add(process, at, filter, all))?;
            }
        }
    }
    Ok(())
}

fn add(process: &mut Process, at: usize, filter: &Filter, all: u64) -> Result<()> {
    let program = process.put(&filter.program)?;
    let length = (filter.program.len() / Filter::INSTRUCTION) as u64;
    let program = process.put(&words(&[length, program]))?;
    let flags = all | SPEC_ALLOW | if filter.log { LOG } else { 0 };
    let mut batch = Batch::default();
    batch.must(ACT, libc::SYS_seccomp, &[SECCOMP_SET_MODE_FILTER, flags, program]);
    match process.run(at, batch)?[..] {
        [0] => Ok(()),
        // The number of a thread that could not follow.
        _ => Err(Error::Call { task: process.id, act: ACT, errno: Errno::ESRCH }),
    }
}
