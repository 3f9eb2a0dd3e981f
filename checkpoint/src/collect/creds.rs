//! Who a thread is, and what a process may use.

use image::state::{Creds, Rlimit};
use tracee::HostPid;
use tracee::proc::status::Status;

use crate::error::CollectError;

/// From /proc/PID/task/TID/status, and the securebits the thread itself told.
pub(super) fn creds(status: &Status, securebits: u32) -> Creds {
    Creds {
        uids: status.uids,
        gids: status.gids,
        groups: status.groups.clone(),
        cap_inheritable: status.cap_inheritable,
        cap_permitted: status.cap_permitted,
        cap_effective: status.cap_effective,
        cap_bounding: status.cap_bounding,
        cap_ambient: status.cap_ambient,
        securebits,
        no_new_privs: status.no_new_privs,
    }
}

/// prlimit(2) for each resource.
pub(super) fn rlimits(pid: HostPid) -> Result<[Rlimit; 16], CollectError> {
    Ok(tracee::host::rlimits(pid)?.map(|(soft, hard)| Rlimit { soft, hard }))
}
