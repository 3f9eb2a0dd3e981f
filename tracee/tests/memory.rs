//! Memory is read and written whatever its protection; the pagemap tells what has content.

mod common;

use std::collections::BTreeSet;

use common::{Subject, can_run};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet, VirtAddr};
use tracee::{Memory, Pagemap, Wanted};

const PAGES: u64 = 64;

struct Layout {
    subject: Subject,
    memory: Memory,
    file: Vec<u8>,
    at: Vec<u64>,
}

/// The subject of mode `memory`, and the file it maps.
fn layout(name: &str) -> Layout {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let file: Vec<u8> = (0..PAGES * 4096).map(|at| (at / 4096 % 251) as u8 | 1).collect();
    std::fs::write(&path, &file).expect("writable");
    let mut subject = Subject::start(&["memory", path.to_str().expect("a plain path")]);
    let at = subject.addresses();
    let memory = Memory::open(subject.pid()).expect("ptrace access");
    Layout { subject, memory, file, at }
}

fn range(at: u64, pages: u64) -> PageRange {
    PageRange::new(VirtAddr(at).page(), PageCount(pages)).expect("a range")
}

fn relative(set: &PageSet, at: u64) -> BTreeSet<u64> {
    let base = VirtAddr(at).page().0;
    set.ranges().iter().flat_map(|run| run.start().0..run.end().0).map(|page| page - base).collect()
}

#[test]
fn protections_do_not_matter() {
    if !can_run() {
        return;
    }
    let mut here = layout("protections");
    let (none, read_only) = (VirtAddr(here.at[2]), VirtAddr(here.at[3]));
    let mut page = vec![0; PAGE_SIZE];
    here.memory.read(none, &mut page).expect("PROT_NONE is read");
    assert_eq!((page[0], page[1]), (b'N', 0));
    here.memory.write(none, b"first").expect("PROT_NONE is written");
    // Large enough for the other way of writing, and it must fall back.
    let mut many = vec![b'x'; 32 * PAGE_SIZE];
    many[..5].copy_from_slice(b"other");
    here.memory.write(read_only, &many).expect("a read-only page is written");
    let mut back = vec![0; many.len()];
    here.memory.read(read_only, &mut back).expect("readable");
    assert!(back == many);
    let mut through_none = vec![0; 32 * PAGE_SIZE];
    here.memory.read(none, &mut through_none).expect("PROT_NONE is read in one piece");
    assert_eq!(&through_none[..5], b"first");
    here.subject.go_on();
    assert_eq!(here.subject.line(), "first other");
}

#[test]
fn reading_stops_where_nothing_is_mapped() {
    if !can_run() {
        return;
    }
    let here = layout("holes");
    let all = tracee::proc::maps::read(here.subject.pid()).expect("alive");
    let hole = all.windows(2).find(|pair| pair[0].end < pair[1].start && pair[0].prot & 1 != 0);
    let end = hole.expect("a hole")[0].end.0;
    for len in [8192, 64 * 1024] {
        let mut into = vec![0; len];
        let got = here.memory.read_some(VirtAddr(end - 4096), &mut into).expect("partly readable");
        assert_eq!(got, 4096, "of {len}");
        assert_eq!(here.memory.read_some(VirtAddr(end), &mut into).expect("an answer"), 0);
        let error = here.memory.read(VirtAddr(end - 4096), &mut into).expect_err("short");
        assert!(
            matches!(error, tracee::Error::Memory { at, .. } if at == VirtAddr(end)),
            "{error}"
        );
    }
    let (memory, subject) = (here.memory, here.subject);
    drop(subject);
    let error = memory.read(VirtAddr(end - 4096), &mut [0; 8]).expect_err("dead");
    assert!(error.is_gone(), "{error}");
}

/// Pages of `count` whose bytes are not all those of `expected`: what a reader of every byte would
/// have to send.
fn differing(
    memory: &Memory,
    at: u64,
    count: u64,
    expected: impl Fn(u64) -> Vec<u8>,
) -> BTreeSet<u64> {
    (0..count)
        .filter(|page| {
            let mut bytes = vec![0; PAGE_SIZE];
            memory.read(VirtAddr(at + page * 4096), &mut bytes).expect("readable");
            bytes != expected(*page)
        })
        .collect()
}

