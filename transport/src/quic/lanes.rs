//! What a stream is for, who opens it, and what goes first.

use quinn::SendStream;

/// The role of a stream; its first byte says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Control messages, both ways. One, opened by the source before anything else.
    Control = 1,
    /// Wanted pages one way, the pages the other. Opened by the destination.
    Faults = 2,
    /// One named blob. Opened by the source.
    Blob = 3,
    /// Pages that are likely to be wanted soon. Opened by the source.
    Urgent = 4,
    /// All other pages. Opened by the source.
    Bulk = 5,
    /// Nothing: what it sends teaches it the path. Opened by the source.
    Padding = 6,
}

impl Lane {
    /// All of them, the first to go first.
    pub const ALL: [Self; 6] =
        [Self::Control, Self::Faults, Self::Blob, Self::Urgent, Self::Bulk, Self::Padding];

    /// Its place in [`Lane::ALL`].
    pub(super) const fn index(self) -> usize {
        self as usize - 1
    }

    /// The first byte of its streams.
    pub const fn tag(self) -> u8 {
        self as u8
    }

    /// The lane of a tag.
    pub const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Control),
            2 => Some(Self::Faults),
            3 => Some(Self::Blob),
            4 => Some(Self::Urgent),
            5 => Some(Self::Bulk),
            6 => Some(Self::Padding),
            _ => None,
        }
    }

    /// What goes first when several lanes have something to send; more goes before less.
    pub const fn priority(self) -> i32 {
        match self {
            Self::Control => 5,
            Self::Faults => 4,
            Self::Blob => 3,
            Self::Urgent => 2,
            Self::Bulk => 1,
            Self::Padding => 0,
        }
    }

    /// The lane's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Faults => "faults",
            Self::Blob => "blob",
            Self::Urgent => "urgent",
            Self::Bulk => "bulk",
            Self::Padding => "padding",
        }
    }

    /// Gives a new stream this lane's priority. A stream that is gone already needs none.
    pub(super) fn prioritise(self, stream: &SendStream) {
        let _ = stream.set_priority(self.priority());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_distinct_and_control_goes_first() {
        let lanes = Lane::ALL;
        for lane in lanes {
            assert_eq!(Lane::ALL[lane.index()], lane);
            assert_eq!(Lane::from_tag(lane.tag()), Some(lane));
        }
        assert!(lanes.windows(2).all(|pair| pair[0].priority() > pair[1].priority()));
        assert_eq!(Lane::from_tag(0), None);
        assert_eq!(Lane::from_tag(7), None);
    }
}
