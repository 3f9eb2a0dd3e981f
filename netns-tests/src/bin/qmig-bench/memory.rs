//! How much memory qmig itself takes, at most, for a process far larger than that.

use netns_tests::experiment::{Load, Trial, Way};

use crate::{Outcome, records};

/// The size of the process, and of a quick one.
const MIB: [u32; 2] = [4096, 256];

/// Peaks of resident memory (VmHWM, proc_pid_status(5)), in kB.
#[derive(Debug)]
pub(crate) struct Peaks {
    /// Of the process.
    pub(crate) mib: u32,
    pub(crate) source: u64,
    pub(crate) destination: u64,
}

pub(crate) fn measure(quick: bool) -> Outcome<Peaks> {
    let mib = MIB[usize::from(quick)];
    let record = records::of(&Trial::new(Way::AUTO, Load::idle(mib)))?;
    if let Some(error) = record.error {
        return Err(error.into());
    }
    Ok(Peaks { mib, source: record.source.peak_kib, destination: record.destination.peak_kib })
}
