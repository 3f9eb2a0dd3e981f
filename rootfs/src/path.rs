//! Names of files within a folder, which cannot lead out of it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Bytes of a whole name.
const LONGEST: usize = 4095;
/// Bytes of one component: NAME_MAX.
const LONGEST_COMPONENT: usize = 255;
/// Folders in one another: each is an open descriptor of whoever removes them.
const DEEPEST: usize = 256;

/// A way from a folder to something in it, by plain names alone; the empty one is the folder itself.
/// They are ordered so that a folder comes right before what is in it.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(PathBuf);

/// No such way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to a file in a folder")]
pub struct BadPath(pub String);

impl RelPath {
    /// The folder itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// Measures a name from elsewhere.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BadPath> {
        let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
        let bytes = path.as_os_str().as_bytes();
        let plain = |name: &[u8]| {
            !name.is_empty() && name != b"." && name != b".." && name.len() <= LONGEST_COMPONENT
        };
        let names = || bytes.split(|byte| *byte == b'/');
        let fits = bytes.len() <= LONGEST && !bytes.contains(&0);
        if bytes.is_empty() || (fits && names().all(plain) && names().count() <= DEEPEST) {
            return Ok(Self(path));
        }
        Err(BadPath(path.to_string_lossy().chars().take(LONGEST_COMPONENT).collect()))
    }

    /// A path as a program on this host writes it, with `/` for the folder.
    pub fn within(path: &Path) -> Result<Self, BadPath> {
        let plain = path.components().filter(|part| *part != Component::RootDir);
        Self::parse(plain.collect::<PathBuf>().into_os_string().into_vec())
    }

    /// Something in it.
    pub fn join(&self, name: &OsStr) -> Result<Self, BadPath> {
        Self::parse(self.0.join(name).into_os_string().into_vec())
    }

    /// The folder that it is in, and its name there; `None` for the folder itself.
    pub fn split(&self) -> Option<(Self, &OsStr)> {
        Some((Self(self.0.parent()?.to_owned()), self.0.file_name()?))
    }

    /// True if it is in that folder, however deep, or is it.
    pub fn starts_with(&self, folder: &Self) -> bool {
        self.0.starts_with(&folder.0)
    }

    /// For a system call that begins at the folder.
    pub fn as_path(&self) -> &Path {
        if self.0.as_os_str().is_empty() { Path::new(".") } else { &self.0 }
    }

    /// As it travels.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.to_string_lossy().escape_debug())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out() {
        let deep = |count| vec!["d"; count].join("/");
        for good in
            ["", "a", "a/b", "...", "a/..b", ".hidden", "\u{e9}", &deep(256), &"n".repeat(255)]
        {
            assert_eq!(
                RelPath::parse(good.into()).map(|path| path.as_bytes().to_vec()),
                Ok(good.into())
            );
        }
        let long = "n".repeat(256);
        for bad in ["/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\0b", &deep(257), &long]
        {
            assert!(RelPath::parse(bad.into()).is_err(), "{bad:?}");
        }
        assert_eq!(RelPath::within(Path::new("/")), Ok(RelPath::root()));
        assert_eq!(RelPath::within(Path::new("/a/b")), RelPath::parse("a/b".into()));
        assert!(RelPath::within(Path::new("/a/../b")).is_err());
    }

    #[test]
    fn a_folder_comes_right_before_what_is_in_it() {
        let names = ["", "a", "a/b", "a/b/c", "a-b", "b"];
        let paths = names.map(|name| RelPath::parse(name.into()).expect("good"));
        assert!(paths.is_sorted());
        assert_eq!(paths[3].split(), Some((paths[2].clone(), OsStr::new("c"))));
        assert_eq!(paths[1].split(), Some((RelPath::root(), OsStr::new("a"))));
        assert_eq!(paths[0].split(), None);
        assert!(paths[3].starts_with(&paths[1]) && !paths[4].starts_with(&paths[1]));
    }
}
