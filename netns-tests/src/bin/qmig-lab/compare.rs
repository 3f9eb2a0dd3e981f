//! Which differences between two experiments are larger than the spread of either.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use netns_tests::experiment::Record;

/// A measure: its name, how a record gives it, and what it is divided by for people.
type Measure = (&'static str, fn(&Record) -> Option<f64>, f64);

#[expect(clippy::cast_precision_loss, reason = "microseconds for people")]
const MEASURES: [Measure; 6] = [
    ("stood still, ms", |r| (r.felt_us > 0).then_some(r.felt_us as f64), 1e3),
    ("until complete, s", |r| Some(r.total_us as f64), 1e6),
    ("wait p50, ms", |r| (r.waits.count > 0).then_some(r.waits.p50_us as f64), 1e3),
    ("wait p99, ms", |r| (r.waits.count > 0).then_some(r.waits.p99_us as f64), 1e3),
    ("no client answered, ms", |r| asked(r).then_some(r.requests.silence_us as f64), 1e3),
    ("fill, Mbit/s", |r| (r.fill_bps > 0.0).then_some(r.fill_bps), 1e6),
];

fn asked(record: &Record) -> bool {
    record.requests.count > 0
}

/// The middle of some numbers and their extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
    count: usize,
}

impl Spread {
    fn of(mut numbers: Vec<f64>) -> Option<Self> {
        numbers.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*numbers.first()?, *numbers.last()?);
        let half = numbers.len() / 2;
        let median = if numbers.len() % 2 == 1 {
            numbers[half]
        } else {
            f64::midpoint(numbers[half - 1], numbers[half])
        };
        Some(Self { median, min, max, count: numbers.len() })
    }

    /// The largest as a multiple of the smallest: how far repetitions of the same are from each other.
    fn width(self) -> Option<f64> {
        (self.count > 1 && self.min > 0.0).then(|| self.max / self.min)
    }

    /// Not one number of the one is within the other, and the hole between them is wider than
    /// `ordinary`: with fewer than two each, nobody can say.
    fn apart(self, other: Self, ordinary: f64) -> bool {
        let (low, high) = if self.max < other.min { (self, other) } else { (other, self) };
        self.count > 1 && other.count > 1 && high.min > low.max * ordinary
    }
}

/// How wide the spread of a measure is in nine of ten places: two or three repetitions may be close to
/// each other by chance, and then their own spread says nothing.
fn ordinary(spreads: impl Iterator<Item = Spread>) -> f64 {
    let mut widths: Vec<f64> = spreads.filter_map(Spread::width).collect();
    widths.sort_unstable_by(f64::total_cmp);
    let at = (widths.len() * 9).div_ceil(10).saturating_sub(1);
    widths.get(at).copied().unwrap_or(1.0)
}

/// A line for each way, load, link and measure that both have; the larger differences are marked.
pub(crate) fn compare(one: &[Record], other: &[Record]) -> String {
    let (one, other) = (grouped(one), grouped(other));
    let (mut text, mut apart, mut compared) = (String::new(), 0, 0);
    for (name, measure, unit) in MEASURES {
        let spread = |records: &Vec<&Record>| {
            Spread::of(records.iter().filter_map(|record| measure(record)).collect())
        };
        let ordinary = ordinary(one.values().chain(other.values()).filter_map(spread));
        let _ = writeln!(text, "{name}: nine of ten spread by no more than × {ordinary:.2}");
        for (key, records) in &one {
            let others = other.get(key).and_then(spread);
            let (Some(a), Some(b)) = (spread(records), others) else { continue };
            let mark = if a.apart(b, ordinary) { "DIFFERS" } else { "" };
            apart += usize::from(a.apart(b, ordinary));
            compared += 1;
            let show = |s: Spread| {
                let [median, min, max] = [s.median, s.min, s.max].map(|x| x / unit);
                format!("{median:.2} ({min:.2}–{max:.2}, n={})", s.count)
            };
            let ratio = if a.median > 0.0 { b.median / a.median } else { 1.0 };
            let _ = writeln!(text, "  {key}: {} → {}, × {ratio:.2} {mark}", show(a), show(b));
        }
    }
    let _ = writeln!(
        text,
        "{apart} of {compared} differences are larger than the spread: no value of the one is within the \
         other, and the hole between them is wider than nine of ten spreads"
    );
    text
}

fn grouped(records: &[Record]) -> BTreeMap<String, Vec<&Record>> {
    let mut groups: BTreeMap<String, Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.error.is_none()) {
        let table = if record.table.is_empty() { "" } else { ": " };
        let key = format!(
            "{}{table}{} over {} ({})",
            record.table, record.way, record.link_name, record.load
        );
        groups.entry(key).or_default().push(record);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(times: &[u64]) -> Vec<Record> {
        let of = |us: &u64| Record {
            way: "stop".into(),
            felt_us: *us,
            total_us: 5,
            ..Record::default()
        };
        times.iter().map(of).collect()
    }

    #[test]
    fn only_what_is_apart_differs() {
        let told =
            |a: &[u64], b: &[u64]| compare(&records(a), &records(b)).matches("DIFFERS").count();
        assert_eq!(told(&[1000, 1100, 1200], &[2000, 2100]), 1);
        // What is close to each other by chance is no narrower than all the rest.
        assert_eq!(told(&[1000, 1001], &[1100, 1300]), 0);
        assert_eq!(told(&[1000, 1100, 2050], &[2000, 2100]), 0);
        assert_eq!(told(&[1000], &[9000]), 0);
        assert!(
            compare(&records(&[1000, 2000]), &records(&[1000])).contains("1.50 (1.00–2.00, n=2)")
        );
    }
}
