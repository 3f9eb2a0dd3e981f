//! One bottleneck, on a virtual clock: a queue of bytes that leaves at a rate, with delay, jitter and
//! loss around it, and flows that share it. Deterministic by its seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::control::{Acked, Control};

pub(super) const PACKET: u16 = 1452;
const BYTES: u64 = PACKET as u64;
/// As the link's acknowledgements are set up.
const ACK_EVERY: usize = 10;
const ACK_DELAY: Duration = Duration::from_millis(2);
/// quinn's pacer: how often it wants to send, and how much at least and at most.
const BURST: Duration = Duration::from_millis(2);
const SMALLEST_BURST: u64 = 10;
const LARGEST_BURST: u64 = 256;
/// How long a packet is missed until it counts as lost: in round trips, times 4; and if nothing is
/// heard at all.
const LATE: u32 = 5;
const SILENCE: Duration = Duration::from_millis(50);

/// What the path is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    /// Bytes a second.
    pub(super) rate: u64,
    pub(super) rtt: Duration,
    /// Bytes that may wait.
    pub(super) buffer: u64,
    /// Of a million packets.
    pub(super) loss: u64,
    /// Added or taken away, each way.
    pub(super) jitter: Duration,
    /// Whether jitter is each packet's own, so that they overtake; else the delay wanders.
    pub(super) reorders: bool,
    /// How long each of the two hosts has something else to do before it has a moment for us, at most.
    pub(super) away: Duration,
}

/// When a busy host has a moment, and how long that is.
#[derive(Debug, Default)]
struct Moments(Vec<Duration>);

const MOMENT: Duration = Duration::from_millis(2);
const FRESH: Duration = Duration::from_micros(250);

impl Moments {
    /// From `at` on, the next time.
    fn next(&self, at: Duration) -> Duration {
        let next = self.0.partition_point(|since| *since + MOMENT <= at);
        self.0.get(next).map_or(at, |since| at.max(*since))
    }
}

/// A flow's congestion control.
pub(super) enum Flow {
    Delay(Box<Control>),
    /// Loss-driven: the window of a Cubic flow, in bytes.
    Cubic(CubicFlow),
}

#[derive(Debug, Default)]
pub(super) struct CubicFlow {
    window: f64,
    slow_start_until: f64,
    aim: f64,
    since: Duration,
    start: f64,
    recovered: u64,
}

impl CubicFlow {
    pub(super) fn new() -> Self {
        Self { window: 10.0, slow_start_until: f64::MAX, ..Self::default() }
    }

    fn acked(&mut self, now: Duration, rtt: Duration) {
        if self.window < self.slow_start_until {
            self.window += 1.0;
            return;
        }
        let time = (now - self.since).as_secs_f64() + rtt.as_secs_f64();
        let back = ((self.aim - self.start).max(0.0) / 0.4).cbrt();
        let cubic = 0.4 * (time - back).powi(3) + self.aim;
        let reno = self.start + 0.53 * time / rtt.as_secs_f64();
        let aim = cubic.max(reno);
        if aim > self.window {
            self.window += ((aim - self.window) / self.window).min(0.5);
        }
    }

    fn lost(&mut self, now: Duration, number: u64, next: u64) {
        if number < self.recovered {
            return;
        }
        self.recovered = next;
        self.aim = self.window;
        self.window = (self.window * 0.7).max(2.0);
        (self.slow_start_until, self.since, self.start) = (self.window, now, self.window);
    }
}

/// What a flow got.
#[derive(Debug, Default, Clone)]
pub(super) struct Got {
    pub(super) delivered: u64,
    pub(super) sent: u64,
    pub(super) lost: u64,
    /// Time in the queue of each packet that came through.
    pub(super) waits: Vec<Duration>,
}

struct Sender {
    flow: Flow,
    /// Sent and not yet acknowledged or lost: number and time.
    flight: VecDeque<(u64, Duration)>,
    next: u64,
    srtt: Duration,
    tokens: f64,
    filled: Duration,
    waking: bool,
    stopped: bool,
    heard: Duration,
    /// No packet arrives, and no acknowledgement comes back, before these.
    arrived: Duration,
    came_back: Duration,
    // Its receiver.
    pending: Vec<u64>,
    ack_due: Option<Duration>,
    got: Got,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Leaves { flow: usize, number: u64 },
    Arrives { flow: usize, number: u64 },
    AckTimer { flow: usize },
    Acks { flow: usize, numbers: Vec<u64>, came: Duration },
    Wake { flow: usize },
    Silence { flow: usize },
}

/// The path and its flows.
pub(super) struct World {
    pub(super) path: Path,
    pub(super) now: Duration,
    senders: Vec<Sender>,
    events: BinaryHeap<Reverse<(Duration, u64, What)>>,
    order: u64,
    seed: u64,
    /// Where the delay of each way wanders: from, to, since; shares of the jitter.
    wander: [(f64, f64, Duration); 2],
    queued: u64,
    free_at: Duration,
    hosts: [Moments; 2],
}

