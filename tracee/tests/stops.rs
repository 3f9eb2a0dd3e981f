//! A stop leaves no trace: registers, restartable sequences, and who may run when we are gone.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{PATIENCE, Subject, can_run, eventually, state, work_in};
use pages::VirtAddr;
use tracee::{
    Borrowed, Call, Error, Held, HostPid, Interrupted, Memory, Runner, Stopped, wound_back,
};

#[test]
fn a_restartable_sequence_is_aborted_whatever_we_do_then() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start(&["rseq"]);
    let [start, end, abort, flag, count] = subject.addresses()[..] else { panic!("five") };
    let gate = subject.gate();
    let memory = Memory::open(subject.pid()).expect("ptrace access");
    let aborted = || {
        let mut word = [0; 8];
        memory.read(VirtAddr(count), &mut word).expect("readable");
        i64::from_le_bytes(word)
    };
    for round in 0..300 {
        let began = Instant::now();
        // Stop it inside the section; elsewhere does not count.
        loop {
            assert!(began.elapsed() < PATIENCE);
            let mut task = Stopped::seize(subject.pid()).expect("seized");
            let regs = task.regs().expect("readable");
            assert!(!(start..end).contains(&regs.rip), "it stands inside the section");
            let hit = regs.rip == abort;
            if hit {
                let config = task.rseq().expect("readable").expect("glibc registers");
                let mut section = [1; 8];
                memory.read(VirtAddr(config.area + 8), &mut section).expect("readable");
                assert_eq!(section, [0; 8], "the kernel would look at the section again");
            }
            if round % 2 == 0 {
                work_in(&mut task, gate).expect("worked");
            }
            let before = aborted();
            task.detach().expect("let go");
            if hit {
                eventually("its abort handler", || aborted() > before);
                break;
            }
        }
    }
    memory.write(VirtAddr(flag), &1_i32.to_le_bytes()).expect("writable");
    let line = subject.line();
    // Only the section the flag ended may have finished.
    assert!(line.starts_with("finished 1 ") || line.starts_with("finished 0 "), "{line}");
}

#[test]
fn vector_registers_survive_work_and_can_be_set() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::ready(&["vector"]);
    let go = subject.addresses()[0];
    let gate = subject.gate();
    let memory = Memory::open(subject.pid()).expect("ptrace access");
    let bits = |values: [f64; 2]| values.map(f64::to_le_bytes).concat();
    let mut task = Stopped::seize(subject.pid()).expect("seized");
    eventually("the pattern to be loaded", || {
        let state = task.xstate().expect("readable");
        let loaded = state.legacy[160 + 7 * 16..][..16] == bits([1.5, -2.25]);
        loaded || {
            // Not there yet: let it run a little.
            std::mem::replace(&mut task, reseize(&subject)).forget();
            false
        }
    });
    let before = task.xstate().expect("readable");
    let high = before.components.iter().find(|(number, _)| *number == 2).expect("AVX");
    assert_eq!(high.1[7 * 16..][..16], bits([3.125, 4e300]));
    assert_ne!(before.in_use & 1 << 2, 0);
    work_in(&mut task, gate).expect("worked");
    assert_eq!(task.xstate().expect("readable"), before);
    // Now change one half of each, and see the program find it.
    let mut other = before.clone();
    other.legacy[160 + 7 * 16..][..8].copy_from_slice(&6.5_f64.to_le_bytes());
    let high = other.components.iter_mut().find(|(number, _)| *number == 2).expect("AVX");
    high.1[7 * 16 + 8..][..8].copy_from_slice(&(-7.25_f64).to_le_bytes());
    task.set_xstate(&other).expect("settable");
    assert_eq!(task.xstate().expect("readable"), other);
    memory.write(VirtAddr(go), &1_i32.to_le_bytes()).expect("writable");
    task.detach().expect("let go");
    assert_eq!(subject.line(), "6.5 -2.25 3.125 -7.25");
}

/// Lets the subject run and stops it again. The old value must be forgotten by the caller.
fn reseize(subject: &Subject) -> Stopped {
    // The tracer is this thread: detach by the number, then seize anew.
    nix::sys::ptrace::detach(nix::unistd::Pid::from_raw(subject.pid().0), None).expect("let go");
    Stopped::seize(subject.pid()).expect("seized")
}

#[test]
fn raw_registers_come_back_and_can_be_wound_back() {
    if !can_run() {
        return;
    }
    let subject = Subject::ready(&["sigtrap", "default"]);
    subject.sleeping_in(libc::SYS_read);
    let gate = subject.gate();
    let mut task = Stopped::seize(subject.pid()).expect("seized");
    let before = task.regs().expect("readable");
    assert_eq!(wound_back(&before).was, Interrupted::Restart { nr: 0 });
    assert_eq!(wound_back(&before).regs.orig_rax, u64::MAX);
    work_in(&mut task, gate).expect("worked");
    assert_eq!(task.regs().expect("readable"), before);
    // A runner may stay for the next loan, whose first batch then begins with the registers of the
    // interrupted call: the kernel must not take the stub's for those.
    let mut loan = Borrowed::enter(&mut task).expect("borrowed");
    let mut runner = Runner::install(loan.task(), gate, None, 4096).expect("installed");
    loan.leave().expect("left");
    for _ in 0..3 {
        let mut loan = Borrowed::enter(&mut task).expect("borrowed");
        let mut calls = [Call::new(libc::SYS_getpid, &[]); 3];
        runner.batch(loan.task(), &mut calls).expect("ran");
        let own = u64::from(subject.pid().0.unsigned_abs());
        assert!(calls.iter().all(|call| call.value() == Ok(own)), "{calls:?}");
        loan.leave().expect("left");
        assert_eq!(task.regs().expect("readable"), before);
    }
    let mut loan = Borrowed::enter(&mut task).expect("borrowed");
    runner.remove(loan.task(), gate).expect("removed");
    loan.leave().expect("left");
    // With the registers wound back by hand it is in the same call again.
    task.set_regs(&wound_back(&before).regs).expect("settable");
    task.detach().expect("let go");
    subject.sleeping_in(libc::SYS_read);
}

