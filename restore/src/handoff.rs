//! The one-way door, seen from the destination: the tree stands ready and may not run until the
//! hand-off arrives. What arrives first decides, irrevocably (`transport::session` tells why).

use std::time::{Duration, Instant};

use image::plan::Plan;
use tokio::time::{sleep_until, timeout};
use tracee::chaos;
use tracee::host::{Preference, Urgency};
use transport::event::{Event, Watch};
use transport::quic::{CloseCode, DestinationLink, LinkError, Listener};
use transport::session::destination::{
    AfterStaged, Condemned, Draining, Entrusted, Gone, Running, Staged,
};
use transport::stop::Stop;
use transport::wire::Control;

use crate::destination::Host;
use crate::engine::Ready;
use crate::failure::{Cause, Failure};
use crate::inflow::Inflow;
use crate::meter::Meter;
use crate::offspring::Offspring;

/// How much longer than the grace time a destination that destroyed its tree stays to say so, as
/// long as the source has not heard it.
const STAY_FACTOR: u32 = 3;

/// The source of a tree that runs here: it may still ask, and still be needed for pages.
pub struct Farewell {
    session: Session,
    link: Option<DestinationLink>,
    meter: Meter,
    /// Pages that somebody waits for come before what most others do here, where that is allowed.
    _preference: Option<Preference>,
}

/// What the tree that runs here still needs.
enum Session {
    /// Pages.
    Running(Running, Inflow),
    /// Nothing.
    Draining(Draining),
    /// Between the two.
    Moving,
}

/// What can happen while the tree waits.
enum Heard {
    Message(Control),
    Lost,
    /// The source is back, and asks.
    Back(DestinationLink, Control),
    GraceIsOver,
    Interrupted,
}

impl Heard {
    /// A source that is back is heard over its new link like over the old one.
    fn message(self, link: &mut Option<DestinationLink>) -> Self {
        match self {
            Self::Back(new, question) => {
                *link = Some(new);
                Self::Message(question)
            }
            other => other,
        }
    }
}

