//! Every table of BENCHMARKS.md, in the order of the report.

use std::time::Duration;

use crate::{
    Outcome, cost, engine, goal, handover, memory, post_copy, pre_copy, report, shared, toll, whole,
};

/// A table: its name, what it shows, and how it is made, quickly or to be believed.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) shows: &'static str,
    /// How many seconds that took on two cores where nobody else was, to be believed and quickly.
    seconds: [u64; 2],
    pub(crate) make: fn(bool) -> Outcome<String>,
}

impl Table {
    /// How long it takes, as far as that is known before.
    pub(crate) fn expected(&self, quick: bool) -> Duration {
        Duration::from_secs(self.seconds[usize::from(quick)])
    }
}

const fn table(
    name: &'static str,
    shows: &'static str,
    seconds: [u64; 2],
    make: fn(bool) -> Outcome<String>,
) -> Table {
    Table { name, shows, seconds, make }
}

pub(crate) static TABLES: [Table; 18] = [
    table("whole", "a whole migration beside CRIU", [77, 5], |quick| {
        whole::table(whole::ETHERNET, quick)
    }),
    table("whole-jumbo", "the same with jumbo frames", [72, 5], |quick| {
        whole::table(whole::JUMBO, quick)
    }),
    table("cost", "what a small process costs", [8, 2], |quick| {
        Ok(report::cost(&cost::measure(quick)?))
    }),
    table("memory", "memory of qmig itself", [15, 2], |quick| {
        Ok(report::memory(&memory::measure(quick)?))
    }),
    table("hand-over", "standstill in post-copy, by size", [79, 3], handover::measure),
    table(
        "post-copy",
        "waits for missing pages without emulated delay, beside CRIU",
        [90, 15],
        post_copy::near,
    ),
    table(
        "post-copy-100m",
        "the same over 100 Mbit/s, by round trip and queue",
        [433, 5],
        |quick| post_copy::far("100Mbit", quick),
    ),
    table("post-copy-1g", "the same over 1 Gbit/s", [330, 4], |quick| {
        post_copy::far("1Gbit", quick)
    }),
    table(
        "post-copy-rough",
        "the same with loss, jitter and reordering",
        [272, 13],
        post_copy::rough,
    ),
    table(
        "post-copy-shared",
        "beside a TCP flow, and over a link whose rate changes",
        [287, 20],
        shared::measure,
    ),
    table(
        "post-copy-criu",
        "fill times beside CRIU's, by round trip",
        [250, 17],
        post_copy::beside_criu,
    ),
    table(
        "criu-engine",
        "with CRIU as the engine, beside CRIU by itself",
        [94, 9],
        engine::measure,
    ),
    table("ablation", "post-copy without each of its remedies", [585, 60], post_copy::ablation),
    table(
        "pre-copy",
        "standstill of a process that writes, beside CRIU",
        [150, 13],
        pre_copy::measure,
    ),
    table(
        "pre-copy-goal",
        "how often a goal for the standstill is met, and predicted",
        [500, 8],
        goal::measure,
    ),
    table("pre-copy-cost", "what rounds cost the process that is copied", [160, 16], toll::measure),
    table(
        "pre-copy-size",
        "standstill by the size of memory, and bytes on the wire",
        [190, 8],
        pre_copy::size,
    ),
    table(
        "pre-copy-fast",
        "standstill of a process that writes faster than the link carries",
        [109, 7],
        goal::faster_than_the_link,
    ),
];

/// The one of that name.
pub(crate) fn named(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}
