//! Signals: actions, queues, the alternate stack.

use crate::error::BadField;
use crate::messages::{SaEntry, SiginfoEntry, SignalQueueEntry, ThreadSasEntry};
use crate::state::check::address;
use crate::state::{AltStack, SigAction, SigInfo, SigSet};

impl From<&SigAction> for SaEntry {
    fn from(action: &SigAction) -> Self {
        Self {
            sigaction: action.handler,
            flags: action.flags,
            restorer: action.restorer,
            mask: action.mask.0,
            compat_sigaction: Some(false),
            mask_extended: None,
        }
    }
}

impl TryFrom<&SaEntry> for SigAction {
    type Error = BadField;

    fn try_from(entry: &SaEntry) -> Result<Self, BadField> {
        if entry.compat_sigaction == Some(true) {
            return Err(BadField::unsupported("tc.sigactions", "a signal handler of 32-bit code"));
        }
        Ok(Self {
            handler: entry.sigaction,
            flags: entry.flags,
            restorer: entry.restorer,
            mask: SigSet(entry.mask),
        })
    }
}

pub(super) fn queue(pending: &[SigInfo]) -> SignalQueueEntry {
    let entry = |info: &SigInfo| SiginfoEntry { siginfo: info.0.to_vec() };
    SignalQueueEntry { signals: pending.iter().map(entry).collect() }
}

pub(super) fn pending(
    field: &'static str,
    queue: Option<&SignalQueueEntry>,
) -> Result<Vec<SigInfo>, BadField> {
    let signals = queue.map(|queue| queue.signals.as_slice()).unwrap_or_default();
    let info = |entry: &SiginfoEntry| {
        let raw: [u8; 128] = entry.siginfo.as_slice().try_into().map_err(|_| {
            BadField::count(field, entry.siginfo.len(), "the 128 bytes of a siginfo_t")
        })?;
        let info = SigInfo(Box::new(raw));
        match info.number() {
            1..=64 => Ok(info),
            other => Err(BadField::value(field, other, "a signal, 1 to 64")),
        }
    };
    signals.iter().map(info).collect()
}

impl From<&AltStack> for ThreadSasEntry {
    fn from(stack: &AltStack) -> Self {
        Self { ss_sp: stack.base.0, ss_size: stack.size, ss_flags: stack.flags }
    }
}

impl TryFrom<&ThreadSasEntry> for AltStack {
    type Error = BadField;

    fn try_from(entry: &ThreadSasEntry) -> Result<Self, BadField> {
        let base = address("thread_core.sas.ss_sp", entry.ss_sp)?;
        Ok(Self { base, size: entry.ss_size, flags: entry.ss_flags })
    }
}
