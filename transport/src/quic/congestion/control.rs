//! How much may be in flight: samples in, a window out. No clock, no socket.
//!
//! What waits in the bottleneck's queue delays every page that the program waits for, so the queue
//! is held at a *target* of time (FAST, Wei and others 2006): per epoch the window moves half way to
//! `window · base / rtt + rate · target`. Loss alone says little; delay says much. But delay must be
//! read with care, and most of this file is that care:
//!
//! - **Start-up** ends when a queue stands for half a round trip: what was acknowledged meanwhile is
//!   what the path carries. What was sent too much drains before anything else is concluded.
//! - An **epoch** is a round trip, and 10 ms at least ([`super::epoch`]).
//! - The **base** is the shortest epoch of 10 s. Our own queue would creep into it, so the queue is
//!   drained for a round when nothing came near the base for long.
//! - **Noise** (jitter) is added to the target, or the least noisy epoch would pass for the path; up to a
//!   part of the base, for what is more comes from hosts that are busy.
//! - **Loss** shrinks the target smoothly, so that a queue too short for it is not flooded, and chance
//!   costs nothing. A tenth of a round lost slows for sure.
//! - An **empty queue** for several epochs means that the path became faster: the window is stepped up
//!   by more and more until a queue shows.
//! - A queue that **does not yield** although the window shrinks is not ours: a flow that only loss
//!   holds back fills it, or the base is wrong. Then the window is contested as Cubic does, and now
//!   and then let down for a round to see whether the queue yields again. One that neither yields nor
//!   changes in the meantime is none: the route is longer than it was.
//! - A base that **falls** late was somebody's queue, which yielded to a loss: that somebody was there
//!   before us and has most of the link ([`super::rival`]).

use std::time::Duration;

use super::contest::Contest;
use super::epoch::Epoch;
use super::path::{BaseRtt, Noise, Rates, Undisputed};
use super::resume::Resume;
use super::rival::Rival;
use super::startup::{End, Startup};

/// Noise is waited for up to this part of the base; what is more comes from the hosts.
const MOST_NOISE: f64 = 0.6;
/// Packets that may always be in flight: as many as one acknowledgement may wait for, and some.
const LEAST_PACKETS: f64 = 12.0;
/// Packets that quinn's pacer sends together at least; their own queue is none to shorten, up to a
/// limit.
const BURST_PACKETS: f64 = 10.0;
const LONGEST_BURST: Duration = Duration::from_millis(24);
/// The window never falls below this part of rate times base: a base that is too short starves.
const FLOOR: f64 = 0.8;
/// What is taken of rate times base while the queue is drained.
const DRAINED: f64 = 0.1;
/// The window is never more than so many times what was in flight, or of rate times base: where hosts
/// have little time quinn's pacer lets only a part of it through.
const FLOWN: f64 = 4.0;
const PACED: f64 = 12.0;
/// Epochs with an empty queue before the window is stepped up.
const IDLE_EPOCHS: u32 = 3;
/// Epochs with a queue that does not yield before it counts as another's.
const FUTILE_EPOCHS: u32 = 12;
/// Loss at which only [`LEAST_TARGET`] is left of the target.
const LOSS_SCALE: f64 = 0.04;
const LEAST_TARGET: f64 = 0.25;
/// Loss that slows by itself, and what is left then.
const HEAVY_LOSS: f64 = 0.1;
const HEAVY_LEFT: f64 = 0.85;
/// What of each byte that is acknowledged the window is let out by after it was low.
const REGAINED: f64 = 0.02;
/// How long a contest goes on before it is looked whether there is anybody; longer each time that
/// there was, shorter if the queue looks deserted.
const CONTEST: Duration = Duration::from_secs(3);
const LONGEST_CONTEST: Duration = Duration::from_secs(24);
const DESERTED: Duration = Duration::from_millis(500);
/// How fast a fair part of the link is taken, without the patience of Cubic.
const FAIR_STEP: f64 = 1.2;

