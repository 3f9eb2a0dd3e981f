//! What can go wrong with files on their way.

use std::io;

use crate::path::{BadPath, RelPath};
use crate::stream::BadStream;

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Files that could not be taken, or made. Messages read after "failed to … files: ".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel did not do its part.
    #[error("{act} {path}: {source}")]
    Os {
        /// What was tried.
        act: &'static str,
        /// With which file.
        path: RelPath,
        /// Why it failed.
        source: io::Error,
    },
    /// The folder itself cannot be used.
    #[error("{act} {folder}: {source}")]
    Folder {
        /// What was tried.
        act: &'static str,
        /// Which.
        folder: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Its name is longer, or deeper, than qmig carries.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// More files than qmig carries.
    #[error("there are more than {0} files")]
    TooMany(usize),
    /// A file changed although nobody runs who uses it.
    #[error("{0} changes although the container stands still; who else writes there?")]
    Restless(RelPath),
    /// A file that is as in its image at the source, and not here.
    #[error("{0} is not as in the image here, and is there; make the container anew here")]
    OtherHere(RelPath),
    /// The stream of entries is wrong.
    #[error(transparent)]
    Stream(#[from] BadStream),
    /// The stream of entries cannot be read or written.
    #[error("the stream of files: {0}")]
    Link(io::Error),
}

impl Error {
    pub(crate) fn os<E: Into<io::Error>>(
        act: &'static str,
        path: &RelPath,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Os { act, path: path.clone(), source: source.into() }
    }

    /// True if the other end is to blame.
    pub fn is_peers_fault(&self) -> bool {
        matches!(self, Self::Path(_) | Self::Stream(_) | Self::Link(_))
    }
}
