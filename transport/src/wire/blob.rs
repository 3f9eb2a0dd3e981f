//! Named blobs: an image, the plan, a tar of a tmpfs.
//!
//! On its stream a blob is the length of its name (1 byte), the name, then bytes until the stream
//! ends. The length need not be known when the blob starts; the manifest tells it afterwards.

use std::fmt;

use super::codec::{DecodeError, Got, Reader, Writer};
use super::limits::MAX_BLOB_NAME_BYTES;

/// A name that is safe as a file name anywhere: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with
/// a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobName(Box<str>);

/// Not the name of a blob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no blob name: 1 to 64 of A-Z a-z 0-9 . _ - not starting with a dot")]
pub struct BadBlobName(pub String);

impl BlobName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, BadBlobName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let fits = (1..=MAX_BLOB_NAME_BYTES).contains(&name.len());
        if fits && !name.starts_with('.') && name.bytes().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err(BadBlobName(name.to_owned()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes a blob's stream starts with, after its lane.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.0.len());
        self.write(&mut Writer(&mut bytes));
        bytes
    }

    /// Reads the name behind the length byte.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new("blob header", bytes);
        let name = Self::read(&mut r)?;
        r.end()?;
        Ok(name)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.u8(u8::try_from(self.0.len()).expect("names are short"));
        w.bytes(self.0.as_bytes());
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = usize::from(r.u8("the length of a blob's name")?);
        if !(1..=MAX_BLOB_NAME_BYTES).contains(&length) {
            return Err(r.error("a blob name of 1 to 64 bytes", Got::Length(length as u64)));
        }
        let bytes = r.bytes(length, "a blob's name")?;
        str::from_utf8(bytes)
            .ok()
            .and_then(|name| Self::new(name).ok())
            .ok_or_else(|| r.error("a blob name of A-Z a-z 0-9 . _ -", Got::BadText))
    }
}

impl AsRef<str> for BlobName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blob {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_a_directory() {
        for good in ["core-17.img", "a", "tmpfs_dev-3.tar.gz", &"x".repeat(64)] {
            let name = BlobName::new(good).expect("a good name");
            assert_eq!(BlobName::decode(&name.encode()), Ok(name));
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "a\0", "é", &"x".repeat(65)] {
            assert!(BlobName::new(bad).is_err(), "{bad:?}");
        }
        assert!(BlobName::decode(b"\x03a/b").is_err());
        assert!(BlobName::decode(b"\x00").is_err());
        assert!(BlobName::decode(b"\x04abc").is_err());
    }
}
