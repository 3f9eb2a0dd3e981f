//! A whole link: both directions, and the seed of its dice.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::BadWord;
use super::path::{Path, QueueLimit, Rate, time, whole};

/// What lies between the source and the destination.
///
/// As words: a preset's name, `rtt=20ms` (half of it each way), `seed=7`, `queue=1bdp` (of the
/// rate and round trip that the words before it made), and those of [`Path`], for both directions
/// or, after `up.` (from the source) or `down.` (to it), for one. `gso`: what UDP GSO and TSO made of
/// one write stays together, for rates at which single packets cost the emulator too much; only
/// where the dice have nothing to decide about a packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// From the source to the destination.
    pub up: Path,
    /// From the destination to the source.
    pub down: Path,
    /// Every decision comes of this number.
    pub seed: u64,
    /// Nothing is cut into packets.
    pub gso: bool,
}

/// Networks that people have: a name, its words, and what it stands for.
pub const PRESETS: [(&str, &str, &str); 5] = [
    ("lan", "rate=1Gbit rtt=300us queue=2ms", "one switch"),
    ("metro", "rate=1Gbit rtt=5ms jitter=200us queue=20ms", "two sites of one city"),
    (
        "transatlantic",
        "rate=500Mbit rtt=80ms jitter=500us loss=0.01% queue=1bdp",
        "a provider's backbone, with others on it",
    ),
    (
        "lte",
        "up.rate=12Mbit down.rate=40Mbit rtt=50ms jitter=8ms loss=0.1%x4 queue=300ms",
        "a mobile modem: little up, a deep queue, losses in bursts",
    ),
    (
        "satellite",
        "up.rate=20Mbit down.rate=50Mbit rtt=600ms jitter=5ms loss=0.1%x10 queue=600ms",
        "a geostationary hop",
    ),
];

impl Link {
    /// Nothing between the two but the emulator itself.
    pub fn perfect() -> Self {
        Self { up: Path::default(), down: Path::default(), seed: 1, gso: false }
    }

    /// A rate and a round trip, with a queue of one bandwidth-delay product at the bottleneck.
    pub fn wan(rate: Rate, round_trip: Duration) -> Self {
        let queue = QueueLimit::Bytes(bdp(rate, round_trip));
        let path = Path { rate: Some(rate), delay: round_trip / 2, queue, ..Path::default() };
        Self { up: path.clone(), down: path, seed: 1, gso: false }
    }

    /// One switch.
    pub fn lan() -> Self {
        Self::preset("lan")
    }

    /// Two sites of one city.
    pub fn metro() -> Self {
        Self::preset("metro")
    }

    /// A backbone across an ocean.
    pub fn transatlantic() -> Self {
        Self::preset("transatlantic")
    }

    /// A mobile modem at the source.
    pub fn lte() -> Self {
        Self::preset("lte")
    }

    /// A geostationary hop.
    pub fn satellite() -> Self {
        Self::preset("satellite")
    }

    /// With another seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// With these words applied to it, in order; they are divided by spaces or commas.
    pub fn with(mut self, words: &str) -> Result<Self, BadWord> {
        for word in words.split([' ', ',']).filter(|word| !word.is_empty()) {
            self.apply(word)?;
        }
        Ok(self)
    }

    /// True if a loss, a duplicate or another order is a matter of single packets here.
    pub(crate) fn rolls_dice(&self) -> bool {
        [&self.up, &self.down].into_iter().any(Path::rolls_dice)
    }

    /// The round trip of an empty link.
    pub fn round_trip(&self) -> Duration {
        self.up.delay + self.down.delay
    }

    fn apply(&mut self, word: &str) -> Result<(), BadWord> {
        if let Some((_, words, _)) = PRESETS.iter().find(|(name, ..)| *name == word) {
            let seed = self.seed;
            *self = Self::perfect().seed(seed).with(words)?;
        } else if word == "gso" {
            self.gso = true;
        } else if let Some(text) = word.strip_prefix("rtt=") {
            let rtt = time(text).ok_or_else(|| BadWord::new(word, "a time, as 20ms"))?;
            (self.up.delay, self.down.delay) = (rtt / 2, rtt / 2);
        } else if let Some(text) = word.strip_prefix("seed=") {
            self.seed = text.parse().map_err(|_| BadWord::new(word, "a whole number"))?;
        } else if let Some(text) = word.strip_prefix("queue=").and_then(|v| v.strip_suffix("bdp")) {
            let bad = || BadWord::new(word, "a multiple of rate × rtt, which come before it");
            let factor: f64 = text.parse().map_err(|_| bad())?;
            let rtt = self.round_trip();
            for path in [&mut self.up, &mut self.down] {
                let product = bdp(path.rate.ok_or_else(bad)?, rtt);
                #[expect(clippy::cast_precision_loss, reason = "bytes in a queue")]
                let bytes = whole(product as f64 * factor.max(0.0));
                path.queue = QueueLimit::Bytes(bytes);
            }
        } else if let Some(rest) = word.strip_prefix("up.") {
            self.up.apply(rest)?;
        } else if let Some(rest) = word.strip_prefix("down.") {
            self.down.apply(rest)?;
        } else {
            self.up.apply(word)?;
            self.down.apply(word)?;
        }
        Ok(())
    }

    fn preset(name: &str) -> Self {
        // The table is tested below: each of its words is understood.
        Self::perfect().with(name).unwrap_or_else(|_| Self::perfect())
    }
}

impl FromStr for Link {
    type Err = BadWord;

    fn from_str(words: &str) -> Result<Self, BadWord> {
        Self::perfect().with(words)
    }
}

/// The words that make it again.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (prefix, path) in [("up.", &self.up), ("down.", &self.down)] {
            for word in path.to_string().split(' ') {
                write!(f, "{prefix}{word} ")?;
            }
        }
        if self.gso {
            write!(f, "gso ")?;
        }
        write!(f, "seed={}", self.seed)
    }
}

/// A queue of fewer than ten packets would drop half of every burst that a host sends.
fn bdp(rate: Rate, round_trip: Duration) -> u64 {
    rate.bytes_in(round_trip).max(15_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_understood() {
        for (name, words, _) in PRESETS {
            let link: Link = name.parse().expect(name);
            assert_eq!(link, Link::perfect().with(words).expect(words));
            assert_ne!(link, Link::perfect());
            assert_eq!(link.to_string().parse(), Ok(link));
        }
        assert_eq!(Link::lte().up.rate, Some(Rate::mbit(12)));
        assert_eq!(Link::satellite().round_trip(), Duration::from_millis(600));
    }

    #[test]
    fn words_build_on_each_other() {
        let link: Link = "rate=100Mbit,rtt=20ms queue=1bdp down.loss=1% seed=9".parse().expect("");
        assert_eq!(link.up, Link::wan(Rate::mbit(100), Duration::from_millis(20)).up);
        assert_eq!((link.up.queue_bytes(), link.seed), (250_000, 9));
        assert!(link.down.loss.share() > 0.0 && link.up.loss.share() == 0.0);
        let whole: Link = "rate=1Gbit gso".parse().expect("words");
        assert!(whole.gso && !whole.rolls_dice() && link.rolls_dice());
        assert_eq!(whole.to_string().parse(), Ok(whole));
        assert!("queue=1bdp".parse::<Link>().is_err());
        assert!("pluto".parse::<Link>().is_err());
    }
}
