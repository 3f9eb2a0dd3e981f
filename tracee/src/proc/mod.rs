//! What /proc says, as values: pure parsers of its text, and thin readers for one task.
//!
//! The parsers need no kernel. Text that is not what proc(5) and the kernel's sources promise gives
//! [`Error::Parse`] with the field it is about.

pub mod children;
pub mod fdinfo;
pub mod limits;
pub mod maps;
pub mod rollup;
pub mod stat;
pub mod status;
pub mod syscall;
pub mod timer_list;
pub mod timers;
pub mod unix;

use crate::{Error, Result};

/// Reads a whole file of /proc.
fn read(path: String) -> Result<Vec<u8>> {
    std::fs::read(&path).map_err(Error::proc(path))
}

/// The same where everything the kernel writes is ASCII, except names that users chose.
fn read_text(path: String) -> Result<String> {
    read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The kind of file being understood, for error messages.
#[derive(Clone, Copy)]
struct Source(&'static str);

impl Source {
    fn error(self, field: &'static str, text: &str) -> Error {
        Error::Parse { file: self.0, field, text: text.chars().take(200).collect() }
    }

    /// A decimal number.
    fn number<T: std::str::FromStr>(self, field: &'static str, text: &str) -> Result<T> {
        text.trim().parse().map_err(|_| self.error(field, text))
    }

    /// A hexadecimal number, with or without 0x.
    fn hex(self, field: &'static str, text: &str) -> Result<u64> {
        let digits = text.trim();
        let digits = digits.strip_prefix("0x").unwrap_or(digits);
        u64::from_str_radix(digits, 16).map_err(|_| self.error(field, text))
    }

    /// An octal number.
    fn octal(self, field: &'static str, text: &str) -> Result<u32> {
        u32::from_str_radix(text.trim(), 8).map_err(|_| self.error(field, text))
    }
}
