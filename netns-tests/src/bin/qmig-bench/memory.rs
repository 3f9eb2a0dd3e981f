//! How much memory qmig itself takes, at most, for a process far larger than that.

use netns_tests::experiment::{Load, Trial, Way};

use crate::{Outcome, records};

/// The size of the process.
pub(crate) const MIB: u32 = 4096;

/// Peaks of resident memory (VmHWM, proc_pid_status(5)), in kB.
#[derive(Debug)]
pub(crate) struct Peaks {
    pub(crate) source: u64,
    pub(crate) destination: u64,
}

pub(crate) fn measure() -> Outcome<Peaks> {
    let record = records::of(&Trial::new(Way::AUTO, Load::idle(MIB)))?;
    if let Some(error) = record.error {
        return Err(error.into());
    }
    Ok(Peaks { source: record.source.peak_kib, destination: record.destination.peak_kib })
}