#[test]
fn affinity_comes_back() {
    if !can_run() {
        return;
    }
    let subject = Subject::ready(&["sigtrap", "default"]);
    let gate = subject.gate();
    let before = tracee::host::affinity(subject.pid()).expect("readable");
    assert!(before.count() >= 1);
    let mut task = Stopped::seize(subject.pid()).expect("seized");
    {
        let mut loan = tracee::Borrowed::enter(&mut task).expect("borrowed");
        assert_eq!(tracee::host::affinity(loan.task().tid()).expect("readable").count(), 1);
        tracee::gate_call(loan.task(), gate, libc::SYS_getpid, &[]).expect("ran").expect("a pid");
        // Dropped without `leave`: an error path.
    }
    assert_eq!(tracee::host::affinity(subject.pid()).expect("readable"), before);
}

/// A beating subject, and where its beat is.
fn beating() -> (Subject, VirtAddr, Memory) {
    let mut subject = Subject::start(&["beat"]);
    let at = VirtAddr(subject.addresses()[0]);
    let memory = Memory::open(subject.pid()).expect("ptrace access");
    (subject, at, memory)
}

fn beat(memory: &Memory, at: VirtAddr) -> Option<u64> {
    let mut word = [0; 8];
    memory.read(at, &mut word).ok().map(|()| u64::from_le_bytes(word))
}

#[test]
fn dropping_lets_it_run_on() {
    if !can_run() {
        return;
    }
    let (subject, at, memory) = beating();
    let task = Stopped::seize(subject.pid()).expect("seized");
    assert_eq!(state(subject.pid()), 't');
    let stood_at = beat(&memory, at);
    drop(task);
    eventually("another beat", || beat(&memory, at) > stood_at);
    let held = Held::freeze(subject.pid(), PATIENCE).expect("frozen");
    let stood_at = beat(&memory, at);
    drop(held);
    eventually("another beat", || beat(&memory, at) > stood_at);
}

/// Not a test: the tracer that [`who_runs_when_the_tracer_is_killed`] starts and kills.
#[test]
#[ignore = "run by another test"]
fn tracer_to_be_killed() {
    let pid: i32 = std::env::var("TRACEE").expect("set").parse().expect("a pid");
    let mut held = Held::freeze(HostPid(pid), PATIENCE).expect("frozen");
    if std::env::var("EXITKILL").is_ok() {
        held.exit_with_tracer().expect("set");
    }
    println!("holding");
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn who_runs_when_the_tracer_is_killed() {
    if !can_run() {
        return;
    }
    for exitkill in [false, true] {
        let (subject, at, memory) = beating();
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        command
            .args(["--exact", "tracer_to_be_killed", "--ignored", "--nocapture"])
            .env("TRACEE", subject.pid().to_string());
        if exitkill {
            command.env("EXITKILL", "1");
        }
        let mut tracer = Subject::start_by(&mut command);
        while tracer.line() != "holding" {}
        assert_eq!(state(subject.pid()), 't');
        let stood_at = beat(&memory, at);
        drop(tracer); // SIGKILL
        if exitkill {
            eventually("its death", || matches!(state(subject.pid()), 'Z' | 'X'));
        } else {
            eventually("another beat", || beat(&memory, at) > stood_at);
        }
    }
}

#[test]
fn impossible_targets_are_refused_by_name() {
    if !can_run() {
        return;
    }
    let (subject, ..) = beating();
    let pid = subject.pid();
    let task = Stopped::seize(pid).expect("seized");
    let other = std::thread::spawn(move || Stopped::seize(pid).map(Stopped::forget));
    let error = other.join().expect("no panic").expect_err("has a tracer");
    assert!(matches!(error, Error::TracedBy { .. }), "{error}");
    drop(task);
    drop(subject);
    let gone = Stopped::seize(pid).map(Stopped::forget).expect_err("dead");
    assert!(gone.is_gone(), "{gone}");
    let headless = Subject::ready(&["headless"]);
    eventually("its main thread to end", || state(headless.pid()) == 'Z');
    let mut held = Held::freeze(headless.pid(), PATIENCE).expect("others live on");
    let [process] = held.processes() else { panic!("one process") };
    assert_eq!(process.number, headless.pid());
    assert_ne!(process.pid, headless.pid());
    assert_eq!(process.threads[0].tid(), process.pid);
    assert!(Memory::open(process.pid).is_ok());
    held.kill().expect("killed");
}

#[test]
fn a_tracee_that_is_killed_while_held_is_reported_dead() {
    if !can_run() {
        return;
    }
    let (subject, ..) = beating();
    let gate = subject.gate();
    let mut task = Stopped::seize(subject.pid()).expect("seized");
    subject.signal(libc::SIGKILL);
    let error = work_in(&mut task, gate).expect_err("dead");
    assert!(error.is_gone(), "{error}");
}
