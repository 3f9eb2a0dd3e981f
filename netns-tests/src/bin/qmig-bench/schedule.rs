//! How long what is left will take: by what each table usually takes, and by how much slower or faster than
//! usual those were that are made.

use std::time::Duration;

/// Tables in a row, each with the time that it usually takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    /// From the one that is under way on.
    ahead: Vec<Duration>,
    /// What those that are made would usually take.
    usual: Duration,
    /// What they took.
    took: Duration,
}

impl Schedule {
    pub(crate) fn new(usual: Vec<Duration>) -> Self {
        Self { ahead: usual, ..Self::default() }
    }

    /// The first of them is over; `took` tells of others only if all of it was done now.
    pub(crate) fn over(&mut self, took: Option<Duration>) {
        if self.ahead.is_empty() {
            return;
        }
        let usual = self.ahead.remove(0);
        if let Some(took) = took {
            self.usual += usual;
            self.took += took;
        }
    }

    /// How long all that is left will take, `since` the first of it began.
    pub(crate) fn left(&self, since: Duration) -> Duration {
        let pace = match self.usual {
            Duration::ZERO => 1.0,
            usual => self.took.as_secs_f64() / usual.as_secs_f64(),
        };
        let [first, rest @ ..] = self.ahead.as_slice() else { return Duration::ZERO };
        first.mul_f64(pace).saturating_sub(since) + rest.iter().sum::<Duration>().mul_f64(pace)
    }
}

/// For people: an estimate is told in minutes as long as there are some.
pub(crate) fn about(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..100 => format!("about {seconds} s"),
        seconds => format!("about {} min", (seconds + 30) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_shrinks_and_learns() {
        let s = Duration::from_secs;
        let mut schedule = Schedule::new(vec![s(60), s(100), s(40)]);
        assert_eq!(schedule.left(s(0)), s(200));
        assert_eq!(schedule.left(s(20)), s(180));
        assert_eq!(schedule.left(s(90)), s(140), "it takes longer than usual");
        schedule.over(Some(s(120)));
        assert_eq!(schedule.left(s(50)), s(230), "the others will take twice as long too");
        schedule.over(None);
        assert_eq!(schedule.left(s(0)), s(80), "one that failed tells nothing");
        schedule.over(Some(s(20)));
        assert_eq!(schedule.left(s(5)), s(0));
        schedule.over(None);
        assert_eq!(
            [about(s(99)), about(s(100)), about(s(3500))],
            ["about 99 s", "about 2 min", "about 58 min"]
        );
    }
}
