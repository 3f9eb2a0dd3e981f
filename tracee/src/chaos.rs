//! Faults on purpose: a test names a phase of a migration, and qmig breaks when it gets there.
//!
//! `QMIG_FAULT=SIDE:PHASE:ACTION` in the environment, for instance `destination:staged:kill`. The
//! actions of a driver's phase: `kill` is SIGKILL of qmig itself, as if it crashed; `stop` is SIGSTOP, so that the test
//! can interfere and let it go on; `fail` makes the step fail. `source:hello:version` makes a source that speaks
//! no version anybody knows.

use nix::sys::signal::{Signal, raise};

/// The variable that names the fault.
pub const VARIABLE: &str = "QMIG_FAULT";

/// A step that was told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("told to fail at {0} by QMIG_FAULT")]
pub struct ToldToFail(pub &'static str);

/// True if told to do `action` at `point`: for what is not a fault of this end but of its peer.
pub fn told(point: &str, action: &str) -> bool {
    std::env::var(VARIABLE).is_ok_and(|fault| fault == format!("{point}:{action}"))
}

/// Breaks here if told so. `point` is `SIDE:PHASE`; the phases are those of the drivers.
pub fn point(point: &'static str) -> Result<(), ToldToFail> {
    let Ok(fault) = std::env::var(VARIABLE) else { return Ok(()) };
    match fault.strip_prefix(point).and_then(|rest| rest.strip_prefix(':')) {
        Some("kill") => drop(raise(Signal::SIGKILL)),
        Some("stop") => drop(raise(Signal::SIGSTOP)),
        Some("fail") => return Err(ToldToFail(point)),
        _ => {}
    }
    Ok(())
}
