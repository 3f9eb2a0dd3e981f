//! A trial measures what it says, whatever the tool.

use std::error::Error;

use netns_tests::experiment::{Load, Record, Trial, Way};
use netns_tests::{Criu, Link, qmig_binary, requirements};

type Outcome = Result<(), Box<dyn Error>>;

fn missing() -> bool {
    requirements::missing(&[])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
}

fn moved(trial: &Trial) -> Record {
    let record = trial.run();
    assert_eq!(record.error, None, "{record:?}");
    assert!(record.verdict.starts_with("PASS"), "{record:?}");
    assert!(0 < record.running_us && record.running_us <= record.total_us, "{record:?}");
    assert!(record.felt_us > 0, "{record:?}");
    assert_eq!(record.stalled_us.is_some_and(|us| us > 0), trial.watched, "{record:?}");
    record
}

#[test]
fn stop_and_copy_over_a_link() -> Outcome {
    if missing() {
        return Ok(());
    }
    let link: Link = "rate=200Mbit rtt=10ms seed=3".parse()?;
    let trial = Trial::new(Way::STOP, Load::writer(4, 10)).over("slow", link).repetition(2);
    let record = moved(&trial.watched());
    assert_eq!((record.way.as_str(), record.link_name.as_str(), record.seed), ("stop", "slow", 5));
    assert!(record.up.bytes > 1 << 20 && record.up.transit_us[0] >= 5000.0, "{record:?}");
    assert!(record.downtime_us > 0 && record.parts.contains_key("pages"), "{record:?}");
    assert!(record.source.peak_kib > 0 && record.destination.peak_kib > 0, "{record:?}");
    assert!(record.written.iter().any(|(_, pages)| *pages > 0), "{record:?}");
    let line = serde_json::to_string(&record)?;
    assert_eq!(serde_json::from_str::<Record>(&line)?, record);
    Ok(())
}

/// Clients on a third host see a pause, where the phases are.
#[test]
fn clients_of_a_server_are_asked_what_they_saw() {
    if missing() {
        return;
    }
    let mut ways = vec![Way::STOP, Way::POST_COPY];
    if Criu::installed().is_some() {
        ways.push(Way::CriuStop { tls: false });
    }
    for way in ways {
        let record = moved(&Trial::new(way, Load::server(4, 2, 100)));
        let requests = &record.requests;
        assert!(requests.count > 20 && requests.p50_us <= requests.p99_us, "{record:?}");
        // Some have asked before, and some after; nobody waited less long than nobody was answered.
        assert!(requests.points.first().is_some_and(|point| point.0 < 0), "{record:?}");
        let last = requests.points.last().map_or(0, |point| point.0);
        assert!(u64::try_from(last).is_ok_and(|last| last > record.running_us), "{record:?}");
        let counted: u64 = requests.points.iter().map(|point| point.1).sum();
        assert_eq!(counted, requests.count, "{record:?}");
        let phases = &record.phases;
        assert!(phases.len() >= 3 && phases[0].from_us == 0, "{record:?}");
        assert!(phases.windows(2).all(|it| it[0].to_us == it[1].from_us), "{record:?}");
    }
}

/// What is measured beside post-copy as it is meant is a post-copy too.
#[test]
fn by_every_remedy_and_without() -> Outcome {
    if missing() {
        return Ok(());
    }
    for way in &Way::ABLATIONS[1..] {
        let link: Link = "rate=200Mbit rtt=2ms".parse()?;
        let record = moved(&Trial::new(*way, Load::toucher(1, 2)).over("short", link));
        let cubic = ["post-copy-cubic", "post-copy-plain", "post-copy-plain-second"];
        let expected = if cubic.contains(&way.word()) { "cubic" } else { "delay" };
        assert_eq!((record.way.as_str(), record.congestion.as_str()), (way.word(), expected));
        assert_eq!(record.second_bytes > 0, way.word().ends_with("-second"), "{record:?}");
        // What is still to leave when the last page has come is not sent any more.
        let most = record.lanes["faults"].sent / 2;
        assert!(record.second_bytes == 0 || record.second_bytes > most, "{record:?}");
    }
    Ok(())
}

/// One that is ended when it runs has no verdict, but a standstill.
#[test]
fn only_the_hand_over() {
    if missing() {
        return;
    }
    let mut trial = Trial::new(Way::POST_COPY, Load::idle(8));
    trial.until_running = true;
    let record = trial.run();
    assert!(record.error.is_none() && record.downtime_us > 0, "{record:?}");
    assert_eq!((record.felt_us, record.verdict.as_str()), (0, ""));
}

#[test]
fn a_failure_is_recorded() {
    if missing() {
        return;
    }
    let mut trial = Trial::new(Way::STOP, Load::idle(1));
    trial.dump_args = vec!["--no-such-option".to_owned()];
    let record = trial.run();
    assert!(record.error.is_some_and(|error| error.contains("no-such-option")));
}

/// A CRIU as the engine, over a plain veth, whose frames are counted.
#[test]
fn by_criu_over_a_veth() {
    if missing() || Criu::installed().is_none() && requirements::skip("no CRIU is installed") {
        return;
    }
    let record = moved(&Trial::new(Way::CRIU_ENGINE_POST_COPY, Load::toucher(4, 2)));
    assert!(record.up.bytes > 4 << 20, "{record:?}");
    assert!(record.down.bytes > 0 && record.down.bytes < record.up.bytes, "{record:?}");
}

#[test]
fn criu_fetches_lazily() -> Outcome {
    if missing() || Criu::installed().is_none() && requirements::skip("no CRIU is installed") {
        return Ok(());
    }
    let trial = Trial::new(Way::CriuLazy { tls: false }, Load::toucher(4, 2));
    let record = moved(&trial.over("slow", "rate=100Mbit rtt=10ms".parse()?));
    // On a busy machine everything may be there before anybody looks.
    assert!(record.waits.p50_us <= record.waits.max_us, "{record:?}");
    assert!(record.up.bytes > 4 << 20, "{record:?}");
    Ok(())
}