/// Says that the tree is staged, and waits for what becomes of it.
pub(crate) async fn await_it(
    staged: Staged<Option<Ready>>,
    message: Control,
    (link, inflow): (DestinationLink, Inflow),
    host: &Host<'_>,
    plan: &Plan,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<(Offspring, Farewell), Failure> {
    let _ = link.send(&message).await; // a lost link is noticed below
    let mut link = Some(link);
    let mut renewed = false;
    let mut staged = staged;
    if let Err(told) = chaos::point("destination:staged") {
        return Err(destroy(staged.condemn(), link, host, told.into()).await);
    }
    let entrusted = loop {
        let heard = hear(link.as_ref(), host.listener, staged.deadline(), stop).await;
        renewed |= matches!(heard, Heard::Back(..));
        staged = match heard.message(&mut link) {
            Heard::Message(message) => match staged.receive(message) {
                AfterStaged::Entrusted(entrusted) => break entrusted,
                AfterStaged::Condemned(condemned) => {
                    let cause = Cause::NotEntrusted("the source took it back");
                    return Err(destroy(condemned, link, host, cause).await);
                }
                AfterStaged::Resumed(staged, answer) => {
                    say(link.as_ref(), &answer).await;
                    staged
                }
                AfterStaged::Misbehaved(mut staged, _) => {
                    hang_up(&mut link, CloseCode::MISBEHAVED).await;
                    staged.link_lost(Instant::now());
                    staged
                }
            },
            Heard::Lost | Heard::Back(..) => {
                link = None;
                inflow.unlink();
                staged.link_lost(Instant::now());
                watch.event(Event::LinkLost { grace: Some(host.grace) });
                staged
            }
            Heard::GraceIsOver => match staged.expire(Instant::now()) {
                Ok(condemned) => {
                    let cause = Cause::NotEntrusted("the source was lost and did not come back");
                    return Err(destroy(condemned, link, host, cause).await);
                }
                Err(staged) => staged,
            },
            Heard::Interrupted => {
                return Err(destroy(staged.condemn(), link, host, Cause::Interrupted).await);
            }
        };
    };
    let (offspring, mut farewell) = launch(entrusted, link, inflow, host, plan, watch).await?;
    if renewed {
        // Only now: before it runs the source does not want to hear what is missing.
        farewell.relink();
    }
    farewell.drain_if_complete(&|_| {}).await;
    Ok((offspring, farewell))
}

/// **The right to run is here.** The tree runs, and the source is told.
async fn launch(
    mut entrusted: Entrusted<Option<Ready>>,
    link: Option<DestinationLink>,
    inflow: Inflow,
    host: &Host<'_>,
    plan: &Plan,
    watch: &mut dyn Watch,
) -> Result<(Offspring, Farewell), Failure> {
    let since = Instant::now();
    // The first thread that is let go would take the turn of all others, and of the word to the source.
    let urgency = Urgency::raise();
    let ready = entrusted.built().take().expect("staged with a tree");
    let running = match ready.run().await {
        Ok(running) => running,
        Err(cause) => return Err(destroy(entrusted.condemn(), link, host, cause).await),
    };
    let (session, _, message) = entrusted.launched(plan.root, since.elapsed());
    watch.event(Event::Running { pid: running.root.0 });
    if chaos::point("destination:running").is_ok() {
        say(link.as_ref(), &message).await;
    }
    tokio::task::yield_now().await; // to the task that sends it
    drop(urgency);
    let meter = Meter::new(Instant::now(), inflow.state().arrived);
    let lazy = !inflow.state().complete;
    let _preference = lazy.then(Preference::take).and_then(Result::ok);
    let farewell =
        Farewell { session: Session::Running(session, inflow), link, meter, _preference };
    Ok((Offspring::from(running), farewell))
}

impl Farewell {
    /// True as long as pages are missing.
    pub fn is_lazy(&self) -> bool {
        matches!(self.session, Session::Running(..))
    }

    /// Brings the pages that are missing, and answers the source until it has said goodbye. As long
    /// as pages are missing a lost link is waited for without end: nobody else has them. Afterwards a
    /// source whose link was lost may come back for as long as `patience`.
    pub async fn see_off(&mut self, listener: &Listener, patience: Duration, tell: &dyn Fn(Event)) {
        let mut lost_at = None;
        let mut never = Stop::never();
        let mut failures = 0;
        loop {
            let deadline = lost_at.map(|at: Instant| at + patience).filter(|_| !self.is_lazy());
            let news = async {
                match &mut self.session {
                    Session::Running(_, inflow) => inflow.changed().await,
                    _ => std::future::pending().await,
                }
            };
            let heard = tokio::select! {
                state = news => {
                    let (now, faults) = (Instant::now(), state.faults.count);
                    if let Some(lately) = self.meter.news(now, faults, state.arrived) {
                        tell(Event::Faults(state.faults.clone(), lately));
                    }
                    if state.failures != failures {
                        failures = state.failures;
                        // Over a new link it is asked for again.
                        let why = state.failed.map_or_else(String::new, |why| why.to_string());
                        tell(Event::Warning { text: format!("pages came that cannot be: {why}") });
                        hang_up(&mut self.link, CloseCode::LET_GO).await;
                        lost_at = Some(Instant::now());
                    }
                    self.drain_if_complete(tell).await;
                    continue;
                }
                heard = hear(self.link.as_ref(), listener, deadline, &mut never) => heard,
            };
            match heard {
                Heard::Back(link, question) => {
                    self.link = Some(link);
                    lost_at = None;
                    self.answer(&question).await;
                    self.relink();
                }
                Heard::Message(message) => {
                    lost_at = None;
                    self.answer(&message).await;
                }
                Heard::Lost => {
                    match (&self.session, self.link.take()) {
                        (Session::Running(_, inflow), _) => {
                            inflow.unlink();
                            tell(Event::LinkLost { grace: None });
                        }
                        (_, Some(link)) if said_goodbye(&link).await => {
                            tell(Event::Parted(Box::new(link.stats())));
                            return;
                        }
                        _ => {}
                    }
                    lost_at = Some(Instant::now());
                }
                Heard::GraceIsOver | Heard::Interrupted => return,
            }
        }
    }

    /// What is missing comes over the newest link.
    fn relink(&self) {
        if let (Session::Running(_, inflow), Some(link)) = (&self.session, &self.link) {
            inflow.relink(link.clone());
        }
    }

    /// What the source asks.
    async fn answer(&mut self, message: &Control) {
        let answer = match &self.session {
            Session::Running(running, _) => running.receive(message),
            Session::Draining(draining) => draining.receive(message),
            Session::Moving => Ok(None),
        };
        match answer {
            Ok(Some(answer)) => say(self.link.as_ref(), &answer).await,
            Ok(None) => {}
            Err(_) => hang_up(&mut self.link, CloseCode::MISBEHAVED).await,
        }
    }

    /// Says so once nothing is missing.
    async fn drain_if_complete(&mut self, tell: &dyn Fn(Event)) {
        let Session::Running(_, inflow) = &self.session else { return };
        let state = inflow.state();
        if !state.complete {
            return;
        }
        if let Session::Running(running, inflow) =
            std::mem::replace(&mut self.session, Session::Moving)
        {
            drop(inflow);
            let all = self.meter.all(Instant::now(), state.faults.count, state.arrived);
            tell(Event::Drained(state.faults.clone(), all));
            let (draining, drained) = running.drained(state.faults);
            self.session = Session::Draining(draining);
            say(self.link.as_ref(), &drained).await;
        }
    }
}

/// Destroys the tree first, and only then says so, for as long as the source may ask.
async fn destroy(
    condemned: Condemned<Option<Ready>>,
    mut link: Option<DestinationLink>,
    host: &Host<'_>,
    cause: Cause,
) -> Failure {
    let (tree, destroying) = condemned.take();
    drop(tree);
    let (gone, released) = destroying.destroyed();
    say(link.as_ref(), &released).await;
    let _ = timeout(host.grace * STAY_FACTOR, stay(&gone, &mut link, host.listener)).await;
    Failure::aborted(cause)
}

/// Answers until the source closes its link in peace.
async fn stay(gone: &Gone, link: &mut Option<DestinationLink>, listener: &Listener) {
    loop {
        let heard = hear(link.as_ref(), listener, None, &mut Stop::never()).await;
        match heard.message(link) {
            Heard::Message(message) => match gone.receive(&message) {
                Ok(Some(answer)) => say(link.as_ref(), &answer).await,
                Ok(None) => {}
                Err(_) => hang_up(link, CloseCode::MISBEHAVED).await,
            },
            Heard::Lost | Heard::Back(..) => match link.take() {
                Some(lost) if said_goodbye(&lost).await => return,
                _ => {}
            },
            Heard::GraceIsOver | Heard::Interrupted => return,
        }
    }
}

/// The next thing that happens to a tree whose source may be anywhere. Strangers are told that this
/// destination is busy.
async fn hear(
    link: Option<&DestinationLink>,
    listener: &Listener,
    deadline: Option<Instant>,
    stop: &mut Stop,
) -> Heard {
    let message = async {
        match link {
            Some(link) => link.recv().await,
            None => std::future::pending().await,
        }
    };
    let expired = async {
        match deadline {
            Some(deadline) => sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    let come_back = async {
        loop {
            match listener.accept().await {
                Ok(link) => match link.recv().await {
                    Ok(question @ Control::Resume(_)) => return (link, question),
                    _ => link.close(CloseCode::BUSY, "another migration is under way").await,
                },
                Err(transport::quic::AcceptError::Rejected(_)) => {}
                Err(transport::quic::AcceptError::Ended) => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        message = message => message.map_or(Heard::Lost, Heard::Message),
        (link, question) = come_back => Heard::Back(link, question),
        () = expired => Heard::GraceIsOver,
        () = stop.ended() => Heard::Interrupted,
    }
}

/// True if the source closed its link because all is said.
async fn said_goodbye(link: &DestinationLink) -> bool {
    matches!(link.closed().await, LinkError::ClosedByPeer { code: CloseCode::DONE, .. })
}

async fn say(link: Option<&DestinationLink>, message: &Control) {
    if let Some(link) = link {
        let _ = link.send(message).await; // a lost link is noticed by whoever listens next
    }
}

async fn hang_up(link: &mut Option<DestinationLink>, code: CloseCode) {
    if let Some(link) = link.take() {
        link.close(code, "").await;
    }
}
