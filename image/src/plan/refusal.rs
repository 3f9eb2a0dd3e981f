//! Why a migration cannot be: one reason, by name.

use std::fmt;

/// One thing that cannot be carried, found by the survey on the source or the check on the
/// destination, before anything is touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it is: `io_uring`, `/usr/bin/redis-server`, `pid 1234`.
    pub object: String,
    /// Where it is: `fd 5 of 1234`, `this host`.
    pub place: String,
    /// Why it cannot be carried; reads after a colon.
    pub reason: String,
    /// What to do about it; reads as an order.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal without a hint.
    pub fn new(
        object: impl Into<String>,
        place: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self { object: object.into(), place: place.into(), reason: reason.into(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Refusal {
    /// `io_uring (fd 5 of 1234): not supported (hint: …)`; text is shown escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, place, reason, hint } = self;
        write!(f, "{}", line(object))?;
        if !place.is_empty() {
            write!(f, " ({})", line(place))?;
        }
        write!(f, ": {}", line(reason))?;
        match hint {
            Some(hint) => write!(f, " (hint: {})", line(hint)),
            None => Ok(()),
        }
    }
}

/// Text on one line that cannot talk to a terminal; quotes are nobody's harm.
fn line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\'' | '"' => line.push(letter),
            _ => line.extend(letter.escape_debug()),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_line_whatever_is_in_it() {
        let plain = Refusal::new("io_uring", "fd 5 of 1234", "cannot be carried");
        assert_eq!(plain.to_string(), "io_uring (fd 5 of 1234): cannot be carried");
        let odd = Refusal::new("/tmp/a\nb\u{1b}[2J", "", "gone").hint("copy it");
        assert_eq!(odd.to_string(), "/tmp/a\\nb\\u{1b}[2J: gone (hint: copy it)");
    }
}
