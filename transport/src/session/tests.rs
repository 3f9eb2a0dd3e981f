//! Both ends on a virtual clock, joined by queues that cut, delay, swallow or repeat at every
//! message. After each step: never may both run. At the end: each end says truly what it knows.

mod script;
mod world;

use std::time::{Duration, Instant};

use pages::TaskId;

use self::script::{FAULTS, Fault, GRACE, Policy, SESSION, Script};
use self::world::{Right, Source, Tree, World};
use super::report::Outcome;
use super::{destination, source};
use crate::wire::{
    Abort, AbortCode, Control, FaultTotals, Features, Manifest, PeerPhase, Refusal, SessionId,
    VersionNumber,
};

#[test]
fn a_calm_migration_moves() {
    let world = World::new(Script::calm()).run();
    world.judge();
    assert!(matches!(world.source, Source::Done(Outcome::Moved)));
    assert!(world.destination_runs && !world.source_runs);
    assert_eq!(
        world.sent, 11,
        "hello, reply, ready, outline, round, freezing, manifest, staged, handoff, running, drained"
    );
}

/// Every fault at every message, alone and with every other fault at every later message, under
/// every policy and outage.
#[test]
fn whatever_happens_to_any_two_messages_at_most_one_runs() {
    const MESSAGES: usize = 16;
    let mut outcomes = [0; 6];
    let singles = (0..MESSAGES).flat_map(|at| FAULTS.map(|fault| vec![(at, fault)]));
    let pairs = (0..MESSAGES).flat_map(|first| {
        (first + 1..MESSAGES).flat_map(move |second| {
            FAULTS
                .into_iter()
                .flat_map(move |one| FAULTS.map(|two| vec![(first, one), (second, two)]))
        })
    });
    for faults in singles.chain(pairs) {
        for outage in [Some(0), Some(2 * GRACE), None] {
            for policy in [Policy::Again, Policy::TakeBack, Policy::Waver] {
                for launch_fails in [false, true] {
                    let faults = faults.clone();
                    let script = Script { faults, outage, policy, launch_fails, ..Script::calm() };
                    let world = World::new(script).run();
                    world.judge();
                    match world.source {
                        Source::Done(outcome) => outcomes[outcome as usize] += 1,
                        _ => outcomes[Outcome::Stranded as usize] += 1,
                    }
                }
            }
        }
    }
    let [moved, _copied, _refused, aborted, taken_back, stranded] = outcomes;
    assert!(moved > 100 && aborted > 100 && taken_back > 100 && stranded > 100, "{outcomes:?}");
}

/// Many faults at once, Ctrl-C on either side at any moment; seeds are fixed.
#[test]
fn thousands_of_unlucky_migrations_end_in_one_place() {
    let mut seed = 0x5eed_u64;
    let mut next = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..8000 {
        let faults = (0..next(7))
            .map(|_| {
                (
                    usize::try_from(next(24)).unwrap_or(0),
                    FAULTS[usize::try_from(next(7)).unwrap_or(0)],
                )
            })
            .collect();
        let outage = [Some(next(60)), Some(next(400)), None][usize::try_from(next(3)).unwrap_or(0)];
        let policy =
            [Policy::Again, Policy::TakeBack, Policy::Waver][usize::try_from(next(3)).unwrap_or(0)];
        let mut cancel = || (next(3) == 0).then(|| next(120));
        let cancel = [cancel(), cancel()];
        let launch_fails = next(4) == 0;
        let rounds = u32::try_from(next(4)).unwrap_or(0);
        World::new(Script { faults, outage, policy, launch_fails, cancel, rounds }).run().judge();
    }
}

/// The checks above can fail: a source that takes silence for a "no" makes two programs.
#[test]
fn a_source_that_resumes_on_silence_is_caught() {
    let caught = (0..16).any(|at| {
        let script = Script {
            faults: vec![(at, Fault::CutAfter)],
            policy: Policy::Reckless,
            ..Script::calm()
        };
        World::new(script).run().both_ran
    });
    assert!(caught);
}

/// Brings a source to the moment after hand-off.
fn committed() -> source::Committed<Right> {
    let (offering, _) = source::Offering::new(SESSION, Features::NONE, "test");
    let reply = crate::wire::HelloReply {
        version: crate::wire::Version::V1,
        features: Features::NONE,
        software: String::new(),
    };
    let Ok(source::AfterHello::Greeted(greeted)) = offering.receive(Control::HelloReply(reply))
    else {
        panic!("greeted");
    };
    let Ok(source::AfterPlan::Agreed(agreed)) = greeted.receive(Control::Ready) else {
        panic!("agreed");
    };
    let (frozen, _) = agreed.freeze(Right);
    let staged = crate::wire::Staged { built_in: Duration::ZERO };
    let source::AfterFreeze::Staged(frozen, proof) = frozen.receive(Control::Staged(staged)) else {
        panic!("staged");
    };
    frozen.commit(proof).0
}

