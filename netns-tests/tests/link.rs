//! The emulated link does what it says: seen by programs on the hosts, and by its own tally.

use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use netns_tests::link::Tally;
use netns_tests::{Host, Lab, LabError, Link, Running, Side, requirements};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

fn lab(words: &str) -> Result<Lab, Box<dyn Error>> {
    Ok(Lab::plan().link(words.parse::<Link>()?).build()?)
}

fn missing() -> bool {
    requirements::missing(&["/usr/bin/python3"])
}

/// A program of `link.py` on `host`.
fn traffic(host: &Host, words: &[&str]) -> Result<Running, LabError> {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/link.py")).args(words);
    host.spawn(command)
}

/// The same, once it listens.
fn serve(host: &Host, words: &[&str]) -> Result<Running, LabError> {
    let running = traffic(host, words)?;
    running.wait_line("the listener", SOON, |line| (line == "up").then_some(()))?;
    Ok(running)
}

/// The numbers it says after `word`.
fn numbers(running: &Running, word: &str) -> Result<Vec<u64>, LabError> {
    running.wait_line(word, SOON, |line| {
        let rest = line.strip_prefix(word)?;
        Some(rest.split(' ').filter_map(|number| number.parse().ok()).collect())
    })
}

/// How many of so many round trips came back, and the quickest.
fn ping(from: &Host, to: &Host, count: u32, patience: &str) -> Result<(u64, Duration), LabError> {
    let words = ["ping", &to.addr().to_string(), &count.to_string(), patience];
    let said = numbers(&traffic(from, &words)?, "ping")?;
    Ok((said[0], Duration::from_micros(said[1])))
}

fn tally(lab: &Lab, from: Side) -> Result<Tally, Box<dyn Error>> {
    Ok(lab.emulator().ok_or("no emulator")?.tally(from)?)
}

#[test]
fn delay_and_rate_are_as_measured() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = lab("rate=20Mbit rtt=30ms queue=2bdp")?;
    let (src, dst) = (lab.src(), lab.dst());
    let address = dst.addr().to_string();
    let _echo = serve(dst, &["echo", &address])?;
    let (came, quickest) = ping(src, dst, 30, "20")?;
    assert_eq!(came, 30);
    let ms = Duration::from_millis;
    assert!(quickest >= ms(30) && quickest < ms(60), "{quickest:?}");

    let take = serve(dst, &["take", &address])?;
    let give = traffic(src, &["give", &address, "2"])?;
    let gave =
        give.wait_line("gave", SOON, |line| line.strip_prefix("gave ").map(str::to_owned))?;
    let took =
        take.wait_line("took", SOON, |line| line.strip_prefix("took ").map(str::to_owned))?;
    let (same, time) = gave.rsplit_once(' ').ok_or("no time")?;
    assert_eq!(same, took);
    // 2 MiB of 20 Mbit/s cannot take less than this.
    assert!(time.parse::<u64>()? > 820_000, "{time} µs");

    let up = tally(&lab, Side::Source)?;
    assert!((up.busy_rate() / 20e6 - 1.0).abs() < 1e-3, "{up:?}");
    assert!(up.delivered_rate() < 20.1e6 && up.delivered_bytes > 2 << 20, "{up:?}");
    assert!(up.transit.min_us >= 15_000.0 && up.transit.p99_us >= up.transit.p50_us, "{up:?}");
    assert_eq!((up.lost, up.cut, up.duplicated, up.reordered, up.missed), (0, 0, 0, 0, 0));
    Ok(())
}

/// What TSO and UDP GSO made of large writes comes out as packets, whole and in order; a receiver
/// that asks for GRO gets the same bytes.
#[test]
fn segmented_writes_come_through() -> Outcome {
    come_through("rate=1Gbit rtt=1ms queue=100ms")
}

/// They do so too, and count as the packets that they are, where the link leaves them in one piece.
#[test]
fn whole_writes_come_through() -> Outcome {
    come_through("rate=1Gbit rtt=1ms queue=100ms gso")
}

