//! Every decision of a direction, from its seed alone: the nth packet meets the same fate each time.

use std::time::Duration;

use super::path::{Loss, Path, whole};

/// What befalls one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) lost: bool,
    pub(crate) late: bool,
    pub(crate) twice: bool,
}

/// The dice of one direction.
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    fates: Stream,
    wander: Stream,
    rival: Stream,
    /// In a burst of losses.
    bursting: bool,
    /// The delay goes from the first to the second in each step: shares of the jitter, −1 to 1.
    from: f64,
    to: f64,
    step: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let stream = |number: u64| Stream(seed.wrapping_mul(0x1000_0000_01b3) ^ number);
        Self {
            fates: stream(1),
            wander: stream(2),
            rival: stream(3),
            bursting: false,
            from: 0.0,
            to: 0.0,
            step: 0,
        }
    }

    /// Draws the same number of times whatever the path is, so that changing one thing about it
    /// leaves every other decision as it was.
    pub(crate) fn fate(&mut self, path: &Path) -> Fate {
        let [loss, late, twice] = [(); 3].map(|()| self.fates.unit());
        let lost = match path.loss {
            Loss::Random(share) => loss < share,
            Loss::Burst { share, length } => {
                let leave = 1.0 / length;
                let enter = leave * share / (1.0 - share);
                self.bursting = if self.bursting { loss >= leave } else { loss < enter };
                self.bursting
            }
        };
        Fate { lost, late: late < path.reorder, twice: twice < path.duplicate }
    }

    /// The delay of the moment: it wanders in straight lines between random values, slowly enough
    /// (half as fast as time) that packets stay in order. `at` is the age of the direction.
    pub(crate) fn delay(&mut self, path: &Path, at: Duration) -> Duration {
        if path.jitter.is_zero() {
            return path.delay;
        }
        let length = (path.jitter * 4).max(Duration::from_millis(1)).as_secs_f64();
        let position = at.as_secs_f64() / length;
        while self.step < whole(position.floor()) + 1 {
            (self.from, self.to) = (self.to, self.wander.unit() * 2.0 - 1.0);
            self.step += 1;
        }
        let share = self.from + (self.to - self.from) * position.fract();
        let seconds = path.delay.as_secs_f64() + path.jitter.as_secs_f64() * share;
        Duration::from_secs_f64(seconds.max(0.0))
    }

    /// The time to the rival's next packet, of so many on average: exponential.
    pub(crate) fn pause(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.rival.unit()).ln())
    }
}

/// SplitMix64.
#[derive(Clone, Debug)]
struct Stream(u64);

impl Stream {
    /// From 0 inclusive to 1 exclusive.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(words: &str) -> Path {
        let mut path = Path::default();
        words.split(' ').for_each(|word| path.apply(word).expect(word));
        path
    }

    #[test]
    fn the_same_seed_decides_the_same() {
        let path = path("loss=5% reorder=5% duplicate=5%");
        let fates = |seed| {
            let mut dice = Dice::new(seed);
            (0..1000).map(|_| dice.fate(&path)).collect::<Vec<_>>()
        };
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
    }

    #[test]
    fn bursts_have_their_share_and_length() {
        let path = path("loss=2%x8");
        let mut dice = Dice::new(3);
        let lost: Vec<bool> = (0..200_000).map(|_| dice.fate(&path).lost).collect();
        let all = lost.iter().filter(|lost| **lost).count();
        let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count();
        let (share, length) = (all as f64 / 200_000.0, all as f64 / bursts as f64);
        assert!((0.015..0.025).contains(&share), "{share}");
        assert!((7.0..9.0).contains(&length), "{length}");
    }

    #[test]
    fn the_delay_wanders_within_its_bounds_and_overtakes_nothing() {
        let path = path("delay=10ms jitter=5ms");
        let mut dice = Dice::new(4);
        let (mut low, mut high, mut last) = (Duration::MAX, Duration::ZERO, Duration::ZERO);
        for tenth in 0..200_000 {
            let at = Duration::from_micros(100 * tenth);
            let delay = dice.delay(&path, at);
            (low, high) = (low.min(delay), high.max(delay));
            assert!(at + delay >= last);
            last = at + delay;
        }
        assert!(low >= Duration::from_millis(5) && low < Duration::from_millis(6), "{low:?}");
        assert!(high <= Duration::from_millis(15) && high > Duration::from_millis(14), "{high:?}");
    }

    #[test]
    fn pauses_have_their_mean() {
        let mut dice = Dice::new(5);
        let sum: Duration = (0..20_000).map(|_| dice.pause(Duration::from_micros(100))).sum();
        assert!((95..105).contains(&(sum / 20_000).as_micros()), "{sum:?}");
    }
}