/// Of all messages there are, only the two that say "released" give the right back.
#[test]
fn nothing_but_released_gives_the_right_back() {
    let running = crate::wire::Running { task: TaskId(1), after: Duration::ZERO };
    let phases = [
        PeerPhase::Filling,
        PeerPhase::Staged,
        PeerPhase::Entrusted,
        PeerPhase::Running(running),
        PeerPhase::Drained(running),
        PeerPhase::Released,
        PeerPhase::Unknown,
    ];
    let others = [
        Control::Ready,
        Control::Drained(FaultTotals::default()),
        Control::Running(running),
        Control::Abort(Abort::new(AbortCode::FAILED, "no")),
        Control::Refuse(Vec::new()),
        Control::Staged(crate::wire::Staged { built_in: Duration::ZERO }),
        Control::Released,
    ];
    for message in phases.map(Control::ResumeReply).into_iter().chain(others) {
        let expected =
            matches!(message, Control::Released | Control::ResumeReply(PeerPhase::Released));
        let after = committed().receive(message.clone());
        let given_back = matches!(after, source::AfterHandoff::TakenBack(Right));
        assert_eq!(given_back, expected, "{message:?}");
    }
}

/// Brings a destination to the moment before hand-off.
fn staged() -> destination::Staged<Tree> {
    let answering = destination::Answering::new(Features::NONE, "test");
    let hello = crate::wire::Hello::new(SESSION, Features::NONE, "test");
    let Ok(destination::AfterHello::Greeted(greeted, _)) = answering.receive(Control::Hello(hello))
    else {
        panic!("greeted");
    };
    let Ok(destination::AfterFilling::Freezing(filling)) =
        greeted.ready().0.receive(Control::Freezing)
    else {
        panic!("filling");
    };
    let Ok(destination::AfterFilling::Manifest(building, _)) =
        filling.receive(Control::Manifest(Manifest::default()))
    else {
        panic!("building");
    };
    building.stage(Tree, Duration::ZERO, Duration::from_millis(GRACE)).0
}

#[test]
fn the_grace_time_runs_only_while_there_is_no_link() {
    let start = Instant::now();
    let after = |millis| start + Duration::from_millis(millis);
    let staged = staged();
    assert_eq!(staged.deadline(), None);
    let mut staged = match staged.expire(after(10 * GRACE)) {
        Ok(_) => panic!("condemned although there is a link"),
        Err(staged) => staged,
    };
    staged.link_lost(start);
    staged.link_lost(after(50));
    assert_eq!(staged.deadline(), Some(after(GRACE)), "from the first loss on");
    let destination::AfterStaged::Resumed(mut staged, answer) =
        staged.receive(Control::Resume(SESSION))
    else {
        panic!("not resumed");
    };
    assert_eq!(answer, Control::ResumeReply(PeerPhase::Staged));
    assert_eq!(staged.deadline(), None);
    staged.link_lost(after(60));
    assert!(staged.expire(after(60 + GRACE)).is_ok());
}

#[test]
fn a_destination_that_has_decided_says_so_truthfully() {
    let asked = |answer: Result<Option<Control>, _>| match answer {
        Ok(Some(answer)) => answer,
        other => panic!("{other:?}"),
    };
    let resume = Control::Resume(SESSION);
    let (Tree, destroying) = staged().condemn().take();
    let (gone, message) = destroying.destroyed();
    assert_eq!(message, Control::Released);
    assert_eq!(asked(gone.receive(&resume)), Control::ResumeReply(PeerPhase::Released));
    for late in [Control::Handoff, Control::Release, Control::Abort(Abort::new(AbortCode(1), ""))] {
        assert_eq!(asked(gone.receive(&late)), Control::Released, "{late:?}");
    }
    let destination::AfterStaged::Entrusted(entrusted) = staged().receive(Control::Handoff) else {
        panic!("not entrusted");
    };
    assert_eq!(asked(entrusted.receive(&resume)), Control::ResumeReply(PeerPhase::Entrusted));
    let (running, Tree, message) = entrusted.launched(TaskId(1), Duration::ZERO);
    for late in [Control::Handoff, Control::Release] {
        assert_eq!(asked(running.receive(&late)), message, "{late:?}");
    }
    assert!(running.receive(&Control::Resume(SessionId([0; 16]))).is_err(), "another session");
    let started = crate::wire::Running { task: TaskId(1), after: Duration::ZERO };
    assert_eq!(asked(running.receive(&resume)), Control::ResumeReply(PeerPhase::Running(started)));
    let (draining, _) = running.drained(FaultTotals::default());
    assert_eq!(asked(draining.receive(&resume)), Control::ResumeReply(PeerPhase::Drained(started)));
}

#[test]
fn other_versions_are_refused_with_both_lists() {
    let answering = destination::Answering::new(Features::NONE, "test");
    let mut hello = crate::wire::Hello::new(SESSION, Features::NONE, "test");
    hello.versions = vec![VersionNumber(7), VersionNumber(6)];
    let after = answering.receive(Control::Hello(hello)).expect("well behaved");
    let destination::AfterHello::Refused(Control::Refuse(reasons)) = after else {
        panic!("refused");
    };
    let [Refusal { reason, .. }] = &reasons[..] else { panic!("one reason") };
    assert_eq!(reason, "the source speaks version 7, 6, the destination speaks version 1");
}

#[test]
fn speaking_out_of_turn_says_what_was_expected() {
    let (offering, _) = source::Offering::new(SESSION, Features::NONE, "test");
    let error = offering.receive(Control::Released).expect_err("out of turn");
    assert_eq!(
        error.to_string(),
        "spoke out of turn in state Offering: expected HelloReply or Refuse or Abort, got Released"
    );
    let answering = destination::Answering::new(Features::NONE, "test");
    assert!(answering.receive(Control::Handoff).is_err());
}