fn come_through(words: &str) -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = lab(words)?;
    let (src, dst) = (lab.src(), lab.dst());
    let address = dst.addr().to_string();
    let take = serve(dst, &["take", &address])?;
    let give = traffic(src, &["give", &address, "64"])?;
    let gave =
        give.wait_line("gave", SOON, |line| line.strip_prefix("gave ").map(str::to_owned))?;
    let took =
        take.wait_line("took", SOON, |line| line.strip_prefix("took ").map(str::to_owned))?;
    assert_eq!(gave.rsplit_once(' ').ok_or("no time")?.0, took);
    let up = tally(&lab, Side::Source)?;
    assert!(up.offered_bytes / up.offered <= 1500 && up.missed == 0, "{up:?}");
    assert!((up.busy_rate() / 1e9 - 1.0).abs() < 1e-3, "{up:?}");
    let bytes: u64 = took.split(' ').next().ok_or("no count")?.parse()?;
    // In segments of 1448 bytes, each with 52 of headers.
    assert!(up.delivered_bytes > bytes / 1448 * 1500, "{up:?}");
    println!("64 MiB over TCP: {up:?}");

    for gro in [&[][..], &["gro"]] {
        let count = serve(dst, &[&["count", address.as_str()], gro].concat())?;
        let before = tally(&lab, Side::Source)?.offered;
        traffic(src, &["number", &address, "9000", "1400", "45"])?.wait(SOON)?;
        let seen = numbers(&count, "count")?;
        let sent = tally(&lab, Side::Source)?.offered - before;
        assert!((9000..9100).contains(&sent), "{sent} packets");
        assert_eq!(seen, [9000, 9000, 0], "with {gro:?}: {:?}", tally(&lab, Side::Source)?);
    }
    Ok(())
}

#[test]
fn packets_are_lost_doubled_and_late() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = lab("rtt=4ms loss=3% duplicate=2% reorder=4% reorder-by=5ms seed=11")?;
    let address = lab.dst().addr().to_string();
    let count = serve(lab.dst(), &["count", &address])?;
    lab.emulator().ok_or("no emulator")?.reset()?;
    let number = traffic(lab.src(), &["number", &address, "4000", "200", "1"])?;
    let seen = numbers(&count, "count")?;
    number.wait(SOON)?;
    let [got, different, behind] = seen[..] else { return Err("three numbers".into()) };
    let up = tally(&lab, Side::Source)?;
    // The few others are ends of the stream, and what IPv6 says of itself.
    let others = up.delivered - got;
    assert!(others < 300, "{others} others: {up:?}");
    assert!((60..180).contains(&(4000 - different)), "{different} different: {up:?}");
    assert!((40..120).contains(&(got - different)), "{seen:?} {up:?}");
    assert!((80..240).contains(&behind) && up.reordered >= behind, "{seen:?} {up:?}");
    assert!((up.loss_share() - 0.03).abs() < 0.015, "{up:?}");
    Ok(())
}

#[test]
fn losses_come_in_bursts() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = lab("loss=2%x10 seed=5")?;
    let address = lab.dst().addr().to_string();
    let count = serve(lab.dst(), &["count", &address])?;
    traffic(lab.src(), &["number", &address, "4000", "200", "1"])?.wait(SOON)?;
    numbers(&count, "count")?;
    let up = tally(&lab, Side::Source)?;
    assert!(up.longest_loss >= 10 && up.lost > 20, "{up:?}");
    Ok(())
}

/// The queue is as long as it was told, and what does not fit is dropped there.
#[test]
fn a_full_queue_drops() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = lab("rate=8Mbit queue=20ms")?;
    let address = lab.dst().addr().to_string();
    let count = serve(lab.dst(), &["count", &address])?;
    // 45 packets of 1028 bytes at once: one millisecond each, 20 ms of them may wait.
    traffic(lab.src(), &["number", &address, "4500", "1000", "45"])?.wait(SOON)?;
    let seen = numbers(&count, "count")?;
    let up = tally(&lab, Side::Source)?;
    assert!(up.overflowed > 1000 && seen[0] + up.overflowed >= 4500, "{seen:?} {up:?}");
    // In the queue 20 ms, and one more at the bottleneck; what is beyond is the emulator's lateness.
    assert!(up.transit.p50_us - up.lateness.p99_us < 23_000.0, "{up:?}");
    Ok(())
}

