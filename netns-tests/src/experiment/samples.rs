//! What a subject wrote down while it moved: the file `result.samples`; see `toucher.c` and
//! `writer.c`.

use super::record::Waits;

/// Of a toucher: each page it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// When, in microseconds of the monotonic clock.
    pub(crate) at_us: i64,
    pub(crate) us: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples {
    pub(crate) waits: Vec<Wait>,
    /// Of a writer: pages written in each tenth of a second, and when that began.
    pub(crate) written: Vec<(i64, u64)>,
}

impl Samples {
    /// Lines that are neither are for people.
    pub(crate) fn parse(text: &str) -> Self {
        let mut samples = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["wait", at, us, _] => {
                    if let (Ok(at_us), Ok(us)) = (at.parse(), us.parse()) {
                        samples.waits.push(Wait { at_us, us });
                    }
                }
                ["written", at, pages] => {
                    if let (Ok(at), Ok(pages)) = (at.parse(), pages.parse()) {
                        samples.written.push((at, pages));
                    }
                }
                _ => {}
            }
        }
        samples
    }

    /// The waits, ordered and counted; `since` is what their times are told from.
    pub(crate) fn waits(&self, since: i64) -> Waits {
        /// As many points as a plot has use for.
        const POINTS: usize = 1200;
        let mut sorted: Vec<u64> = self.waits.iter().map(|wait| wait.us).collect();
        sorted.sort_unstable();
        let at = |permille: usize| {
            let rank = (sorted.len() * permille).div_ceil(1000).max(1);
            sorted.get(rank - 1).copied().unwrap_or(0)
        };
        let mut buckets = vec![0; 32];
        sorted.iter().for_each(|us| buckets[(us | 1).ilog2().min(31) as usize] += 1);
        let step = self.waits.len().div_ceil(POINTS).max(1);
        let mut in_order = self.waits.clone();
        in_order.sort_unstable_by_key(|wait| wait.at_us);
        Waits {
            count: sorted.len() as u64,
            p50_us: at(500),
            p90_us: at(900),
            p99_us: at(990),
            max_us: at(1000),
            quantiles_us: (0..=100).map(|percent| at(percent * 10)).collect(),
            buckets,
            points: in_order
                .iter()
                .step_by(step)
                .map(|wait| ((wait.at_us - since) / 1000, wait.us))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_counted() {
        let mut text = "present 1 2 3\nmissing 0 0\nwritten 5000000 12\nwait x y z\n".to_owned();
        (1..=1000).rev().for_each(|us| text.push_str(&format!("wait {} {us} 0\n", 1_000_000 + us)));
        let samples = Samples::parse(&text);
        assert_eq!(
            (samples.waits.len(), samples.written.as_slice()),
            (1000, &[(5_000_000, 12)][..])
        );
        let waits = samples.waits(1_000_000);
        assert_eq!((waits.count, waits.p50_us, waits.p99_us, waits.max_us), (1000, 500, 990, 1000));
        assert_eq!(waits.buckets.iter().sum::<u64>(), 1000);
        assert_eq!((waits.buckets[0], waits.buckets[9]), (1, 1000 - 511));
        assert_eq!((waits.p99_us_after(1), waits.p99_us_after(2)), (Some(1000), None));
        assert!(waits.points.len() == 1000 && waits.quantiles_us.len() == 101);
        assert_eq!(Samples::default().waits(0).p99_us, 0);
    }
}
