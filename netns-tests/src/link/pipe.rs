//! One direction of a link at work. It has no clock, no device: time and packets are handed in.
//!
//! A packet waits in the queue, is served by the bottleneck, and is then on the way for the delay
//! of the moment. What is decided about it (loss, lateness, duplication) is decided when it comes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::dice::{Dice, Fate};
use super::frame::Frame;
use super::histogram::Histogram;
use super::path::Path;
use super::tally::Tally;

/// The size of a rival's packets.
const RIVAL_PACKET: u64 = 1500;

/// A packet at the bottleneck; without a frame it is the rival's.
#[derive(Debug)]
struct Waiting {
    frame: Option<Frame>,
    bytes: u64,
    came: Instant,
    fate: Fate,
}

/// A packet on its way.
#[derive(Debug)]
struct Flying {
    due: Instant,
    number: u64,
    came: Instant,
    frame: Frame,
    again: bool,
}

impl Flying {
    fn order(&self) -> (Instant, u64, bool) {
        (self.due, self.number, self.again)
    }
}

impl PartialEq for Flying {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}
impl Eq for Flying {}
impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Flying {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// What happened, while it is still being counted.
#[derive(Debug)]
struct Counts {
    since: Instant,
    tally: Tally,
    transit: Histogram,
    lateness: Histogram,
    losses_in_a_row: u64,
}

impl Counts {
    fn new(since: Instant) -> Self {
        let (transit, lateness) = (Histogram::default(), Histogram::default());
        Self { since, tally: Tally::default(), transit, lateness, losses_in_a_row: 0 }
    }
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Pipe {
    path: Path,
    dice: Dice,
    born: Instant,
    waiting: VecDeque<Waiting>,
    waiting_bytes: u64,
    /// What the bottleneck is at, and when it is done.
    serving: Option<(Instant, Waiting)>,
    flying: BinaryHeap<Reverse<Flying>>,
    /// The next packet is not handed over before this: only those that the dice make late are.
    last_due: Instant,
    number: u64,
    newest_delivered: u64,
    rival_next: Option<Instant>,
    cut: bool,
    counts: Counts,
}

impl Pipe {
    pub(crate) fn new(path: Path, seed: u64, now: Instant) -> Self {
        let mut pipe = Self {
            path: Path::default(),
            dice: Dice::new(seed),
            born: now,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            serving: None,
            flying: BinaryHeap::new(),
            last_due: now,
            number: 0,
            newest_delivered: 0,
            rival_next: None,
            cut: false,
            counts: Counts::new(now),
        };
        pipe.change(path, now);
        pipe
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on it is like this. What is being served or on the way stays as it was.
    pub(crate) fn change(&mut self, path: Path, now: Instant) {
        self.serve(now);
        self.path = path;
        let rival = self.path.rival;
        self.rival_next = rival.map(|_| self.rival_next.unwrap_or(now));
    }

    /// Whatever is on it and whatever comes is gone, until it is healed.
    pub(crate) fn cut(&mut self, cut: bool) {
        self.cut = cut;
        if cut {
            let waiting = self.waiting.drain(..).chain(self.serving.take().map(|(_, it)| it));
            let flying = self.flying.drain().map(|Reverse(it)| it.frame);
            let gone = waiting.filter_map(|it| it.frame).chain(flying);
            self.counts.tally.cut += gone.map(|frame| frame.load.packets).sum::<u64>();
            self.waiting_bytes = 0;
        }
    }

    /// A packet comes.
    pub(crate) fn offer(&mut self, frame: Frame, now: Instant) {
        self.serve(now);
        let load = frame.load;
        let fate = self.dice.fate(&self.path);
        self.counts.tally.offered(load);
        if self.cut {
            self.counts.tally.cut += load.packets;
            return;
        }
        let waiting = Waiting { frame: Some(frame), bytes: load.bytes, came: now, fate };
        if !self.enqueue(waiting, now) {
            self.counts.tally.overflowed += load.packets;
        }
    }

    /// Hand over everything that is due; `hand` says whether it was taken.
    pub(crate) fn deliver(&mut self, now: Instant, mut hand: impl FnMut(&[u8]) -> bool) {
        self.serve(now);
        while self.flying.peek().is_some_and(|Reverse(first)| first.due <= now) {
            let Some(Reverse(packet)) = self.flying.pop() else { return };
            let (counts, load) = (&mut self.counts, packet.frame.load);
            if !hand(&packet.frame.raw) {
                counts.tally.refused += load.packets;
                continue;
            }
            counts.tally.delivered(load);
            counts.tally.duplicated += u64::from(packet.again);
            counts.tally.reordered += u64::from(packet.number < self.newest_delivered);
            self.newest_delivered = self.newest_delivered.max(packet.number);
            counts.transit.add(now - packet.came);
            counts.lateness.add(now - packet.due);
        }
    }

    /// When something happens next if nothing comes.
    pub(crate) fn next(&self) -> Option<Instant> {
        let served = self.serving.as_ref().map(|(done, _)| *done);
        let due = self.flying.peek().map(|Reverse(first)| first.due);
        [served, due, self.rival_next].into_iter().flatten().min()
    }

    /// What happened since the last reset.
    pub(crate) fn tally(&self, now: Instant) -> Tally {
        let mut tally = self.counts.tally.clone();
        tally.span = now - self.counts.since;
        tally.transit = self.counts.transit.spread();
        tally.lateness = self.counts.lateness.spread();
        tally
    }

    /// Count from nothing.
    pub(crate) fn reset(&mut self, now: Instant) {
        self.counts = Counts::new(now);
    }

    /// Let the rival and the bottleneck do everything they do until `now`, in order.
    fn serve(&mut self, now: Instant) {
        while let Some(at) = self.rival_next.filter(|at| *at <= now) {
            self.finish_until(at);
            let Some(rival) = self.path.rival else { break };
            let fate = Fate { lost: false, late: false, twice: false };
            self.enqueue(Waiting { frame: None, bytes: RIVAL_PACKET, came: at, fate }, at);
            self.rival_next = Some(at + self.dice.pause(rival.time_of(RIVAL_PACKET)));
        }
        self.finish_until(now);
    }

    fn finish_until(&mut self, now: Instant) {
        while self.serving.as_ref().is_some_and(|(done, _)| *done <= now) {
            let Some((done, packet)) = self.serving.take() else { return };
            self.served(packet, done);
            if let Some(next) = self.waiting.pop_front() {
                self.waiting_bytes -= next.bytes;
                self.begin(next, done);
            }
        }
    }

    /// Whether there was room.
    fn enqueue(&mut self, packet: Waiting, now: Instant) -> bool {
        if self.serving.is_none() {
            self.begin(packet, now);
            return true;
        }
        if self.waiting_bytes + packet.bytes > self.path.queue_bytes() {
            return false;
        }
        self.waiting_bytes += packet.bytes;
        self.waiting.push_back(packet);
        true
    }

    fn begin(&mut self, packet: Waiting, now: Instant) {
        match self.path.rate {
            None => self.served(packet, now),
            Some(rate) => {
                let time = rate.time_of(packet.bytes);
                self.counts.tally.busy += time;
                self.counts.tally.busy_bytes += packet.bytes;
                self.serving = Some((now + time, packet));
            }
        }
    }

    /// Through the bottleneck, and on its way.
    fn served(&mut self, packet: Waiting, done: Instant) {
        let counts = &mut self.counts;
        let Some(frame) = packet.frame else {
            counts.tally.rival_bytes += packet.bytes;
            return;
        };
        if packet.fate.lost {
            counts.tally.lost += 1;
            counts.losses_in_a_row += 1;
            counts.tally.longest_loss = counts.tally.longest_loss.max(counts.losses_in_a_row);
            return;
        }
        counts.losses_in_a_row = 0;
        let mut due = done + self.dice.delay(&self.path, done.duration_since(self.born));
        if packet.fate.late {
            due += self.path.reorder_by;
        } else {
            due = due.max(self.last_due);
            self.last_due = due;
        }
        self.number += 1;
        let (number, came) = (self.number, packet.came);
        if packet.fate.twice {
            let frame = frame.clone();
            self.flying.push(Reverse(Flying { due, number, came, frame, again: true }));
        }
        self.flying.push(Reverse(Flying { due, number, came, frame, again: false }));
    }
}

/// How far away something is.
pub(crate) fn until(now: Instant, then: Instant) -> Duration {
    then.saturating_duration_since(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;
    use crate::link::frame::ETHERNET;

    const PACKET: usize = 1500 + ETHERNET;

    /// Offers `count` numbered packets, one each `gap`, and returns (number, time) as handed over.
    fn send(words: &str, count: u32, gap: Duration) -> (Vec<(u32, Duration)>, Tally) {
        let path = Link::perfect().with(words).expect(words).up;
        let start = Instant::now();
        let (mut pipe, mut got) = (Pipe::new(path, 7, start), Vec::new());
        let mut take = |pipe: &mut Pipe, now: Instant| {
            pipe.deliver(now, |frame| {
                let number = u32::from_le_bytes(frame[..4].try_into().expect("4 bytes"));
                got.push((number, now - start));
                true
            });
        };
        let drain = |pipe: &mut Pipe,
                     end: Option<Instant>,
                     take: &mut dyn FnMut(&mut Pipe, Instant)| {
            while let Some(next) = pipe.next().filter(|next| end.is_none_or(|end| *next <= end)) {
                take(pipe, next);
            }
        };
        for number in 0..count {
            let now = start + gap * number;
            drain(&mut pipe, Some(now), &mut take);
            let mut frame = vec![0; PACKET];
            frame[..4].copy_from_slice(&number.to_le_bytes());
            pipe.offer(Frame::plain(&frame), now);
        }
        let end = start + gap * count;
        pipe.change(Path { rival: None, ..pipe.path().clone() }, end);
        drain(&mut pipe, None, &mut take);
        (got, pipe.tally(end))
    }

    #[test]
    fn rate_and_delay_are_exact() {
        // 12 Mbit/s: one packet of 1500 bytes a millisecond.
        let (got, tally) = send("rate=12Mbit delay=10ms", 10, Duration::ZERO);
        let wanted: Vec<_> =
            (0u32..10).map(|n| (n, Duration::from_millis(11 + u64::from(n)))).collect();
        assert_eq!(got, wanted);
        assert_eq!((tally.busy, tally.busy_rate()), (Duration::from_millis(10), 12e6));
        assert_eq!((tally.lateness.max_us, tally.transit.min_us), (0.0, 11_000.0));
    }

    #[test]
    fn the_queue_overflows_by_bytes_and_by_time() {
        for words in ["rate=12Mbit queue=6000", "rate=12Mbit queue=4ms"] {
            let (got, tally) = send(words, 10, Duration::ZERO);
            // One is served at once, four wait.
            assert_eq!((got.len(), tally.overflowed, tally.delivered), (5, 5, 5), "{words}");
        }
    }

    #[test]
    fn loss_duplication_and_reordering_have_their_shares() {
        let gap = Duration::from_micros(100);
        let words = "loss=1% duplicate=2% reorder=3% reorder-by=1ms delay=1ms";
        let (got, tally) = send(words, 50_000, gap);
        assert_eq!(got.len() as u64, 50_000 - tally.lost + tally.duplicated);
        assert!((400..600).contains(&tally.lost), "{tally:?}");
        assert!((850..1150).contains(&tally.duplicated), "{tally:?}");
        assert!((1300..1700).contains(&tally.reordered), "{tally:?}");
        assert_eq!(send(words, 50_000, gap).0, got, "the same seed, the same packets");
    }

    #[test]
    fn a_rival_takes_its_part() {
        let gap = Duration::from_micros(1000);
        let (got, tally) = send("rate=18Mbit rival=12Mbit queue=20ms", 5000, gap);
        let sum = tally.rival_bytes + tally.delivered_bytes;
        assert!(tally.overflowed > 300 && got.len() < 4700, "{tally:?}");
        let share = tally.rival_bytes as f64 / sum as f64;
        assert!((0.35..0.5).contains(&share), "{share}");
    }

    #[test]
    fn a_cut_takes_everything_until_it_is_healed() {
        let path = Link::perfect().with("rate=12Mbit delay=10ms").expect("words").up;
        let start = Instant::now();
        let mut pipe = Pipe::new(path, 1, start);
        let after = |ms| start + Duration::from_millis(ms);
        (0..5).for_each(|_| pipe.offer(Frame::plain(&[0; PACKET]), start));
        pipe.deliver(after(3), |_| true);
        pipe.cut(true);
        pipe.offer(Frame::plain(&[0; PACKET]), after(4));
        assert_eq!(pipe.next(), None);
        pipe.cut(false);
        pipe.offer(Frame::plain(&[0; PACKET]), after(5));
        pipe.deliver(after(16), |_| true);
        let tally = pipe.tally(after(16));
        assert_eq!((tally.offered, tally.cut, tally.delivered), (7, 6, 1));
    }

    #[test]
    fn a_change_of_rate_acts_on_what_waits() {
        let (slow, fast) = ("rate=12Mbit", "rate=120Mbit");
        let path = |words| Link::perfect().with(words).expect(words).up;
        let start = Instant::now();
        let mut pipe = Pipe::new(path(slow), 1, start);
        (0..11).for_each(|_| pipe.offer(Frame::plain(&[0; PACKET]), start));
        pipe.change(path(fast), start + Duration::from_micros(500));
        let mut times = Vec::new();
        while let Some(next) = pipe.next() {
            pipe.deliver(next, |_| true);
            times.push((next - start).as_micros());
        }
        assert_eq!((times[0], times.last().copied()), (1000, Some(2000)));
    }
}
