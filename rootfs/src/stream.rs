//! Entries in a row.
//!
//! Each is its length (4 bytes) and its message; a length of zero is the end of the stream. After a
//! plain file its content follows in pieces: where (8 bytes), how many (4 bytes), the bytes. What no
//! piece covers is a hole, and the last piece has no bytes: where it is the file ends. So nothing needs
//! to be measured before it is sent, and a file may change while it is.

use std::io::{self, Read, Write};

use crate::entry::{BadEntry, Entry};
use crate::error::{Error, Result};

/// Bytes of one entry: extended attributes may be 64 KiB each.
const LONGEST_ENTRY: usize = 1 << 20;
/// Bytes of one piece of content.
pub(crate) const PIECE: usize = 256 << 10;

/// Writes entries.
#[derive(Debug)]
pub struct StreamWriter<W>(W);

/// Reads entries.
#[derive(Debug)]
pub struct StreamReader<R>(R);

/// Of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes are here; they are at the front of the buffer.
    Bytes {
        /// Where.
        at: u64,
        /// How many.
        length: usize,
    },
    /// The file is so long.
    End(u64),
}

/// What came is no stream of entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadStream {
    /// An entry that says what cannot be.
    #[error(transparent)]
    Entry(#[from] BadEntry),
    /// More bytes than one may have.
    #[error("{0} bytes where at most {1} may be")]
    TooLong(u64, u64),
    /// A file longer than any can be.
    #[error("a file of {0} bytes")]
    TooLarge(u64),
}

impl<W: Write> StreamWriter<W> {
    /// Into this.
    pub fn new(to: W) -> Self {
        Self(to)
    }

    /// The next file.
    pub fn entry(&mut self, entry: &Entry) -> Result<()> {
        let bytes = entry.to_bytes();
        let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= LONGEST_ENTRY);
        let too_long = BadStream::TooLong(bytes.len() as u64, LONGEST_ENTRY as u64);
        self.write(&length.ok_or(too_long)?.to_be_bytes())?;
        self.write(&bytes)
    }

    /// Some of its content; at most [`PIECE`] bytes.
    pub(crate) fn piece(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let length = u32::try_from(bytes.len()).expect("a piece is small");
        self.write(&at.to_be_bytes())?;
        self.write(&length.to_be_bytes())?;
        self.write(bytes)
    }

    /// All of its content was told.
    pub(crate) fn end_of_file(&mut self, size: u64) -> Result<()> {
        self.piece(size, &[])
    }

    /// No more files.
    pub fn finish(mut self) -> Result<()> {
        self.write(&0_u32.to_be_bytes())?;
        self.0.flush().map_err(Error::Link)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(Error::Link)
    }
}

impl<R: Read> StreamReader<R> {
    /// Out of this.
    pub fn new(from: R) -> Self {
        Self(from)
    }

    /// The next file; `None` at the end.
    pub fn entry(&mut self) -> Result<Option<Entry>> {
        let length = u32::from_be_bytes(self.array()?);
        if length == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; bounded(length, LONGEST_ENTRY)?];
        self.0.read_exact(&mut bytes).map_err(Error::Link)?;
        Ok(Some(Entry::from_bytes(&bytes).map_err(BadStream::from)?))
    }

    /// More of its content, if it is a plain file.
    pub fn piece(&mut self, buffer: &mut Vec<u8>) -> Result<Piece> {
        let at = u64::from_be_bytes(self.array()?);
        let length = bounded(u32::from_be_bytes(self.array()?), PIECE)?;
        let end = at.checked_add(length as u64).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or(BadStream::TooLarge(at))?;
        if length == 0 {
            return Ok(Piece::End(end));
        }
        buffer.resize(length, 0);
        self.0.read_exact(buffer).map_err(Error::Link)?;
        Ok(Piece::Bytes { at, length })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).map_err(Error::Link)?;
        Ok(bytes)
    }
}

fn bounded(length: u32, most: usize) -> Result<usize, BadStream> {
    let fits = usize::try_from(length).ok().filter(|length| *length <= most);
    fits.ok_or_else(|| BadStream::TooLong(length.into(), most as u64))
}

impl From<BadStream> for io::Error {
    fn from(bad: BadStream) -> Self {
        Self::new(io::ErrorKind::InvalidData, bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{About, Kind, Moment};
    use crate::path::RelPath;

    fn path(name: &str) -> RelPath {
        RelPath::parse(name.into()).expect("a good name")
    }

    fn entries() -> Vec<Entry> {
        let about = About {
            mode: 0o4755,
            owner: 1,
            group: u32::MAX,
            accessed: Moment { seconds: -1, nanos: 999_999_999 },
            modified: Moment { seconds: i64::MAX, nanos: 0 },
            attributes: vec![(b"user.a".to_vec(), vec![0; 300])],
        };
        let kinds = [
            ("", Kind::Directory),
            ("a", Kind::Regular),
            ("b", Kind::Link(path("a"))),
            ("c", Kind::Symlink(b"../../etc".to_vec())),
            ("d", Kind::Character(0x0103)),
            ("e", Kind::Block(u64::MAX)),
            ("f", Kind::Fifo),
            ("g", Kind::Socket),
            ("h", Kind::Gone),
        ];
        kinds.map(|(name, kind)| Entry { path: path(name), kind, about: about.clone() }).into()
    }

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::new(&mut bytes);
        for entry in entries() {
            writer.entry(&entry).expect("written");
            if entry.kind == Kind::Regular {
                writer.piece(7, b"content").expect("written");
                writer.end_of_file(1 << 40).expect("written");
            }
        }
        writer.finish().expect("written");
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>> {
        let mut reader = StreamReader::new(bytes);
        let (mut all, mut buffer) = (Vec::new(), Vec::new());
        while let Some(entry) = reader.entry()? {
            while entry.kind == Kind::Regular
                && !matches!(reader.piece(&mut buffer)?, Piece::End(_))
            {}
            all.push(entry);
        }
        Ok(all)
    }

    #[test]
    fn what_is_written_is_read_and_a_short_or_damaged_stream_is_an_error_or_other_entries() {
        let bytes = written();
        assert_eq!(read(&bytes).expect("read"), entries());
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} bytes");
        }
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let _ = read(&damaged);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let [about, nanos, mode, name] = std::array::from_fn(|index| {
            let mut about = About::default();
            match index {
                1 => about.modified.nanos = 1_000_000_000,
                2 => about.mode = 0o10000,
                3 => about.attributes = vec![(b"user.\0".to_vec(), Vec::new())],
                _ => {}
            }
            about
        });
        let link = Kind::Link(RelPath::root());
        for (at, kind, about) in [
            ("", Kind::Regular, &about),
            ("", Kind::Gone, &about),
            ("a", link, &about),
            ("a", Kind::Symlink(Vec::new()), &about),
            ("a", Kind::Symlink(vec![b'x'; 4096]), &about),
            ("a", Kind::Fifo, &nanos),
            ("a", Kind::Fifo, &mode),
            ("a", Kind::Fifo, &name),
        ] {
            let entry = Entry { path: path(at), kind, about: about.clone() };
            assert!(Entry::from_bytes(&entry.to_bytes()).is_err(), "{entry:?}");
        }
        let huge = [&u64::MAX.to_be_bytes()[..], &1_u32.to_be_bytes(), b"x"].concat();
        let long = [&0_u64.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat();
        for bytes in [huge, long] {
            assert!(StreamReader::new(&bytes[..]).piece(&mut Vec::new()).is_err());
        }
        assert!(StreamReader::new(&u32::MAX.to_be_bytes()[..]).entry().is_err());
    }
}
