//! Is there a CRIU on this host, which, and what can it do here?

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::rpc::Worker;

/// Names another program than the `criu` of `$PATH`.
const NAMED: &str = "QMIG_CRIU";

/// A CRIU found on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criu {
    /// The program.
    pub path: PathBuf,
    /// What it says of itself.
    pub version: Version,
}

/// Version of a CRIU: `4.1.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number, 0 if there is none.
    pub sublevel: u32,
}

/// What a CRIU can do on the kernel it runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Its pre-dump: the kernel tells written pages (soft-dirty).
    pub mem_track: bool,
    /// Its lazy restore: userfaultfd with all events.
    pub lazy_pages: bool,
}

/// Looks for `$QMIG_CRIU`, or else for `criu` in `$PATH`, and asks it for its version; `None` if
/// there is none that answers.
pub fn find() -> Option<Criu> {
    if let Some(named) = std::env::var_os(NAMED) {
        return Criu::at(Path::new(&named)).ok();
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("criu"))
        .filter(|program| program.is_file())
        .find_map(|program| Criu::at(&program).ok())
}

impl Criu {
    /// The oldest that understands kernels of today, and that the image format is tested with.
    pub const OLDEST: Version = Version { major: 4, minor: 0, sublevel: 0 };

    /// The CRIU that is this program.
    pub fn at(program: &Path) -> Result<Self> {
        let answer = Command::new(program)
            .arg("--version")
            .output()
            .map_err(|source| Error::Start { program: program.to_path_buf(), source })?;
        let text = String::from_utf8_lossy(&answer.stdout);
        let version = Version::said_in(&text)
            .ok_or_else(|| Error::NotCriu { program: program.to_path_buf() })?;
        Ok(Self { path: program.to_path_buf(), version })
    }

    /// Asks it what it can do here; takes it a few tens of milliseconds.
    pub fn features(&self) -> Result<Features> {
        Worker::start(self, None)?.features()
    }

    pub(crate) fn program(&self) -> &OsStr {
        self.path.as_os_str()
    }
}

impl Version {
    /// `criu --version` prints `Version: 4.1.1` on its first line; a development version has more
    /// behind the numbers.
    fn said_in(text: &str) -> Option<Self> {
        let version = text.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
        let mut numbers = version
            .split(|c: char| c != '.' && !c.is_ascii_digit())
            .next()?
            .split('.')
            .map(|number| number.parse().ok());
        let (major, minor) = (numbers.next()??, numbers.next()??);
        Some(Self { major, minor, sublevel: numbers.next().flatten().unwrap_or(0) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        match self.sublevel {
            0 => Ok(()),
            sublevel => write!(f, ".{sublevel}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32, sublevel: u32) -> Option<Version> {
        Some(Version { major, minor, sublevel })
    }

    #[test]
    fn the_version_is_what_follows_the_word() {
        for (text, said) in [
            ("Version: 4.1.1\nGitID: x\n", version(4, 1, 1)),
            ("Version: 4.2\n", version(4, 2, 0)),
            ("Version: 4.2-rc1\n", version(4, 2, 0)),
            ("Version: \n", None),
            ("Version: four\n", None),
            ("no such thing", None),
        ] {
            assert_eq!(Version::said_in(text), said, "{text}");
        }
    }

    #[test]
    fn versions_are_compared_by_number_and_shown_as_criu_does() {
        assert!(version(4, 10, 0) > version(4, 2, 1));
        let shown = [(4, 1, 1), (4, 2, 0)].map(|(a, b, c)| version(a, b, c).map(|v| v.to_string()));
        assert_eq!(shown, [Some("4.1.1".to_owned()), Some("4.2".to_owned())]);
    }
}
