//! What is said in a probe, beside what is said in every migration.

use std::time::Duration;

use super::codec::{DecodeError, Got, Reader, Writer};

/// The source asks the destination to wish for one page, as a program would that touches it; or only
/// to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// True if it shall wish for a page.
    pub wish: bool,
}

/// The destination has done so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// From the wish to the page, by the destination's clock; zero without a wish.
    pub waited: Duration,
}

impl Probe {
    pub(super) fn write(self, w: &mut Writer<'_>) {
        w.u8(self.wish.into());
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8("0 or 1")? {
            0 => Ok(Self { wish: false }),
            1 => Ok(Self { wish: true }),
            other => Err(r.error("0 or 1", Got::Number(other.into()))),
        }
    }
}
