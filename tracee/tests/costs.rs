//! What things cost. Prints a table; fails only on what no machine should need.

mod common;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{PATIENCE, Subject, can_run};
use tracee::host::{Urgency, stay_on_this_cpu};
use tracee::{Borrowed, Call, Held, Runner, Stopped, gate_call};

/// One measurement at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Least and middle of many.
fn measure(name: &str, times: usize, mut act: impl FnMut()) -> Duration {
    let mut all: Vec<Duration> = (0..times)
        .map(|_| {
            let start = Instant::now();
            act();
            start.elapsed()
        })
        .collect();
    all.sort_unstable();
    println!("{name:42} min {:>8.1?}  p50 {:>8.1?}", all[0], all[times / 2]);
    all[times / 2]
}

#[test]
fn of_injection() {
    if !can_run() {
        return;
    }
    let _alone = ALONE.lock();
    let _here = stay_on_this_cpu().expect("pinned");
    let _urgency = Urgency::raise().expect("root");
    let subject = Subject::ready(&["sigtrap", "default"]);
    subject.sleeping_in(libc::SYS_read);
    let gate = subject.gate();
    let pid = subject.pid();
    measure("seize and detach", 200, || Stopped::seize(pid).expect("seized").detach().expect("go"));
    let mut task = Stopped::seize(pid).expect("seized");
    measure("borrow and leave", 200, || {
        Borrowed::enter(&mut task).expect("borrowed").leave().expect("left");
    });
    let mut loan = Borrowed::enter(&mut task).expect("borrowed");
    measure("one call at the gate", 500, || {
        gate_call(loan.task(), gate, libc::SYS_getppid, &[]).expect("ran").expect("answered");
    });
    let mut runner = Runner::install(loan.task(), gate, None, 512 << 10).expect("installed");
    let mut middle = Duration::ZERO;
    for count in [1, 10, 100, 900] {
        let mut calls = vec![Call::new(libc::SYS_getppid, &[]); count];
        middle = measure(&format!("a batch of {count}"), 300, || {
            runner.batch(loan.task(), &mut calls).expect("ran");
        });
    }
    assert!(middle < Duration::from_millis(20), "900 calls in one batch took {middle:?}");
    measure("install and remove a runner", 100, || {
        let runner = Runner::install(loan.task(), gate, None, 64 << 10).expect("installed");
        runner.remove(loan.task(), gate).expect("removed");
    });
    measure("registers", 500, || {
        loan.task().regs().expect("readable");
    });
    measure("extended registers", 500, || drop(loan.task().xstate().expect("readable")));
    measure("maps", 100, || drop(tracee::proc::maps::read(pid).expect("readable")));
    measure("status", 100, || drop(tracee::proc::status::Status::read(pid).expect("readable")));
}

#[test]
fn of_freezing() {
    if !can_run() {
        return;
    }
    let _alone = ALONE.lock();
    for urgent in [false, true] {
        let _here = stay_on_this_cpu().expect("pinned");
        let _urgency = urgent.then(|| Urgency::raise().expect("root"));
        for threads in ["1", "9", "1000"] {
            let subject = Subject::ready(&["threads", threads]);
            measure(&format!("freeze {threads} threads, urgent: {urgent}"), 15, || {
                drop(Held::freeze(subject.pid(), PATIENCE).expect("frozen"));
            });
            measure("  of which: asking for children", 15, || {
                drop(tracee::proc::children::of_process(subject.pid()).expect("readable"));
            });
        }
    }
}

#[test]
fn a_preference_ends_with_it() {
    if !can_run() {
        return;
    }
    let nice =
        || tracee::host::sched(tracee::HostPid(nix::unistd::gettid().as_raw())).map(|it| it.2);
    let before = nice().expect("read");
    let preference = tracee::host::Preference::take().expect("root");
    assert_eq!(nice().expect("read"), before.min(-10));
    drop(preference);
    assert_eq!(nice().expect("read"), before);
}
