//! What is said at the end: who runs, and how long it stood still.

use std::fmt;
use std::time::{Duration, Instant};

use pages::{ByteCount, PageCount, TaskId};

use crate::{Arrival, LinkStats};

use crate::wire::FaultTotals;

/// Which host holds the right to run, as far as the speaker can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunsOn {
    /// The source.
    Source,
    /// The destination.
    Destination,
    /// No copy is known to run: the speaker cannot learn where the right went.
    None,
}

/// How a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The program runs on the destination.
    Moved,
    /// A copy runs on the destination, and the program runs on on the source, as was asked for.
    Copied,
    /// The destination said no before anything was touched.
    Refused,
    /// It ended before hand-off; the source runs on.
    Aborted,
    /// It ended after hand-off, and the destination gave the right back.
    TakenBack,
    /// It ended after hand-off, and what became of it could not be learnt. The copy on the source
    /// is kept stopped.
    Stranded,
}

impl Outcome {
    /// Who runs, by this outcome.
    pub const fn runs_on(self) -> RunsOn {
        match self {
            Self::Moved => RunsOn::Destination,
            Self::Copied | Self::Refused | Self::Aborted | Self::TakenBack => RunsOn::Source,
            Self::Stranded => RunsOn::None,
        }
    }
}

impl fmt::Display for RunsOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::None => "none",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Moved => "moved",
            Self::Copied => "copied",
            Self::Refused => "refused",
            Self::Aborted => "aborted",
            Self::TakenBack => "taken back",
            Self::Stranded => "stranded",
        })
    }
}

/// A named stretch of the downtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What was done in it.
    pub name: &'static str,
    /// How long it took.
    pub time: Duration,
}

/// The downtime, from the last instruction on the source to the first on the destination, split
/// without a gap: the parts sum to the whole because the whole is their sum.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts(Vec<Part>);

impl Parts {
    /// No downtime yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// A stretch measured elsewhere. The same name twice adds up.
    pub fn add(&mut self, name: &'static str, time: Duration) {
        match self.0.iter_mut().find(|part| part.name == name) {
            Some(part) => part.time += time,
            None => self.0.push(Part { name, time }),
        }
    }

    /// The stretch that ended at `now`, measured from `since`; returns `now` for the next one.
    pub fn lap(&mut self, name: &'static str, since: Instant, now: Instant) -> Instant {
        self.add(name, now.saturating_duration_since(since));
        now
    }

    /// The whole downtime.
    pub fn total(&self) -> Duration {
        self.0.iter().map(|part| part.time).sum()
    }

    /// The parts in order.
    pub fn as_slice(&self) -> &[Part] {
        &self.0
    }

    /// Milliseconds of each part, rounded so that they sum to the rounded total.
    fn rounded(&self) -> impl Iterator<Item = (&'static str, u128)> {
        let mut until = Duration::ZERO;
        let mut said = 0;
        self.0.iter().map(move |part| {
            until += part.time;
            let millis = round_to_millis(until) - said;
            said += millis;
            (part.name, millis)
        })
    }
}

/// One migration, told in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The root of the tree.
    pub task: TaskId,
    /// Its name, if it has one.
    pub name: String,
    /// How much memory the tree has.
    pub memory: ByteCount,
    /// From the first word to the last.
    pub total: Duration,
    /// How long the program stood still, and why.
    pub downtime: Parts,
    /// How long it was meant to stand still at most.
    pub goal: Option<Duration>,
    /// How long the program waited for pages that came after it (post-copy).
    pub faults: Option<FaultTotals>,
    /// How fast those came.
    pub arrival: Option<Arrival>,
    /// Pages that travelled, a page sent twice counted twice.
    pub pages: PageCount,
    /// Bytes that left on the wire, all headers included.
    pub wire_bytes: ByteCount,
    /// What the last link was like, if there was one at the end.
    pub link: Option<Box<LinkStats>>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, name, memory, .. } = self;
        match self.outcome {
            Outcome::Moved => {
                write!(f, "migrated {task} ({name}, {memory}) in {}", Spoken(self.total))?;
            }
            Outcome::Copied => {
                write!(f, "copied {task} ({name}, {memory}) in {}", Spoken(self.total))?;
            }
            Outcome::Refused => {
                write!(f, "refused to migrate {task} ({name}); nothing was touched")?
            }
            Outcome::Aborted => write!(f, "aborted; {task} ({name}) runs on the source")?,
            Outcome::TakenBack => write!(f, "taken back; {task} ({name}) runs on the source")?,
            Outcome::Stranded => {
                write!(f, "stranded; {task} ({name}) is kept stopped on the source")?;
            }
        }
        if self.downtime.as_slice().is_empty() {
            return Ok(());
        }
        write!(f, ", stood still {} ms", round_to_millis(self.downtime.total()))?;
        if let Some(goal) = self.goal {
            write!(f, " (goal {} ms)", round_to_millis(goal))?;
        }
        for (at, (name, millis)) in self.downtime.rounded().enumerate() {
            write!(f, "{}{name} {millis}", if at == 0 { ": " } else { ", " })?;
        }
        if let Some(faults) = self.faults.as_ref().filter(|faults| faults.count > 0) {
            let [p50, p99] = [faults.p50, faults.p99].map(|time| time.as_secs_f64() * 1e3);
            write!(f, "; {} faults, p50 {p50:.1} ms, p99 {p99:.1} ms", faults.count)?;
        }
        if let Some(arrival) = self.arrival {
            write!(f, "; {arrival}")?;
        }
        Ok(())
    }
}