/// One packet that was acknowledged. Times are since the start of the link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acked {
    pub(super) now: Duration,
    pub(super) sent: Duration,
    pub(super) bytes: u64,
    /// There was nothing to send.
    pub(super) held_back: bool,
    /// `now` is when it came, and not long before it was read.
    pub(super) fresh: bool,
}

/// What is in flight, and what should be.
#[derive(Debug, Clone)]
pub(super) struct Control {
    target: Duration,
    packet: f64,
    window: f64,
    mode: Mode,
    base: BaseRtt,
    rates: Rates,
    noise: Noise,
    epoch: Epoch,
    /// Shortest round trip of the acknowledgements that came together.
    batch: Option<Duration>,
    drain: Option<Drain>,
    /// The window is let out again, up to this.
    regained: Option<f64>,
    resume: Resume,
    loss: f64,
    /// There was a queue since start-up ended: what ended it was the end of the path, and no peer that
    /// was busy for a moment.
    found_end: bool,
    /// Epochs in a row with an empty queue, and with one that did not yield.
    idle: u32,
    futile: u32,
    /// The shortest queue of those epochs.
    unyielding: Duration,
    /// Window and rate when the queue was last ours.
    undisputed: Undisputed,
    rival: Rival,
    /// How long the next contest lasts, and when the last one ended.
    contest: Duration,
    contested: Option<Duration>,
}

#[derive(Debug, Clone)]
enum Mode {
    /// Growing fast.
    Startup(Startup),
    Delay,
    /// Since when, when to look whether anybody is there, and the window and rate from which a fair
    /// share is taken.
    Contest {
        contest: Contest,
        since: Duration,
        look_at: Duration,
        taking: Undisputed,
    },
}

/// The window is low for a moment.
#[derive(Debug, Clone)]
struct Drain {
    /// Packets sent from here on met a drained queue; none once their epoch has begun.
    sent_from: Option<Duration>,
    /// The window afterwards.
    after: f64,
}

impl Control {
    pub(super) fn new(initial_window: u64, target: Duration, packet: u16) -> Self {
        Self {
            target,
            packet: packet.into(),
            window: float(initial_window),
            mode: Mode::Startup(Startup::default()),
            base: BaseRtt::default(),
            rates: Rates::default(),
            noise: Noise::default(),
            epoch: Epoch::default(),
            batch: None,
            drain: None,
            regained: None,
            resume: Resume::default(),
            loss: 0.0,
            found_end: false,
            idle: 0,
            futile: 0,
            unyielding: Duration::MAX,
            undisputed: Undisputed::default(),
            rival: Rival::default(),
            contest: CONTEST,
            contested: None,
        }
    }

    /// Bytes that may be in flight.
    pub(super) fn window(&self) -> u64 {
        let window = match self.mode {
            Mode::Delay => self.resume.window(self.window),
            Mode::Startup(_) | Mode::Contest { .. } => self.window,
        };
        bytes(window.max(self.least()))
    }

    /// Bytes a second that the path has been seen to carry lately.
    pub(super) fn rate(&self) -> u64 {
        bytes(self.rates.best())
    }

    /// The shortest round trip of the last ten seconds.
    pub(super) fn base(&self) -> Duration {
        self.base.get().unwrap_or_default()
    }

    /// Start-up is over, and what it sent too much is gone.
    pub(super) const fn settled(&self) -> bool {
        !matches!(self.mode, Mode::Startup(_)) && self.drain.is_none()
    }

    pub(super) fn set_packet(&mut self, packet: u16) {
        self.packet = packet.into();
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        self.resume.sent(float(bytes));
        self.epoch.flies(self.resume.in_flight());
    }

