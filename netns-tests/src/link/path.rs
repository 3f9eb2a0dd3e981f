//! What one direction of a link does to the packets on it.
//!
//! Written as words, the same in tests, on the command line and on `qmig-link`'s standard input:
//! `rate=100Mbit delay=10ms jitter=2ms loss=0.1% queue=200ms`.

use std::fmt;
use std::time::Duration;

use super::BadWord;

/// Bits in a second, of IP packets (the 14 bytes of Ethernet around them are not counted).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    /// Of bits in a second; at least one.
    pub fn bits(bits: u64) -> Self {
        Self(bits.max(1))
    }

    /// Of megabits (10⁶) in a second.
    pub fn mbit(mbit: u64) -> Self {
        Self::bits(mbit.saturating_mul(1_000_000))
    }

    /// Bits in a second.
    pub fn as_bits(self) -> u64 {
        self.0
    }

    /// How long so many bytes take.
    pub(crate) fn time_of(self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many bytes go in that time.
    pub(crate) fn bytes_in(self, time: Duration) -> u64 {
        let bytes = u128::from(self.0) * time.as_nanos() / 8_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// How many packets wait at the bottleneck before the next is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLimit {
    /// So many bytes.
    Bytes(u64),
    /// As many bytes as leave in this time at the rate of the moment.
    Time(Duration),
}

/// Which packets are lost on the way, behind the bottleneck: a lost one has used its share of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Each with this probability.
    Random(f64),
    /// The same share in bursts of this mean length (Gilbert–Elliott with nothing lost between the
    /// bursts and everything in them).
    Burst {
        /// The share of all packets.
        share: f64,
        /// Packets in a row, on average; at least 1.
        length: f64,
    },
}

impl Loss {
    /// The share of packets that is lost in the long run.
    pub fn share(self) -> f64 {
        match self {
            Self::Random(share) | Self::Burst { share, .. } => share,
        }
    }
}

/// One direction of a link. The default changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// How fast the bottleneck is; none: it takes no time.
    pub rate: Option<Rate>,
    /// How long a packet is on the way behind the bottleneck.
    pub delay: Duration,
    /// How far the delay wanders up and down, slowly enough that no packet overtakes another.
    pub jitter: Duration,
    /// What is lost.
    pub loss: Loss,
    /// The share of packets that come later than those behind them.
    pub reorder: f64,
    /// How much later.
    pub reorder_by: Duration,
    /// The share of packets that come twice.
    pub duplicate: f64,
    /// How much waits at the bottleneck.
    pub queue: QueueLimit,
    /// Another user of the bottleneck, which sends packets of 1500 bytes at random times, so much
    /// on average, and never slows down. (One that does is a TCP flow; start one.)
    pub rival: Option<Rate>,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            rate: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::Random(0.0),
            reorder: 0.0,
            reorder_by: Duration::from_millis(2),
            duplicate: 0.0,
            queue: QueueLimit::Time(Duration::from_millis(200)),
            rival: None,
        }
    }
}

impl Path {
    /// True if the dice decide about a packet by itself.
    pub(crate) fn rolls_dice(&self) -> bool {
        [self.loss.share(), self.reorder, self.duplicate].into_iter().any(|share| share > 0.0)
    }

    /// Change what `word` says, as `loss=1%`.
    pub fn apply(&mut self, word: &str) -> Result<(), BadWord> {
        let (name, value) = word.split_once('=').ok_or_else(|| BadWord::new(word, "NAME=VALUE"))?;
        let bad = |wanted| BadWord::new(word, wanted);
        match name {
            "rate" => self.rate = rate(value).ok_or_else(|| bad(RATE))?,
            "delay" => self.delay = time(value).ok_or_else(|| bad(TIME))?,
            "jitter" => self.jitter = time(value).ok_or_else(|| bad(TIME))?,
            "loss" => self.loss = loss(value).ok_or_else(|| bad(LOSS))?,
            "reorder" => self.reorder = share(value).ok_or_else(|| bad(SHARE))?,
            "reorder-by" => self.reorder_by = time(value).ok_or_else(|| bad(TIME))?,
            "duplicate" => self.duplicate = share(value).ok_or_else(|| bad(SHARE))?,
            "queue" => self.queue = queue(value).ok_or_else(|| bad(QUEUE))?,
            "rival" => self.rival = rate(value).ok_or_else(|| bad(RATE))?,
            _ => {
                let names =
                    "one of rate delay jitter loss reorder reorder-by duplicate queue rival";
                return Err(bad(names));
            }
        }
        Ok(())
    }

    /// The bytes that may wait at the rate of the moment.
    pub(crate) fn queue_bytes(&self) -> u64 {
        match (self.queue, self.rate) {
            (QueueLimit::Bytes(bytes), _) => bytes,
            (QueueLimit::Time(time), Some(rate)) => rate.bytes_in(time),
            (QueueLimit::Time(_), None) => u64::MAX,
        }
    }
}

