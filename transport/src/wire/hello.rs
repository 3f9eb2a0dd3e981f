//! Who is there: versions, features, and which migration this is.
//!
//! The bytes of [`Hello`] never change, whatever the version: it is how versions are found out.

use std::fmt;

use super::codec::{DecodeError, Got, Reader, Writer};
use super::limits::{MAX_SOFTWARE_BYTES, MAX_VERSIONS};
use super::refusal::Refusal;

/// The versions of the protocol that this qmig speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The first: blobs, raw and zero page runs, fault streams, hand-off with resume and release.
    V1,
}

/// The number of a version, perhaps one that this qmig does not know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionNumber(pub u16);

impl Version {
    /// All versions this qmig speaks, newest first.
    pub const ALL: &[Self] = &[Self::V1];

    /// The number by which it travels. Never renumbered.
    pub const fn number(self) -> VersionNumber {
        match self {
            Self::V1 => VersionNumber(1),
        }
    }

    /// The newest version that both know.
    pub fn choose(offered: &[VersionNumber]) -> Option<Self> {
        Self::ALL.iter().copied().find(|version| offered.contains(&version.number()))
    }

    /// Why nothing could be chosen, naming both lists.
    pub fn refusal(offered: &[VersionNumber]) -> Refusal {
        let list = |numbers: &[VersionNumber]| {
            let texts: Vec<_> = numbers.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        let ours: Vec<_> = Self::ALL.iter().map(|version| version.number()).collect();
        Refusal {
            object: "protocol version".to_owned(),
            place: "hello".to_owned(),
            reason: format!(
                "the source speaks version {}, the destination speaks version {}",
                list(offered),
                list(&ours)
            ),
            hint: "install the same release of qmig on both hosts".to_owned(),
        }
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}", self.0)
    }
}

/// What a qmig can do beyond the base of its version. Unknown bits survive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features(pub u64);

impl Features {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Move a stopped tree.
    pub const STOP_AND_COPY: Self = Self(1);
    /// Send pages in rounds while the program still runs.
    pub const PRE_COPY: Self = Self(1 << 1);
    /// Send pages after the program has moved.
    pub const POST_COPY: Self = Self(1 << 2);
    /// Page runs compressed with LZ4.
    pub const LZ4: Self = Self(1 << 3);
    /// Page runs compressed with Zstandard.
    pub const ZSTD: Self = Self(1 << 4);
    /// Pages that must be there while the tree is built come before the others, and pagemaps tell which.
    pub const EAGER_FIRST: Self = Self(1 << 5);
    /// Shared memory takes part in rounds.
    pub const SHARED_ROUNDS: Self = Self(1 << 6);
    /// So do segments of System V, and what private mappings of files hold of their own.
    pub const WHOLE_ROUNDS: Self = Self(1 << 7);
    /// Padding may be sent, to learn the path.
    pub const PADDING: Self = Self(1 << 8);
    /// Files of memory that come along with their content take part in rounds.
    pub const FILE_ROUNDS: Self = Self(1 << 9);
    /// Pages that processes share copy on write travel once, before all others.
    pub const HERITAGE: Self = Self(1 << 10);
    /// The same ahead of rounds, while the program runs, and of mappings that begin anywhere.
    pub const COMMON_ROUNDS: Self = Self(1 << 11);

    const NAMES: [(Self, &str); 12] = [
        (Self::STOP_AND_COPY, "stop-and-copy"),
        (Self::PRE_COPY, "pre-copy"),
        (Self::POST_COPY, "post-copy"),
        (Self::LZ4, "lz4"),
        (Self::ZSTD, "zstd"),
        (Self::EAGER_FIRST, "eager-first"),
        (Self::SHARED_ROUNDS, "shared-rounds"),
        (Self::WHOLE_ROUNDS, "whole-rounds"),
        (Self::PADDING, "padding"),
        (Self::FILE_ROUNDS, "file-rounds"),
        (Self::HERITAGE, "heritage"),
        (Self::COMMON_ROUNDS, "common-rounds"),
    ];

    /// True if all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that both have.
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unnamed = self.0;
        let mut texts = Vec::new();
        for (feature, name) in Self::NAMES {
            if self.contains(feature) {
                texts.push(name.to_owned());
                unnamed &= !feature.0;
            }
        }
        if unnamed != 0 {
            texts.push(format!("{unnamed:#x}"));
        }
        f.write_str(if texts.is_empty() { "none" } else { "" })?;
        f.write_str(&texts.join(", "))
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({self})")
    }
}

/// One migration: 128 random bits, chosen by the source.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {self}")
    }
}

/// The first word of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The versions it speaks; at least one.
    pub versions: Vec<VersionNumber>,
    /// What it can do.
    pub features: Features,
    /// Which migration this is.
    pub session: SessionId,
    /// Its release, for people.
    pub software: String,
}

/// The destination's answer, if a version was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloReply {
    /// The version that both speak from here on.
    pub version: Version,
    /// What both can do.
    pub features: Features,
    /// The destination's release, for people.
    pub software: String,
}

impl Hello {
    /// A hello that offers every version this qmig speaks.
    pub fn new(session: SessionId, features: Features, software: &str) -> Self {
        Self {
            versions: Version::ALL.iter().map(|version| version.number()).collect(),
            features,
            session,
            software: software.to_owned(),
        }
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        let versions = &self.versions[..self.versions.len().min(MAX_VERSIONS)];
        w.count(versions.len());
        versions.iter().for_each(|version| w.u16(version.0));
        w.u64(self.features.0);
        w.bytes(&self.session.0);
        w.text(&self.software, MAX_SOFTWARE_BYTES);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = r.count(MAX_VERSIONS, "at most 32 versions")?;
        if count == 0 {
            return Err(r.error("at least one version", Got::Length(0)));
        }
        let versions = (0..count)
            .map(|_| r.u16("a version number").map(VersionNumber))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            versions,
            features: Features(r.u64("a set of features")?),
            session: SessionId(r.array("a session id")?),
            software: r.text(MAX_SOFTWARE_BYTES, "the name of a release")?,
        })
    }
}

impl HelloReply {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.u16(self.version.number().0);
        w.u64(self.features.0);
        w.text(&self.software, MAX_SOFTWARE_BYTES);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = r.u16("a version number")?;
        let version = Version::choose(&[VersionNumber(number)])
            .ok_or_else(|| r.error("a version that was offered", Got::Number(number.into())))?;
        Ok(Self {
            version,
            features: Features(r.u64("a set of features")?),
            software: r.text(MAX_SOFTWARE_BYTES, "the name of a release")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_chosen() {
        let offer =
            |numbers: &[u16]| numbers.iter().copied().map(VersionNumber).collect::<Vec<_>>();
        assert_eq!(Version::choose(&offer(&[9, 1, 3])), Some(Version::V1));
        assert_eq!(Version::choose(&offer(&[9, 3])), None);
        let text = Version::refusal(&offer(&[9, 3])).reason;
        assert_eq!(text, "the source speaks version 9, 3, the destination speaks version 1");
    }

    #[test]
    fn features_name_themselves_and_keep_what_they_do_not_know() {
        let both = Features::STOP_AND_COPY.with(Features::ZSTD).with(Features(1 << 40));
        assert_eq!(both.to_string(), "stop-and-copy, zstd, 0x10000000000");
        assert_eq!(Features::NONE.to_string(), "none");
        assert!(both.contains(Features::ZSTD) && !both.contains(Features::LZ4));
    }
}
