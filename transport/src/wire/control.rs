//! What is said on the control stream.
//!
//! A frame is its length (4 bytes, without itself), the kind of message (2 bytes), and the fields.

use std::fmt;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pages::{ByteCount, PageCount};

use super::codec::{DecodeError, Got, Reader, Writer};
use super::hello::{Hello, HelloReply, SessionId};
use super::limits::{MAX_CONTROL_FRAME, MAX_REASON_BYTES};
use super::manifest::Manifest;
use super::missing::{FaultTotals, Missing};
use super::phase::{PeerPhase, Running};
use super::probe::{Probe, Probed};
use super::refusal::{Refusal, read_refusals, write_refusals};

/// One control message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Source: who it is and what it can do.
    Hello(Hello),
    /// Destination: what both can do.
    HelloReply(HelloReply),
    /// Destination: it will not, and every reason why. Nothing was touched.
    Refuse(Vec<Refusal>),
    /// Destination: its host can carry the plan.
    Ready,
    /// Source: a round of pre-copy has been sent.
    RoundEnd(RoundEnd),
    /// Source: the program stands still; what comes now is the last.
    Freezing,
    /// Source: all that was sent, so that the destination knows when it has everything.
    Manifest(Manifest),
    /// Destination: the tree is built and stands one instruction from running.
    Staged(Staged),
    /// Source: **the right to run passes to the destination.**
    Handoff,
    /// Destination: the program runs here.
    Running(Running),
    /// Destination: every page is here; the source may end its copy.
    Drained(FaultTotals),
    /// Destination: how much of what was sent is in place.
    Progress(Progress),
    /// Either, before hand-off: it ends here, and why. The source runs on.
    Abort(Abort),
    /// Source, on a new link: what became of this session?
    Resume(SessionId),
    /// Destination: this became of it.
    ResumeReply(PeerPhase),
    /// Source, after hand-off: give the right back if it did not arrive.
    Release,
    /// Destination: its tree is destroyed and never ran an instruction.
    Released,
    /// Destination, on a new link, while it runs: these pages have not come (post-copy).
    Missing(Missing),
    /// Source, in a probe: wish for a page, or only answer.
    Probe(Probe),
    /// Destination, in a probe: how long the wish took.
    Probed(Probed),
}

/// The kind of a message, by the number that travels. Never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// [`Control::Hello`]
    Hello = 1,
    /// [`Control::HelloReply`]
    HelloReply = 2,
    /// [`Control::Refuse`]
    Refuse = 3,
    /// [`Control::Ready`]
    Ready = 4,
    /// [`Control::RoundEnd`]
    RoundEnd = 5,
    /// [`Control::Freezing`]
    Freezing = 6,
    /// [`Control::Manifest`]
    Manifest = 7,
    /// [`Control::Staged`]
    Staged = 8,
    /// [`Control::Handoff`]
    Handoff = 9,
    /// [`Control::Running`]
    Running = 10,
    /// [`Control::Drained`]
    Drained = 11,
    /// [`Control::Progress`]
    Progress = 12,
    /// [`Control::Abort`]
    Abort = 13,
    /// [`Control::Resume`]
    Resume = 14,
    /// [`Control::ResumeReply`]
    ResumeReply = 15,
    /// [`Control::Release`]
    Release = 16,
    /// [`Control::Released`]
    Released = 17,
    /// [`Control::Missing`]
    Missing = 18,
    /// [`Control::Probe`]
    Probe = 19,
    /// [`Control::Probed`]
    Probed = 20,
}