/// The words that make this path of any other.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |time: Duration| time.as_micros();
        let rate =
            |rate: Option<Rate>| rate.map_or_else(|| "none".to_owned(), |r| format!("{}bit", r.0));
        write!(f, "rate={} delay={}us", rate(self.rate), us(self.delay))?;
        write!(f, " jitter={}us loss={}%", us(self.jitter), self.loss.share() * 100.0)?;
        if let Loss::Burst { length, .. } = self.loss {
            write!(f, "x{length}")?;
        }
        write!(f, " reorder={}% reorder-by={}us", self.reorder * 100.0, us(self.reorder_by))?;
        write!(f, " duplicate={}% rival={}", self.duplicate * 100.0, rate(self.rival))?;
        match self.queue {
            QueueLimit::Bytes(bytes) => write!(f, " queue={bytes}"),
            QueueLimit::Time(time) => write!(f, " queue={}us", us(time)),
        }
    }
}

const RATE: &str = "a rate, as 100Mbit, 1.5Gbit or none";
const TIME: &str = "a time, as 20ms or 300us";
const SHARE: &str = "a share from 0% to 100%";
const LOSS: &str = "a share, as 0.1%, or a share in bursts of a mean length, as 1%x8";
const QUEUE: &str = "bytes, as 64KiB, or a time, as 200ms";

/// `None` is no rate at all, `Some(None)` is no limit.
fn rate(text: &str) -> Option<Option<Rate>> {
    if text == "none" {
        return Some(None);
    }
    let units = [("Gbit", 1e9), ("Mbit", 1e6), ("Kbit", 1e3), ("bit", 1.0)];
    let bits = scaled(text, &units)?;
    (bits >= 1.0).then(|| Some(Rate::bits(whole(bits))))
}

pub(crate) fn time(text: &str) -> Option<Duration> {
    let seconds = scaled(text, &[("ms", 1e-3), ("us", 1e-6), ("s", 1.0)])?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn share(text: &str) -> Option<f64> {
    let share = scaled(text, &[("%", 0.01)])?;
    (0.0..=1.0).contains(&share).then_some(share)
}

fn loss(text: &str) -> Option<Loss> {
    let Some((part, length)) = text.split_once('x') else { return share(text).map(Loss::Random) };
    let (share, length) = (share(part)?, length.parse::<f64>().ok()?);
    (share < 1.0 && length >= 1.0 && length.is_finite()).then_some(Loss::Burst { share, length })
}

fn queue(text: &str) -> Option<QueueLimit> {
    if let Some(time) = time(text) {
        return Some(QueueLimit::Time(time));
    }
    let bytes = text.parse::<f64>().ok().filter(|bytes| *bytes >= 0.0);
    let bytes = bytes.or_else(|| scaled(text, &[("MiB", 1_048_576.0), ("KiB", 1024.0)]))?;
    Some(QueueLimit::Bytes(whole(bytes)))
}

/// A number with one of these units behind it; finite and not negative.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (number, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let number: f64 = number.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * factor)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
pub(crate) fn whole(number: f64) -> u64 {
    number.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_back() {
        let mut path = Path::default();
        let words = "rate=1.5Gbit delay=10ms jitter=300us loss=1%x8 reorder=0.5% reorder-by=3ms \
                     duplicate=2% queue=64KiB rival=20Mbit";
        words.split_whitespace().for_each(|word| path.apply(word).expect(word));
        assert_eq!(path.rate, Some(Rate::bits(1_500_000_000)));
        assert_eq!(path.loss, Loss::Burst { share: 0.01, length: 8.0 });
        assert_eq!((path.queue, path.queue_bytes()), (QueueLimit::Bytes(65536), 65536));
        let mut again = Path::default();
        path.to_string().split(' ').for_each(|word| again.apply(word).expect(word));
        assert_eq!(again, path);
        path.apply("queue=200ms").expect("a time");
        path.apply("rate=100Mbit").expect("a rate");
        assert_eq!(path.queue_bytes(), 2_500_000);
        path.apply("rate=none").expect("no limit");
        assert_eq!((path.rate, path.queue_bytes()), (None, u64::MAX));
    }

    #[test]
    fn nonsense_is_refused() {
        for word in [
            "rate",
            "rate=0Mbit",
            "rate=fast",
            "delay=-1ms",
            "delay=5",
            "loss=101%",
            "loss=1",
            "loss=1%x0.5",
            "loss=100%x3",
            "queue=",
            "queue=-1",
            "speed=3Mbit",
            "delay=NaNms",
        ] {
            assert!(Path::default().apply(word).is_err(), "{word}");
        }
    }
}
