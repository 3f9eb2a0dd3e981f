//! What a destination cannot carry, and why.

use std::fmt;

use super::codec::{DecodeError, Reader, Writer};
use super::limits::{
    MAX_HINT_BYTES, MAX_OBJECT_BYTES, MAX_PLACE_BYTES, MAX_REASON_BYTES, MAX_REFUSALS,
};

/// One thing that cannot be carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What: `file descriptor 7`.
    pub object: String,
    /// Where: `process 1234, /dev/fuse`.
    pub place: String,
    /// Why it cannot travel.
    pub reason: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.object, self.place, self.reason)?;
        if !self.hint.is_empty() {
            write!(f, " (hint: {})", self.hint)?;
        }
        Ok(())
    }
}

pub(super) fn write_refusals(refusals: &[Refusal], w: &mut Writer<'_>) {
    let refusals = &refusals[..refusals.len().min(MAX_REFUSALS)];
    w.count(refusals.len());
    for refusal in refusals {
        w.text(&refusal.object, MAX_OBJECT_BYTES);
        w.text(&refusal.place, MAX_PLACE_BYTES);
        w.text(&refusal.reason, MAX_REASON_BYTES);
        w.text(&refusal.hint, MAX_HINT_BYTES);
    }
}

pub(super) fn read_refusals(r: &mut Reader<'_>) -> Result<Vec<Refusal>, DecodeError> {
    let count = r.count(MAX_REFUSALS, "at most 256 refusals")?;
    (0..count)
        .map(|_| {
            Ok(Refusal {
                object: r.text(MAX_OBJECT_BYTES, "the name of an object")?,
                place: r.text(MAX_PLACE_BYTES, "a place")?,
                reason: r.text(MAX_REASON_BYTES, "a reason")?,
                hint: r.text(MAX_HINT_BYTES, "a hint")?,
            })
        })
        .collect()
}