#[test]
fn the_pagemap_agrees_with_reading_every_byte() {
    if !can_run() {
        return;
    }
    let here = layout("pagemap");
    let pid = here.subject.pid();
    let scanning = Pagemap::open(pid).expect("readable");
    let reading = Pagemap::open_without_scan(pid).expect("readable");
    let both = |at: u64, count: u64, wanted| {
        let sets = [&scanning, &reading].map(|map| map.scan(range(at, count), wanted));
        sets.map(|set| relative(&set.expect("readable"), at))
    };
    let zero = |_| vec![0; PAGE_SIZE];
    let touched = |step: u64, rest: u64| (0..PAGES).filter(move |page| page % step == rest);

    // Scan before reading: reading through ptrace maps the zero page in, and would change the answer.
    let [anon, anon_slow] = both(here.at[0], PAGES, Wanted::AnonContent);
    let [cowed, cowed_slow] = both(here.at[1], PAGES, Wanted::CowedFileContent);
    let [guarded, _] = both(here.at[2], PAGES, Wanted::AnonContent);
    let [huge, huge_slow] = both(here.at[4], 512, Wanted::AnonContent);
    let [shared, _] = both(here.at[5], PAGES, Wanted::Present);
    let [dropped, _] = both(here.at[6], PAGES, Wanted::AnonContent);
    let [file_pages, _] = both(here.at[1], PAGES, Wanted::Present);

    let content = differing(&here.memory, here.at[0], PAGES, zero);
    assert_eq!(content, touched(3, 0).collect());
    assert_eq!(anon, content, "neither holes nor zero pages");
    // Without the scan, zero pages cannot be told apart; nothing may be missing.
    assert_eq!(anon_slow, content.iter().copied().chain(touched(3, 1)).collect());

    let of_file = |page: u64| {
        let from = usize::try_from(page).expect("small") * PAGE_SIZE;
        here.file[from..from + PAGE_SIZE].to_vec()
    };
    let written = differing(&here.memory, here.at[1], PAGES, of_file);
    assert_eq!(written, touched(4, 0).collect());
    assert_eq!((&cowed, &cowed_slow), (&written, &written));
    assert!(file_pages.is_superset(&written) && file_pages.contains(&1), "clean pages are present");

    assert_eq!(guarded, (0..PAGES).collect(), "PROT_NONE hides nothing");

    let content = differing(&here.memory, here.at[4], 512, zero);
    assert_eq!(content, BTreeSet::from([0]));
    assert!(huge.is_superset(&content) && huge_slow == huge);
    if huge.len() == 512 {
        println!("the huge page is one");
    }

    assert!(shared.is_superset(&touched(5, 0).collect()));

    let content = differing(&here.memory, here.at[6], PAGES, zero);
    assert_eq!(content, touched(2, 0).filter(|page| !(8..16).contains(page)).collect());
    assert_eq!(dropped, content, "after MADV_DONTNEED");
}

#[test]
fn scans_of_more_runs_than_one_call_returns_are_whole() {
    if !can_run() {
        return;
    }
    // 3000 single pages with holes between, in this very process.
    const RUNS: u64 = 3000;
    let mut area = vec![0_u8; usize::try_from((2 * RUNS + 1) * 4096).expect("small")];
    let base = (area.as_ptr() as u64).next_multiple_of(4096);
    let skip = usize::try_from(base - area.as_ptr() as u64).expect("small");
    for page in 0..usize::try_from(RUNS).expect("small") {
        area[skip + page * 8192] = 1;
    }
    let pid = tracee::HostPid(std::process::id().cast_signed());
    let map = Pagemap::open(pid).expect("readable");
    let set = map.scan(range(base, 2 * RUNS), Wanted::AnonContent).expect("readable");
    assert_eq!(relative(&set, base), (0..RUNS).map(|page| page * 2).collect());
    let start = PageIndex(base >> 12);
    assert!(set.contains(start));
    drop(area);
}

#[test]
fn host_timers_are_read() {
    if !can_run() {
        return;
    }
    let sleeper = Subject::ready(&["wait", "nanosleep"]);
    sleeper.sleeping_in(libc::SYS_nanosleep);
    let now = tracee::host::sys_clock(libc::CLOCK_MONOTONIC).expect("a clock").as_nanos();
    let timers = tracee::host::hrtimers().expect("readable by root");
    let ends = timers.iter().filter(|timer| {
        let expires = u128::from(timer.expires_soft_ns);
        timer.function == "hrtimer_wakeup"
            && matches!(timer.base, 0 | 4)
            && (now..now + 400_000_000).contains(&expires)
    });
    assert!(ends.count() >= 1, "its end is among {timers:?}");
}
