//! The same records as a table for spreadsheets: one line each, numbers only.

use std::fmt::Write as _;

use netns_tests::experiment::Record;

/// A column: its name, and how a record fills it.
type Column = (&'static str, fn(&Record) -> String);

const COLUMNS: [Column; 38] = [
    ("table", |r| r.table.clone()),
    ("way", |r| r.way.clone()),
    ("link_name", |r| r.link_name.clone()),
    ("link", |r| r.link.clone()),
    ("load", |r| r.load.clone()),
    ("seed", |r| r.seed.to_string()),
    ("repetition", |r| r.repetition.to_string()),
    ("error", |r| r.error.clone().unwrap_or_default()),
    ("felt_us", |r| r.felt_us.to_string()),
    ("stalled_us", |r| r.stalled_us.map_or_else(String::new, |us| us.to_string())),
    ("running_us", |r| r.running_us.to_string()),
    ("total_us", |r| r.total_us.to_string()),
    ("downtime_us", |r| r.downtime_us.to_string()),
    ("waits", |r| r.waits.count.to_string()),
    ("wait_p50_us", |r| r.waits.p50_us.to_string()),
    ("wait_p90_us", |r| r.waits.p90_us.to_string()),
    ("wait_p99_us", |r| r.waits.p99_us.to_string()),
    ("wait_max_us", |r| r.waits.max_us.to_string()),
    ("answers", |r| r.requests.count.to_string()),
    ("answer_p50_us", |r| r.requests.p50_us.to_string()),
    ("answer_max_us", |r| r.requests.max_us.to_string()),
    ("no_answer_us", |r| r.requests.silence_us.to_string()),
    ("fill_bps", |r| format!("{:.0}", r.fill_bps)),
    ("fill_share", |r| r.fill_share.map_or_else(String::new, |share| format!("{share:.4}"))),
    ("up_bytes", |r| r.up.bytes.to_string()),
    ("up_packets", |r| r.up.packets.to_string()),
    ("up_lost", |r| r.up.lost.to_string()),
    ("up_overflowed", |r| r.up.overflowed.to_string()),
    ("down_bytes", |r| r.down.bytes.to_string()),
    ("down_packets", |r| r.down.packets.to_string()),
    ("bulk_bytes", |r| lane(r, "bulk")),
    ("faults_bytes", |r| lane(r, "faults")),
    ("blob_bytes", |r| lane(r, "blob")),
    ("source_cpu_us", |r| r.source.cpu_us.to_string()),
    ("source_peak_kib", |r| r.source.peak_kib.to_string()),
    ("destination_cpu_us", |r| r.destination.cpu_us.to_string()),
    ("destination_peak_kib", |r| r.destination.peak_kib.to_string()),
    ("kernel", |r| r.machine.kernel.clone()),
];

/// What a lane has carried to the destination.
fn lane(record: &Record, name: &str) -> String {
    record.lanes.get(name).map_or_else(String::new, |lane| lane.sent.to_string())
}

/// As RFC 4180 has it.
pub(crate) fn csv(records: &[Record]) -> String {
    let mut text = COLUMNS.map(|(name, _)| name).join(",") + "\r\n";
    for record in records {
        let fields = COLUMNS.map(|(_, fill)| quoted(&fill(record)));
        let _ = write!(text, "{}\r\n", fields.join(","));
    }
    text
}

fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let record = Record {
            link_name: "100 Mbit, \"far\"".to_owned(),
            error: Some("two\nlines".to_owned()),
            ..Record::default()
        };
        let text = csv(&[record]);
        assert!(text.contains("\"100 Mbit, \"\"far\"\"\"") && text.contains("\"two\nlines\""));
        assert_eq!(text.lines().next().map(|head| head.split(',').count()), Some(COLUMNS.len()));
    }
}
