//! `qmig probe`: what it says of a link is what the link itself has measured, and the destination that
//! answered it serves a migration afterwards.

use std::error::Error;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use netns_tests::link::Tally;
use netns_tests::{Lab, Link, Migration, Side, Subject, qmig_binary, requirements};
use serde_json::Value;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

fn missing() -> bool {
    requirements::missing(&[])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
}

/// Probes the destination of a lab.
fn probe(lab: &Lab, ticket: &Path, words: &[&str]) -> Result<Output, Box<dyn Error>> {
    let mut command = Command::new(qmig_binary()?);
    command.arg("probe").arg(format!("{}:4433", lab.dst().addr())).args(words);
    command.arg("--ticket-file").arg(ticket);
    Ok(lab.src().spawn(command)?.output(SOON)?)
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

fn last_event(output: &Output) -> Result<Value, Box<dyn Error>> {
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(serde_json::from_str(text.lines().last().ok_or_else(|| said(output))?)?)
}

/// What was lost of what was sent, by the link's own count.
#[expect(clippy::cast_precision_loss, reason = "a share")]
fn lost(tally: &Tally) -> f64 {
    (tally.lost + tally.overflowed) as f64 / tally.offered.max(1) as f64
}

/// On a busy machine packets may be late, and few may have been sent: every bound leaves room for it.
#[test]
fn what_it_says_is_what_the_link_has_measured() -> Outcome {
    if missing() {
        return Ok(());
    }
    for (words, loss) in
        [("rate=40Mbit rtt=20ms queue=1bdp", 0.0), ("rate=80Mbit rtt=40ms loss=2%", 0.02)]
    {
        let lab = Lab::plan().link(words.parse::<Link>()?).build()?;
        let subject = Subject::new("heartbeat").start(&lab, lab.src())?;
        let listening = Migration::new(&lab)?.listen()?;
        let emulator = lab.emulator().ok_or("no emulator")?;
        emulator.reset()?;
        let output = probe(&lab, listening.ticket(), &["--json", "--max-time", "2s"])?;
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let (up, down) = (emulator.tally(Side::Source)?, emulator.tally(Side::Destination)?);
        let found = last_event(&output)?;
        println!("{words}: {found}\nup {up:?}\ndown {down:?}");
        let number = |name: &str| {
            found.pointer(name).and_then(Value::as_f64).ok_or_else(|| format!("{name} of {found}"))
        };
        let quickest = up.transit.min_us + down.transit.min_us;
        let (rtt, wait) = (number("/rtt/min_us")?, number("/wait/min_us")?);
        assert!(rtt >= quickest && rtt < 2.0 * quickest + 20e3, "{rtt} for {quickest}");
        assert!(wait >= quickest && wait < 2.0 * quickest + 20e3, "{wait} for {quickest}");
        assert!(number("/wait_behind_bulk/count")? >= 1.0 && number("/wait/count")? >= 3.0);
        let rate = number("/bytes_per_second")? * 8.0;
        // What arrived behind a standstill of the whole machine seems a little faster than the link.
        let (most, least) = (1.02 * up.busy_rate(), 0.8 * up.delivered_rate());
        assert!(rate < most && rate > least, "{rate} of {up:?}");
        let (told, counted) = (number("/loss")?, lost(&up));
        assert!(number("/packets")? > 500.0 && counted >= loss / 2.0);
        assert!(told > counted / 2.0 - 0.005 && told < counted * 2.0 + 0.02, "{told} of {counted}");

        // It uses nothing up: the same ticket is good for another, which reads well, and for a migration.
        let tree = subject.pid().to_string();
        let again = probe(&lab, listening.ticket(), &["--max-bytes", "1MiB", "--tree", &tree])?;
        let words = [
            "by ticket",
            "nothing was changed there",
            "round trip",
            "rate",
            "loss",
            "of memory   about",
        ];
        for word in words {
            assert!(again.status.success() && said(&again).contains(word), "{}", said(&again));
        }
        let ticket = listening.ticket().to_owned();
        let moving = listening.dump(subject.pid())?;
        let moved = moving.finish()?;
        moved.succeeded()?;
        assert!(moved.ask(&lab, &subject)?.passed(), "{}", moved.logs());
        // Nobody listens there any more, or only to say that the ticket is used.
        let late = probe(&lab, &ticket, &["--json", "--connect-timeout", "1s"])?;
        assert_eq!(late.status.code(), Some(121), "{}", said(&late));
    }
    Ok(())
}

#[test]
fn words_that_make_no_sense_are_told() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let listening = Migration::new(&lab)?.listen()?;
    for words in [["--max-bytes", "2GiB"], ["--max-bytes", "1"], ["--max-time", "2min"]] {
        let output = probe(&lab, listening.ticket(), &words)?;
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", said(&output));
    }
    let output = probe(&lab, Path::new("/nonexistent/ticket"), &[])?;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    Ok(())
}
