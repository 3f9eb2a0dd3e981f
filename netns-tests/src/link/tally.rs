//! What a direction of a link really did.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Times, in microseconds; all zero when there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// How many.
    pub count: u64,
    /// The shortest.
    pub min_us: f64,
    /// Half are no longer.
    pub p50_us: f64,
    /// 99 of 100 are no longer.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// One direction, from the last reset to now. Bytes are of IP packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// How long that is.
    pub span: Duration,
    /// Packets that came to it.
    pub offered: u64,
    /// Their bytes.
    pub offered_bytes: u64,
    /// Packets that it handed over, duplicates included.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Packets dropped because the queue was full.
    pub overflowed: u64,
    /// Packets lost behind the bottleneck.
    pub lost: u64,
    /// The longest row of them.
    pub longest_loss: u64,
    /// Packets that met a cut.
    pub cut: u64,
    /// Packets handed over a second time.
    pub duplicated: u64,
    /// Packets handed over after one that had come later.
    pub reordered: u64,
    /// Packets that the receiving host would not take (its interface is down).
    pub refused: u64,
    /// Packets that the sending kernel dropped before the emulator saw them. Not zero means that
    /// the emulator was too slow, and that nothing else here can be trusted.
    pub missed: u64,
    /// How long the bottleneck was at work; zero without a rate.
    pub busy: Duration,
    /// What it put through in that time, the rival's bytes and lost ones included.
    pub busy_bytes: u64,
    /// Bytes of the rival that went through.
    pub rival_bytes: u64,
    /// From the moment a packet was read to the moment it was handed over: queue, service, delay.
    pub transit: Spread,
    /// How much later than it should a packet was handed over: the emulator's own error.
    pub lateness: Spread,
}

impl Tally {
    /// Bits that arrived per second of the whole span.
    pub fn delivered_rate(&self) -> f64 {
        per_second(self.delivered_bytes, self.span)
    }

    /// Bits that the bottleneck put through per second of its work: its rate, as measured.
    pub fn busy_rate(&self) -> f64 {
        per_second(self.busy_bytes, self.busy)
    }

    /// The share of the offered packets that was lost on the way, those dropped for a full queue
    /// not counted.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub fn loss_share(&self) -> f64 {
        let through = self.offered.saturating_sub(self.overflowed + self.cut);
        self.lost as f64 / through.max(1) as f64
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(bytes: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { bytes as f64 * 8.0 / time.as_secs_f64() }
}
