//! What CRIU writes about itself, and how little of it people want to read.

use std::fs::File;
use std::io::Read;

use crate::work::Work;

/// The file in the working directory.
pub(crate) const NAME: &str = "criu.log";
/// Errors and warnings with time; enough to explain, quick to write.
pub(crate) const LEVEL: i32 = 2;

/// Bytes of a log that are read.
const MOST: u64 = 1 << 20;
/// Lines that are told.
const TOLD: usize = 4;
/// Errors that CRIU logs wherever it lacks a capability or a program, and that explain nothing.
const NOISE: [&str; 3] = ["RLIMIT_NOFILE", "iptables", "nftables"];

/// The first errors that CRIU logged.
pub(crate) fn errors(work: &Work) -> Vec<String> {
    let mut bytes = Vec::new();
    let read =
        File::open(work.path().join(NAME)).and_then(|file| file.take(MOST).read_to_end(&mut bytes));
    match read {
        Ok(_) => errors_in(&String::from_utf8_lossy(&bytes)),
        Err(_) => Vec::new(),
    }
}

fn errors_in(log: &str) -> Vec<String> {
    log.lines()
        .filter(|line| line.contains("Error ("))
        .filter(|line| NOISE.iter().all(|noise| !line.contains(noise)))
        .filter_map(|line| line.split_once("Error (")?.1.split_once("): "))
        .map(|(_, told)| told.trim().escape_debug().to_string())
        .take(TOLD)
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_what_explains_is_told() {
        let log = "\
(00.000012) Error (criu/rlimit.c:35): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.001) Warn  (criu/x.c:1): a warning
(00.002) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established option.
(00.003) 10000: Error (criu/files.c:1): a second\u{7} one
";
        assert_eq!(
            super::errors_in(log),
            [
                "inet: Connected TCP socket, consider using --tcp-established option.",
                "a second\\u{7} one"
            ]
        );
    }
}