    pub(super) fn acked(&mut self, acked: Acked) {
        let Acked { now, sent, bytes, held_back, fresh } = acked;
        self.epoch.acked(bytes, held_back);
        self.resume.acked(sent);
        let rtt = now.saturating_sub(sent);
        if fresh && !rtt.is_zero() {
            self.batch = Some(self.batch.map_or(rtt, |least| least.min(rtt)));
        }
        let base = self.base.get().or(self.batch).unwrap_or(rtt);
        let gate = self.target + self.noise.allowance() * 2;
        if let Mode::Startup(startup) = &mut self.mode {
            let growth = startup.acked(self.window, bytes);
            if !held_back && rtt <= base + gate {
                self.window += growth;
            }
        }
        if let Some(after) = self.regained {
            self.window = (self.window + REGAINED * float(bytes)).min(after);
            self.regained = self.regained.filter(|after| self.window < *after);
        }
        if let Some(drain) = &mut self.drain
            && drain.sent_from.is_some_and(|from| sent >= from)
        {
            drain.sent_from = None;
            self.epoch = Epoch::starting(now);
        }
        self.epoch.heard_of(sent, now);
    }

    /// The acknowledgements that came together are over, and so much is in flight still.
    pub(super) fn batch_end(&mut self, now: Duration, in_flight: u64) {
        self.resume.saw(now, float(in_flight), self.window);
        if let Some(rtt) = self.batch.take() {
            self.epoch.took(rtt);
            self.look_for_queue(now, rtt);
        }
        if self.epoch.is_over() {
            self.close_epoch(now);
        }
    }

    pub(super) fn lost(&mut self, bytes: u64) {
        self.epoch.lost(bytes);
    }

    /// Nothing got through for long: the path is another one now.
    pub(super) fn restart(&mut self, now: Duration, window: u64) {
        let epoch = Epoch::starting(now);
        let fresh = Self::new(window, self.target, 0);
        *self = Self { packet: self.packet, epoch, ..fresh };
    }

    fn close_epoch(&mut self, now: Duration) {
        let mut epoch = std::mem::replace(&mut self.epoch, Epoch::starting(now));
        let Some(rtt) = epoch.rtt() else { return };
        self.noise.sample(rtt);
        let contested = matches!(self.mode, Mode::Contest { .. });
        self.base.sample(now, rtt, contested);
        let base = self.base();
        // Our own queue is kept out of the base.
        let doubt = self.target * 3 / 2 + self.noise.allowance() * 2;
        if self.rival.epoch(base, doubt) && !contested && self.drain.is_none() {
            return self.dispute(now, false);
        }
        let queue = rtt.saturating_sub(base);
        let held_back = epoch.held_back();
        self.rates.push(epoch.rate(now, rtt), held_back);
        let lost = epoch.lost_part();
        self.loss += (lost - self.loss) / 4.0;
        let heavy = lost > HEAVY_LOSS + 30.0 * self.noise.allowance().as_secs_f64()
            && (epoch.lost_bytes() >= 8.0 * self.packet || self.loss > HEAVY_LOSS);
        match &self.drain {
            Some(drain) if drain.sent_from.is_none() => return self.drained(now, queue),
            Some(_) => return,
            None => {}
        }
        // Enough is let out if there is a queue again, whatever the path is by now.
        self.regained = self.regained.filter(|_| queue <= self.wanted_queue());
        match &mut self.mode {
            Mode::Startup(_) if held_back => {}
            Mode::Startup(_) => self.startup(now, base, queue, lost),
            Mode::Delay if heavy => self.window *= HEAVY_LEFT,
            Mode::Delay if held_back || self.regained.is_some() => {}
            Mode::Delay => self.hold(now, base, queue),
            Mode::Contest { .. } if held_back => {}
            Mode::Contest { .. } => self.contend(now, rtt, base, lost > 0.0),
        }
        // A window that is never in flight would grow without end.
        if !matches!(self.mode, Mode::Startup(_)) {
            let paced = PACED * self.rates.best() * base.as_secs_f64();
            self.window = self.window.min(paced.max(FLOWN * epoch.flown()));
        }
        self.window = self.window.max(self.least());
    }

    /// A queue that stands ends start-up before its epochs tell: meanwhile every page waits in it.
    fn look_for_queue(&mut self, now: Duration, rtt: Duration) {
        let base = self.base.get().unwrap_or(rtt);
        let queue = rtt.saturating_sub(base);
        let wanted = self.wanted_queue();
        let Mode::Startup(startup) = &mut self.mode else { return };
        if queue <= wanted || self.epoch.lost_bytes() > 0.0 || self.loss > 0.0125 {
            return startup.no_queue();
        }
        if let Some(rate) = startup.queue(now, base) {
            self.rates.push(rate, false);
            self.drain_startup(now, queue, base);
        }
    }

