//! Why a link was closed, as a number that travels.

use std::fmt;

/// The application close code of a link. Unknown numbers survive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u32);

impl CloseCode {
    /// The peer let go of the link without a word: it exited, or an error dropped the link.
    pub const LET_GO: Self = Self(0);
    /// All is said.
    pub const DONE: Self = Self(1);
    /// The destination refused; the reasons were sent before.
    pub const REFUSED: Self = Self(2);
    /// The migration ended before hand-off; the reason was sent before.
    pub const ABORTED: Self = Self(3);
    /// The peer broke the protocol.
    pub const MISBEHAVED: Self = Self(4);
    /// The peer took too long.
    pub const TIMED_OUT: Self = Self(5);
    /// Another migration is under way.
    pub const BUSY: Self = Self(6);
    /// The key is not known here.
    pub const UNKNOWN_KEY: Self = Self(16);
    /// The ticket has expired.
    pub const TICKET_EXPIRED: Self = Self(17);
    /// The ticket was used before.
    pub const TICKET_USED: Self = Self(18);
    /// The session is not known here, or belongs to another key.
    pub const UNKNOWN_SESSION: Self = Self(19);

    /// The code in words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::LET_GO => "the peer let go",
            Self::DONE => "done",
            Self::REFUSED => "refused",
            Self::ABORTED => "aborted",
            Self::MISBEHAVED => "protocol broken",
            Self::TIMED_OUT => "took too long",
            Self::BUSY => "busy",
            Self::UNKNOWN_KEY => "unknown key",
            Self::TICKET_EXPIRED => "ticket expired",
            Self::TICKET_USED => "ticket used before",
            Self::UNKNOWN_SESSION => "unknown session",
            _ => "unknown code",
        }
    }

    /// The code and a reason in words, each said once.
    pub(super) fn with(self, reason: &str) -> String {
        match reason {
            "" => self.words().to_owned(),
            said if said == self.words() => self.words().to_owned(),
            more => format!("{}: {more}", self.words()),
        }
    }

    /// What the person at the source can do about it.
    pub const fn hint(self) -> Option<&'static str> {
        match self {
            Self::UNKNOWN_KEY => Some(
                "the ticket is of an earlier `qmig restore`, or this host's key (`qmig identity`) \
                 is not in the destination's authorized_peers",
            ),
            Self::TICKET_EXPIRED | Self::TICKET_USED => {
                Some("start `qmig restore --listen` again on the destination for a new ticket")
            }
            Self::BUSY => Some("wait until the other migration has ended"),
            _ => None,
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0, self.words())
    }
}