/// A time as people say it: `48 ms`, `2.2 s`, `3 min 5 s`.
struct Spoken(Duration);

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = round_to_millis(self.0);
        match millis {
            0..1000 => write!(f, "{millis} ms"),
            1000..60_000 => write!(f, "{}.{} s", millis / 1000, millis % 1000 / 100),
            _ => write!(f, "{} min {} s", millis / 60_000, millis % 60_000 / 1000),
        }
    }
}

const fn round_to_millis(time: Duration) -> u128 {
    (time.as_micros() + 500) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcome: Outcome, parts: &[(&'static str, u64)]) -> Report {
        let mut downtime = Parts::new();
        parts.iter().for_each(|(name, micros)| downtime.add(name, Duration::from_micros(*micros)));
        Report {
            outcome,
            task: TaskId(1234),
            name: "redis-server".to_owned(),
            memory: ByteCount(1 << 30),
            total: Duration::from_millis(2217),
            downtime,
            goal: None,
            faults: None,
            arrival: None,
            pages: PageCount(262_144),
            wire_bytes: ByteCount(1 << 30),
            link: None,
        }
    }

    #[test]
    fn the_closing_line_reads_as_documented() {
        let parts = [
            ("freeze", 1000),
            ("last pages", 22_000),
            ("images", 9000),
            ("restore", 14_000),
            ("commit", 2000),
        ];
        let mut moved = report(Outcome::Moved, &parts);
        assert_eq!(
            moved.to_string(),
            "migrated 1234 (redis-server, 1.0 GiB) in 2.2 s, stood still 48 ms: \
             freeze 1, last pages 22, images 9, restore 14, commit 2"
        );
        moved.goal = Some(Duration::from_millis(300));
        assert!(moved.to_string().contains("stood still 48 ms (goal 300 ms): freeze 1"));
        moved.goal = None;
        moved.faults = Some(FaultTotals {
            count: 12,
            p50: Duration::from_micros(240),
            p99: Duration::from_millis(25),
            ..FaultTotals::default()
        });
        assert!(moved.to_string().ends_with("commit 2; 12 faults, p50 0.2 ms, p99 25.0 ms"));
        let time = Duration::from_secs(4);
        moved.arrival = Some(Arrival { faults: 12, pages: PageCount(2048), time });
        assert!(moved.to_string().ends_with("p99 25.0 ms; 3 faults/s, 2.0 MiB/s"));
        let aborted = report(Outcome::Aborted, &[]);
        assert_eq!(aborted.to_string(), "aborted; 1234 (redis-server) runs on the source");
    }

    #[test]
    fn printed_parts_sum_to_the_printed_total() {
        let parts = [("a", 1400), ("b", 1400), ("c", 1400), ("d", 499), ("e", 301)];
        let report = report(Outcome::Moved, &parts);
        let sum: u128 = report.downtime.rounded().map(|(_, millis)| millis).sum();
        assert_eq!(sum, 5);
        assert_eq!(report.downtime.total(), Duration::from_micros(5000));
    }

    #[test]
    fn laps_leave_no_gap() {
        let start = Instant::now();
        let mut parts = Parts::new();
        let at = parts.lap("freeze", start, start + Duration::from_millis(3));
        let at = parts.lap("images", at, at + Duration::from_millis(4));
        parts.lap("freeze", at, at + Duration::from_millis(5));
        assert_eq!(parts.total(), Duration::from_millis(12));
        assert_eq!(parts.as_slice().len(), 2);
    }
}