    fn startup(&mut self, now: Duration, base: Duration, queue: Duration, lost: f64) {
        let Mode::Startup(startup) = &mut self.mode else { return };
        match startup.epoch(self.rates.best(), lost, self.loss) {
            Some(End::Overflow) => {
                self.rival.was_first();
                self.leave_startup(base);
            }
            Some(End::Stale) => self.drain_startup(now, queue, base),
            None => {}
        }
    }

    /// What was sent too much drains; what is said of it meanwhile is not of the new window.
    fn drain_startup(&mut self, now: Duration, queue: Duration, base: Duration) {
        self.leave_startup(base);
        self.found_end = false;
        self.drain = Some(Drain { sent_from: Some(now + queue), after: self.window });
    }

    fn leave_startup(&mut self, base: Duration) {
        let rate = self.rates.best();
        let fits = rate * (base + self.wanted_queue()).as_secs_f64();
        self.window = self.window.min(fits);
        self.undisputed.sample(self.window, rate);
        self.mode = Mode::Delay;
        self.found_end = true;
    }

    /// One step of FAST.
    fn hold(&mut self, now: Duration, base: Duration, queue: Duration) {
        let target = self.wanted_queue();
        let rate = self.rates.best();
        let ours = queue <= target.mul_f64(1.3) + Duration::from_micros(200);
        self.idle = if queue <= target / 4 { self.idle + 1 } else { 0 };
        self.found_end |= self.idle == 0 || self.loss > 0.0125;
        if !self.found_end && self.idle >= IDLE_EPOCHS {
            self.mode = Mode::Startup(Startup::default());
            return;
        }
        if ours {
            self.undisputed.sample(self.window, rate);
        }
        let fair = self.rival.fair();
        let starved = queue > target / 2 && rate < fair * self.undisputed.rate;
        let yields = queue * 5 / 4 < self.unyielding;
        if !starved && (ours || yields) {
            (self.futile, self.unyielding) = (0, if ours { Duration::MAX } else { queue });
        } else {
            self.futile += 1;
        }
        if self.futile >= FUTILE_EPOCHS {
            return self.dispute(now, ours);
        }
        if self.base.wants_refresh(now, target / 8) {
            // No further than our own queue asks for: what is let out again stands in the queue first.
            return self.start_drain(now, queue, base, self.target);
        }
        let share = base.as_secs_f64() / (base + queue).as_secs_f64().max(1e-6);
        // What was acknowledged in an epoch is no rate where acknowledgements come when somebody has
        // time: then the window by the round trip is one.
        let noisy = self.noise.allowance() >= self.target * 3;
        let by_trip = self.window / (base + queue).as_secs_f64().max(1e-6);
        let aims = if noisy { rate.max(by_trip) } else { rate };
        let goal = self.window * share + aims * target.as_secs_f64();
        let floor = FLOOR * rate * base.as_secs_f64();
        let held = 0.5 * self.window + 0.5 * goal.min(2.0 * self.window);
        // An epoch still shows the window before the last one: step up every other.
        let steps = self.idle.checked_sub(IDLE_EPOCHS).filter(|over| over % 2 == 0);
        let stepped = match steps {
            Some(over) => self.window * (1.0 + f64::from(1_u32 << (over / 2).min(2)) / 16.0),
            None => 0.0,
        };
        self.window = held.max(stepped).max(floor.min(self.window));
    }

    /// Somebody else's queue: take a share of it. A queue that is short as wanted beside a low rate is
    /// not fought for at once: the path may be slower than it was.
    fn dispute(&mut self, now: Duration, short: bool) {
        let again = self.contested.is_some_and(|ended| now.saturating_sub(ended) < CONTEST);
        self.regained = None;
        self.contest = if again { (self.contest * 2).min(LONGEST_CONTEST) } else { CONTEST };
        if !short {
            self.window = self.window.max(0.7 * self.undisputed.window);
        }
        let contest = Contest::new(now, self.window / self.packet);
        let taking = Undisputed { window: self.window, rate: self.rates.last() };
        self.mode = Mode::Contest { contest, since: now, look_at: now + self.contest, taking };
        (self.idle, self.futile, self.unyielding) = (0, 0, Duration::MAX);
    }

