//! How much memory qmig itself takes, at most, for a process far larger than that.

use std::time::Duration;

use netns_tests::{Host, Lab, Migration, Side, Subject};

use crate::Outcome;
use crate::machine::field;

/// The size of the process.
pub(crate) const MIB: u32 = 4096;
/// How often the source is looked at; its peak only grows, and it ends soon after it.
const GLANCE: Duration = Duration::from_millis(1);
const MOVE: Duration = Duration::from_secs(120);

/// Peaks of resident memory (VmHWM, proc_pid_status(5)), in kB.
#[derive(Debug)]
pub(crate) struct Peaks {
    pub(crate) source: u64,
    pub(crate) destination: u64,
}

pub(crate) fn measure() -> Outcome<Peaks> {
    let lab = Lab::two_hosts()?;
    let subject = Subject::new("filler").arg("mib").arg(MIB).start(&lab, lab.src())?;
    let listening = Migration::new(&lab)?.deadline(MOVE).listen()?;
    let moving = listening.dump(subject.pid())?;
    let dump = moving.qmig(Side::Source);
    let mut source = 0;
    while dump.ended().is_none() {
        source = source.max(peak(lab.src(), dump.pid()).unwrap_or(0));
        std::thread::sleep(GLANCE);
    }
    // As the parent of the tree it is still there to be looked at.
    let destination = peak(lab.dst(), moving.qmig(Side::Destination).pid())?;
    moving.finish()?.succeeded()?;
    Ok(Peaks { source, destination })
}

fn peak(host: &Host, pid: i32) -> Outcome<u64> {
    field(&host.path(format!("/proc/{pid}/status")).to_string_lossy(), "VmHWM:")
}
