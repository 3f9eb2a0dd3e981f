//! The stale copy.

use tracee::Held;
use tracee::lock::Change;

use crate::collect::Locks;

/// A stopped tree whose right to run has left: it dies with us, and it dies when this is dropped.
///
/// The kernel keeps the first promise (`PTRACE_O_EXITKILL`, ptrace(2), Linux 3.8), also against
/// SIGKILL of qmig itself; `Drop` keeps the second.
pub(crate) struct Doomed {
    held: Option<Held>,
    locks: Locks,
    /// Its locks on files are let go.
    unlocked: bool,
}

impl Doomed {
    /// From here on the tree cannot outlive us. If the kernel will not promise it, the tree is
    /// handed back as it was.
    pub(crate) fn new(mut held: Held, locks: Locks) -> Result<Self, (Held, tracee::Error)> {
        match held.exit_with_tracer() {
            Ok(()) => Ok(Self { held: Some(held), locks, unlocked: false }),
            Err(error) => Err((held, error)),
        }
    }

    /// Lets its locks on files go, so that the tree that takes its place can have them where both
    /// hosts see the same files.
    pub(crate) fn unlock(&mut self) {
        if let Some(held) = self.held.as_mut().filter(|_| !self.locks.is_empty()) {
            self.unlocked = true;
            self.locks.change(held, Change::LetGo);
        }
    }

    /// The destination said that its copy is gone: ours may run again, with its locks on files.
    /// Detaching takes the promise of death away with everything else ptrace has set.
    pub(crate) fn reprieve(mut self) -> Held {
        let mut held = self.held.take().expect("held until taken");
        if self.unlocked {
            self.locks.change(&mut held, Change::Take);
        }
        held
    }

    /// Ends it.
    pub(crate) fn kill(mut self) -> tracee::Result<()> {
        self.held.take().expect("held until taken").kill()
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            let _ = held.kill();
        }
    }
}
