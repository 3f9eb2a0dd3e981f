//! What a test needs of the machine, and what happens when it is not there.
//!
//! A test that cannot run prints `SKIPPED: why` and returns; under `CI=true` it fails, because a
//! gate that skips is open. Use it as
//!
//! ```no_run
//! # fn test() {
//! if netns_tests::requirements::missing(&["redis-server"]) {
//!     return;
//! }
//! # }
//! ```

use std::path::{Path, PathBuf};

/// What every test of this crate needs besides root.
const ALWAYS: [&str; 3] = ["ip", "cc", "setsid"];

/// Whether this test cannot run: root or one of `programs` is missing. Says so, and panics under
/// `CI=true`.
#[must_use = "a test that lacks something must return"]
pub fn missing(programs: &[&str]) -> bool {
    if !nix::unistd::geteuid().is_root() {
        return skip("root is needed to make namespaces");
    }
    for program in ALWAYS.iter().chain(programs) {
        if which(program).is_none() {
            return skip(&format!("{program} is not installed"));
        }
    }
    false
}

/// Give up a test for another reason; always returns true.
///
/// # Panics
///
/// Under `CI=true`.
#[must_use = "a test that is skipped must return"]
pub fn skip(why: &str) -> bool {
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    if std::env::var_os("CI").is_some_and(|value| value == "true") {
        panic!("{name} cannot run, and CI=true forbids skipping: {why}");
    }
    // Not `eprintln!`: the harness would keep that to itself as long as the test passes.
    let note = format!("SKIPPED: {name}: {why}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), note.as_bytes());
    true
}

/// Where a program is, as the shell would find it.
pub fn which(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| runs(path));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| runs(path))
}

fn runs(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::which;

    #[test]
    fn finds_programs() {
        assert!(which("sh").is_some());
        assert!(which("/bin/sh").is_some());
        assert!(which("no-such-program-anywhere").is_none());
    }
}
