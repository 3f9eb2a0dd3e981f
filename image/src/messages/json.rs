//! How fields are shown as JSON: bytes in hex, enumerations by name where the number has one.

use serde::Serializer;
use std::fmt::Debug;

pub(super) fn hex<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Hex(bytes))
}

pub(super) fn optional_hex<S: Serializer>(
    bytes: &Option<Vec<u8>>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => hex(bytes, to),
        None => to.serialize_none(),
    }
}

pub(super) fn name<S: Serializer, E: TryFrom<i32> + Debug>(
    number: &i32,
    to: S,
) -> Result<S::Ok, S::Error> {
    match E::try_from(*number) {
        Ok(known) => to.collect_str(&format_args!("{known:?}")),
        Err(_) => to.serialize_i32(*number),
    }
}

pub(super) fn optional_name<S: Serializer, E: TryFrom<i32> + Debug>(
    number: &Option<i32>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => name::<S, E>(number, to),
        None => to.serialize_none(),
    }
}

/// Bytes as hexadecimal digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
