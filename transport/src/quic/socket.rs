//! A socket that joins what quinn hands over in pieces.
//!
//! quinn gives a socket ten datagrams at a time, and each time costs a system call and a way through
//! the stack of both hosts. Pieces that follow each other at once are joined here to what one
//! segmentation offload takes (`UDP_SEGMENT`, udp(7), Linux 4.18). A piece of ten waits only until
//! everybody who can run now has run once, and a smaller one never: it takes along what waits.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::sync::Notify;

/// Datagrams that quinn hands over at once when it has more.
const PIECE: usize = 10;
/// Bytes that one segmentation offload takes, with its headers (`GSO_MAX_SIZE` and UDP's length).
const MOST: usize = 64_000;

/// quinn's runtime of tokio, with sockets that join.
#[derive(Debug)]
pub(super) struct Joined;

impl Runtime for Joined {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = TokioRuntime.wrap_udp_socket(socket)?;
        if socket.max_transmit_segments() <= PIECE {
            return Ok(socket);
        }
        let joining = Arc::new(Joining::new(socket));
        tokio::spawn(let_go(Arc::downgrade(&joining), Arc::clone(&joining.waits)));
        Ok(joining)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// Sends what nothing followed.
async fn let_go(joining: Weak<Joining>, waits: Arc<Notify>) {
    loop {
        waits.notified().await;
        // quinn's driver goes on after twenty datagrams: let it.
        tokio::task::yield_now().await;
        let Some(joining) = joining.upgrade() else { return };
        let mut writable = Arc::clone(&joining.inner).create_io_poller();
        while let Err(error) = joining.flush() {
            if error.kind() != io::ErrorKind::WouldBlock {
                break; // as lost as on the wire; a socket that is broken tells quinn itself
            }
            let polled = std::future::poll_fn(|cx| writable.as_mut().poll_writable(cx)).await;
            if polled.is_err() {
                break;
            }
        }
    }
}

struct Joining {
    inner: Arc<dyn AsyncUdpSocket>,
    held: Mutex<Held>,
    waits: Arc<Notify>,
}

/// Datagrams of one size for one peer; the last may be shorter.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    way: Option<Way>,
}

/// What datagrams must have in common to be sent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    src_ip: Option<IpAddr>,
    segment: usize,
}

impl Joining {
    fn new(inner: Arc<dyn AsyncUdpSocket>) -> Self {
        Self { inner, held: Mutex::default(), waits: Arc::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self) -> io::Result<()> {
        self.held().flush(&*self.inner)
    }
}

impl Held {
    fn flush(&mut self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        let Some(way) = self.way else { return Ok(()) };
        let sent = socket.try_send(&Transmit {
            destination: way.destination,
            ecn: way.ecn,
            contents: &self.bytes,
            segment_size: (self.bytes.len() > way.segment).then_some(way.segment),
            src_ip: way.src_ip,
        });
        if !sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.way = None;
            self.bytes.clear();
        }
        sent
    }

    /// Takes `contents` along, if it may go the same way at once.
    fn join(&mut self, way: Way, contents: &[u8]) -> bool {
        let same = match self.way {
            // Only the last may be shorter.
            Some(held) => {
                held == way
                    && self.bytes.len().is_multiple_of(way.segment)
                    && self.bytes.len() + contents.len() <= MOST
            }
            None => true,
        };
        if same {
            self.way = Some(way);
            self.bytes.extend_from_slice(contents);
        }
        same
    }

    /// There is room for a piece of quinn's after `more`.
    fn takes_piece(&self, way: Way, more: usize) -> bool {
        self.bytes.len() + more + PIECE * way.segment <= MOST
    }
}

