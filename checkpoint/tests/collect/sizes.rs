//! Many threads, much memory, and little of both: how long it takes.

use std::time::Duration;

use checkpoint::collect::Collected;
use image::state::Advice;
use pages::{PageCount, PageRange, SpaceId, VirtAddr};

use crate::harness::{Subject, can_run};
use crate::{collected, living, pages_of};

#[test]
fn a_thousand_threads_are_read_quickly() {
    if !can_run() {
        return;
    }
    let subject = Subject::start(&["crowd", "1000"]);
    let (Collected { checkpoint, .. }, _, took) = collected(subject.pid());
    eprintln!("collect of 1000 threads: {took:?}");
    let root = living(checkpoint.root());
    assert_eq!(root.threads.len(), 1000);
    let mut ids: Vec<_> = root.threads.iter().map(|thread| thread.id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 1000);
    assert!(root.threads.iter().all(|thread| thread.clear_child_tid != VirtAddr(0)));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_large_program_does_not_wait_for_its_page_tables() {
    if !can_run() {
        return;
    }
    let subject = Subject::start(&["large", "512"]);
    let (Collected { checkpoint, spaces, .. }, _, took) = collected(subject.pid());
    eprintln!("collect of 512 MiB in small pages: {took:?}");
    let pages = &pages_of(&spaces, SpaceId::Process(checkpoint.root().id)).pages;
    let start = VirtAddr(subject.numbers("large")[0]).page();
    let touched = PageRange::new(start, PageCount((512 << 20) / 4096)).expect("a range");
    assert!(pages.ranges().iter().any(|run| run.covers(touched)));
    let vmas = &living(checkpoint.root()).mm.vmas;
    let vma = vmas.iter().find(|vma| vma.range.contains(start)).expect("its mapping");
    assert!(vma.advice.contains(Advice::NO_HUGE_PAGE), "flags were seen before: {vma:?}");
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn a_small_program_is_read_in_little_time() {
    if !can_run() {
        return;
    }
    let subject = Subject::start(&["crowd", "5"]);
    let mut times: Vec<Duration> = (0..15).map(|_| collected(subject.pid()).2).collect();
    times.sort_unstable();
    eprintln!("collect of 5 threads: best {:?}, median {:?}", times[0], times[7]);
    assert!(times[0] < Duration::from_millis(20), "{times:?}");
}
