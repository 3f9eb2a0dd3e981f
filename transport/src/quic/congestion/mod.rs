//! Congestion control that holds the queue short: [`control`] decides, this file joins it to quinn.

mod contest;
mod control;
mod epoch;
mod path;
mod resume;
mod rival;
#[cfg(test)]
mod simulation;
mod startup;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::Connection;
use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

use self::control::{Acked, Control};

/// Acknowledgements whose time was taken longer ago than this say nothing about the path: the thread
/// was not running in between, and what came meanwhile bears the same time.
const FRESH: Duration = Duration::from_micros(250);

/// How long bytes may wait in the queue of the bottleneck.
const TARGET: Duration = Duration::from_millis(2);

/// What a link's controller knows of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathSeen {
    /// Bytes a second that the path has been seen to carry lately; 0 before anything was.
    pub(super) rate: u64,
    /// The shortest round trip of the last ten seconds.
    pub(super) base: Duration,
    /// The end of the path was found.
    pub(super) settled: bool,
}

/// What the controller of a connection knows, if it is one of ours.
pub(super) fn path_seen(connection: &Connection) -> Option<PathSeen> {
    let delay = connection.congestion_state().into_any().downcast::<Delay>().ok()?;
    let control = &delay.control;
    Some(PathSeen { rate: control.rate(), base: control.base(), settled: control.settled() })
}

/// Makes controllers that hold the queue short.
#[derive(Debug)]
pub(super) struct DelayConfig {
    pub(super) initial_window: u64,
}

impl ControllerFactory for DelayConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let control = Control::new(self.initial_window, TARGET, current_mtu);
        Box::new(Delay { initial_window: self.initial_window, start: now, fresh: None, control })
    }
}

#[derive(Debug, Clone)]
struct Delay {
    initial_window: u64,
    start: Instant,
    /// Whether the time of the acknowledgements that are being told is to be believed.
    fresh: Option<bool>,
    control: Control,
}

impl Delay {
    fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }
}

impl Controller for Delay {
    fn on_sent(&mut self, _now: Instant, bytes: u64, _last_packet_number: u64) {
        self.control.sent(bytes);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        let fresh = *self.fresh.get_or_insert_with(|| now.elapsed() <= FRESH);
        let (now, sent) = (self.since_start(now), self.since_start(sent));
        self.control.acked(Acked { now, sent, bytes, held_back: app_limited, fresh });
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        _app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.fresh = None;
        self.control.batch_end(self.since_start(now), in_flight);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        if is_persistent_congestion {
            self.control.restart(self.since_start(now), self.initial_window / 4);
        } else {
            self.control.lost(lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.control.set_packet(new_mtu);
    }

    fn window(&self) -> u64 {
        self.control.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