impl AsyncUdpSocket for Joining {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Transmit { destination, ecn, contents, segment_size, src_ip } = *transmit;
        let mut held = self.held();
        let segment = match (segment_size, held.way) {
            (Some(segment), _) => segment,
            // One datagram: it may be the short last one.
            (None, Some(way)) if contents.len() <= way.segment => way.segment,
            (None, _) => contents.len(),
        };
        let way = Way { destination, ecn, src_ip, segment };
        let whole = contents.len() == PIECE * segment;
        if held.way.is_none() && !(whole && held.takes_piece(way, contents.len())) {
            return self.inner.try_send(transmit);
        }
        if !held.join(way, contents) {
            held.flush(&*self.inner)?;
            held.join(way, contents);
        }
        if whole && held.takes_piece(way, 0) {
            self.waits.notify_one();
            return Ok(());
        }
        match held.flush(&*self.inner) {
            // It is ours now, and goes when there is room.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.waits.notify_one();
                Ok(())
            }
            sent => sent,
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl fmt::Debug for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joining").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what it was given; full as long as it is told so.
    #[derive(Debug, Default)]
    struct Wire {
        sent: Mutex<Vec<(usize, Option<usize>)>>,
        full: std::sync::atomic::AtomicBool,
    }

    impl Wire {
        fn taken(&self) -> Vec<(usize, Option<usize>)> {
            std::mem::take(&mut self.sent.lock().expect("not poisoned"))
        }

        fn fill(&self, full: bool) {
            self.full.store(full, std::sync::atomic::Ordering::Relaxed);
        }
    }

    impl AsyncUdpSocket for Wire {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nobody waits here")
        }

        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            if self.full.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let sent = (transmit.contents.len(), transmit.segment_size);
            self.sent.lock().expect("not poisoned").push(sent);
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    const SEGMENT: usize = 1452;

    fn pair() -> (Arc<Wire>, Joining) {
        let wire = Arc::new(Wire::default());
        (Arc::clone(&wire), Joining::new(wire))
    }

    fn send(joining: &Joining, port: u16, bytes: usize) -> io::Result<()> {
        joining.try_send(&Transmit {
            destination: ([127, 0, 0, 1], port).into(),
            ecn: None,
            contents: &vec![0; bytes],
            segment_size: (bytes > SEGMENT).then_some(SEGMENT),
            src_ip: None,
        })
    }

    #[test]
    fn whole_pieces_are_joined_up_to_what_one_call_takes() {
        let (wire, joining) = pair();
        for _ in 0..4 {
            send(&joining, 1, PIECE * SEGMENT).expect("room");
        }
        assert_eq!(wire.taken(), [(4 * PIECE * SEGMENT, Some(SEGMENT))]);
    }

    #[test]
    fn a_shorter_piece_takes_along_what_waits() {
        let (wire, joining) = pair();
        send(&joining, 1, PIECE * SEGMENT).expect("room");
        assert_eq!(wire.taken(), []);
        send(&joining, 1, 100).expect("room");
        assert_eq!(wire.taken(), [(PIECE * SEGMENT + 100, Some(SEGMENT))]);
        send(&joining, 1, 2 * SEGMENT + 7).expect("room");
        send(&joining, 1, 50).expect("room");
        assert_eq!(wire.taken(), [(2 * SEGMENT + 7, Some(SEGMENT)), (50, None)], "at once");
    }

    #[test]
    fn another_peer_waits_its_turn() {
        let (wire, joining) = pair();
        send(&joining, 1, PIECE * SEGMENT).expect("room");
        send(&joining, 2, 100).expect("room");
        assert_eq!(wire.taken(), [(PIECE * SEGMENT, Some(SEGMENT)), (100, None)]);
    }

    #[test]
    fn a_full_socket_loses_nothing() {
        let (wire, joining) = pair();
        wire.fill(true);
        for _ in 0..4 {
            send(&joining, 1, PIECE * SEGMENT).expect("held");
        }
        send(&joining, 1, 100).expect("goes along");
        let refused = send(&joining, 1, 100).expect_err("full");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        wire.fill(false);
        joining.flush().expect("room");
        assert_eq!(wire.taken(), [(4 * PIECE * SEGMENT + 100, Some(SEGMENT))]);
    }

    #[test]
    fn what_is_large_already_goes_by_itself() {
        let (wire, joining) = pair();
        let jumbo = Transmit {
            destination: ([127, 0, 0, 1], 1).into(),
            ecn: None,
            contents: &vec![0; PIECE * 6000],
            segment_size: Some(6000),
            src_ip: None,
        };
        joining.try_send(&jumbo).expect("room");
        assert_eq!(wire.taken(), [(PIECE * 6000, Some(6000))]);
    }
}
