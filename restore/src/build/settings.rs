//! Settings: numbers that a process or a thread had set for itself.

use std::fs;

use image::state::{Living, Setting, SettingKind};
use nix::libc;

use super::channel::words;
use super::process::{Batch, Process};
use crate::error::Result;

/// linux/prctl.h.
const PR_SET_MDWE: u64 = 65;
const PR_SET_MEMORY_MERGE: u64 = 67;
const PR_SET_IO_FLUSHER: u64 = 57;
const PR_MCE_KILL: u64 = 33;
const PR_MCE_KILL_SET: u64 = 1;
const PR_SPEC_STORE_BYPASS: u64 = 0;
const PR_SPEC_INDIRECT_BRANCH: u64 = 1;
/// A node mask of 64 nodes counts 65, set_mempolicy(2) takes one off.
const NODES: u64 = 65;

/// Those of the process as a whole, and what it is registered for with membarrier(2). No memory is
/// mapped in it after this.
pub(crate) fn of_process(process: &mut Process, living: &Living) -> Result<()> {
    let mut batch = Batch::default();
    for bit in (0..32).map(|bit| 1_u32 << bit).filter(|bit| living.membarrier & bit != 0) {
        batch.must("register for membarrier", libc::SYS_membarrier, &[u64::from(bit), 0, 0]);
    }
    for Setting { what, value } in &living.settings {
        let value = *value;
        match what {
            SettingKind::MemoryMerge => {
                prctl(&mut batch, "have its memory merged", &[PR_SET_MEMORY_MERGE, value]);
            }
            SettingKind::DenyWriteExecute => {
                prctl(&mut batch, "deny it writable code", &[PR_SET_MDWE, value]);
            }
            SettingKind::HugePagesExcept => {
                let disable = libc::PR_SET_THP_DISABLE.unsigned_abs().into();
                prctl(&mut batch, "forbid it huge pages", &[disable, 1, value]);
            }
            SettingKind::LockFuture => {
                batch.may("lock what it will map", libc::SYS_mlockall, &[value]);
            }
            SettingKind::CoreDumpFilter => write(process, "coredump_filter", &value.to_string()),
            SettingKind::AutogroupNice => {
                write(process, "autogroup", &value.cast_signed().to_string());
            }
            _ => {}
        }
    }
    process.run(0, batch)?;
    Ok(())
}

/// Those of thread `at`.
pub(crate) fn of_thread(process: &mut Process, at: usize, settings: &[Setting]) -> Result<()> {
    let mut batch = Batch::default();
    for Setting { what, value } in settings {
        let value = *value;
        let speculation = libc::PR_SET_SPECULATION_CTRL.unsigned_abs().into();
        match what {
            SettingKind::TimeStampCounter => {
                let tsc = libc::PR_SET_TSC.unsigned_abs().into();
                prctl(&mut batch, "take the time stamp counter away", &[tsc, value]);
            }
            SettingKind::MachineCheck => {
                let args = [PR_MCE_KILL, PR_MCE_KILL_SET, value];
                prctl(&mut batch, "set what becomes of it when memory fails", &args);
            }
            SettingKind::IoFlusher => {
                prctl(&mut batch, "make it an I/O flusher", &[PR_SET_IO_FLUSHER, value]);
            }
            SettingKind::StoreBypass => {
                let args = [speculation, PR_SPEC_STORE_BYPASS, value];
                prctl(&mut batch, "restrain its speculation", &args);
            }
            SettingKind::IndirectBranch => {
                let args = [speculation, PR_SPEC_INDIRECT_BRANCH, value];
                prctl(&mut batch, "restrain its speculation", &args);
            }
            SettingKind::MemoryPolicy => {
                let nodes = Setting::of(settings, SettingKind::MemoryNodes).unwrap_or(0);
                let mask = if nodes == 0 { 0 } else { process.put(&words(&[nodes]))? };
                batch.may("set its memory policy", libc::SYS_set_mempolicy, &[value, mask, NODES]);
            }
            SettingKind::Personality => {
                batch.must("set its personality", libc::SYS_personality, &[value]);
            }
            SettingKind::Slice => {
                let tid = process.threads[at].tid();
                if let Err(error) = tracee::host::set_slice(tid, value) {
                    tracing::warn!(%tid, %error, "the length of its turns is not restored");
                }
            }
            _ => {}
        }
    }
    process.run(at, batch)?;
    Ok(())
}

/// Kernels and processors differ in what they allow: whatever fails is told.
fn prctl(batch: &mut Batch, act: &'static str, args: &[u64]) {
    let mut all = [0; 5];
    all[..args.len()].copy_from_slice(args);
    batch.may(act, libc::SYS_prctl, &all);
}

fn write(process: &Process, file: &str, value: &str) {
    if let Err(error) = fs::write(format!("/proc/{}/{file}", process.host), value) {
        tracing::warn!(task = process.id.0, file, value, %error, "not restored");
    }
}
