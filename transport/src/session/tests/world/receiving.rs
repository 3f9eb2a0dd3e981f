//! The destination of the test world: what it does with what it hears, and in its own time.

use std::time::Duration;

use pages::TaskId;

use super::{DST, Tree, World};
use crate::session::destination;
use crate::session::tests::script::GRACE;
use crate::wire::{Abort, AbortCode, Control, FaultTotals};

pub(in crate::session::tests) enum Destination {
    Answering(destination::Answering),
    Greeted(destination::Greeted, u64),
    Checked(destination::Checked),
    Filling(destination::Filling),
    Building(destination::Building, u64),
    Staged(destination::Staged<Tree>),
    Entrusted(destination::Entrusted<Tree>, u64),
    Running(destination::Running, u64),
    Draining(destination::Draining),
    Destroying(destination::Destroying, u64),
    Gone(destination::Gone),
    /// It ended before a tree was staged.
    Never,
    Moving,
}

impl World {
    pub(super) fn destination_hears(&mut self, message: Control, link: usize) {
        // What an old link still delivers is heard: the rules must bear it.
        let answer_over = self.link[DST] == Some(link);
        let mut answer = None;
        let state = std::mem::replace(&mut self.destination, Destination::Moving);
        let later = self.now + 4;
        let mut blame = false;
        self.destination = match state {
            Destination::Answering(answering) => match answering.receive(message) {
                Ok(destination::AfterHello::Greeted(greeted, reply)) => {
                    answer = Some(reply);
                    Destination::Greeted(greeted, later)
                }
                Ok(destination::AfterHello::Refused(refuse)) => {
                    answer = Some(refuse);
                    Destination::Never
                }
                Err(_) => Destination::Never,
            },
            Destination::Greeted(greeted, _) => {
                let _ = greeted.receive(message);
                Destination::Never
            }
            Destination::Checked(checked) => filled(checked.receive(message), later),
            Destination::Filling(filling) => filled(filling.receive(message), later),
            Destination::Building(building, _) => {
                let _ = building.receive(message);
                Destination::Never
            }
            Destination::Staged(staged) => match staged.receive(message) {
                destination::AfterStaged::Entrusted(entrusted) => {
                    Destination::Entrusted(entrusted, later)
                }
                destination::AfterStaged::Condemned(condemned) => {
                    let (Tree, destroying) = condemned.take();
                    Destination::Destroying(destroying, later)
                }
                destination::AfterStaged::Resumed(staged, reply) => {
                    answer = Some(reply);
                    Destination::Staged(staged)
                }
                destination::AfterStaged::Misbehaved(staged, _) => {
                    blame = true;
                    Destination::Staged(staged)
                }
            },
            Destination::Entrusted(entrusted, at) => {
                match entrusted.receive(&message) {
                    Ok(reply) => answer = reply,
                    Err(_) => blame = true,
                }
                Destination::Entrusted(entrusted, at)
            }
            Destination::Running(running, at) => {
                match running.receive(&message) {
                    Ok(reply) => answer = reply,
                    Err(_) => blame = true,
                }
                Destination::Running(running, at)
            }
            Destination::Draining(draining) => {
                match draining.receive(&message) {
                    Ok(reply) => answer = reply,
                    Err(_) => blame = true,
                }
                Destination::Draining(draining)
            }
            Destination::Gone(gone) => {
                match gone.receive(&message) {
                    Ok(reply) => answer = reply,
                    Err(_) => blame = true,
                }
                Destination::Gone(gone)
            }
            // Nothing is answered before the tree is gone.
            destroying @ Destination::Destroying(..) => destroying,
            Destination::Never => {
                assert!(!matches!(message, Control::Resume(_)), "{:?}", self.script);
                Destination::Never
            }
            Destination::Moving => Destination::Moving,
        };
        if let Some(answer) = answer.filter(|_| answer_over) {
            self.say(DST, answer);
        }
        if blame || matches!(self.destination, Destination::Never) && answer_over {
            self.let_go(DST);
        }
    }

    pub(super) fn destination_timers(&mut self) {
        let now = self.now;
        let instant = self.instant();
        let state = std::mem::replace(&mut self.destination, Destination::Moving);
        let mut said = None;
        self.destination = match state {
            Destination::Greeted(greeted, at) if at <= now => {
                let (checked, ready) = greeted.ready();
                said = Some(ready);
                Destination::Checked(checked)
            }
            Destination::Building(building, at) if at <= now => {
                let grace = Duration::from_millis(GRACE);
                let (mut staged, message) = building.stage(Tree, Duration::ZERO, grace);
                self.tree_exists = true;
                if self.link[DST].is_none() {
                    staged.link_lost(instant);
                }
                said = Some(message);
                Destination::Staged(staged)
            }
            Destination::Staged(staged) => match staged.expire(instant) {
                Ok(condemned) => {
                    let (Tree, destroying) = condemned.take();
                    Destination::Destroying(destroying, now + 3)
                }
                Err(staged) => Destination::Staged(staged),
            },
            Destination::Entrusted(entrusted, at) if at <= now => {
                if self.script.launch_fails {
                    let (Tree, destroying) = entrusted.condemn().take();
                    Destination::Destroying(destroying, now + 3)
                } else {
                    let (running, Tree, message) =
                        entrusted.launched(TaskId(1), Duration::from_millis(4));
                    self.destination_runs = true;
                    said = Some(message);
                    Destination::Running(running, now + 20)
                }
            }
            Destination::Running(running, at) if at <= now => {
                let (draining, message) = running.drained(FaultTotals::default());
                said = Some(message);
                Destination::Draining(draining)
            }
            Destination::Destroying(destroying, at) if at <= now => {
                self.tree_exists = false;
                let (gone, message) = destroying.destroyed();
                said = Some(message);
                Destination::Gone(gone)
            }
            other => other,
        };
        if let Some(message) = said {
            self.say(DST, message);
        }
    }

    pub(super) fn destination_cancels(&mut self) {
        let state = std::mem::replace(&mut self.destination, Destination::Moving);
        self.destination = match state {
            Destination::Staged(staged) => {
                let (Tree, destroying) = staged.condemn().take();
                Destination::Destroying(destroying, self.now + 3)
            }
            Destination::Building(building, _) => {
                let abort = building.abort(Abort::new(AbortCode::CANCELLED, "Ctrl-C"));
                self.say(DST, abort);
                Destination::Never
            }
            other => other,
        };
    }
}

fn filled(
    after: Result<destination::AfterFilling, crate::PeerMisbehaved>,
    later: u64,
) -> Destination {
    use destination::AfterFilling::{Aborted, Freezing, Manifest, Outline, RoundEnd};
    match after {
        Ok(Outline(it, _) | RoundEnd(it, _) | Freezing(it)) => Destination::Filling(it),
        Ok(Manifest(building, _)) => Destination::Building(building, later),
        Ok(Aborted(_)) | Err(_) => Destination::Never,
    }
}
