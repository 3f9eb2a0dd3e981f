//! Small samples, honestly told.

use std::time::Duration;

/// Times of the same thing, at least one.
#[derive(Clone, Debug)]
pub(crate) struct Sample(Vec<Duration>);

impl Sample {
    /// `None` of nothing.
    pub(crate) fn new(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        (!times.is_empty()).then_some(Self(times))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn min(&self) -> Duration {
        self.0[0]
    }

    pub(crate) fn max(&self) -> Duration {
        self.0[self.0.len() - 1]
    }

    /// The middle one, or between the two in the middle.
    pub(crate) fn median(&self) -> Duration {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 {
            self.0[middle]
        } else {
            (self.0[middle - 1] + self.0[middle]) / 2
        }
    }

    /// Nine of ten are no longer (nearest rank).
    pub(crate) fn p90(&self) -> Duration {
        self.0[(self.0.len() * 9).div_ceil(10) - 1]
    }
}

/// The middle one, or between the two in the middle; `None` of nothing.
pub(crate) fn middle(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_unstable_by(f64::total_cmp);
    let half = numbers.len() / 2;
    let high = *numbers.get(half)?;
    Some(if numbers.len() % 2 == 1 { high } else { f64::midpoint(numbers[half - 1], high) })
}

/// The same of whole numbers; 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn median(numbers: impl Iterator<Item = u64>) -> f64 {
    middle(numbers.map(|number| number as f64).collect()).unwrap_or(0.0)
}

/// How often the median of `other` goes into the median of `one`.
pub(crate) fn ratio(one: &Sample, other: &Sample) -> f64 {
    one.median().as_secs_f64() / other.median().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        let millis = |numbers: &[u64]| {
            Sample::new(numbers.iter().map(|n| Duration::from_millis(*n)).collect())
        };
        assert!(millis(&[]).is_none());
        let odd = millis(&[30, 10, 20]).expect("three");
        assert_eq!(
            [odd.min(), odd.median(), odd.max(), odd.p90()].map(|d| d.as_millis()),
            [10, 20, 30, 30]
        );
        let ten = millis(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).expect("ten");
        assert_eq!((ten.median(), ten.p90().as_millis()), (Duration::from_micros(5500), 9));
        assert_eq!((median([4, 1, 3].into_iter()), middle(vec![1.0, 2.0])), (3.0, Some(1.5)));
        assert!((ratio(&ten, &odd) - 0.275).abs() < 1e-9);
    }
}
