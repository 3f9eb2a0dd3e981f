//! What can be wrong with images: always said with the image, the entry and the field.

use std::fmt;
use std::path::PathBuf;

/// Images that cannot be what they claim to be: the fault of whoever wrote them, never of this host.
///
/// Entries are counted from 1 (0 is the image as a whole), offsets are bytes from its start.
#[derive(Debug, thiserror::Error)]
pub enum BadImage {
    /// A name that is no file name, or one that could leave the directory.
    #[error("{name:?} is not a name that an image can have")]
    Name {
        /// As it came, cut to 64 characters.
        name: String,
    },
    /// Two images of one name.
    #[error("image {image} came twice")]
    Twice {
        /// Its name.
        image: String,
    },
    /// An image that must be there is not.
    #[error("image {image} is missing")]
    Missing {
        /// Its name.
        image: String,
    },
    /// One image is too large.
    #[error("image {image} has more than the {most} bytes that are allowed")]
    TooLarge {
        /// Its name.
        image: String,
        /// The limit.
        most: u64,
    },
    /// All images together are too large.
    #[error("the images have more than the {most} bytes together that are allowed")]
    SetTooLarge {
        /// The limit.
        most: u64,
    },
    /// There are too many images.
    #[error("there are more than the {most} images that are allowed")]
    TooMany {
        /// The limit.
        most: usize,
    },
    /// The bytes are not a sequence of entries.
    #[error("image {image}, entry {entry} at byte {offset}: {flaw}")]
    Frame {
        /// Its name.
        image: String,
        /// Which entry.
        entry: usize,
        /// Where it starts.
        offset: u64,
        /// What is wrong.
        flaw: FrameFlaw,
    },
    /// An entry is not the protobuf message it should be.
    #[error("image {image}, entry {entry} at byte {offset} is not a {message}")]
    Message {
        /// Its name.
        image: String,
        /// Which entry.
        entry: usize,
        /// Where it starts.
        offset: u64,
        /// What it should be.
        message: &'static str,
        /// Why it is not.
        #[source]
        source: prost::DecodeError,
    },
    /// A field says what cannot be.
    #[error("image {image}, entry {entry}, {field}: {flaw}")]
    Field {
        /// Its name.
        image: String,
        /// Which entry.
        entry: usize,
        /// The field, as a path from the entry's message.
        field: &'static str,
        /// What is wrong.
        flaw: Flaw,
    },
}

/// How the bytes of an image break its grammar.
#[derive(Debug, thiserror::Error)]
pub enum FrameFlaw {
    /// Another kind of file.
    #[error("the file starts with {got:#010x} where {expected:#010x} is due")]
    Magic {
        /// What is there.
        got: u32,
        /// What should be.
        expected: u32,
    },
    /// The file ends too early.
    #[error("the file ends in the middle of {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// An entry is longer than any of its kind.
    #[error("an entry of {got} bytes; at most {most} are allowed")]
    EntryTooLong {
        /// Its length.
        got: u64,
        /// The limit.
        most: u64,
    },
    /// More entries than any image of the kind has.
    #[error("there are more than {most} entries")]
    TooManyEntries {
        /// The limit.
        most: usize,
    },
    /// Something follows where nothing should.
    #[error("bytes follow the last entry")]
    Trailing,
    /// The file could not be read at all.
    #[error("cannot be read: {0}")]
    Read(std::io::Error),
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It must be there.
    #[error("is missing")]
    Missing,
    /// A number outside what is possible.
    #[error("is {got} ({got:#x}); expected {expected}")]
    Value {
        /// The number.
        got: u64,
        /// What it could be.
        expected: &'static str,
    },
    /// Too many or too few.
    #[error("has {got} elements; expected {expected}")]
    Count {
        /// How many there are.
        got: u64,
        /// How many there could be.
        expected: &'static str,
    },
    /// Text that cannot be.
    #[error("is {got:?}; expected {expected}")]
    Text {
        /// The text, cut to 64 characters.
        got: String,
        /// What it could be.
        expected: &'static str,
    },
    /// An id given to two things.
    #[error("{what} {id} is there twice")]
    Twice {
        /// What the id names.
        what: &'static str,
        /// The id.
        id: u64,
    },
    /// A reference to nothing.
    #[error("names {what} {id}, which is not there")]
    Unresolved {
        /// What should be there.
        what: &'static str,
        /// Its id.
        id: u64,
    },
    /// A reference to the wrong kind of thing.
    #[error("names file {id}, which is not {expected}")]
    Kind {
        /// The file's id.
        id: u64,
        /// What it should be.
        expected: &'static str,
    },
    /// Valid, but nothing qmig's own engine can carry.
    #[error("{what} cannot be restored by qmig's own engine; the criu engine may be able to")]
    Unsupported {
        /// What it is.
        what: &'static str,
    },
}

