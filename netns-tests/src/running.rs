//! A program inside a host.

use std::process::{Child, ExitStatus, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::log::Log;
use crate::{LabError, Result};

/// How long a killed program may take to vanish.
const BURIAL: Duration = Duration::from_secs(20);
/// How long the output of an ended program may take to be read, if a grandchild keeps it open.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often an end that gives no event is looked for.
pub(crate) const GLANCE: Duration = Duration::from_millis(2);

/// A program started by [`crate::Host::spawn`]. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    line: String,
    /// The pid in the host's namespace, as the program itself sees it.
    pid: i32,
    child: Arc<Kept>,
    stdout: Log,
    stderr: Log,
}

/// The child with its status: kept also by the host, which must bury it before it can end.
#[derive(Debug)]
pub(crate) struct Kept(Mutex<Child>);

impl Kept {
    fn child(&self) -> MutexGuard<'_, Child> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kill it if it runs, and take its status. Does nothing the second time.
    pub(crate) fn bury(&self) {
        let mut child = self.child();
        if !matches!(child.try_wait(), Ok(Some(_))) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Running {
    pub(crate) fn new(line: String, pid: i32, mut child: Child) -> Self {
        let stdout = child.stdout.take().map(Log::collect).unwrap_or_default();
        let stderr = child.stderr.take().map(Log::collect).unwrap_or_default();
        Self { line, pid, child: Arc::new(Kept(Mutex::new(child))), stdout, stderr }
    }

    pub(crate) fn kept(&self) -> Arc<Kept> {
        Arc::clone(&self.child)
    }

    /// Its pid as the host's own processes see it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its standard output (empty if it was started without).
    pub fn stdout(&self) -> &Log {
        &self.stdout
    }

    /// Its standard error (empty if it was started without).
    pub fn stderr(&self) -> &Log {
        &self.stderr
    }

    /// The status, if it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.child().try_wait().ok().flatten()
    }

    /// Wait for its end.
    pub fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= end {
                return Err(self.late(&format!("the end of {}", self.line), deadline));
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Wait for its end and everything it wrote.
    pub fn output(&self, deadline: Duration) -> Result<Output> {
        let status = self.wait(deadline)?;
        // A grandchild may hold the pipes open; what is there by then has to do.
        self.stdout.wait_end(LAST_WORDS);
        self.stderr.wait_end(LAST_WORDS);
        Ok(Output {
            status,
            stdout: self.stdout.text().into_bytes(),
            stderr: self.stderr.text().into_bytes(),
        })
    }

    /// Wait for a line on standard output.
    pub fn wait_line<T>(
        &self,
        what: &str,
        deadline: Duration,
        wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let since = Instant::now();
        let found = self.stdout.find(deadline, wanted);
        if found.is_none() && since.elapsed() < deadline {
            // Its output ended, so it is about to end itself.
            let _ = self.output(LAST_WORDS);
        }
        found.ok_or_else(|| match self.ended() {
            Some(status) => LabError::Ended {
                what: what.to_owned(),
                ended: format!("{} ended: {status}", self.line),
                logs: self.logs(),
            },
            None => self.late(what, deadline),
        })
    }

    /// Send a signal. A program that has ended is left in peace.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = self.child.child();
        if matches!(child.try_wait(), Ok(Some(_))) {
            return Ok(());
        }
        let outer = Pid::from_raw(child.id().cast_signed());
        kill(outer, signal).map_err(LabError::namespace("send a signal"))
    }

    /// Kill it and wait for its end.
    pub fn kill(&self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        self.wait(BURIAL)
    }

    /// Wait until it is stopped (by SIGSTOP or a tracer), as a fault of action `stop` leaves it.
    pub fn wait_stopped(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        let outer = self.child.child().id();
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{outer}/stat")).unwrap_or_default();
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            match state {
                Some('T' | 't') => return Ok(()),
                Some('Z') | None => {
                    return Err(LabError::Ended {
                        what: format!("{} stopped", self.line),
                        ended: "it ended".to_owned(),
                        logs: self.logs(),
                    });
                }
                Some(_) if Instant::now() >= end => {
                    return Err(self.late(&format!("{} stopped", self.line), deadline));
                }
                Some(_) => std::thread::sleep(GLANCE),
            }
        }
    }

    /// Command line, status and everything written, for a failed test to show.
    pub fn logs(&self) -> String {
        let status = self.ended().map_or_else(|| "still running".to_owned(), |s| s.to_string());
        let mut text = format!("--- {} (pid {}): {status}\n", self.line, self.pid);
        for (name, log) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            for line in log.text().lines() {
                text.push_str(&format!("{name}| {line}\n"));
            }
        }
        text
    }

    fn late(&self, what: &str, within: Duration) -> LabError {
        LabError::Deadline { what: what.to_owned(), within, logs: self.logs() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.bury();
    }
}