impl World {
    pub(super) fn new(path: Path) -> Self {
        let mut world = Self {
            path,
            now: Duration::ZERO,
            senders: Vec::new(),
            events: BinaryHeap::new(),
            order: 0,
            seed: 1,
            wander: [(0.0, 0.0, Duration::ZERO); 2],
            queued: 0,
            free_at: Duration::ZERO,
            hosts: Default::default(),
        };
        world.hosts = [world.moments(), world.moments()];
        world
    }

    /// A minute of a host that is away now and then.
    fn moments(&mut self) -> Moments {
        let away = u64::try_from(self.path.away.as_micros()).unwrap_or_default();
        let mut moments = Vec::new();
        let mut at = Duration::ZERO;
        while away > 0 && at < Duration::from_secs(60) {
            moments.push(at);
            at += MOMENT + Duration::from_micros(self.random(away));
        }
        Moments(moments)
    }

    /// Adds a flow that has always something to send; returns its number.
    pub(super) fn add(&mut self, flow: Flow) -> usize {
        let srtt = self.path.rtt + Duration::from_millis(1);
        let number = self.senders.len();
        self.senders.push(Sender {
            flow,
            flight: VecDeque::new(),
            next: 0,
            srtt,
            tokens: 0.0,
            filled: self.now,
            waking: false,
            stopped: false,
            heard: self.now,
            arrived: self.now,
            came_back: self.now,
            pending: Vec::new(),
            ack_due: None,
            got: Got::default(),
        });
        self.at(self.now + SILENCE, What::Silence { flow: number });
        self.send(number);
        number
    }

    pub(super) fn stop(&mut self, flow: usize) {
        self.senders[flow].stopped = true;
    }

    /// It has something to send again.
    pub(super) fn resume(&mut self, flow: usize) {
        self.senders[flow].stopped = false;
        self.send(flow);
    }

    /// Whether a flow of ours knows its path.
    pub(super) fn settled(&self, flow: usize) -> bool {
        match &self.senders[flow].flow {
            Flow::Delay(control) => control.settled(),
            Flow::Cubic(_) => false,
        }
    }

    /// What may be in flight of a flow of ours.
    pub(super) fn window(&self, flow: usize) -> u64 {
        match &self.senders[flow].flow {
            Flow::Delay(control) => control.window(),
            Flow::Cubic(_) => 0,
        }
    }

    /// Lets time pass; returns what each flow got in it.
    pub(super) fn run(&mut self, time: Duration) -> Vec<Got> {
        let end = self.now + time;
        for sender in &mut self.senders {
            sender.got = Got::default();
        }
        while self.events.peek().is_some_and(|Reverse((at, ..))| *at <= end) {
            let Some(Reverse((at, _, what))) = self.events.pop() else { break };
            self.now = at;
            self.happen(what);
        }
        self.now = end;
        self.senders.iter().map(|sender| sender.got.clone()).collect()
    }

