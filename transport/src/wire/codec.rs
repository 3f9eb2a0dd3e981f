//! Reading and writing the few shapes that messages are made of.

use std::fmt;
use std::time::Duration;

use pages::{SharedId, SpaceId, TaskId};

/// The peer sent bytes that are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset} of {message}: expected {expected}, got {got}")]
pub struct DecodeError {
    /// What was being read.
    pub message: &'static str,
    /// How many bytes were read before.
    pub offset: usize,
    /// What would have been right.
    pub expected: &'static str,
    /// What came.
    pub got: Got,
}

/// What came instead of what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// The end of the message.
    End,
    /// A number that is not allowed there.
    Number(u64),
    /// A length beyond the limit.
    Length(u64),
    /// Bytes that are not text of the allowed kind.
    BadText,
    /// Bytes left over after the message.
    Surplus(usize),
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End => f.write_str("the end"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Length(length) => write!(f, "a length of {length}"),
            Self::BadText => f.write_str("other text"),
            Self::Surplus(bytes) => write!(f, "{bytes} bytes more"),
        }
    }
}

/// Reads one message from its bytes, and knows how far it is.
pub(crate) struct Reader<'a> {
    message: &'static str,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(message: &'static str, bytes: &'a [u8]) -> Self {
        Self { message, bytes, offset: 0 }
    }

    /// Once the kind is known, errors name it.
    pub(crate) const fn set_message(&mut self, message: &'static str) {
        self.message = message;
    }

    pub(crate) const fn error(&self, expected: &'static str, got: Got) -> DecodeError {
        DecodeError { message: self.message, offset: self.offset, expected, got }
    }

    pub(crate) fn bytes(
        &mut self,
        count: usize,
        expected: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let Some((head, rest)) = self.bytes.split_at_checked(count) else {
            return Err(self.error(expected, Got::End));
        };
        self.bytes = rest;
        self.offset += count;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        expected: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let bytes = self.bytes(N, expected)?;
        Ok(bytes.try_into().expect("exactly N bytes were taken"))
    }

    pub(crate) fn u8(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array(expected)?))
    }

    pub(crate) fn u16(&mut self, expected: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array(expected)?))
    }

    pub(crate) fn u32(&mut self, expected: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array(expected)?))
    }

    pub(crate) fn u64(&mut self, expected: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array(expected)?))
    }

    /// The length of a list, at most `most`.
    pub(crate) fn count(
        &mut self,
        most: usize,
        expected: &'static str,
    ) -> Result<usize, DecodeError> {
        let count = self.u16(expected)?;
        if usize::from(count) > most {
            return Err(self.error(expected, Got::Length(count.into())));
        }
        Ok(count.into())
    }

    /// A text of at most `most` bytes. Control characters, which could talk to the terminal it is
    /// printed on, become U+FFFD.
    pub(crate) fn text(
        &mut self,
        most: usize,
        expected: &'static str,
    ) -> Result<String, DecodeError> {
        let count = self.count(most, expected)?;
        let bytes = self.bytes(count, expected)?;
        let text = str::from_utf8(bytes).map_err(|_| self.error(expected, Got::BadText))?;
        Ok(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
    }

    pub(crate) fn space(&mut self) -> Result<SpaceId, DecodeError> {
        let kind = self.u8("a kind of space")?;
        let id = self.u32("the number of a space")?;
        self.space_of(kind, id)
    }

    pub(crate) fn space_of(&self, kind: u8, id: u32) -> Result<SpaceId, DecodeError> {
        match kind {
            SPACE_PROCESS => Ok(SpaceId::Process(TaskId(id))),
            SPACE_SHARED => Ok(SpaceId::Shared(SharedId(id))),
            other => Err(self.error("a kind of space", Got::Number(other.into()))),
        }
    }

    pub(crate) fn duration(&mut self) -> Result<Duration, DecodeError> {
        self.u64("a time in microseconds").map(Duration::from_micros)
    }

    /// Nothing may be left.
    pub(crate) const fn end(self) -> Result<(), DecodeError> {
        match self.bytes.len() {
            0 => Ok(()),
            surplus => Err(self.error("the end", Got::Surplus(surplus))),
        }
    }
}

const SPACE_PROCESS: u8 = 0;
const SPACE_SHARED: u8 = 1;

/// A space as the two numbers that travel.
pub(crate) const fn space_numbers(space: SpaceId) -> (u8, u32) {
    match space {
        SpaceId::Process(TaskId(id)) => (SPACE_PROCESS, id),
        SpaceId::Shared(SharedId(id)) => (SPACE_SHARED, id),
    }
}

/// Writes one message. What it is given was checked before: only texts are cut to their limit.
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    pub(crate) fn u16(&mut self, number: u16) {
        self.bytes(&number.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.bytes(&number.to_be_bytes());
    }

    pub(crate) fn count(&mut self, count: usize) {
        self.u16(u16::try_from(count).expect("a list within its limit"));
    }

    /// A text, cut between characters if it is longer than `most` bytes.
    pub(crate) fn text(&mut self, text: &str, most: usize) {
        let mut end = text.len().min(most);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let cut = &text[..end];
        self.count(cut.len());
        self.bytes(cut.as_bytes());
    }

    pub(crate) fn space(&mut self, space: SpaceId) {
        let (kind, id) = space_numbers(space);
        self.u8(kind);
        self.u32(id);
    }

    /// A time in microseconds.
    pub(crate) fn duration(&mut self, time: Duration) {
        self.u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }
}