#[test]
fn it_is_cut_healed_and_changed_while_it_runs() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = lab("rtt=2ms")?;
    let (src, dst) = (lab.src(), lab.dst());
    let emulator = lab.emulator().ok_or("no emulator")?;
    let _echo = serve(dst, &["echo", &dst.addr().to_string()])?;
    assert_eq!(ping(src, dst, 3, "20")?.0, 3);
    for cut in [Lab::cut, |lab: &Lab| lab.cut_from(Side::Destination), Lab::unplug] {
        cut(&lab)?;
        assert_eq!(ping(src, dst, 2, "0.3")?.0, 0);
        lab.plug()?;
        assert_eq!(ping(src, dst, 3, "20")?.0, 3);
    }
    assert!(tally(&lab, Side::Source)?.cut > 0 && tally(&lab, Side::Destination)?.cut > 0);
    emulator.change(Side::Source, "delay=40ms")?;
    emulator.change_both("rate=5Mbit")?;
    let (_, quickest) = ping(src, dst, 5, "20")?;
    assert!(quickest >= Duration::from_millis(41), "{quickest:?}");
    assert!(emulator.change_both("speed=3").is_err());
    Ok(())
}

#[test]
fn a_third_host_is_near_both() -> Outcome {
    if missing() {
        return Ok(());
    }
    let lab = Lab::plan().link(Link::satellite()).client().build()?;
    let client = lab.client().ok_or("no client")?;
    assert_eq!(client.name(), "client");
    for host in [lab.src(), lab.dst()] {
        let _echo = serve(host, &["echo", &host.addr().to_string()])?;
        let (came, quickest) = ping(client, host, 3, "20")?;
        assert!(came == 3 && quickest < Duration::from_millis(300), "{quickest:?}");
    }
    let footprint = lab.footprint();
    drop(lab);
    assert_eq!(footprint.remains(), [] as [String; 0]);
    Ok(())
}

/// Not a test of its own: the victim of `nothing_stays_after_a_kill`.
#[test]
fn victim() -> Outcome {
    let Some(report) = std::env::var_os("NETNS_TESTS_VICTIM") else { return Ok(()) };
    let lab = lab("rtt=2ms")?;
    let pid = lab.emulator().ok_or("no emulator")?.pid();
    std::fs::write(&report, format!("{pid}\n"))?;
    std::thread::sleep(Duration::from_secs(100));
    Ok(())
}

fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn nothing_stays_after_a_kill() -> Outcome {
    if missing() {
        return Ok(());
    }
    // Of the emulator: its devices go with it.
    let doomed = lab("rtt=2ms")?;
    let devices = |host: &Host| -> Result<String, LabError> {
        let mut list = Command::new("ip");
        list.args(["-o", "link"]);
        Ok(String::from_utf8_lossy(&host.run(list)?.stdout).into_owned())
    };
    assert!(devices(doomed.src())?.contains("eth0"));
    let pid = doomed.emulator().ok_or("no emulator")?.pid();
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)?;
    for host in [doomed.src(), doomed.dst()] {
        until("no device", || devices(host).is_ok_and(|text| !text.contains("eth0")));
    }
    // Of the lab's owner: the emulator goes with it.
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "victim"])
        .env("NETNS_TESTS_VICTIM", &report)
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let said = || std::fs::read_to_string(&report).unwrap_or_default();
    until("the victim's report", || said().ends_with('\n'));
    let emulator = std::path::PathBuf::from(format!("/proc/{}", said().trim()));
    assert!(emulator.exists());
    child.kill()?;
    child.wait()?;
    until("the emulator gone", || !emulator.exists());
    Ok(())
}
