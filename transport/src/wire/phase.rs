//! What became of a session: asked for when a link was lost in between.

use std::time::Duration;

use pages::TaskId;

use super::codec::{DecodeError, Got, Reader, Writer};

/// The program runs on the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// The root of the tree, by the number the program itself knows.
    pub task: TaskId,
    /// From the arrival of the hand-off to the first instruction, by the destination's clock.
    pub after: Duration,
}

impl Running {
    pub(super) fn write(self, w: &mut Writer<'_>) {
        w.u32(self.task.0);
        w.duration(self.after);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { task: TaskId(r.u32("a task")?), after: r.duration()? })
    }
}

/// What the destination says became of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerPhase {
    /// Not staged yet: no hand-off can have been sent.
    Filling,
    /// Staged, and no hand-off has arrived.
    Staged,
    /// The hand-off has arrived and the first instruction is near; [`Control::Running`](super::Control::Running) follows.
    Entrusted,
    /// It runs.
    Running(Running),
    /// It runs and needs the source no more.
    Drained(Running),
    /// The tree was destroyed before it ran an instruction.
    Released,
    /// No such session here. This says nothing about who runs.
    Unknown,
}

impl PeerPhase {
    pub(super) fn write(self, w: &mut Writer<'_>) {
        match self {
            Self::Unknown => w.u8(0),
            Self::Filling => w.u8(1),
            Self::Staged => w.u8(2),
            Self::Entrusted => w.u8(3),
            Self::Running(running) => {
                w.u8(4);
                running.write(w);
            }
            Self::Drained(running) => {
                w.u8(5);
                running.write(w);
            }
            Self::Released => w.u8(6),
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8("a phase")? {
            0 => Self::Unknown,
            1 => Self::Filling,
            2 => Self::Staged,
            3 => Self::Entrusted,
            4 => Self::Running(Running::read(r)?),
            5 => Self::Drained(Running::read(r)?),
            6 => Self::Released,
            other => return Err(r.error("a phase from 0 to 6", Got::Number(other.into()))),
        })
    }
}
