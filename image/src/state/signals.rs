//! Signals: actions, masks, what is pending, the alternate stack.

use pages::VirtAddr;

/// A set of signals; bit n-1 is signal n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SigSet(pub u64);

impl SigSet {
    /// True if signal `number` is in the set.
    pub const fn contains(self, number: u32) -> bool {
        number >= 1 && number <= 64 && self.0 & (1 << (number - 1)) != 0
    }
}

/// rt_sigaction(2), the kernel's own view (`SA_RESTORER` included).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SigAction {
    /// 0 is SIG_DFL, 1 is SIG_IGN, anything else an address.
    pub handler: u64,
    /// SA_*.
    pub flags: u64,
    /// Address of the return trampoline.
    pub restorer: u64,
    /// Signals blocked while the handler runs.
    pub mask: SigSet,
}

/// The raw 128 bytes of a `siginfo_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigInfo(pub Box<[u8; 128]>);

impl SigInfo {
    /// The signal's number, the first word of a `siginfo_t`.
    pub fn number(&self) -> u32 {
        u32::from_le_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

/// sigaltstack(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AltStack {
    /// Lowest address.
    pub base: VirtAddr,
    /// Bytes.
    pub size: u64,
    /// SS_*; 2 is disabled.
    pub flags: u32,
}