impl BadImage {
    /// True if the images are sound and only ask for something qmig's own engine cannot do.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Field { flaw: Flaw::Unsupported { .. }, .. })
    }
}

/// A directory of images could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// No room.
    #[error("the file system of {path} is full: {act} failed", path = path.display())]
    Full {
        /// What was being done.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The kernel said no.
    #[error("cannot {act} {path}", path = path.display())]
    Os {
        /// What was being done.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// Not a directory, or not a plain file in it (symbolic links are not followed).
    #[error("{path} is not a {expected}", path = path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// Images are there already.
    #[error("{path} is there already; give an empty directory", path = path.display())]
    Occupied {
        /// The file in the way.
        path: PathBuf,
    },
    /// What is in the directory is wrong.
    #[error(transparent)]
    Bad(#[from] BadImage),
}

impl DirectoryError {
    /// For `map_err`: what was being done, to which file.
    pub(crate) fn os(
        act: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::Full { act, path, source }
            }
            std::io::ErrorKind::AlreadyExists => Self::Occupied { path },
            _ => Self::Os { act, path, source },
        }
    }
}

/// A field that lied; a [`BadImage`] also tells in which image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {flaw}")]
pub struct BadField {
    /// The field, as a path from its message.
    pub field: &'static str,
    /// What is wrong.
    pub flaw: Flaw,
}

impl BadField {
    pub(crate) fn missing(field: &'static str) -> Self {
        Self { field, flaw: Flaw::Missing }
    }

    pub(crate) fn value(field: &'static str, got: impl Into<u64>, expected: &'static str) -> Self {
        Self { field, flaw: Flaw::Value { got: got.into(), expected } }
    }

    pub(crate) fn count(field: &'static str, got: usize, expected: &'static str) -> Self {
        Self { field, flaw: Flaw::Count { got: got as u64, expected } }
    }

    pub(crate) fn text(field: &'static str, got: &str, expected: &'static str) -> Self {
        Self { field, flaw: Flaw::Text { got: shortened(got), expected } }
    }

    pub(crate) fn twice(field: &'static str, what: &'static str, id: impl Into<u64>) -> Self {
        Self { field, flaw: Flaw::Twice { what, id: id.into() } }
    }

    pub(crate) fn unresolved(field: &'static str, what: &'static str, id: impl Into<u64>) -> Self {
        Self { field, flaw: Flaw::Unresolved { what, id: id.into() } }
    }

    pub(crate) fn kind(field: &'static str, id: impl Into<u64>, expected: &'static str) -> Self {
        Self { field, flaw: Flaw::Kind { id: id.into(), expected } }
    }

    pub(crate) fn unsupported(field: &'static str, what: &'static str) -> Self {
        Self { field, flaw: Flaw::Unsupported { what } }
    }

    /// The same, told as an error of an image.
    pub(crate) fn at(self, image: impl fmt::Display, entry: usize) -> BadImage {
        BadImage::Field { image: image.to_string(), entry, field: self.field, flaw: self.flaw }
    }
}

/// At most 64 characters of text from outside.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}
