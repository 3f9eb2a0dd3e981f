//! What a program wrote, kept while it is being written.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One output of a program, collected by a thread. Cheap to clone; all clones see the same text.
#[derive(Clone, Debug, Default)]
pub struct Log {
    shared: Arc<(Mutex<Written>, Condvar)>,
}

#[derive(Debug, Default)]
struct Written {
    bytes: Vec<u8>,
    ended: bool,
}

impl Log {
    /// Read `source` to its end on a thread of its own.
    pub(crate) fn collect(mut source: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let writer = log.clone();
        std::thread::spawn(move || {
            let mut chunk = [0; 16 << 10];
            while let Ok(n @ 1..) = source.read(&mut chunk) {
                writer.written().bytes.extend_from_slice(&chunk[..n]);
                writer.shared.1.notify_all();
            }
            writer.written().ended = true;
            writer.shared.1.notify_all();
        });
        log
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.written().bytes).into_owned()
    }

    /// The complete lines so far.
    pub fn lines(&self) -> Vec<String> {
        complete_lines(&self.written().bytes)
    }

    /// The first complete line that `wanted` turns into something, waiting for it if need be.
    /// `None` when the output ended without it, or after `deadline`.
    pub fn find<T>(
        &self,
        deadline: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + deadline;
        let (mut seen, mut written) = (0, self.written());
        loop {
            let lines = complete_lines(&written.bytes);
            if let Some(found) = lines[seen..].iter().find_map(|line| wanted(line)) {
                return Some(found);
            }
            seen = lines.len();
            let left = end.saturating_duration_since(Instant::now());
            if written.ended || left.is_zero() {
                return None;
            }
            written =
                self.shared.1.wait_timeout(written, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Wait until the output has ended: true if it did.
    pub fn wait_end(&self, deadline: Duration) -> bool {
        let guard = self
            .shared
            .1
            .wait_timeout_while(self.written(), deadline, |written| !written.ended)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        guard.ended
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn complete_lines(bytes: &[u8]) -> Vec<String> {
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |last| last + 1);
    String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_lines_and_ends() {
        let log = Log::collect(&b"one\ntwo\nthr"[..]);
        assert!(log.wait_end(Duration::from_secs(5)));
        assert_eq!(log.lines(), ["one", "two"]);
        let second = Duration::from_secs(1);
        assert_eq!(
            log.find(second, |line| line.strip_prefix("tw").map(str::to_owned)),
            Some("o".to_owned())
        );
        assert_eq!(log.find(second, |line| line.strip_prefix("thr").map(str::to_owned)), None);
        assert_eq!(log.text(), "one\ntwo\nthr");
    }
}
