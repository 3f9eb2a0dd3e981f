//! Addresses that come to this host with the tree.

use nix::errno::Errno;
use tracee::net::HostAddress;

use crate::error::{Error, Result, errno_of};

/// Addresses taken over, and given up again when this is dropped before the tree runs.
#[derive(Debug, Default)]
pub(crate) struct Takeover {
    wanted: &'static [HostAddress],
    added: Vec<&'static HostAddress>,
}

impl Takeover {
    /// Nothing is taken yet.
    pub(crate) fn of(wanted: &'static [HostAddress]) -> Self {
        Self { wanted, added: Vec::new() }
    }

    /// Takes them, and tells the neighbours. The source has let go of them, or is about to.
    pub(crate) fn begin(&mut self) -> Result<()> {
        for address in self.wanted {
            let failed = |error: std::io::Error| Error::Takeover {
                address: address.clone(),
                errno: error.raw_os_error().map_or(Errno::EIO, |_| errno_of(&error)),
            };
            if address.add().map_err(failed)? {
                self.added.push(address);
            }
            if let Err(error) = address.announce() {
                tracing::warn!(%address, %error, "the neighbours are not told: they find out late");
            }
        }
        Ok(())
    }

    /// The tree runs: the addresses stay.
    pub(crate) fn keep(&mut self) {
        self.added.clear();
    }
}

impl Drop for Takeover {
    fn drop(&mut self) {
        for address in self.added.drain(..) {
            let _ = address.remove();
        }
    }
}
