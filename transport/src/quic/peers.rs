//! Files of known keys: `authorized_peers` on the destination, pins on the source.
//!
//! Both are lines of text; what follows `#` is a comment.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::identity::{BadFingerprint, KeyFingerprint};

/// A file of known keys could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// It could not be read or written.
    #[error("{act} {path}")]
    File {
        /// What was tried.
        act: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },
    /// A line holds no key.
    #[error("{path}, line {line}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// Which line; the first is 1.
        line: usize,
        /// What is wrong with the key.
        source: BadFingerprint,
    },
    /// A line lacks its second word.
    #[error("{path}, line {line}: expected {expected}")]
    Short {
        /// Which file.
        path: PathBuf,
        /// Which line; the first is 1.
        line: usize,
        /// What a line looks like.
        expected: &'static str,
    },
    /// Two lines pin one destination to different keys.
    #[error("{path}, line {line}: {target} is pinned to another key on an earlier line")]
    Contradiction {
        /// Which file.
        path: PathBuf,
        /// Which line; the first is 1.
        line: usize,
        /// Which destination.
        target: String,
    },
}

/// The keys that may migrate to this destination: lines of `qmig-key:… [name]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthorizedPeers(BTreeMap<KeyFingerprint, String>);

impl AuthorizedPeers {
    /// Nobody.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// One more key, and a name for it.
    #[must_use]
    pub fn with(mut self, key: KeyFingerprint, name: &str) -> Self {
        self.0.insert(key, name.to_owned());
        self
    }

    /// Reads a file. A missing file is an error: an empty list is written as an empty file.
    pub fn load(path: &Path) -> Result<Self, PeersError> {
        Self::parse(path, &read(path)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, PeersError> {
        let mut peers = Self::new();
        for (line, words) in lines(text) {
            let (key, name) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
            let key = parse_key(path, line, key)?;
            peers.0.insert(key, name.trim().to_owned());
        }
        Ok(peers)
    }

    /// The name of a key; `None` if it may not migrate here.
    pub fn name(&self, key: KeyFingerprint) -> Option<&str> {
        self.0.get(&key).map(String::as_str)
    }
}

/// The keys that destinations must prove: lines of `HOST:PORT qmig-key:…`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins(BTreeMap<String, KeyFingerprint>);

impl Pins {
    /// None.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// One more destination and its key.
    #[must_use]
    pub fn with(mut self, target: &str, key: KeyFingerprint) -> Self {
        self.0.insert(target.to_ascii_lowercase(), key);
        self
    }

    /// Reads a file. A missing file pins nothing.
    pub fn load(path: &Path) -> Result<Self, PeersError> {
        match read(path) {
            Ok(text) => Self::parse(path, &text),
            Err(PeersError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self::new())
            }
            Err(error) => Err(error),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, PeersError> {
        let mut pins = Self::new();
        for (line, words) in lines(text) {
            let Some((target, key)) = words.split_once(char::is_whitespace) else {
                let expected = "HOST:PORT qmig-key:…";
                return Err(PeersError::Short { path: path.to_owned(), line, expected });
            };
            let key = parse_key(path, line, key.trim())?;
            let target = target.to_ascii_lowercase();
            if pins.0.get(&target).is_some_and(|earlier| *earlier != key) {
                return Err(PeersError::Contradiction { path: path.to_owned(), line, target });
            }
            pins.0.insert(target, key);
        }
        Ok(pins)
    }

    /// The key `target` must prove, if it is pinned.
    pub fn key(&self, target: &str) -> Option<KeyFingerprint> {
        self.0.get(&target.to_ascii_lowercase()).copied()
    }

    /// A destination that is pinned to `key`.
    pub fn names(&self, key: KeyFingerprint) -> Option<&str> {
        self.0.iter().find(|(_, pinned)| **pinned == key).map(|(target, _)| target.as_str())
    }

    /// Adds a line to a file, made if there is none.
    pub fn append(path: &Path, target: &str, key: KeyFingerprint) -> Result<(), PeersError> {
        let mut options = fs::OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(path);
        file.and_then(|mut file| writeln!(file, "{} {key}", target.to_ascii_lowercase()))
            .map_err(|source| PeersError::File { act: "write", path: path.to_owned(), source })
    }
}

fn read(path: &Path) -> Result<String, PeersError> {
    fs::read_to_string(path).map_err(|source| PeersError::File {
        act: "read",
        path: path.to_owned(),
        source,
    })
}

/// The lines that say something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let said = |line: &'_ str| line.split('#').next().unwrap_or_default().trim().len();
    text.lines().enumerate().filter_map(move |(at, line)| {
        let start = line.trim_start();
        let words = start.split('#').next().unwrap_or_default().trim_end();
        (said(line) > 0).then_some((at + 1, words))
    })
}

fn parse_key(path: &Path, line: usize, text: &str) -> Result<KeyFingerprint, PeersError> {
    text.parse().map_err(|source| PeersError::Key { path: path.to_owned(), line, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "authorized_peers";

    fn key(number: u8) -> KeyFingerprint {
        KeyFingerprint([number; 32])
    }

    #[test]
    fn peers_have_names_and_comments() {
        let text = format!("# ours\n\n  {} the build host # rack 3\n{}\n", key(1), key(2));
        let peers = AuthorizedPeers::parse(Path::new(PATH), &text).expect("peers");
        assert_eq!(peers.name(key(1)), Some("the build host"));
        assert_eq!(peers.name(key(2)), Some(""));
        assert_eq!(peers.name(key(3)), None);
    }

    #[test]
    fn errors_name_the_line() {
        let text = format!("{}\n# fine\nqmig-key:short\n", key(1));
        let error = AuthorizedPeers::parse(Path::new(PATH), &text).expect_err("line 3");
        assert_eq!(error.to_string(), "authorized_peers, line 3");
        let error = Pins::parse(Path::new("pins"), "\nhost:1\n").expect_err("line 2");
        assert_eq!(error.to_string(), "pins, line 2: expected HOST:PORT qmig-key:…");
        let text = format!("host:1 {}\nHOST:1 {}\n", key(1), key(2));
        let error = Pins::parse(Path::new("pins"), &text).expect_err("line 2");
        assert!(error.to_string().contains("line 2: host:1 is pinned"), "{error}");
    }

    #[test]
    fn an_appended_pin_is_read_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pins");
        assert_eq!(Pins::load(&path).expect("none yet"), Pins::new());
        Pins::append(&path, "Host:7000", key(9)).expect("written");
        assert_eq!(Pins::load(&path).expect("one").key("host:7000"), Some(key(9)));
        assert!(AuthorizedPeers::load(&directory.path().join("none")).is_err());
    }
}
