//! The native engine's stopped tree, its stale copy, and what ties it to this host.

use nix::errno::Errno;
use tracee::Held;
use tracee::lock::Change;
use tracee::net::HostAddress;

use crate::collect::{Carried, Connections, Doors, IpcObjects, Locks, Segments};
use crate::engine::{Doom, Doomed, Hold, Still};
use crate::failure::Cause;

/// What a held tree has here that whoever takes its place must have instead. Dropped, everything is
/// as it was.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    pub(crate) locks: Locks,
    pub(crate) segments: Segments,
    pub(crate) objects: IpcObjects,
    pub(crate) carried: Carried,
    pub(crate) connections: Connections,
    /// New connections to it.
    pub(crate) doors: Doors,
    /// Addresses of this host that go where the tree goes.
    pub(crate) addresses: Vec<HostAddress>,
}

impl Ties {
    /// The tree is dead: what nobody else would remove goes too.
    fn remove(&self) {
        self.segments.remove();
        self.objects.remove();
        self.carried.remove();
    }
}

/// A stopped tree, with what it has here.
pub(crate) struct Standing {
    pub(crate) held: Held,
    pub(crate) ties: Ties,
}

impl Hold for Standing {
    fn doom(self: Box<Self>) -> Result<Doomed, (Still, Cause)> {
        let Self { mut held, ties } = *self;
        let promised = held.exit_with_tracer().and_then(|()| {
            ties.connections.silence().map_err(|error| {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                tracee::Error::Own { act: "silence its connections", errno }
            })
        });
        match promised {
            Ok(()) => {
                let stale = Stale { held: Some(held), ties, unlocked: false, released: Vec::new() };
                Ok(Box::new(stale))
            }
            Err(error) => Err((Box::new(Self { held, ties }), Cause::Freeze(error))),
        }
    }
}

/// It dies with us, and it dies when this is dropped.
///
/// The kernel keeps the first promise (`PTRACE_O_EXITKILL`, ptrace(2), Linux 3.8), also against
/// SIGKILL of qmig itself; `Drop` keeps the second. Its TCP connections end without a packet: they
/// go on elsewhere.
struct Stale {
    held: Option<Held>,
    ties: Ties,
    /// Its locks on files are let go.
    unlocked: bool,
    /// Addresses that were given up.
    released: Vec<HostAddress>,
}

impl Doom for Stale {
    /// Also addresses.
    fn unlock(&mut self) {
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

    /// It has its addresses and its connections again, too. Detaching takes the promise of death away
    /// with everything else ptrace has set.
    fn reprieve(mut self: Box<Self>) -> Still {
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
        Box::new(Standing { held, ties: std::mem::take(&mut self.ties) })
    }

    fn kill(mut self: Box<Self>) -> Result<(), Cause> {
        let killed = self.held.take().expect("held until taken").kill();
        self.ties.remove();
        killed.map_err(Cause::Freeze)
    }
}

impl Drop for Stale {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            let _ = held.kill();
            self.ties.remove();
        }
    }
}
