//! Addresses that change while a link lives, and destinations with several.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use transport::quic::{LinkOptions, MtuBound, SourceTrust, dial};
use transport::wire::{Control, SessionId};

use crate::support::{hello, listener, options, pair_at, pair_with, soon, ticket};

/// A translator of addresses between a source and a destination.
struct Translator {
    front: SocketAddr,
    back: watch::Sender<Arc<UdpSocket>>,
    _tasks: JoinSet<()>,
}

async fn bound(address: &str) -> Arc<UdpSocket> {
    Arc::new(UdpSocket::bind(address).await.expect("a socket"))
}

impl Translator {
    async fn before(destination: SocketAddr) -> Self {
        let front = bound("127.0.0.1:0").await;
        let address = front.local_addr().expect("an address");
        let (back, mut backs) = watch::channel(bound("127.0.0.1:0").await);
        let (learn, client) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let (inside, outside) = (Arc::clone(&front), backs.clone());
        tasks.spawn(async move {
            let mut packet = vec![0; 65536];
            while let Ok((length, from)) = inside.recv_from(&mut packet).await {
                learn.send_replace(Some(from));
                let back = Arc::clone(&outside.borrow());
                let _ = back.send_to(&packet[..length], destination).await;
            }
        });
        tasks.spawn(async move {
            let mut packet = vec![0; 65536];
            loop {
                let back = Arc::clone(&backs.borrow_and_update());
                tokio::select! {
                    came = back.recv_from(&mut packet) => {
                        let (Ok((length, _)), Some(client)) = (came, *client.borrow()) else { return };
                        let _ = front.send_to(&packet[..length], client).await;
                    }
                    changed = backs.changed() => if changed.is_err() { return },
                }
            }
        });
        Self { front: address, back, _tasks: tasks }
    }

    /// From now on the destination sees the source at another address; what comes to the old one is
    /// lost.
    async fn rebind(&self, address: &str) {
        self.back.send_replace(bound(address).await);
    }
}

#[tokio::test]
async fn a_source_behind_another_port_or_address_is_still_the_same() {
    let listener = listener().await;
    let destination = listener.local_addr().expect("an address");
    let translator = Translator::before(destination).await;
    let at = translator.front.to_string();
    let (source, destination) = pair_at(&at, &listener, &ticket(&listener), &options()).await;
    for address in ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:0"] {
        translator.rebind(address).await;
        for _ in 0..3 {
            source.send(&Control::Freezing).await.expect("sent");
            assert_eq!(soon(destination.recv()).await, Ok(Control::Freezing));
            destination.send(&Control::Ready).await.expect("sent");
            assert_eq!(soon(source.recv()).await, Ok(Control::Ready));
        }
    }
}

#[tokio::test]
async fn every_address_of_a_ticket_is_tried() {
    let listener = listener().await;
    let real = listener.local_addr().expect("an address");
    // Nobody ever answers there: bound, and not read.
    let mute = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let silent = mute.local_addr().expect("an address");
    let options = LinkOptions { connect_timeout: Duration::from_secs(2), ..options() };
    // The other cannot even be looked up: it has no port.
    for wrong in [silent.to_string(), "nowhere.invalid".to_owned()] {
        let issued = listener.ticket(Duration::from_secs(60)).expect("a ticket");
        let trust = SourceTrust::Ticket(issued.with_addresses([silent, real]));
        let session = SessionId::random().expect("random bytes");
        let knock = async {
            let link = dial(&wrong, &trust, &options).await.expect("dialled");
            link.send(&hello(session)).await.expect("hello");
            link
        };
        let (link, accepted) = soon(async { tokio::join!(knock, listener.accept()) }).await;
        assert_eq!(link.peer().address, real, "where it is");
        assert_eq!(soon(accepted.expect("accepted").recv()).await, Ok(hello(session)));
    }
}

/// Datagrams grow to what loopback carries, unless they are not to.
#[tokio::test]
async fn datagrams_grow_with_the_first_hop() {
    for (mtu, grown) in [(MtuBound::FirstHop, 6500), (MtuBound::Ethernet, 1452)] {
        let listener = listener().await;
        let options = LinkOptions { mtu, ..options() };
        let (source, destination) = pair_with(&listener, &ticket(&listener), &options).await;
        soon(async {
            while source.stats().mtu < grown {
                source.send(&Control::Freezing).await.expect("sent");
                assert_eq!(destination.recv().await, Ok(Control::Freezing));
            }
        })
        .await;
        assert_eq!(source.stats().mtu, grown);
        assert!(destination.stats().mtu <= 1452, "who only asks has no need of more");
    }
}
