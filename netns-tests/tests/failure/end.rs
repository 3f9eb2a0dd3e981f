//! How a qmig ends, and what it says then.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use netns_tests::chaos::Runs;
use netns_tests::{QmigEvent, Running};
use nix::libc;
use nix::sys::signal::Signal;

/// How long a qmig may take to end, once all that can happen has happened: twice the time after
/// which a silent link counts as lost, and some.
pub(crate) const SETTLE: Duration = Duration::from_secs(60);

/// How a qmig may end; the first five are the exit codes of the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// 0: the tree has moved.
    Moved,
    /// 2: the words typed make no sense.
    Usage,
    /// 121: nothing was touched.
    Refused,
    /// 122: the source runs.
    Aborted,
    /// 123: it failed after the hand-over.
    Stranded,
    /// Killed by the test.
    Killed,
    /// It goes on listening; asked to end, it says that nothing was touched.
    Waits,
    /// It is the parent of the tree.
    Parent,
}

impl End {
    fn of_code(code: i32) -> Option<Self> {
        let all = [Self::Moved, Self::Usage, Self::Refused, Self::Aborted, Self::Stranded];
        all.into_iter().find(|end| end.code() == Some(code))
    }

    pub(crate) fn code(self) -> Option<i32> {
        match self {
            Self::Moved => Some(0),
            Self::Usage => Some(2),
            Self::Refused | Self::Waits => Some(121),
            Self::Aborted => Some(122),
            Self::Stranded => Some(123),
            Self::Killed | Self::Parent => None,
        }
    }

    /// Who runs if a dump ends like this, by the promise of the exit codes.
    pub(crate) fn who_runs(self) -> Option<Runs> {
        match self {
            Self::Moved => Some(Runs::Destination),
            Self::Usage | Self::Refused | Self::Aborted => Some(Runs::Source),
            Self::Stranded | Self::Killed | Self::Waits | Self::Parent => None,
        }
    }
}

/// What this qmig came to, which must be one of `wanted`, with the one error event that belongs to
/// it. One that waits is asked to end.
pub(crate) fn of(qmig: &Running, wanted: &[End]) -> Result<End, String> {
    // Its word may be a moment behind what the other side came to. One that ends instead is judged
    // below.
    let running = |line: &str| QmigEvent::parse(line).filter(|event| event.name() == "running");
    if wanted.contains(&End::Parent)
        && qmig.wait_line("it say that it runs", SETTLE, running).is_ok()
        && qmig.ended().is_none()
    {
        return Ok(End::Parent);
    }
    let asked = wanted.contains(&End::Waits) && qmig.ended().is_none();
    if asked {
        qmig.signal(Signal::SIGTERM).map_err(|error| error.to_string())?;
    }
    let status = qmig.output(SETTLE).map_err(|error| error.to_string())?.status;
    let end = match (status.code(), status.signal()) {
        (Some(121), _) if asked => End::Waits,
        (Some(code), _) => End::of_code(code).ok_or_else(|| format!("qmig ended: {status}"))?,
        (None, Some(libc::SIGKILL)) => End::Killed,
        _ => return Err(format!("qmig ended: {status}")),
    };
    if !wanted.contains(&end) {
        return Err(format!("qmig came to {end:?}, wanted one of {wanted:?}"));
    }
    let errors: Vec<_> =
        QmigEvent::all_of(qmig).into_iter().filter(|event| event.name() == "error").collect();
    match (end.code(), errors.as_slice()) {
        (Some(0) | None, []) => Ok(end),
        (Some(code @ 1..), [error]) => is_clear(error, code, qmig).map(|()| end),
        (code, errors) => Err(format!("{} error events for exit code {code:?}", errors.len())),
    }
}

/// Every field is there, agrees with the exit code, and people get the same.
fn is_clear(error: &QmigEvent, code: i32, qmig: &Running) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("the error event {what}: {error:?}"));
    let text = |name: &str| error.field(name).as_str().unwrap_or_default().to_owned();
    if error.field("code") != code {
        return wrong("has another code");
    }
    if text("whose").is_empty() || text("what").is_empty() {
        return wrong("does not say whose fault, or what");
    }
    let reasons = error.field("reasons").as_array();
    if !reasons.is_some_and(|all| all.iter().all(serde_json::Value::is_string)) {
        return wrong("has no list of reasons");
    }
    if !(error.field("hint").is_null() || error.field("hint").is_string()) {
        return wrong("has no hint");
    }
    if text("runs_on") != if code == 123 { "none" } else { "source" } {
        return wrong("says something else about who runs than the exit code");
    }
    let stderr = qmig.stderr().text();
    let told: Vec<_> = stderr.lines().filter_map(|line| line.strip_prefix("qmig: ")).collect();
    if told != [text("what")] {
        return Err(format!("people were told {told:?}, programs {:?}", text("what")));
    }
    Ok(())
}

/// The whole error event as text, to look for words in.
pub(crate) fn words(qmig: &Running) -> String {
    let events = QmigEvent::all_of(qmig);
    let errors = events.iter().filter(|event| event.name() == "error");
    errors
        .map(|error| {
            ["what", "reasons", "hint"].map(|name| error.field(name).to_string()).join(" ")
        })
        .collect()
}