    fn contend(&mut self, now: Duration, rtt: Duration, base: Duration, lost: bool) {
        let fair = self.rival.fair();
        let Mode::Contest { contest, since, look_at, taking } = &mut self.mode else { return };
        contest.saw(rtt);
        let queue = rtt.saturating_sub(base);
        let last = self.rates.last();
        let deserted = now.saturating_sub(*since) > DESERTED && contest.is_deserted(rtt, base);
        let mut look = now >= *look_at || deserted;
        if self.window > 1.6 * taking.window {
            // More gives nothing: nobody has the rest, the path is slower than it was.
            if last < 1.15 * taking.rate {
                self.undisputed = Undisputed { window: taking.window, rate: last };
                look = true;
                self.rival.gone();
            }
            *taking = Undisputed { window: self.window, rate: last };
        }
        let packets = self.window / self.packet;
        let packets = if lost {
            let left = contest.lost(now, packets, rtt, base);
            if left < packets {
                self.rival.overflowed();
            }
            left
        } else if last < fair * self.undisputed.rate || self.rival.has_all() {
            contest.resume(now, packets * FAIR_STEP);
            packets * FAIR_STEP
        } else {
            contest.window(now, rtt)
        };
        self.window = packets * self.packet;
        if look {
            self.start_drain(now, queue, base, base);
        }
    }

    /// The queue is ours again.
    fn settle(&mut self, now: Duration, target: Duration) {
        let base = self.base();
        self.mode = Mode::Delay;
        self.contested = Some(now);
        self.window = self.window.min(self.rates.best() * (base + target).as_secs_f64());
        (self.idle, self.futile, self.unyielding) = (0, 0, Duration::MAX);
    }

    /// The window falls below the path by a tenth, or by `most`.
    fn start_drain(&mut self, now: Duration, queue: Duration, base: Duration, most: Duration) {
        let sent_from = now + queue + base / 8;
        self.drain = Some(Drain { sent_from: Some(sent_from), after: self.window });
        let left = base - base.mul_f64(DRAINED).min(most);
        self.window = self.window.min(self.rates.last() * left.as_secs_f64());
    }

    fn drained(&mut self, now: Duration, queue: Duration) {
        let Some(Drain { after, .. }) = self.drain.take() else { return };
        if matches!(self.mode, Mode::Delay) {
            self.regained = Some(after);
            return;
        }
        self.window = after;
        let target = self.wanted_queue();
        let yields = queue <= target;
        if let Mode::Contest { contest, since, look_at, .. } = &mut self.mode {
            let longer = contest.steady(target).filter(|_| now.saturating_sub(*since) >= CONTEST);
            if let Some(route) = longer {
                self.base = BaseRtt::starting(now, route);
            }
            if yields || longer.is_some() {
                self.settle(now, target);
            } else {
                self.contest = (self.contest * 2).min(LONGEST_CONTEST);
                contest.resume(now, after / self.packet);
                (*since, *look_at) = (now, now + self.contest);
            }
        }
    }

    /// The queue that is aimed at.
    fn wanted_queue(&self) -> Duration {
        let burst = BURST_PACKETS * self.packet / self.rates.best().max(1.0);
        let burst = Duration::from_secs_f64(burst.min(LONGEST_BURST.as_secs_f64()));
        let target = self.target.mul_f64((1.0 - self.loss / LOSS_SCALE).max(LEAST_TARGET));
        target.max(burst) + self.noise.allowance().min(self.base().mul_f64(MOST_NOISE))
    }

    const fn least(&self) -> f64 {
        LEAST_PACKETS * self.packet
    }
}

#[allow(clippy::cast_precision_loss, reason = "bytes in flight are far below 2^53")]
pub(super) const fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; saturates")]
const fn bytes(window: f64) -> u64 {
    window as u64
}
