//! The controller at a simulated bottleneck.

use std::time::Duration;

use super::TARGET;
use super::control::Control;
use super::simulation::{CubicFlow, Flow, Got, PACKET, Path, World};

const INITIAL: u64 = 128 << 10;
const MBIT: u64 = 1_000_000 / 8;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ours() -> Flow {
    Flow::Delay(Box::new(Control::new(INITIAL, TARGET, PACKET)))
}

fn path(mbit: u64, rtt: Duration) -> Path {
    let rate = mbit * MBIT;
    let product = rate * u64::try_from(rtt.as_micros()).expect("short") / 1_000_000;
    Path {
        rate,
        rtt,
        buffer: product.max(64 * u64::from(PACKET)),
        loss: 0,
        jitter: Duration::ZERO,
        reorders: false,
        away: Duration::ZERO,
    }
}

/// Of what the path could have carried.
fn share(got: &Got, path: &Path, time: Duration) -> f64 {
    float(got.delivered) / (float(path.rate) * time.as_secs_f64())
}

/// The queueing delay that `part` of the packets stayed within, in milliseconds.
fn wait(got: &Got, part: f64) -> f64 {
    let mut waits = got.waits.clone();
    waits.sort_unstable();
    let last = waits.len().saturating_sub(1);
    let at = (0..=last).find(|at| float(*at as u64) >= part * float(last as u64));
    waits.get(at.unwrap_or(last)).map_or(0.0, |wait| wait.as_secs_f64() * 1e3)
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// Rows: a link of each rate, length, depth of buffer and loss.
#[test]
fn links_are_full_and_queues_are_short() {
    for rtt in [Duration::from_micros(500), ms(20), ms(50), ms(100)] {
        for mbit in [20, 100, 1000] {
            for deep in [false, true] {
                for loss in [0, 1000, 10_000] {
                    let mut path = Path { loss, ..path(mbit, rtt) };
                    if deep {
                        path.buffer = path.rate / 5;
                    }
                    let mut world = World::new(path);
                    world.add(ours());
                    let fast = mbit == 1000;
                    world.run(if fast { secs(2) } else { secs(3) });
                    let time = if fast { ms(600) } else { secs(6) };
                    let got = &world.run(time)[0];
                    let row = format!("{rtt:?}, {mbit} Mbit/s, deep: {deep}, loss {loss}");
                    let used = share(got, &path, time);
                    assert!(used > 0.94, "{row}: {used} used");
                    // Ten packets that leave together take as long as they take.
                    let burst = 10e3 * f64::from(PACKET) / float(path.rate);
                    let (half, most) = (wait(got, 0.5), wait(got, 0.99));
                    assert!(half < 3.2 + 1.2 * burst, "{row}: half waited {half} ms");
                    let rtt = rtt.as_secs_f64() * 1e3;
                    assert!(most < 4.0 + 1.5 * burst + rtt / 8.0, "{row}: most waited {most} ms");
                }
            }
        }
    }
}

/// Packets lost for want of room, however short the buffer, are few.
#[test]
fn short_buffers_are_not_flooded() {
    for (mbit, packets) in [(100, 20), (1000, 64)] {
        let path = Path { buffer: packets * u64::from(PACKET), ..path(mbit, ms(20)) };
        let mut world = World::new(path);
        world.add(ours());
        world.run(secs(3));
        let got = &world.run(secs(2))[0];
        let (used, lost) = (share(got, &path, secs(2)), float(got.lost) / float(got.sent));
        assert!(used > 0.8, "{mbit} Mbit/s: {used} used");
        assert!(lost < 0.05, "{mbit} Mbit/s: {lost} lost");
    }
}

/// A delay that passes while the window grows is not the end of the path.
#[test]
fn a_moment_of_delay_does_not_end_start_up() {
    for (at, length) in [(120, 60), (230, 60), (320, 80)] {
        let path = path(1000, ms(100));
        let mut world = World::new(path);
        world.add(ours());
        world.run(ms(at));
        world.path.rtt = ms(140);
        world.run(ms(length));
        world.path.rtt = ms(100);
        world.run(ms(2200 - at - length));
        let used = share(&world.run(ms(500))[0], &path, ms(500));
        assert!(used > 0.9, "after a delay of {length} ms at {at} ms: {used} used");
    }
}

#[test]
fn heavy_loss_slows() {
    let mut world = World::new(path(100, ms(20)));
    world.add(ours());
    world.run(secs(3));
    world.path.loss = 30_000;
    let light = share(&world.run(secs(3))[0], &world.path, secs(3));
    assert!(light > 0.85, "three of a hundred lost: {light}");
    world.path.loss = 200_000;
    world.run(secs(1));
    let heavy = share(&world.run(secs(3))[0], &world.path, secs(3));
    assert!(heavy < 0.2, "a fifth lost: {heavy}");
    world.path.loss = 0;
    world.run(secs(2));
    let after = share(&world.run(secs(2))[0], &world.path, secs(2));
    assert!(after > 0.9, "none lost any more: {after}");
}

/// Rows: rate, round trip and buffer in milliseconds.
#[test]
fn beside_cubic_both_live_and_alone_the_queue_is_short_again() {
    let rows = [
        (100, 20, 20),
        (100, 20, 200),
        (100, 50, 50),
        (1000, 20, 20),
        (20, 50, 100),
        (100, 100, 100),
    ];
    for (mbit, rtt, buffer) in rows {
        let path = path(mbit, ms(rtt));
        let path = Path { buffer: path.rate * buffer / 1000, ..path };
        let row = format!("{mbit} Mbit/s, {rtt} ms, buffer {buffer} ms");
        let mut world = World::new(path);
        world.add(ours());
        world.run(secs(3));
        let cubic = world.add(Flow::Cubic(CubicFlow::new()));
        world.run(secs(6));
        let time = if mbit == 1000 { secs(5) } else { secs(16) };
        let got = world.run(time);
        let (ours, theirs) = (share(&got[0], &path, time), share(&got[1], &path, time));
        assert!(ours > 0.25, "{row}: we got {ours}");
        assert!(theirs > 0.25, "{row}: Cubic got {theirs}");
        world.stop(cubic);
        world.run(secs(3));
        let got = &world.run(secs(3))[0];
        let (used, most) = (share(got, &path, secs(3)), wait(got, 0.99));
        assert!(used > 0.94, "{row}: alone {used}");
        assert!(most < 20.0, "{row}: alone, most waited {most} ms");
    }
}

/// The queue is full before we come, at different points of the other's cycle. Rows: rate, round trip
/// and buffer in milliseconds.
#[test]
fn a_share_is_taken_from_a_flow_that_was_there_first() {
    let rows =
        [(100, 20, 20), (100, 20, 40), (100, 20, 60), (100, 50, 50), (100, 50, 100), (20, 50, 100)];
    for (mbit, rtt, buffer) in rows {
        let path = path(mbit, ms(rtt));
        let path = Path { buffer: path.rate * buffer / 1000, ..path };
        let mut sum = 0.0;
        for before in [7800, 8000, 8300, 8700, 9100, 9500] {
            let row = format!("{mbit} Mbit/s, {rtt} ms, buffer {buffer} ms, after {before} ms");
            let mut world = World::new(path);
            world.add(Flow::Cubic(CubicFlow::new()));
            world.run(ms(before));
            world.add(ours());
            world.run(secs(1));
            let got = world.run(secs(12));
            let (theirs, ours) = (share(&got[0], &path, secs(12)), share(&got[1], &path, secs(12)));
            assert!(ours > 0.1, "{row}: we got {ours}");
            assert!(theirs > 0.25, "{row}: Cubic got {theirs}");
            sum += ours;
        }
        assert!(
            sum / 6.0 > 0.27,
            "{mbit} Mbit/s, {rtt} ms, buffer {buffer} ms: {} on average",
            sum / 6.0
        );
    }
}

/// Rows: rate and round trip; then by how much the rate changes.
#[test]
fn a_rate_that_changes_is_followed() {
    for (mbit, rtt) in [(100, 20), (100, 100), (20, 50), (1000, 20)] {
        let start = path(mbit, ms(rtt));
        let mut world = World::new(Path { buffer: start.rate / 5, ..start });
        world.add(ours());
        world.run(secs(4));
        for (times, by) in [(1, 2), (2, 1), (2, 1), (1, 4)] {
            world.path.rate = world.path.rate * times / by;
            let row = format!("{mbit} Mbit/s, {rtt} ms, times {times} by {by}");
            world.run(secs(3));
            let got = &world.run(secs(2))[0];
            let (used, most) = (share(got, &world.path, secs(2)), wait(got, 0.99));
            assert!(used > 0.85, "{row}: {used} used");
            assert!(most < float(rtt), "{row}: most waited {most} ms");
        }
    }
}

#[test]
fn delays_that_wander_are_lived_with() {
    for (mbit, rtt) in [(100, 20), (20, 20), (20, 100), (1000, 20)] {
        let path = Path { jitter: ms(5), ..path(mbit, ms(rtt)) };
        let path = Path { buffer: path.buffer.max(path.rate / 5), ..path };
        let mut world = World::new(path);
        world.add(ours());
        world.run(secs(4));
        let got = &world.run(secs(4))[0];
        let (used, most) = (share(got, &path, secs(4)), wait(got, 0.99));
        assert!(used > 0.85, "{mbit} Mbit/s, {rtt} ms: {used} used");
        assert!(most < 30.0, "{mbit} Mbit/s, {rtt} ms: most waited {most} ms");
    }
}

#[test]
fn packets_that_overtake_do_not_stop_it() {
    let path = Path { jitter: ms(2), reorders: true, ..path(100, ms(20)) };
    let mut world = World::new(path);
    world.add(ours());
    world.run(secs(4));
    let got = &world.run(secs(4))[0];
    let used = share(got, &path, secs(4));
    assert!(used > 0.9, "{used} used");
}

/// The queue is drained to look at the base again, and what is let out afterwards makes hardly a new one.
#[test]
fn a_look_at_the_base_makes_no_queue() {
    let path = path(100, ms(100));
    let mut world = World::new(path);
    let flow = world.add(ours());
    world.run(secs(8));
    let got = &world.run(secs(6))[flow];
    let most = wait(got, 0.9999);
    assert!(most < 6.0, "most waited {most} ms");
}

/// A path that becomes longer looks like a queue that does not yield; the link stays in use.
#[test]
fn a_longer_route_is_accepted() {
    let start = path(100, ms(20));
    let mut world = World::new(Path { buffer: start.rate / 5, ..start });
    world.add(ours());
    world.run(secs(3));
    world.path.rtt = ms(60);
    world.run(secs(5));
    let used = share(&world.run(secs(5))[0], &world.path, secs(5));
    assert!(used > 0.6, "{used} used");
    world.path.rtt = ms(20);
    world.run(secs(3));
    let got = &world.run(secs(3))[0];
    assert!(share(got, &world.path, secs(3)) > 0.9);
    assert!(wait(got, 0.99) < 10.0, "{}", wait(got, 0.99));
}

/// Nothing gets through for two seconds, then all is as it was.
#[test]
fn a_cut_is_survived() {
    let mut world = World::new(path(100, ms(20)));
    world.add(ours());
    world.run(secs(3));
    world.path.loss = 1_000_000;
    world.run(secs(2));
    world.path.loss = 0;
    world.run(secs(1));
    let used = share(&world.run(secs(2))[0], &world.path, secs(2));
    assert!(used > 0.9, "{used} used");
}

/// The end of the path is found with a short queue, which is gone two round trips later. Rows: rate,
/// round trip, round trips until the link is full, the longest queue in milliseconds.
#[test]
fn the_end_of_the_path_is_met_softly() {
    let rows = [
        (100, 20, 4, 14.0),
        (100, 50, 6, 26.0),
        (100, 100, 8, 32.0),
        (1000, 20, 9, 14.0),
        (1000, 100, 13, 50.0),
        (20, 50, 2, 15.0),
    ];
    for (mbit, rtt, round_trips, longest) in rows {
        let row = format!("{mbit} Mbit/s, {rtt} ms");
        let path = path(mbit, ms(rtt));
        let mut world = World::new(path);
        world.add(ours());
        let mut full = None;
        for round in 1..=round_trips + 5 {
            let got = &world.run(ms(rtt))[0];
            let (used, most) = (share(got, &path, ms(rtt)), wait(got, 1.0));
            assert!(most < longest, "{row}, round trip {round}: {most} ms waited");
            if used > 0.93 {
                full.get_or_insert(round);
            }
            if full.is_some_and(|full| round >= full + 4) {
                assert!(used > 0.93, "{row}, round trip {round}: {used} used");
                let short = 4.0 + float(rtt) / 20.0 + 120.0 / float(mbit);
                assert!(most < short, "{row}, round trip {round}: {most} ms waited");
            }
        }
        assert!(full.is_some_and(|full| full <= round_trips), "{row}: full after {full:?}");
    }
}

/// A path that was learnt is filled again, after a pause, with next to no queue.
#[test]
fn a_learnt_path_is_filled_again_without_a_queue() {
    for rtt in [ms(20), ms(50), ms(100)] {
        for mbit in [20, 100, 1000] {
            let path = path(mbit, rtt);
            let mut world = World::new(path);
            let flow = world.add(ours());
            let mut took = Duration::ZERO;
            while !world.settled(flow) {
                world.run(ms(1));
                took += ms(1);
                assert!(took < rtt * 24, "{mbit} Mbit/s, {rtt:?}");
            }
            world.stop(flow);
            world.run(rtt * 2);
            world.resume(flow);
            let first = &world.run(rtt * 3)[flow];
            let then = &world.run(secs(5))[flow];
            // What the pacer sends together is not waited for by itself.
            let burst = 20.0 * float(PACKET.into()) / float(path.rate) * 1e3;
            for (got, time) in [(first, rtt * 3), (then, secs(5))] {
                let (wait, share) = (wait(got, 0.99), share(got, &path, time));
                assert!(wait <= 5.0 + burst, "{mbit} Mbit/s, {rtt:?}: {wait} ms");
                assert!(share >= 0.7, "{mbit} Mbit/s, {rtt:?}: {share}");
            }
        }
    }
}

/// Hosts have little time for us when processes are moved away because of that.
#[test]
fn busy_hosts_fill_the_link_all_the_same() {
    // With 20 ms away on average between moments of 2 ms quinn's pacer lets a third through at most.
    for (rtt, away, least) in [(4, 10, 0.6), (20, 20, 0.8), (20, 40, 0.2)] {
        let path = Path { away: ms(away), ..path(100, ms(rtt)) };
        let mut world = World::new(path);
        let flow = world.add(ours());
        world.run(secs(5));
        let share = share(&world.run(secs(10))[flow], &path, secs(10));
        assert!(share > least, "{rtt} ms, away up to {away} ms: {share}");
        // It does not grow without end either.
        let most = 14.0 * path.rate as f64 * (path.rtt + ms(away)).as_secs_f64();
        let window = world.window(flow);
        assert!((window as f64) < most, "{rtt} ms, away up to {away} ms: {window}");
    }
}