    fn at(&mut self, at: Duration, what: What) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, what)));
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) % below.max(1)
    }

    /// One way, without the queue.
    fn way(&mut self, way: usize) -> Duration {
        let Path { rtt, jitter, reorders, .. } = self.path;
        if jitter.is_zero() {
            return rtt / 2;
        }
        let share = if reorders {
            self.spread()
        } else {
            let step = jitter * 4;
            let (mut from, mut to, mut since) = self.wander[way];
            while self.now - since >= step {
                (from, to, since) = (to, self.spread(), since + step);
            }
            self.wander[way] = (from, to, since);
            from + (to - from) * (self.now - since).as_secs_f64() / step.as_secs_f64()
        };
        (rtt / 2 + jitter.mul_f64(1.0 + share)).saturating_sub(jitter)
    }

    /// Evenly from -1 to 1.
    fn spread(&mut self) -> f64 {
        float(self.random(2001)) / 1000.0 - 1.0
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Leaves { flow, number } => {
                self.queued -= BYTES;
                let mut at = self.now + self.way(0);
                if !self.path.reorders {
                    at = at.max(self.senders[flow].arrived);
                }
                self.senders[flow].arrived = at;
                let at = self.hosts[1].next(at);
                self.at(at, What::Arrives { flow, number });
            }
            What::Arrives { flow, number } => {
                let now = self.now;
                let sender = &mut self.senders[flow];
                sender.got.delivered += BYTES;
                sender.pending.push(number);
                if sender.pending.len() >= ACK_EVERY {
                    self.acknowledge(flow);
                } else if sender.ack_due.is_none() {
                    let due = self.hosts[1].next(now + ACK_DELAY);
                    sender.ack_due = Some(due);
                    self.at(due, What::AckTimer { flow });
                }
            }
            What::AckTimer { flow } => {
                if self.senders[flow].ack_due.is_some_and(|due| due <= self.now) {
                    self.acknowledge(flow);
                }
            }
            What::Acks { flow, numbers, came } => {
                self.hear(flow, &numbers, self.now - came <= FRESH);
                self.send(flow);
            }
            What::Wake { flow } => {
                self.senders[flow].waking = false;
                self.send(flow);
            }
            What::Silence { flow } => {
                let (now, sender) = (self.now, &mut self.senders[flow]);
                let after = sender.srtt * 3 + SILENCE;
                if now - sender.heard >= after {
                    sender.got.lost += sender.flight.len() as u64;
                    sender.flight.clear();
                }
                self.at(now + after, What::Silence { flow });
                self.send(flow);
            }
        }
    }

    fn acknowledge(&mut self, flow: usize) {
        let sender = &mut self.senders[flow];
        sender.ack_due = None;
        let numbers = std::mem::take(&mut sender.pending);
        if !numbers.is_empty() {
            let at = (self.now + self.way(1)).max(self.senders[flow].came_back);
            self.senders[flow].came_back = at;
            self.at(self.hosts[0].next(at), What::Acks { flow, numbers, came: at });
        }
    }

    fn hear(&mut self, flow: usize, numbers: &[u64], fresh: bool) {
        let now = self.now;
        let sender = &mut self.senders[flow];
        let mut newest = None;
        for number in numbers {
            let Ok(at) = sender.flight.binary_search_by_key(number, |(number, _)| *number) else {
                continue; // counted as lost before
            };
            let Some((_, sent)) = sender.flight.remove(at) else { continue };
            newest = newest.max(Some((*number, sent)));
            match &mut sender.flow {
                Flow::Delay(control) => control.acked(Acked {
                    now,
                    sent,
                    bytes: BYTES,
                    held_back: sender.stopped,
                    fresh,
                }),
                Flow::Cubic(cubic) => cubic.acked(now, sender.srtt),
            }
        }
        let Some((newest, sent)) = newest else { return };
        sender.srtt = (sender.srtt * 7 + (now - sent)) / 8;
        sender.heard = now;
        let mut lost = 0;
        while let Some((number, at)) = sender.flight.front().copied() {
            if number >= newest || now - at < sender.srtt.max(now - sent) * LATE / 4 {
                break;
            }
            sender.flight.pop_front();
            lost += 1;
            if let Flow::Cubic(cubic) = &mut sender.flow {
                cubic.lost(now, number, sender.next);
            }
        }
        sender.got.lost += lost;
        if let Flow::Delay(control) = &mut sender.flow {
            control.batch_end(now, sender.flight.len() as u64 * BYTES);
            if lost > 0 {
                control.lost(lost * BYTES);
            }
        }
    }

    fn send(&mut self, flow: usize) {
        loop {
            let now = self.now;
            let sender = &mut self.senders[flow];
            if sender.stopped {
                return;
            }
            let window = match &sender.flow {
                Flow::Delay(control) => control.window(),
                Flow::Cubic(cubic) => number(cubic.window) * BYTES,
            };
            if (sender.flight.len() as u64 + 1) * BYTES > window {
                return;
            }
            // quinn's pacer.
            let srtt = sender.srtt.as_secs_f64();
            let burst = number(float(window) * BURST.as_secs_f64() / srtt);
            let burst = float(burst.clamp(SMALLEST_BURST * BYTES, LARGEST_BURST * BYTES));
            let pace = 1.25 * float(window) / srtt;
            if sender.tokens < float(BYTES) {
                let filled = pace * (now - sender.filled).as_secs_f64();
                sender.tokens = (sender.tokens + filled).min(burst);
                sender.filled = now;
            }
            if sender.tokens < float(BYTES) {
                if !sender.waking {
                    sender.waking = true;
                    let at = now + Duration::from_secs_f64((burst - sender.tokens) / pace);
                    let at = self.hosts[0].next(at);
                    self.at(at, What::Wake { flow });
                }
                return;
            }
            sender.tokens -= float(BYTES);
            let number = sender.next;
            sender.next += 1;
            sender.flight.push_back((number, now));
            sender.got.sent += 1;
            if let Flow::Delay(control) = &mut sender.flow {
                control.sent(BYTES);
            }
            self.enqueue(flow, number);
        }
    }

    fn enqueue(&mut self, flow: usize, number: u64) {
        let lost = self.random(1_000_000) < self.path.loss;
        if lost || self.queued + BYTES > self.path.buffer {
            return;
        }
        self.queued += BYTES;
        let start = self.free_at.max(self.now);
        self.free_at = start + Duration::from_nanos(BYTES * 1_000_000_000 / self.path.rate);
        let wait = start - self.now;
        self.senders[flow].got.waits.push(wait);
        self.at(self.free_at, What::Leaves { flow, number });
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, small")]
fn number(value: f64) -> u64 {
    value as u64
}
