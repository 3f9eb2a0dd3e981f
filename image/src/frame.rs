//! How an image file is built: a head, then entries, some followed by raw bytes.
//!
//! ```text
//! u32 common magic | u32 magic of the kind | (u32 length, message, [raw bytes])*
//! ```
//!
//! Little endian throughout; no padding, no checksum, no trailer. The inventory has no common magic.

use std::io::{ErrorKind, Read};

use prost::{DecodeError, Message};

use crate::error::{BadImage, FrameFlaw};
use crate::kind::{Head, ImageKind};

/// Writes an image into memory.
#[derive(Debug)]
pub struct FrameWriter {
    bytes: Vec<u8>,
}

impl FrameWriter {
    /// An image of `kind`, its head written.
    pub fn new(kind: ImageKind) -> Self {
        let mut bytes = Vec::new();
        kind.head().words().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        Self { bytes }
    }

    /// Adds an entry.
    pub fn entry<M: Message>(&mut self, message: &M) -> &mut Self {
        let length = u32::try_from(message.encoded_len()).expect("an entry is far below 4 GiB");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        message.encode(&mut self.bytes).expect("a vector takes all bytes");
        self
    }

    /// Adds bytes after an entry that tells how many there are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// The bytes since the last call; for images that are written out as they are made.
    pub(crate) fn drain(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// The whole image.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads an image entry by entry. Nothing is allocated before it is known to be there.
#[derive(Debug)]
pub struct FrameReader<R> {
    image: String,
    input: R,
    longest: u64,
    most: usize,
    offset: u64,
    entry: usize,
    entry_at: u64,
    buffer: Vec<u8>,
}

impl<R: Read> FrameReader<R> {
    /// Checks the head of `image`, which must be of `kind`.
    pub fn open(image: &str, kind: ImageKind, input: R) -> Result<Self, BadImage> {
        let mut reader = Self {
            image: image.to_owned(),
            input,
            longest: kind.longest_entry(),
            most: kind.most_entries(),
            offset: 0,
            entry: 0,
            entry_at: 0,
            buffer: Vec::new(),
        };
        for expected in kind.head().words() {
            let got = reader.word("the head")?;
            if got != expected {
                return Err(reader.flaw(FrameFlaw::Magic { got, expected }));
            }
        }
        Ok(reader)
    }

    /// The image's name.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// Number of the entry read last, from 1.
    pub fn entry_number(&self) -> usize {
        self.entry
    }

    /// The next entry's bytes; `None` at the end of the image.
    pub fn entry(&mut self) -> Result<Option<&[u8]>, BadImage> {
        self.entry_at = self.offset;
        let mut length = [0; 4];
        match self.fill(&mut length) {
            Ok(0) => return Ok(None),
            Ok(4) => self.entry += 1,
            Ok(_) => return Err(self.flaw(FrameFlaw::Truncated { what: "an entry's length" })),
            Err(source) => return Err(self.flaw(FrameFlaw::Read(source))),
        }
        let length = u64::from(u32::from_le_bytes(length));
        if self.entry > self.most {
            return Err(self.flaw(FrameFlaw::TooManyEntries { most: self.most }));
        }
        if length > self.longest {
            return Err(self.flaw(FrameFlaw::EntryTooLong { got: length, most: self.longest }));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.read_into(&mut buffer, length, "an entry")?;
        self.buffer = buffer;
        Ok(Some(&self.buffer))
    }

    /// The next entry as a message; `None` at the end of the image.
    pub fn message<M: Message + Default>(&mut self) -> Result<Option<M>, BadImage> {
        match self.entry()? {
            None => Ok(None),
            Some(_) => self.decode().map(Some),
        }
    }

    /// The only entry of an image of one.
    pub fn single<M: Message + Default>(mut self) -> Result<M, BadImage> {
        let Some(message) = self.message()? else {
            return Err(self.flaw(FrameFlaw::Truncated { what: "its only entry" }));
        };
        match self.entry()? {
            None => Ok(message),
            Some(_) => Err(self.flaw(FrameFlaw::Trailing)),
        }
    }

    /// The entry read last as a message.
    pub(crate) fn decode<M: Message + Default>(&self) -> Result<M, BadImage> {
        self.decode_by(short_type_name::<M>(), |bytes| M::decode(bytes))
    }

    /// The entry read last, decoded by a function.
    pub(crate) fn decode_by<T>(
        &self,
        message: &'static str,
        decode: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<T, BadImage> {
        decode(&self.buffer).map_err(|source| BadImage::Message {
            image: self.image.clone(),
            entry: self.entry,
            offset: self.entry_at,
            message,
            source,
        })
    }

    /// `length` raw bytes that follow the entry read last.
    pub fn raw(&mut self, length: u64) -> Result<Vec<u8>, BadImage> {
        let mut bytes = Vec::new();
        self.read_into(&mut bytes, length, "the bytes after an entry")?;
        Ok(bytes)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> Result<Vec<u8>, BadImage> {
        let mut bytes = Vec::new();
        match self.input.read_to_end(&mut bytes) {
            Ok(got) => self.offset += got as u64,
            Err(source) => return Err(self.flaw(FrameFlaw::Read(source))),
        }
        Ok(bytes)
    }

    fn word(&mut self, what: &'static str) -> Result<u32, BadImage> {
        let mut word = [0; 4];
        match self.fill(&mut word) {
            Ok(4) => Ok(u32::from_le_bytes(word)),
            Ok(_) => Err(self.flaw(FrameFlaw::Truncated { what })),
            Err(source) => Err(self.flaw(FrameFlaw::Read(source))),
        }
    }

    /// Reads until the array is full or the input ends.
    fn fill(&mut self, into: &mut [u8; 4]) -> Result<usize, std::io::Error> {
        let mut have = 0;
        while have < into.len() {
            match self.input.read(&mut into[have..]) {
                Ok(0) => break,
                Ok(got) => have += got,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.offset += have as u64;
        Ok(have)
    }

    /// Grows the vector only as bytes arrive, whatever `length` claims.
    fn read_into(
        &mut self,
        bytes: &mut Vec<u8>,
        length: u64,
        what: &'static str,
    ) -> Result<(), BadImage> {
        match self.input.by_ref().take(length).read_to_end(bytes) {
            Ok(got) if got as u64 == length => {
                self.offset += length;
                Ok(())
            }
            Ok(_) => Err(self.flaw(FrameFlaw::Truncated { what })),
            Err(source) => Err(self.flaw(FrameFlaw::Read(source))),
        }
    }

    /// An error about the entry read last.
    pub(crate) fn flaw(&self, flaw: FrameFlaw) -> BadImage {
        BadImage::Frame {
            image: self.image.clone(),
            entry: self.entry,
            offset: self.entry_at,
            flaw,
        }
    }
}

/// `PstreeEntry`, not the path to it.
fn short_type_name<M>() -> &'static str {
    let full = std::any::type_name::<M>();
    full.rsplit("::").next().unwrap_or(full)
}

impl Head {
    /// The words an image starts with.
    pub(crate) fn words(self) -> impl Iterator<Item = u32> {
        let words = match self {
            Self::Raw => [None, None],
            Self::Bare(magic) => [Some(magic), None],
            Self::Common(magic) => [Some(crate::magic::COMMON), Some(magic)],
            Self::Service(magic) => [Some(crate::magic::SERVICE), Some(magic)],
        };
        words.into_iter().flatten()
    }
}
