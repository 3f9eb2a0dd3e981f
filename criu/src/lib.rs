//! Every conversation with a stock CRIU lives here, and nothing else does.
//!
//! This crate will know the four ways in which a stock CRIU talks to the outside: RPC over
//! `criu swrk` with its notifications, the page-server wire (both header sizes), the
//! `lazy-pages.socket` of a restore, and the capture and serve sockets of `--stream`; and how runc,
//! crun and Podman start CRIU. It will know neither QUIC nor the native engine: `checkpoint` and
//! `restore` import it, one for each half of a conversation.
//!
//! Today it answers one question, which `qmig check` asks and which tells whether a refusal may
//! carry the hint `--engine criu`: is there a CRIU on this host, and which?

use std::path::PathBuf;
use std::process::Command;

/// A CRIU found on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criu {
    /// The program.
    pub path: PathBuf,
    /// What it says of itself, e.g. `4.1.1`.
    pub version: String,
}

/// Looks for `criu` in `$PATH` and asks it for its version; `None` if there is none that answers.
pub fn find() -> Option<Criu> {
    let path = std::env::var_os("PATH")?;
    let program =
        std::env::split_paths(&path).map(|dir| dir.join("criu")).find(|file| file.is_file())?;
    let answer = Command::new(&program).arg("--version").output().ok()?;
    let version = parse_version(&String::from_utf8_lossy(&answer.stdout))?;
    Some(Criu { path: program, version })
}

/// `criu --version` prints `Version: 4.1.1` on its first line.
fn parse_version(text: &str) -> Option<String> {
    let version = text.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_what_follows_the_word() {
        assert_eq!(super::parse_version("Version: 4.1.1\nGitID: x\n"), Some("4.1.1".to_owned()));
        assert_eq!(super::parse_version("Version: \n"), None);
        assert_eq!(super::parse_version("no such thing"), None);
    }
}
