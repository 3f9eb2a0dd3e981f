//! The phases of a migration by qmig, from what both sides said and when.

use super::record::Phase;
use crate::migration::QmigEvent;

/// From the first command, at `began_us` of the clock that both hosts share, until `total_us` later.
/// Phases follow each other without a gap; one that was not told of is part of the next.
pub(super) fn phases(
    source: &[QmigEvent],
    destination: &[QmigEvent],
    began_us: i64,
    total_us: u64,
) -> Vec<Phase> {
    let at = |event: &QmigEvent| {
        let us = event.field("monotonic_us").as_i64()? - began_us;
        Some(u64::try_from(us).unwrap_or(0))
    };
    let first = |events: &[QmigEvent], name: &str| {
        events.iter().find(|event| event.name() == name).and_then(at)
    };
    let mut ends = Vec::new();
    for round in source.iter().filter(|event| event.name() == "round") {
        let (Some(ended), Some(took)) = (at(round), round.field("took_us").as_u64()) else {
            continue;
        };
        if ends.is_empty() {
            ends.push(("plan".to_owned(), ended.saturating_sub(took)));
        }
        ends.push((format!("round {}", round.field("n")), ended));
    }
    let frozen = if ends.is_empty() { "plan" } else { "freeze" };
    let steps = [
        (frozen, first(source, "frozen")),
        ("state and pages", first(source, "staged")),
        ("hand-over", first(destination, "running")),
        ("rest of the pages", first(destination, "drained")),
        ("farewell", Some(total_us)),
    ];
    ends.extend(steps.into_iter().filter_map(|(name, at)| Some((name.to_owned(), at?))));
    let mut phases = Vec::new();
    let mut from_us = 0;
    for (name, to_us) in ends {
        if to_us > from_us {
            phases.push(Phase { name, from_us, to_us });
            from_us = to_us;
        }
    }
    phases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(said: &[(&str, i64)]) -> Vec<QmigEvent> {
        let line = |(name, at): &(&str, i64)| {
            let (name, n) = name.split_once(' ').unwrap_or((name, "0"));
            QmigEvent::parse(&format!(
                "{{\"event\":\"{name}\",\"monotonic_us\":{at},\"n\":{n},\"took_us\":30}}"
            ))
        };
        said.iter().filter_map(line).collect()
    }

    #[test]
    fn phases_follow_each_other() {
        let told = |source: &[(&str, i64)], destination: &[(&str, i64)]| {
            let phases = phases(&events(source), &events(destination), 1000, 500);
            let line = |it: &Phase| format!("{} {}-{}", it.name, it.from_us, it.to_us);
            phases.iter().map(line).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(
            told(
                &[("round 1", 1050), ("round 2", 1080), ("frozen", 1082), ("staged", 1100)],
                &[("staged", 1090), ("running", 1120), ("drained", 1400)]
            ),
            "plan 0-20, round 1 20-50, round 2 50-80, freeze 80-82, state and pages 82-100, \
             hand-over 100-120, rest of the pages 120-400, farewell 400-500"
        );
        assert_eq!(
            told(&[("frozen", 1010), ("staged", 1100)], &[("running", 1120)]),
            "plan 0-10, state and pages 10-100, hand-over 100-120, farewell 120-500"
        );
        assert_eq!(told(&[], &[]), "farewell 0-500");
    }
}
