//! The configuration of a container in its bundle.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use criu::CONFIG;

use crate::error::{During, Result};

/// A configuration that we have written. Dropped, it is removed again, unless it is kept.
#[derive(Debug)]
pub(super) struct Config {
    path: Option<PathBuf>,
}

impl Config {
    /// Writes the one that came into a bundle that has none.
    pub(super) fn complete(bundle: &Path, came: &[u8]) -> Result<Option<Self>> {
        let path = bundle.join(CONFIG);
        let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
            other => other.during("complete the bundle")?,
        };
        let config = Self { path: Some(path) };
        file.write_all(came).during("complete the bundle")?;
        Ok(Some(config))
    }

    /// The container runs by it.
    pub(super) fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_and_what_we_wrote_goes_unless_kept() {
        let bundle = tempfile::tempdir().expect("a folder");
        let path = bundle.path().join(CONFIG);
        let ours = Config::complete(bundle.path(), b"ours").expect("written").expect("ours");
        assert!(Config::complete(bundle.path(), b"later").expect("looked").is_none());
        assert_eq!(std::fs::read(&path).expect("read"), b"ours");
        drop(ours);
        assert!(!path.exists());
        Config::complete(bundle.path(), b"ours").expect("written").expect("ours").keep();
        assert!(path.exists());
    }
}
