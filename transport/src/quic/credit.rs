//! How many bytes of bulk may be on their way: sent by the source, not yet acknowledged by the
//! destination's [`Progress`](crate::wire::Progress).
//!
//! What was handed to QUIC cannot be taken back, and all streams share one send window and one
//! receiver: a page that the program waits for sits behind whatever bulk is there already, whatever its
//! priority. So bulk takes only as much as keeps the link full, from the moment on that somebody may
//! wait for pages. Shortly before, while what can wait is pushed ahead of the hand-over, it takes a little
//! more, so that little is on its way when it happens. Before that, the windows of QUIC are bound enough.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pages::{ByteCount, PageCount};
use tokio::sync::Notify;

use super::tuning::SEND_WINDOW;

/// Never more than half of what all streams share.
const MOST: u64 = SEND_WINDOW as u64 / 2;
/// Links with shorter round trips than this are that short: two hosts at one switch.
pub(super) const SHORT: Duration = Duration::from_millis(1);
/// How often the window is fitted to the link.
const FIT_EVERY: Duration = Duration::from_millis(10);

/// Who may wait for pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Waiting {
    /// Nobody, and nobody will soon.
    #[default]
    Nobody,
    /// Nobody yet: the tree is about to be handed over.
    Soon,
    /// Whoever runs on the destination.
    Now,
}

impl Waiting {
    /// What may be on its way over a link too short to matter. While somebody waits, three pieces of
    /// bulk, one at each end and one between: with two thirds of it both ends wait for each other, with
    /// twice as much a fault waits half as long again.
    const fn least(self) -> u64 {
        match self {
            Self::Nobody => MOST,
            Self::Soon => 256 << 10,
            Self::Now => 96 << 10,
        }
    }

    /// Bulk runs are no longer than this; `None` if it does not matter.
    pub(super) const fn piece(self) -> Option<PageCount> {
        match self {
            Self::Nobody => None,
            Self::Soon => Some(PageCount(16)),
            Self::Now => Some(PageCount(8)),
        }
    }

    /// The destination tells how far it is after so many bytes.
    pub const fn tell_after(self) -> ByteCount {
        ByteCount(self.least() / 4)
    }
}

/// How much may be on its way over a link whose controller allows `congestion_window` in flight.
fn window(waiting: Waiting, base_rtt: Duration, congestion_window: u64) -> Option<u64> {
    let least = match waiting {
        Waiting::Nobody => return None,
        Waiting::Soon | Waiting::Now => waiting.least(),
    };
    if base_rtt < SHORT {
        return Some(least);
    }
    // Once what is in flight, once what follows when it was acknowledged by QUIC but not yet by us; and
    // as much again for what waits over there for a lost packet before it, which is sent again a round
    // trip later and arrives after another.
    Some(congestion_window.saturating_mul(4).clamp(least, MOST))
}

/// The account. Pure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Account {
    sent: u64,
    acknowledged: u64,
    waiting: Waiting,
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
    /// From now on somebody may wait for pages, or will. The window is fitted to the link at the next
    /// acknowledgement.
    pub(super) fn expect(&self, waiting: Waiting) {
        *self.0.fitted.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.with(|account| {
            account.waiting = account.waiting.max(waiting);
            let least = account.waiting.least();
            account.window.get_or_insert(least);
        });
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.with(|account| account.waiting)
    }

    /// What the peer has taken in all, over this link. `path` tells the shortest round trip and what
    /// the controller allows in flight; it is not asked every time.
    pub(super) fn acknowledged(&self, total: ByteCount, path: impl FnOnce() -> (Duration, u64)) {
        let mut fitted = self.0.fitted.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.waiting();
        let due = waiting > Waiting::Nobody && fitted.is_none_or(|at| at.elapsed() > FIT_EVERY);
        let fit = due.then(|| {
            *fitted = Some(Instant::now());
            let (base_rtt, in_flight) = path();
            window(waiting, base_rtt, in_flight)
        });
        self.with(|account| {
            account.acknowledge(total.0);
            account.window = fit.flatten().or(account.window);
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
            // Who waits, round trip, in flight: on its way.
            (Waiting::Now, ms(0), mib(6), Some(96 << 10)),
            (Waiting::Now, ms(20), 275 << 10, Some(1100 << 10)),
            (Waiting::Now, ms(20), 8 << 10, Some(96 << 10)),
            (Waiting::Now, ms(100), mib(5), Some(mib(20))),
            (Waiting::Now, ms(100), mib(100), Some(MOST)),
            (Waiting::Soon, ms(0), mib(6), Some(256 << 10)),
            (Waiting::Soon, ms(20), 275 << 10, Some(1100 << 10)),
            (Waiting::Nobody, ms(0), mib(6), None),
        ];
        for (waiting, rtt, in_flight, expected) in rows {
            assert_eq!(
                window(waiting, rtt, in_flight),
                expected,
                "{waiting:?} {rtt:?} {in_flight}"
            );
        }
    }

    #[test]
    fn a_window_fitted_to_a_long_link_is_kept_at_the_hand_over() {
        let credit = Credit::default();
        credit.expect(Waiting::Soon);
        credit.acknowledged(ByteCount(0), || (Duration::from_millis(20), 1 << 20));
        credit.expect(Waiting::Now);
        assert_eq!(credit.with(|account| account.window), Some(4 << 20));
        credit.expect(Waiting::Soon);
        assert_eq!(credit.waiting(), Waiting::Now, "there is no way back");
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
        credit.expect(Waiting::Now);
        let least = Waiting::Now.least();
        let waiting = tokio::spawn({
            let credit = credit.clone();
            async move { credit.take(4096).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        credit.acknowledged(ByteCount(2 * MOST - least), Default::default);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        credit.acknowledged(ByteCount(2 * MOST - least + 4096), Default::default);
        waiting.await.expect("it goes on");
    }
}
