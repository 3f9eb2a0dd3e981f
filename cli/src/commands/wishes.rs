//! Signals, turned into wishes of a person.

use tokio::signal::unix::{Signal, SignalKind, signal};
use transport::stop::{Stop, Stopper, Wish};

use crate::progress::Failure;

/// Listens for SIGINT, SIGTERM and SIGHUP (end) and SIGUSR1 (take back). Must be called inside the
/// runtime.
pub(super) fn listen() -> Result<Stop, Failure> {
    let (stopper, stop) = Stop::pair();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        tokio::spawn(say(open(kind)?, stopper.clone(), Wish::End));
    }
    tokio::spawn(say(open(SignalKind::user_defined1())?, stopper, Wish::TakeBack));
    Ok(stop)
}

async fn say(mut signal: Signal, stopper: Stopper, wish: Wish) {
    while signal.recv().await.is_some() {
        let _ = stopper.send(wish);
    }
}

/// A stream of one signal.
pub(super) fn open(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::here(format!("listen for signals: {error}")))
}
