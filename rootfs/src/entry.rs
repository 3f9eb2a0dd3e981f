//! What is said of one file.

use prost::Message;

use crate::path::{BadPath, RelPath};

/// A file, or that there is none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: RelPath,
    /// What it is.
    pub kind: Kind,
    /// What else is known of it. Of nothing, and of one more name, nothing is.
    pub about: About,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder. It is told of before what is in it, and again after it, because its times change.
    Directory,
    /// A plain file; its content follows.
    Regular,
    /// One more name of a plain file that was told of before.
    Link(RelPath),
    /// A symbolic link, and where it leads.
    Symlink(Vec<u8>),
    /// A device of characters, by its number.
    Character(u64),
    /// A device of blocks, by its number.
    Block(u64),
    /// A named pipe.
    Fifo,
    /// The name of a socket.
    Socket,
    /// Nothing: whatever is there goes, with what is in it.
    Gone,
}

/// Everything about a file but its name and its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Permissions, with set-id bits and the sticky one.
    pub mode: u32,
    /// Owner, as the kernel of the host calls it.
    pub owner: u32,
    /// Group.
    pub group: u32,
    /// When it was last read.
    pub accessed: Moment,
    /// When it was last written.
    pub modified: Moment,
    /// Extended attributes: name, value.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A time of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanos: u32,
}

/// As it travels.
#[derive(Clone, PartialEq, Message)]
struct Written {
    #[prost(bytes = "vec", tag = "1")]
    path: Vec<u8>,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(uint32, tag = "3")]
    mode: u32,
    #[prost(uint32, tag = "4")]
    owner: u32,
    #[prost(uint32, tag = "5")]
    group: u32,
    #[prost(sint64, tag = "6")]
    accessed: i64,
    #[prost(uint32, tag = "7")]
    accessed_nanos: u32,
    #[prost(sint64, tag = "8")]
    modified: i64,
    #[prost(uint32, tag = "9")]
    modified_nanos: u32,
    #[prost(bytes = "vec", tag = "10")]
    target: Vec<u8>,
    #[prost(uint64, tag = "11")]
    device: u64,
    #[prost(message, repeated, tag = "12")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// No entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// No message.
    #[error("an entry that cannot be read")]
    Unreadable,
    /// Its name is none.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// A kind that this qmig does not know.
    #[error("a file of kind {0}, which is not known")]
    Kind(u32),
    /// What it says cannot be.
    #[error("{0} cannot be what it is said to be")]
    Impossible(RelPath),
}

/// Permissions and the bits beside them.
const MODE: u32 = 0o7777;
const NANOS: u32 = 1_000_000_000;
/// Where a symbolic link leads.
const LONGEST_TARGET: usize = 4095;

impl Entry {
    /// That nothing is there any more.
    pub fn gone(path: RelPath) -> Self {
        Self { path, kind: Kind::Gone, about: About::default() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let (kind, target, device) = match &self.kind {
            Kind::Directory => (1, &[][..], 0),
            Kind::Regular => (2, &[][..], 0),
            Kind::Link(to) => (3, to.as_bytes(), 0),
            Kind::Symlink(target) => (4, &target[..], 0),
            Kind::Character(device) => (5, &[][..], *device),
            Kind::Block(device) => (6, &[][..], *device),
            Kind::Fifo => (7, &[][..], 0),
            Kind::Socket => (8, &[][..], 0),
            Kind::Gone => (9, &[][..], 0),
        };
        let About { mode, owner, group, accessed, modified, attributes } = self.about.clone();
        let attributes = attributes.into_iter().map(|(name, value)| Attribute { name, value });
        let written = Written {
            path: self.path.as_bytes().to_vec(),
            kind,
            mode,
            owner,
            group,
            accessed: accessed.seconds,
            accessed_nanos: accessed.nanos,
            modified: modified.seconds,
            modified_nanos: modified.nanos,
            target: target.to_vec(),
            device,
            attributes: attributes.collect(),
        };
        written.encode_to_vec()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, BadEntry> {
        let written = Written::decode(bytes).map_err(|_| BadEntry::Unreadable)?;
        let path = RelPath::parse(written.path)?;
        let kind = match written.kind {
            1 => Kind::Directory,
            2 => Kind::Regular,
            3 => Kind::Link(RelPath::parse(written.target)?),
            4 => Kind::Symlink(written.target),
            5 => Kind::Character(written.device),
            6 => Kind::Block(written.device),
            7 => Kind::Fifo,
            8 => Kind::Socket,
            9 => Kind::Gone,
            other => return Err(BadEntry::Kind(other)),
        };
        let possible = match &kind {
            Kind::Directory => true,
            Kind::Link(to) => *to != RelPath::root() && path != RelPath::root(),
            Kind::Symlink(to) => {
                (1..=LONGEST_TARGET).contains(&to.len())
                    && !to.contains(&0)
                    && path != RelPath::root()
            }
            _ => path != RelPath::root(),
        };
        let named = |attribute: &Attribute| {
            (1..=255).contains(&attribute.name.len()) && !attribute.name.contains(&0)
        };
        let times = written.accessed_nanos < NANOS && written.modified_nanos < NANOS;
        let fits = written.mode & !MODE == 0 && times && written.attributes.iter().all(named);
        if !possible || !fits {
            return Err(BadEntry::Impossible(path));
        }
        let pair = |attribute: Attribute| (attribute.name, attribute.value);
        let about = About {
            mode: written.mode,
            owner: written.owner,
            group: written.group,
            accessed: Moment { seconds: written.accessed, nanos: written.accessed_nanos },
            modified: Moment { seconds: written.modified, nanos: written.modified_nanos },
            attributes: written.attributes.into_iter().map(pair).collect(),
        };
        Ok(Self { path, kind, about })
    }
}
