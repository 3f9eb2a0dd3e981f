//! The stale copy, and what ties it to this host.

use nix::errno::Errno;
use tracee::Held;
use tracee::lock::Change;
use tracee::net::HostAddress;

use crate::collect::{Connections, Doors, Locks, Segments};

/// What a held tree has here that whoever takes its place must have instead. Dropped, everything is
/// as it was.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    pub(crate) locks: Locks,
    pub(crate) segments: Segments,
    pub(crate) connections: Connections,
    /// New connections to it.
    pub(crate) doors: Doors,
    /// Addresses of this host that go where the tree goes.
    pub(crate) addresses: Vec<HostAddress>,
}

/// A stopped tree whose right to run has left: it dies with us, and it dies when this is dropped.
///
/// The kernel keeps the first promise (`PTRACE_O_EXITKILL`, ptrace(2), Linux 3.8), also against
/// SIGKILL of qmig itself; `Drop` keeps the second. Its TCP connections end without a packet: they
/// go on elsewhere.
pub(crate) struct Doomed {
    held: Option<Held>,
    ties: Ties,
    /// Its locks on files are let go.
    unlocked: bool,
    /// Addresses that were given up.
    released: Vec<HostAddress>,
}

impl Doomed {
    /// From here on the tree cannot outlive us. If the kernel will not promise it, the tree is
    /// handed back as it was.
    pub(crate) fn new(mut held: Held, ties: Ties) -> Result<Self, (Held, tracee::Error)> {
        if let Err(error) = held.exit_with_tracer() {
            return Err((held, error));
        }
        match ties.connections.silence() {
            Ok(()) => Ok(Self { held: Some(held), ties, unlocked: false, released: Vec::new() }),
            Err(error) => {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                Err((held, tracee::Error::Own { act: "silence its connections", errno }))
            }
        }
    }

    /// Lets go of what the tree that takes its place wants to have: locks on files, where both hosts
    /// see the same files, and addresses.
    pub(crate) fn unlock(&mut self) {
        if let Some(held) = self.held.as_mut().filter(|_| !self.ties.locks.is_empty()) {
            self.unlocked = true;
            self.ties.locks.change(held, Change::LetGo);
        }
        for address in std::mem::take(&mut self.ties.addresses) {
            match address.remove() {
                Ok(true) => self.released.push(address),
                Ok(false) => {}
                Err(error) => tracing::warn!(%address, %error, "the address stays on this host"),
            }
        }
    }

    /// The destination said that its copy is gone: ours may run again, with its locks on files, its
    /// addresses and its connections. Detaching takes the promise of death away with everything
    /// else ptrace has set.
    pub(crate) fn reprieve(mut self) -> Held {
        let mut held = self.held.take().expect("held until taken");
        if self.unlocked {
            self.ties.locks.change(&mut held, Change::Take);
        }
        for address in &self.released {
            let back = address.add().and_then(|_| address.announce());
            if let Err(error) = back {
                tracing::warn!(%address, %error, "the address does not come back to this host");
            }
        }
        std::mem::take(&mut self.ties.connections).give_back();
        held
    }

    /// Ends it.
    pub(crate) fn kill(mut self) -> tracee::Result<()> {
        let killed = self.held.take().expect("held until taken").kill();
        self.ties.segments.remove();
        killed
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            let _ = held.kill();
            self.ties.segments.remove();
        }
    }
}
