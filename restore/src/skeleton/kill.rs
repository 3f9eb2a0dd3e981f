//! Ending what will not run: nothing is left behind.

use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use tracee::{HostPid, Stopped, wait_reap};

use super::Tree;
use crate::build::process::Process;

/// How long the kernel may take to end a killed task. Freeing gigabytes takes it seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Kills one process and takes the tracer's notice of it; its parent still has to reap it.
pub(super) fn end(process: &mut Process) {
    kill(process.host);
    bury(process);
}

fn kill(host: HostPid) {
    // It may be gone already, which is as good.
    let _ = tracee::host::kill(host, libc::SIGKILL);
}

/// Waits for every thread of a killed process, the leader last: it is reported after all others.
fn bury(process: &mut Process) {
    let tids: Vec<HostPid> = process.threads.iter().map(Stopped::tid).collect();
    process.threads.drain(..).for_each(Stopped::forget);
    for tid in tids.into_iter().rev() {
        reap(tid);
    }
}

fn reap(tid: HostPid) {
    match wait_reap(tid, PATIENCE) {
        Ok(Some(_)) => {}
        Err(tracee::Error::Os { errno: Errno::ECHILD, .. } | tracee::Error::Died { .. }) => {}
        Ok(None) => tracing::warn!(%tid, "a killed task does not end"),
        Err(error) => tracing::warn!(%tid, %error, "a killed task could not be reaped"),
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let mut doomed: Vec<Process> = self.tasks.drain().map(|(_, process)| process).collect();
        doomed.extend(self.init.take());
        if doomed.is_empty() {
            return;
        }
        doomed.iter().for_each(|process| kill(process.host));
        doomed.iter_mut().for_each(bury);
        // By now every parent has died, so the dead are ours: once seen as tracer, once as parent.
        for process in &doomed {
            reap(process.host);
        }
        self.zombies.drain(..).for_each(|(_, host)| reap(host));
    }
}
