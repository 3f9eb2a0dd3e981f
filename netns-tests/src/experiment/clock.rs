//! When what happened in a trial, and what the link had carried until then.

use std::time::{Duration, Instant};

use super::flow::Flow;
use super::monotonic_us;
use super::record::{LinkUse, Phase, Record};
use crate::lab::{Lab, Side};
use crate::link::{Link, Tally};
use crate::{LabError, Result};

/// If less has come since it runs, hardly a page was missing: that has no rate.
const FILL: u64 = 256 << 10;

/// The phases of a trial, and what the link had carried at each.
pub(crate) struct Clock<'lab> {
    lab: &'lab Lab,
    flow: Option<&'lab Flow>,
    began: Instant,
    /// The same, as programs on the hosts call it.
    began_us: i64,
    /// Frames until then.
    frames: (u64, u64),
    running: Option<Mark>,
    complete: Option<Mark>,
    phases: Vec<Phase>,
}

#[derive(Clone, Debug)]
struct Mark {
    after: Duration,
    up: Option<Tally>,
    down: Option<Tally>,
    /// Bytes of the flow beside it.
    rival: u64,
    /// Bytes of frames from the source, and to it.
    frames: (u64, u64),
}

impl<'lab> Clock<'lab> {
    pub(super) fn start(lab: &'lab Lab, flow: Option<&'lab Flow>) -> Self {
        let (began, began_us) = (Instant::now(), monotonic_us());
        let frames = lab.frames();
        let (running, complete, phases) = (None, None, Vec::new());
        Self { lab, flow, began, began_us, frames, running, complete, phases }
    }

    /// The first command is about to be given.
    pub(crate) fn began(&mut self) {
        self.frames = self.lab.frames();
        (self.began, self.began_us) = (Instant::now(), monotonic_us());
    }

    /// Until now it was this, since the phase before.
    pub(crate) fn phase(&mut self, name: &str) {
        let from_us = self.phases.last().map_or(0, |phase| phase.to_us);
        let to_us = micros(self.began.elapsed());
        self.phases.push(Phase { name: name.to_owned(), from_us, to_us });
    }

    /// From then until all was there; 0 before that.
    pub(super) fn total_us(&self) -> u64 {
        self.complete.as_ref().map_or(0, |mark| micros(mark.after))
    }

    /// The first command, by the clock that programs on the hosts read.
    pub(super) fn began_us(&self) -> i64 {
        self.began_us
    }

    /// The process runs on the destination.
    pub(crate) fn running(&mut self) -> Result<()> {
        self.running = Some(self.mark()?);
        Ok(())
    }

    /// Every page is there.
    pub(crate) fn complete(&mut self) -> Result<()> {
        self.complete = Some(self.mark()?);
        Ok(())
    }

    fn mark(&self) -> Result<Mark, LabError> {
        let after = self.began.elapsed();
        let tally = |side| self.lab.emulator().map(|link| link.tally(side)).transpose();
        let (up, down) = (tally(Side::Source)?, tally(Side::Destination)?);
        let rival = self.flow.map_or(0, Flow::bytes);
        Ok(Mark { after, up, down, rival, frames: self.lab.frames() })
    }

    /// `lazily`: the link, if pages were missing while the process ran.
    pub(super) fn fill_in(&self, record: &mut Record, lazily: Option<&Link>) {
        let (Some(running), Some(complete)) = (&self.running, &self.complete) else { return };
        if record.phases.is_empty() {
            record.phases.clone_from(&self.phases);
        }
        record.running_us = micros(running.after);
        record.total_us = micros(complete.after);
        record.up.bytes = complete.frames.0.saturating_sub(self.frames.0);
        record.down.bytes = complete.frames.1.saturating_sub(self.frames.1);
        let (Some(before), Some(after)) = (&running.up, &complete.up) else { return };
        record.up = after.into();
        record.down = complete.down.as_ref().map(LinkUse::from).unwrap_or_default();
        let seconds = (complete.after.saturating_sub(running.after)).as_secs_f64();
        let bytes = after.delivered_bytes.saturating_sub(before.delivered_bytes);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        if let Some(link) = lazily.filter(|_| seconds > 0.05 && bytes > FILL) {
            // Headers of TCP and IP are 52 of its 1500 bytes.
            let rival = complete.rival.saturating_sub(running.rival) as f64;
            record.rival_bps = rival * 8.0 / seconds;
            record.fill_bps = (bytes as f64 - rival * 1500.0 / 1448.0).max(0.0) * 8.0 / seconds;
            let rate = link.up.rate;
            record.fill_share = rate.map(|rate| record.fill_bps / rate.as_bits() as f64);
        }
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
