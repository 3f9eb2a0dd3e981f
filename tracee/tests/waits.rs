//! A thread in each kind of system call that a stop interrupts goes on as if nothing had been.

mod common;

use std::time::Duration;

use common::{Subject, can_run, work_in};
use tracee::Stopped;

/// Milliseconds into the wait at which the thread is stopped, and how long it is held.
const BEFORE: Duration = Duration::from_millis(150);
const HELD: Duration = Duration::from_millis(100);

/// (result, errno, elapsed microseconds)
fn verdict(subject: &mut Subject) -> (i64, i32, i64) {
    let line = subject.line();
    let mut words = line.split(' ').map(|word| word.parse::<i64>().expect("a number"));
    let mut next = || words.next().expect("three numbers");
    (next(), i32::try_from(next()).expect("an errno"), next())
}

/// Stops the subject in its call, has it work for us if `inject`, holds it, lets it go.
fn disturb(subject: &Subject, nr: libc::c_long, inject: bool) {
    subject.sleeping_in(nr);
    std::thread::sleep(BEFORE);
    let mut task = Stopped::seize(subject.pid()).expect("seized");
    if inject {
        let gate = subject.gate();
        work_in(&mut task, gate).expect("worked");
        // A second loan of the same stop must not hurt either.
        work_in(&mut task, gate).expect("worked");
    }
    std::thread::sleep(HELD);
    task.detach().expect("let go");
}

/// What becomes of the time of a wait that is stopped.
#[derive(Clone, Copy)]
enum Goes {
    /// The kernel keeps when it is to end: 400 ms whatever we do.
    On,
    /// The kernel keeps how much was left: the time we held it is added.
    OnWithTheRest,
    /// The kernel would give EINTR; wound back, the whole time is waited again: late, never early.
    Anew,
}

#[test]
fn timed_waits_end_when_they_should() {
    if !can_run() {
        return;
    }
    let kinds = [
        ("nanosleep", libc::SYS_nanosleep, (0, 0), Goes::On),
        ("clock_nanosleep", libc::SYS_clock_nanosleep, (0, 0), Goes::On),
        ("clock_nanosleep_abs", libc::SYS_clock_nanosleep, (0, 0), Goes::On),
        ("poll", libc::SYS_poll, (0, 0), Goes::On),
        ("futex", libc::SYS_futex, (-1, libc::ETIMEDOUT), Goes::On),
        ("futex_abs", libc::SYS_futex, (-1, libc::ETIMEDOUT), Goes::On),
        ("ppoll", libc::SYS_ppoll, (0, 0), Goes::OnWithTheRest),
        ("select", libc::SYS_select, (0, 0), Goes::OnWithTheRest),
        ("epoll_wait", libc::SYS_epoll_wait, (0, 0), Goes::Anew),
        ("epoll_pwait", libc::SYS_epoll_pwait, (0, 0), Goes::Anew),
        ("epoll_pwait2", 441, (0, 0), Goes::Anew),
        ("semtimedop", libc::SYS_semtimedop, (-1, libc::EAGAIN), Goes::Anew),
        ("sigtimedwait", libc::SYS_rt_sigtimedwait, (-1, libc::EAGAIN), Goes::Anew),
        ("recv_timeout", libc::SYS_read, (-1, libc::EAGAIN), Goes::Anew),
    ];
    let runs = kinds.into_iter().flat_map(|kind| [(kind, true), (kind, false)]);
    let threads: Vec<_> = runs
        .map(|((kind, nr, ends, goes), inject)| {
            let subject = Subject::ready(&["wait", kind]);
            std::thread::spawn(move || {
                let mut subject = subject;
                disturb(&subject, nr, inject);
                let (result, errno, elapsed) = verdict(&mut subject);
                println!("{kind:20} injected {inject:5}: {elapsed} us");
                assert_eq!((result, errno), ends, "{kind}, injected: {inject}");
                assert!(elapsed >= 399_000, "{kind} ended early, after {elapsed} us");
                // Each less than what the next worse kind would make, and room for a busy host.
                let latest = match goes {
                    Goes::On => 495_000,
                    Goes::OnWithTheRest => 645_000,
                    Goes::Anew => 2_000_000,
                };
                assert!(elapsed < latest, "{kind} took {elapsed} us, injected: {inject}");
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("as it should be");
    }
}

#[test]
fn waits_for_events_go_on_until_the_event() {
    if !can_run() {
        return;
    }
    // Kind, number, result once the event comes.
    let kinds = [
        ("read_pipe", libc::SYS_read, (1, 0)),
        ("accept", libc::SYS_accept, (0, 0)),
        ("wait4", libc::SYS_wait4, (7, 0)),
        ("flock", libc::SYS_flock, (0, 0)),
        ("msgrcv", libc::SYS_msgrcv, (1, 0)),
    ];
    for (kind, nr, ends) in kinds {
        for inject in [true, false] {
            let mut subject = Subject::ready(&["wait", kind]);
            disturb(&subject, nr, inject);
            // It is back in its call, not out of it.
            subject.sleeping_in(nr);
            subject.go_on();
            let (result, errno, _) = verdict(&mut subject);
            assert_eq!((result, errno), ends, "{kind}, injected: {inject}");
        }
    }
}

#[test]
fn waits_for_signals_end_with_eintr_only_for_a_signal() {
    if !can_run() {
        return;
    }
    for (kind, nr) in [("pause", libc::SYS_pause), ("sigsuspend", libc::SYS_rt_sigsuspend)] {
        for inject in [true, false] {
            let mut subject = Subject::ready(&["wait", kind]);
            disturb(&subject, nr, inject);
            subject.sleeping_in(nr);
            subject.signal(libc::SIGUSR1);
            let (result, errno, _) = verdict(&mut subject);
            assert_eq!((result, errno), (-1, libc::EINTR), "{kind}, injected: {inject}");
        }
    }
}

#[test]
fn a_signal_that_comes_while_stopped_ends_the_wait_with_eintr() {
    if !can_run() {
        return;
    }
    for (kind, nr) in [("pause", libc::SYS_pause), ("sigsuspend", libc::SYS_rt_sigsuspend)] {
        let mut subject = Subject::ready(&["wait", kind]);
        subject.sleeping_in(nr);
        let gate = subject.gate();
        let mut task = Stopped::seize(subject.pid()).expect("seized");
        subject.signal(libc::SIGUSR1);
        work_in(&mut task, gate).expect("worked");
        task.detach().expect("let go");
        let (result, errno, _) = verdict(&mut subject);
        assert_eq!((result, errno), (-1, libc::EINTR), "{kind}");
    }
}
