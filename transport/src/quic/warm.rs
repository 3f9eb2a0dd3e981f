//! The path is tried out while nobody waits on it.
//!
//! A link that begins to send at the moment of the hand-over finds the end of its path by filling the
//! queue in front of it, and every page that the program wants just then, when it wants most, stands in
//! that queue. So what will be owed is announced by padding: it teaches the congestion controller what
//! the path carries, and is thrown away. It costs a small part of what will follow.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pages::ByteCount;
use quinn::RecvStream;
use tokio::time::{Instant, sleep};

use super::congestion::path_seen;
use super::dial::SourceLink;
use super::lanes::Lane;
use super::link::{LinkError, write_error};
use super::tuning::INITIAL_WINDOW;
use super::wires::Wires;

/// Paths with shorter round trips are learnt in no time.
const SHORT: Duration = Duration::from_millis(2);
/// Round trips that it may take: the window grows by half in each.
const LONGEST: u32 = 24;
/// The most that is sent, whatever follows.
const MOST: u64 = 64 << 20;
/// What a destination takes of it before it has had enough.
const ENOUGH: u64 = 2 * MOST;
/// What follows is so many times as much, at least.
const PART: u64 = 16;
/// Written at a time.
static PADDING: [u8; 64 << 10] = [0; 64 << 10];
static TAG: [u8; 1] = [Lane::Padding.tag()];

/// What it took to learn a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warmed {
    /// Bytes of padding that left.
    pub padding: ByteCount,
    /// How long it took.
    pub took: Duration,
    /// The end of the path was found.
    pub found: bool,
}

/// Reads padding until it is taken back. Nothing may be concluded from it, nor does it wait for anybody:
/// a stream that was stopped at once would end it after one round trip.
pub(super) async fn swallow(mut stream: RecvStream, wires: Arc<Wires>) {
    let mut taken = 0;
    while let Ok(Some(chunk)) = stream.read_chunk(PADDING.len(), false).await {
        taken += chunk.bytes.len() as u64;
        wires.received(Lane::Padding, chunk.bytes.len());
        if taken > ENOUGH {
            let _ = stream.stop(0_u8.into()); // it may be gone already
            return;
        }
    }
}

/// How much padding may go ahead of `owed`; `None` if it is not worth while.
fn budget(owed: ByteCount, base_rtt: Duration) -> Option<u64> {
    let most = (owed.0 / PART).min(MOST);
    (base_rtt >= SHORT && most >= 2 * INITIAL_WINDOW).then_some(most)
}

impl SourceLink {
    /// Learns what the path carries, if it is not known and `owed` bytes are worth it. Padding is sent
    /// until then. The peer must have agreed to
    /// [`Features::PADDING`](crate::wire::Features::PADDING).
    ///
    /// When it returns the peer has just been heard: what is done next may rely on a path that is there.
    pub async fn warm_up(&self, owed: ByteCount) -> Result<Option<Warmed>, LinkError> {
        let connection = &self.core.connection;
        let unlearnt = || path_seen(connection).filter(|path| !path.settled);
        let Some(path) = unlearnt() else { return Ok(None) };
        let Some(most) = budget(owed, path.base) else { return Ok(None) };
        let mut stream = connection.open_uni().await?;
        self.core.wires.prioritise(Lane::Padding, &stream);
        let began = Instant::now();
        let start = connection.stats().udp_tx.bytes;
        let (mut written, mut heard) = (0, false);
        let mut next = Bytes::from_static(&TAG);
        while let Some(path) = unlearnt() {
            let stats = connection.stats();
            let left = stats.udp_tx.bytes - start;
            if left >= most || began.elapsed() > path.base.max(SHORT) * LONGEST {
                break;
            }
            // Twice what may be in flight is at hand, and no more: until it leaves it only takes room.
            if written >= left + 2 * stats.path.cwnd {
                sleep(path.base / 16).await;
                continue;
            }
            written += next.len() as u64;
            match stream.write_chunk(next).await.map_err(|error| write_error(error, Lane::Padding))
            {
                Ok(()) => {}
                Err(LinkError::StreamGivenUp { .. }) => {
                    heard = true;
                    break;
                }
                Err(error) => return Err(error),
            }
            next = Bytes::from_static(&PADDING);
        }
        // What has not left stays here. That it does is acknowledged, if nothing else is under way.
        let _ = stream.reset(0_u8.into());
        let before = connection.stats().udp_rx.datagrams;
        while !heard {
            sleep(path.base / 16).await;
            if let Some(reason) = connection.close_reason() {
                return Err(reason.into());
            }
            heard = connection.stats().udp_rx.datagrams > before;
        }
        let padding = connection.stats().udp_tx.bytes - start;
        self.core.wires.sent(Lane::Padding, usize::try_from(padding).unwrap_or(usize::MAX));
        let found = unlearnt().is_none();
        Ok(Some(Warmed { padding: ByteCount(padding), took: began.elapsed(), found }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_worth_it_is_sent_ahead() {
        let ms = Duration::from_millis;
        let rows = [
            (2 << 30, ms(20), Some(MOST)),
            (128 << 20, ms(20), Some(8 << 20)),
            (4 << 30, ms(100), Some(MOST)),
            (128 << 20, ms(1), None),
            (2 << 20, ms(100), None),
            (4 << 20, ms(100), Some(256 << 10)),
        ];
        for (owed, rtt, expected) in rows {
            assert_eq!(budget(ByteCount(owed), rtt), expected, "{owed} {rtt:?}");
        }
    }
}
