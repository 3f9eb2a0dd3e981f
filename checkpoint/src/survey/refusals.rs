//! Reasons to refuse: gathered, never thrown, so that people read all of them at once.

use image::plan::Refusal;
use tracee::HostPid;

/// Stock CRIU can carry it.
pub(crate) const BY_CRIU: &str = "use `--engine criu` on both hosts: a stock CRIU can carry it";
/// What to do about terminals.
pub(crate) const SHELL_JOB: &str = "use `--shell-job`: the destination's terminal takes its place";
/// What to do about TCP connections.
pub(crate) const KEEP_OR_CLOSE: &str =
    "use `--tcp-established` to keep it, or `--tcp-close`: the program will see it closed";
/// What to do about TCP connections that cannot be kept.
pub(crate) const TCP_CLOSE: &str = "use `--tcp-close`: the program will see a closed connection";

/// Why one thing cannot be carried; who it belongs to is added by whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Path, address or the kernel's word for it.
    pub(crate) place: String,
    /// What is wrong with it.
    pub(crate) reason: String,
    /// What to do instead.
    pub(crate) hint: Option<&'static str>,
}

impl Trouble {
    /// Nothing helps.
    pub(crate) fn new(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { place: place.into(), reason: reason.into(), hint: None }
    }

    /// The hint helps.
    pub(crate) fn but(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// The trouble of `object`.
    pub(crate) fn of(self, object: impl Into<String>) -> Refusal {
        Refusal {
            object: object.into(),
            place: self.place,
            reason: self.reason,
            hint: self.hint.map(str::to_owned),
        }
    }
}

/// What one process, descriptor or mapping is called in a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whose {
    /// The process.
    pub(crate) pid: HostPid,
    /// Its command name.
    pub(crate) comm: String,
}

impl Whose {
    /// `1234 (nginx)`.
    pub(crate) fn process(&self) -> String {
        format!("process {} ({})", self.pid.0, self.comm)
    }

    /// `thread 1240 of 1234 (nginx)`.
    pub(crate) fn thread(&self, tid: HostPid) -> String {
        if tid == self.pid {
            return self.process();
        }
        format!("thread {} of {} ({})", tid.0, self.pid.0, self.comm)
    }

    /// `fd 7 of 1234 (nginx)`.
    pub(crate) fn fd(&self, number: u32) -> String {
        format!("fd {number} of {} ({})", self.pid.0, self.comm)
    }

    /// `mapping 7f…-7f… of 1234 (nginx)`.
    pub(crate) fn mapping(&self, start: u64, end: u64) -> String {
        format!("mapping {start:x}-{end:x} of {} ({})", self.pid.0, self.comm)
    }
}
