//! How many bytes of bulk may be on their way: sent by the source, not yet acknowledged by the
//! destination's [`Progress`](crate::wire::Progress).
//!
//! What was handed to QUIC cannot be taken back, and all streams share one send window and one
//! receiver: a page that the program waits for sits behind whatever bulk is there already, whatever its
//! priority. So bulk takes only as much as keeps the link full, from the moment on that somebody may
//! wait for pages. Before, the windows of QUIC are bound enough.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pages::ByteCount;
use tokio::sync::Notify;

use super::tuning::SEND_WINDOW;

/// Never more than half of what all streams share.
const MOST: u64 = SEND_WINDOW as u64 / 2;
/// On a link too short to matter: three pieces of bulk, one at each end and one between. With two thirds
/// of it both ends wait for each other, with twice as much a fault waits half as long again.
const LEAST: u64 = 96 << 10;
/// Links with shorter round trips than this are that short: two hosts at one switch.
const SHORT: Duration = Duration::from_millis(1);
/// How often the window is fitted to the link.
const FIT_EVERY: Duration = Duration::from_millis(10);

/// The destination tells how far it is after so many bytes, while somebody may wait for pages.
pub const TELL_AFTER: ByteCount = ByteCount(LEAST / 4);

/// How much may be on its way over a link whose controller allows `congestion_window` in flight.
fn window(base_rtt: Duration, congestion_window: u64) -> u64 {
    if base_rtt < SHORT {
        return LEAST;
    }
    // Twice: what is in flight, and what follows when it was acknowledged by QUIC but not yet by us.
    congestion_window.saturating_mul(2).clamp(LEAST, MOST)
}

/// The account. Pure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Account {
    sent: u64,
    acknowledged: u64,
    /// None as long as nobody waits for pages.
    window: Option<u64>,
}

impl Account {
    const fn outstanding(&self) -> u64 {
        self.sent.saturating_sub(self.acknowledged)
    }

    /// True if so many bytes may go now. Whatever is larger than the window goes alone.
    const fn allows(&self, bytes: u64) -> bool {
        let outstanding = self.outstanding();
        match self.window {
            Some(window) => outstanding == 0 || outstanding.saturating_add(bytes) <= window,
            None => true,
        }
    }

    /// The peer says that it has taken so many in all. More than were sent means nothing.
    fn acknowledge(&mut self, total: u64) {
        self.acknowledged = self.acknowledged.max(total.min(self.sent));
    }
}

/// The account of one link, for those who send bulk and for the one who hears acknowledgements.
#[derive(Debug, Clone, Default)]
pub(super) struct Credit(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    account: Mutex<Account>,
    /// When the window was last fitted to the link.
    fitted: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Credit {
    /// From now on somebody may wait for pages. The window is fitted to the link at the first
    /// acknowledgement.
    pub(super) fn urgent(&self) {
        self.with(|account| {
            account.window.get_or_insert(LEAST);
        });
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.with(|account| account.window.is_some())
    }

    /// What the peer has taken in all, over this link. `path` tells the shortest round trip and what
    /// the controller allows in flight; it is not asked every time.
    pub(super) fn acknowledged(&self, total: ByteCount, path: impl FnOnce() -> (Duration, u64)) {
        let mut fitted = self.0.fitted.lock().unwrap_or_else(PoisonError::into_inner);
        let due = self.is_urgent() && fitted.is_none_or(|at| at.elapsed() > FIT_EVERY);
        let fit = due.then(|| {
            *fitted = Some(Instant::now());
            let (base_rtt, in_flight) = path();
            window(base_rtt, in_flight)
        });
        self.with(|account| {
            account.acknowledge(total.0);
            account.window = fit.or(account.window);
        });
        self.0.changed.notify_waiters();
    }

    /// Takes so many bytes if they may go now.
    pub(super) fn try_take(&self, bytes: u64) -> bool {
        self.with(|account| {
            let allowed = account.allows(bytes);
            account.sent += if allowed { bytes } else { 0 };
            allowed
        })
    }

    /// Waits until so many bytes may go, and takes them.
    pub(super) async fn take(&self, bytes: u64) {
        loop {
            let changed = self.0.changed.notified();
            if self.try_take(bytes) {
                return;
            }
            changed.await;
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Account) -> T) -> T {
        act(&mut self.0.account.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_fits_the_link() {
        let ms = Duration::from_millis;
        let mib = |count: u64| count << 20;
        let rows = [
            // Round trip, in flight: on its way.
            (ms(0), mib(6), LEAST),
            (ms(20), 275 << 10, 550 << 10),
            (ms(20), 8 << 10, LEAST),
            (ms(100), mib(11), mib(22)),
            (ms(100), mib(100), MOST),
        ];
        for (rtt, in_flight, expected) in rows {
            assert_eq!(window(rtt, in_flight), expected, "{rtt:?} {in_flight}");
        }
    }

    #[test]
    fn the_account_is_kept() {
        let mut account = Account { window: Some(100), ..Account::default() };
        assert!(account.allows(1000), "alone, whatever it is");
        account.sent = 90;
        assert!(account.allows(10) && !account.allows(11));
        account.acknowledge(50);
        assert!(account.allows(60) && !account.allows(61));
        account.acknowledge(20);
        assert_eq!(account.outstanding(), 40, "an old word changes nothing");
        account.acknowledge(u64::MAX);
        assert_eq!(account.outstanding(), 0, "nor does more than was sent");
    }

    #[tokio::test]
    async fn whoever_waits_goes_on_when_room_is_made() {
        let credit = Credit::default();
        credit.take(MOST).await;
        credit.take(MOST).await;
        credit.urgent();
        let waiting = tokio::spawn({
            let credit = credit.clone();
            async move { credit.take(4096).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        credit.acknowledged(ByteCount(2 * MOST - LEAST), Default::default);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        credit.acknowledged(ByteCount(2 * MOST - LEAST + 4096), Default::default);
        waiting.await.expect("it goes on");
    }
}
