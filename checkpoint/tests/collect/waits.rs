//! What was left of timed waits.

use std::time::{Duration, Instant};

use checkpoint::collect::Collected;
use image::state::Thread;

use crate::harness::{Subject, can_run};
use crate::{collected, living};

/// Between a look at the clock and a call.
const SLACK: Duration = Duration::from_millis(3);

#[test]
fn timed_waits_have_exactly_what_was_left() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start(&["waits"]);
    let (Collected { checkpoint, .. }, frozen, _) = collected(subject.pid());
    let root = living(checkpoint.root());
    let told = subject.told();
    let waits = told.lines().filter_map(|line| line.strip_prefix("wait "));
    let (mut seen, mut exact) = (0, 0);
    for wait in waits {
        let words: Vec<u64> = wait.split(' ').map(|word| word.parse().expect("a number")).collect();
        let [tid, how, ms, begun] = words[..] else { panic!("{wait}") };
        let thread = root.threads.iter().find(|thread| u64::from(thread.id.0) == tid).expect("it");
        let should = Duration::from_nanos(begun) + Duration::from_millis(ms) - frozen.monotonic;
        let left = thread.wait_left.unwrap_or_else(|| panic!("kind {how} of {ms} ms: {thread:?}"));
        let off = left.abs_diff(should);
        eprintln!("kind {how} of {ms} ms: {left:?} left, off by {off:?}");
        // Never too early. Later by what somebody else had the CPU for, between the subject's look at
        // the clock and its call.
        assert!(left + SLACK > should, "kind {how}: {left:?} left, not {should:?}");
        exact += u32::from(off < SLACK);
        assert!([7, 35, 202, 230].contains(&thread.regs.ax), "{:?}", thread.regs);
        seen += 1;
    }
    assert_eq!(seen, 7);
    assert!(exact > 3, "{exact} of {seen} have what was left");

    // The same once more: the kernel restarted them, so their calls have lost their numbers.
    let (Collected { checkpoint, .. }, frozen, _) = collected(subject.pid());
    let root = living(checkpoint.root());
    let mut exact = 0;
    for wait in subject.told().lines().filter_map(|line| line.strip_prefix("wait ")) {
        let words: Vec<u64> = wait.split(' ').map(|word| word.parse().expect("a number")).collect();
        let thread: &Thread =
            root.threads.iter().find(|thread| u64::from(thread.id.0) == words[0]).expect("it");
        assert_ne!(thread.regs.ax, 219, "restart_syscall means nothing to another kernel");
        let should =
            Duration::from_nanos(words[3]) + Duration::from_millis(words[2]) - frozen.monotonic;
        if let Some(left) = thread.wait_left {
            assert!(left + SLACK > should, "never early: {left:?}, not {should:?}");
            eprintln!(
                "again kind {} of {} ms: off by {:?}",
                words[1],
                words[2],
                left.abs_diff(should)
            );
            exact += u32::from(left.abs_diff(should) < SLACK);
        }
    }
    eprintln!("{exact} of 7 exact the second time");
    // On the source nothing was disturbed: each wakes in time.
    for _ in 0..7 {
        subject.wait_for("woke");
    }
    let until = Instant::now() + Duration::from_secs(10);
    while subject.told().matches("woke ").count() < 7 {
        assert!(Instant::now() < until, "{}", subject.told());
        std::thread::sleep(Duration::from_millis(5));
    }
    let told = subject.told();
    for wait in told.lines().filter_map(|line| line.strip_prefix("wait ")) {
        let words: Vec<u64> = wait.split(' ').map(|word| word.parse().expect("a number")).collect();
        let woke = told.lines().find_map(|line| line.strip_prefix(&format!("woke {} ", words[0])));
        let slept: u64 = woke.expect("it woke").parse().expect("a number");
        let whole = words[2] * 1_000_000;
        assert!((whole..whole + 200_000_000).contains(&slept), "{} ms took {slept} ns", words[2]);
    }
}
