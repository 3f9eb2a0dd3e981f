//! The stale copy.

use tracee::Held;

/// A stopped tree whose right to run has left: it dies with us, and it dies when this is dropped.
///
/// The kernel keeps the first promise (`PTRACE_O_EXITKILL`, ptrace(2), Linux 3.8), also against
/// SIGKILL of qmig itself; `Drop` keeps the second.
pub(crate) struct Doomed {
    held: Option<Held>,
}

impl Doomed {
    /// From here on the tree cannot outlive us. If the kernel will not promise it, the tree is
    /// handed back as it was.
    pub(crate) fn new(mut held: Held) -> Result<Self, (Held, tracee::Error)> {
        match held.exit_with_tracer() {
            Ok(()) => Ok(Self { held: Some(held) }),
            Err(error) => Err((held, error)),
        }
    }

    /// The destination said that its copy is gone: ours may run again. Detaching takes the promise
    /// of death away with everything else ptrace has set.
    pub(crate) fn reprieve(mut self) -> Held {
        self.held.take().expect("held until taken")
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