impl Kind {
    /// Every kind and its name on the wire's page.
    pub const ALL: [(Self, &'static str); 20] = [
        (Self::Hello, "Hello"),
        (Self::HelloReply, "HelloReply"),
        (Self::Refuse, "Refuse"),
        (Self::Ready, "Ready"),
        (Self::RoundEnd, "RoundEnd"),
        (Self::Freezing, "Freezing"),
        (Self::Manifest, "Manifest"),
        (Self::Staged, "Staged"),
        (Self::Handoff, "Handoff"),
        (Self::Running, "Running"),
        (Self::Drained, "Drained"),
        (Self::Progress, "Progress"),
        (Self::Abort, "Abort"),
        (Self::Resume, "Resume"),
        (Self::ResumeReply, "ResumeReply"),
        (Self::Release, "Release"),
        (Self::Released, "Released"),
        (Self::Missing, "Missing"),
        (Self::Probe, "Probe"),
        (Self::Probed, "Probed"),
    ];

    /// The kind's name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("?", |(_, name)| name)
    }

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().map(|(kind, _)| *kind).find(|kind| *kind as u16 == number)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one round of pre-copy sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundEnd {
    /// Which round; the first is 1.
    pub round: u32,
    /// Pages sent in it.
    pub pages: PageCount,
    /// Pages that changed while it was sent.
    pub dirty: PageCount,
}

/// The destination stands ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    /// How long building took after the last thing it needed had arrived, by its own clock.
    pub built_in: Duration,
}

/// How much is in place on the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Pages installed so far, counted as in [`SpaceTotal::sent`](super::SpaceTotal::sent).
    pub pages: PageCount,
    /// Bytes of page runs consumed so far, headers included.
    pub bytes: ByteCount,
}

/// Why a migration ended before hand-off, as a number. Unknown numbers survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AbortCode(pub u16);

impl AbortCode {
    /// Somebody asked for it: Ctrl-C, a deadline, a downtime that could not be met.
    pub const CANCELLED: Self = Self(1);
    /// Something did not work on the sender's host.
    pub const FAILED: Self = Self(2);
    /// The other side broke the protocol.
    pub const MISBEHAVED: Self = Self(3);
    /// The other side took too long.
    pub const TIMED_OUT: Self = Self(4);
    /// The other side cannot do what this migration needs.
    pub const UNSUPPORTED: Self = Self(5);
}

/// It ends before hand-off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// Why, for programs.
    pub code: AbortCode,
    /// Why, for people; at most 512 bytes travel.
    pub reason: String,
}

impl Abort {
    /// An abort.
    pub fn new(code: AbortCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Control {
    /// Which kind of message.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::HelloReply(_) => Kind::HelloReply,
            Self::Refuse(_) => Kind::Refuse,
            Self::Ready => Kind::Ready,
            Self::RoundEnd(_) => Kind::RoundEnd,
            Self::Freezing => Kind::Freezing,
            Self::Manifest(_) => Kind::Manifest,
            Self::Staged(_) => Kind::Staged,
            Self::Handoff => Kind::Handoff,
            Self::Running(_) => Kind::Running,
            Self::Drained(_) => Kind::Drained,
            Self::Progress(_) => Kind::Progress,
            Self::Abort(_) => Kind::Abort,
            Self::Resume(_) => Kind::Resume,
            Self::ResumeReply(_) => Kind::ResumeReply,
            Self::Release => Kind::Release,
            Self::Released => Kind::Released,
            Self::Missing(_) => Kind::Missing,
            Self::Probe(_) => Kind::Probe,
            Self::Probed(_) => Kind::Probed,
        }
    }

