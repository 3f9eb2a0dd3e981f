//! What a program has set for its signals, and those on their way to it, survive our work in it.

mod common;

use common::{Subject, can_run, eventually, lend, state, work_in};
use tracee::{Borrowed, Call, Runner, StopKind};

#[test]
fn sigtrap_stays_as_the_program_set_it() {
    if !can_run() {
        return;
    }
    // Also all at once: blocked, pending, with each kind of action.
    for how in [
        "default",
        "ignore",
        "handle",
        "block",
        "ignore,block",
        "handle,block",
        "block,pend",
        "ignore,block,pend",
        "handle,block,pend",
    ] {
        let (mut subject, gate) = Subject::asleep(&["sigtrap", how]);
        let mut task = subject.seized();
        work_in(&mut task, gate).expect("worked");
        task.detach().expect("let go");
        subject.go_on();
        assert_eq!(subject.line(), "kept 0 0 0", "{how}");
    }
}

#[test]
fn signals_that_come_while_we_work_arrive_afterwards() {
    if !can_run() {
        return;
    }
    let (mut subject, gate) = Subject::asleep(&["signals"]);
    let mut task = subject.seized();
    let before = task.blocked().expect("a mask");
    assert_eq!(before & !(1 << 39), 0, "only signal 40 is blocked");
    assert_eq!(task.pending(true).expect("readable").len(), 3, "three times signal 40");
    let pid = subject.pid().0;
    let mut loan = Borrowed::enter(&mut task).expect("borrowed");
    // SIGTRAP is the mark of our own stub: it must be told from the program's.
    subject.signal(libc::SIGUSR1);
    subject.signal(libc::SIGTRAP);
    let mut runner = Runner::install(loan.task(), gate, None, 32 << 10).expect("installed");
    for _ in 0..20 {
        let mut calls = [Call::new(libc::SYS_getppid, &[]); 50];
        runner.batch(loan.task(), &mut calls).expect("worked");
        assert!(calls.iter().all(|call| call.value().is_ok()));
    }
    assert_eq!(loan.task().blocked().expect("a mask"), before, "our mask does not show");
    runner.remove(loan.task(), gate).expect("removed");
    loan.leave().expect("left");
    assert_eq!(task.blocked().expect("a mask"), before);
    assert_eq!(subject.status().pid, pid);
    task.detach().expect("let go");
    eventually("both handlers", || {
        let status = subject.status();
        status.shared_pending & !(1 << 39) == 0 && status.pending == 0
    });
    subject.go_on();
    let me = std::process::id();
    // si_code 0 is SI_USER: it is still kill(2) by us, not what the kernel would make up.
    assert_eq!(subject.line(), format!("usr1 1 {me} trap 1 {me} 0 queued 3 1"));
}

#[test]
fn signals_of_the_marks_number_that_come_in_the_middle_of_a_batch_are_not_swallowed() {
    if !can_run() {
        return;
    }
    let (mut subject, gate) = Subject::asleep(&["signals"]);
    let pid = subject.pid();
    let mut task = subject.seized();
    // The task sends itself SIGTRAP between other calls: unlike one sent while it stands, this is
    // delivered in the middle of the stub.
    lend(&mut task, gate, |task, runner| {
        for _ in 0..3 {
            let mut calls = [Call::new(libc::SYS_getppid, &[]); 9];
            let own = u64::from(pid.0.unsigned_abs());
            calls[4] = Call::new(libc::SYS_kill, &[own, u64::from(libc::SIGTRAP.unsigned_abs())]);
            runner.batch(task, &mut calls).expect("worked");
            assert!(calls.iter().all(|call| call.value().is_ok()), "{calls:?}");
        }
    });
    task.detach().expect("let go");
    eventually("the handler", || subject.status().shared_pending & 1 << 4 == 0);
    subject.go_on();
    let line = subject.line();
    // A standard signal pends once, however often it is sent.
    assert!(line.contains(&format!("trap 1 {pid} 0")), "{line}");
}

#[test]
fn sigstop_during_injection_is_not_lost() {
    if !can_run() {
        return;
    }
    let (mut subject, gate) = Subject::asleep(&["signals"]);
    let mut task = subject.seized();
    lend(&mut task, gate, |task, runner| {
        subject.signal(libc::SIGSTOP);
        let mut calls = [Call::new(libc::SYS_getppid, &[]); 10];
        runner.batch(task, &mut calls).expect("worked");
    });
    task.detach().expect("let go");
    eventually("the program to be stopped", || state(subject.pid()) == 'T');
    subject.signal(libc::SIGCONT);
    subject.go_on();
    assert!(subject.line().starts_with("usr1 0 "));
}

#[test]
fn sigcont_after_a_sigstop_during_injection_cancels_it() {
    if !can_run() {
        return;
    }
    let (mut subject, gate) = Subject::asleep(&["signals"]);
    let mut task = subject.seized();
    let mut loan = Borrowed::enter(&mut task).expect("borrowed");
    subject.signal(libc::SIGSTOP);
    let runner = Runner::install(loan.task(), gate, None, 32 << 10).expect("installed");
    subject.signal(libc::SIGCONT);
    runner.remove(loan.task(), gate).expect("removed");
    loan.leave().expect("left");
    task.detach().expect("let go");
    subject.go_on();
    // It answers without another SIGCONT.
    assert!(subject.line().starts_with("usr1 0 "));
}

#[test]
fn a_stopped_process_is_worked_in_and_stays_stopped() {
    if !can_run() {
        return;
    }
    let (mut subject, gate) = Subject::asleep(&["signals"]);
    for signal in [libc::SIGSTOP, libc::SIGTSTP] {
        subject.signal(signal);
        eventually("the program to be stopped", || state(subject.pid()) == 'T');
        for _ in 0..2 {
            let mut task = subject.seized();
            assert_eq!(task.stop_kind(), StopKind::GroupStop(signal));
            work_in(&mut task, gate).expect("worked");
            task.detach().expect("let go");
            eventually("the program to be stopped again", || state(subject.pid()) == 'T');
        }
        subject.signal(libc::SIGCONT);
        eventually("the program to go on", || state(subject.pid()) != 'T');
    }
    subject.go_on();
    assert!(subject.line().starts_with("usr1 0 "));
}

#[test]
fn detaching_with_sigstop_stops_the_process() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::ready(&["signals"]);
    let task = subject.seized();
    task.detach_with(libc::SIGSTOP).expect("let go");
    eventually("the program to be stopped", || state(subject.pid()) == 'T');
    subject.signal(libc::SIGCONT);
    subject.go_on();
    assert!(subject.line().starts_with("usr1 0 "));
}