    /// The whole frame, length first. Texts are cut to their limits; of too many refusals the
    /// first 256 travel.
    pub fn encode(&self) -> Bytes {
        let mut frame = vec![0; 4];
        let mut w = Writer(&mut frame);
        w.u16(self.kind() as u16);
        match self {
            Self::Hello(hello) => hello.write(&mut w),
            Self::HelloReply(reply) => reply.write(&mut w),
            Self::Refuse(refusals) => write_refusals(refusals, &mut w),
            Self::RoundEnd(end) => {
                w.u32(end.round);
                w.u64(end.pages.0);
                w.u64(end.dirty.0);
            }
            Self::Manifest(manifest) => manifest.write(&mut w),
            Self::Staged(staged) => w.duration(staged.built_in),
            Self::Running(running) => running.write(&mut w),
            Self::Progress(progress) => {
                w.u64(progress.pages.0);
                w.u64(progress.bytes.0);
            }
            Self::Abort(abort) => {
                w.u16(abort.code.0);
                w.text(&abort.reason, MAX_REASON_BYTES);
            }
            Self::Resume(session) => w.bytes(&session.0),
            Self::ResumeReply(phase) => phase.write(&mut w),
            Self::Missing(missing) => missing.write(&mut w),
            Self::Probe(probe) => probe.write(&mut w),
            Self::Probed(probed) => w.duration(probed.waited),
            Self::Drained(faults) => faults.write(&mut w),
            Self::Ready | Self::Freezing | Self::Handoff | Self::Release | Self::Released => {}
        }
        let length = u32::try_from(frame.len() - 4).expect("frames are bounded");
        assert!(frame.len() - 4 <= MAX_CONTROL_FRAME, "limits.rs bounds every message");
        frame[..4].copy_from_slice(&length.to_be_bytes());
        frame.into()
    }

    /// Reads a message from its frame, without the length.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new("control message", frame);
        let number = r.u16("a kind of message")?;
        let kind = Kind::from_number(number)
            .ok_or_else(|| r.error("a kind of message from 1 to 20", Got::Number(number.into())))?;
        r.set_message(kind.name());
        let message = match kind {
            Kind::Hello => Self::Hello(Hello::read(&mut r)?),
            Kind::HelloReply => Self::HelloReply(HelloReply::read(&mut r)?),
            Kind::Refuse => Self::Refuse(read_refusals(&mut r)?),
            Kind::Ready => Self::Ready,
            Kind::RoundEnd => Self::RoundEnd(RoundEnd {
                round: r.u32("the number of a round")?,
                pages: PageCount(r.u64("a count of pages")?),
                dirty: PageCount(r.u64("a count of pages")?),
            }),
            Kind::Freezing => Self::Freezing,
            Kind::Manifest => Self::Manifest(Manifest::read(&mut r)?),
            Kind::Staged => Self::Staged(Staged { built_in: r.duration()? }),
            Kind::Handoff => Self::Handoff,
            Kind::Running => Self::Running(Running::read(&mut r)?),
            Kind::Drained => Self::Drained(FaultTotals::read(&mut r)?),
            Kind::Progress => Self::Progress(Progress {
                pages: PageCount(r.u64("a count of pages")?),
                bytes: ByteCount(r.u64("a count of bytes")?),
            }),
            Kind::Abort => Self::Abort(Abort {
                code: AbortCode(r.u16("an abort code")?),
                reason: r.text(MAX_REASON_BYTES, "a reason")?,
            }),
            Kind::Resume => Self::Resume(SessionId(r.array("a session id")?)),
            Kind::ResumeReply => Self::ResumeReply(PeerPhase::read(&mut r)?),
            Kind::Release => Self::Release,
            Kind::Released => Self::Released,
            Kind::Missing => Self::Missing(Missing::read(&mut r)?),
            Kind::Probe => Self::Probe(Probe::read(&mut r)?),
            Kind::Probed => Self::Probed(Probed { waited: r.duration()? }),
        };
        r.end()?;
        Ok(message)
    }
}

/// Takes the first whole frame out of `buffer`; `None` if more bytes are needed. A length beyond
/// the limit is an error at once, before its bytes are waited for.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Control>, DecodeError> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    let fits = usize::try_from(length).ok().filter(|length| *length <= MAX_CONTROL_FRAME);
    let Some(length) = fits else {
        let r = Reader::new("control frame", &[]);
        return Err(r.error("at most 1048576 bytes", Got::Length(length.into())));
    };
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    buffer.advance(4);
    Control::decode(&buffer.split_to(length)).map(Some)
}

#[cfg(test)]
mod tests;
