//! The numbers of the link, each with its reason.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use quinn::congestion::CubicConfig;
use quinn::{
    AckFrequencyConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig,
    VarInt,
};

use super::congestion::DelayConfig;
use super::pace::ByteRate;
use super::socket::Joined;
use super::wires::Remedies;
use crate::wire::limits::{MAX_DESTINATION_BIDI_STREAMS, MAX_SOURCE_BIDI_STREAMS, MAX_UNI_STREAMS};

/// What one stream may have on its way: twice the product of 1 Gbit/s and 100 ms, and some.
pub const STREAM_WINDOW: u32 = 32 << 20;
/// What all streams together may have on their way: one stream that nobody reads cannot stop the
/// others, the control stream least of all.
pub const RECEIVE_WINDOW: u32 = 48 << 20;
/// What may be unacknowledged: more than one stream can fill, for the same reason.
pub const SEND_WINDOW: u32 = 48 << 20;
/// The same over a link too short to matter: what waits is in the cache still when it is sent.
pub const SHORT_SEND_WINDOW: u64 = 4 << 20;
/// What is sent before the first acknowledgement, paced over a round trip: enough for the images and
/// the memory of a small process on a fast link, a tenth of the bandwidth-delay product of a slow one.
pub const INITIAL_WINDOW: u64 = 128 << 10;
/// Bytes the kernel may hold for the socket, each way: a burst while we are not scheduled.
pub const SOCKET_BUFFER: usize = 8 << 20;

/// Later packets that may arrive before one counts as lost; and how late one may be, in round trips.
const REORDERING: u32 = 1024;
const LATE: f32 = 1.25;

const _: () = assert!(STREAM_WINDOW < RECEIVE_WINDOW && STREAM_WINDOW < SEND_WINDOW);

/// What a link is allowed.
#[derive(Debug)]
pub struct LinkOptions {
    /// An already bound socket to use instead of a new one; it is duplicated.
    pub socket: Option<UdpSocket>,
    /// How long one address may take to answer a dial.
    pub connect_timeout: Duration,
    /// How long a source may take from its first packet to the end of its hello.
    pub hello_timeout: Duration,
    /// How long nothing may be heard until the link counts as lost.
    pub idle_timeout: Duration,
    /// How often something is sent when there is nothing to say; `None` for never.
    pub keep_alive: Option<Duration>,
    /// How large the datagrams of a source may become.
    pub mtu: MtuBound,
    /// What decides how much may be in flight.
    pub congestion: Congestion,
    /// What makes pages that somebody waits for overtake the others.
    pub remedies: Remedies,
    /// How fast a source sends pages for which nobody waits; `None`: as fast as it can.
    pub bulk_rate: Option<ByteRate>,
}

/// What decides how much may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// Delay: the queue of the bottleneck is held at 2 ms, loss by chance costs nothing, and a share
    /// is taken beside flows that fill the queue.
    #[default]
    Delay,
    /// Loss, as TCP does it. Fills the queue of the bottleneck, and falls to a twentieth of the rate
    /// at 1 % of loss: for comparison.
    Cubic,
}

/// How far the size of datagrams is tried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MtuBound {
    /// 6500 bytes where the first hop has room for that: jumbo frames, loopback. Otherwise as
    /// [`MtuBound::Ethernet`]. That every hop has it is found out by trying, never assumed.
    #[default]
    FirstHop,
    /// 1452 bytes: what Ethernet carries below IPv6 and UDP.
    Ethernet,
}

/// What Ethernet carries below IPv6 and UDP.
const ETHERNET: u16 = 1452;
/// For jumbo frames. More is slower: ten datagrams no longer fit one segmentation offload of 64 KiB,
/// and the path turns into a black hole.
const JUMBO: u16 = 6500;
/// The headers of IPv6 and UDP.
const HEADERS: u32 = 48;

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            socket: None,
            connect_timeout: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(15),
            keep_alive: Some(Duration::from_secs(3)),
            mtu: MtuBound::default(),
            congestion: Congestion::Delay,
            remedies: Remedies::default(),
            bulk_rate: None,
        }
    }
}

/// Which end a transport configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Of a link to this address.
    Source(SocketAddr),
    Destination,
}

impl MtuBound {
    /// How large datagrams to `peer` may become.
    fn towards(self, peer: SocketAddr) -> u16 {
        match self {
            Self::FirstHop
                if first_hop(peer).is_ok_and(|mtu| mtu >= u32::from(JUMBO) + HEADERS) =>
            {
                JUMBO
            }
            Self::FirstHop | Self::Ethernet => ETHERNET,
        }
    }
}

/// What the kernel knows of the way to `peer` (IP_MTU, ip(7); IPV6_MTU, ipv6(7)).
fn first_hop(peer: SocketAddr) -> io::Result<u32> {
    let any: SocketAddr = match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(peer)?;
    Ok(if peer.is_ipv4() {
        rustix::net::sockopt::ip_mtu(&socket)?
    } else {
        rustix::net::sockopt::ipv6_mtu(&socket)?
    })
}

impl LinkOptions {
    pub(super) fn transport(&self, side: Side) -> Arc<TransportConfig> {
        let mut config = TransportConfig::default();
        config
            .stream_receive_window(STREAM_WINDOW.into())
            .receive_window(RECEIVE_WINDOW.into())
            .send_window(SEND_WINDOW.into())
            .send_fairness(true)
            .enable_segmentation_offload(true)
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(self.keep_alive)
            .max_idle_timeout(Some(idle(self.idle_timeout)));
        let mut discovery = MtuDiscoveryConfig::default();
        // A destination only asks and acknowledges.
        discovery.upper_bound(match side {
            Side::Source(peer) => self.mtu.towards(peer),
            Side::Destination => ETHERNET,
        });
        config.mtu_discovery_config(Some(discovery));
        // An acknowledgement for every second packet costs a tenth of the throughput of a core. But
        // the threshold must stay below the initial window, or every round of slow start waits for
        // the delay instead: that alone made 14 ms of the downtime of a small process.
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(10_u8.into()).max_ack_delay(Some(Duration::from_millis(2)));
        config.ack_frequency_config(Some(acks));
        match self.congestion {
            Congestion::Delay => {
                let delay = DelayConfig { initial_window: INITIAL_WINDOW };
                config.congestion_controller_factory(Arc::new(delay));
            }
            Congestion::Cubic => {
                let mut cubic = CubicConfig::default();
                cubic.initial_window(INITIAL_WINDOW);
                config.congestion_controller_factory(Arc::new(cubic));
            }
        }
        // A packet is missed by time alone: paths with jitter let packets overtake by hundreds, and
        // each that is sent again for nothing looks like loss.
        config.packet_threshold(REORDERING).time_threshold(LATE);
        // What the peer may open.
        match side {
            Side::Source(_) => config
                .max_concurrent_uni_streams(0_u8.into())
                .max_concurrent_bidi_streams(MAX_DESTINATION_BIDI_STREAMS.into()),
            Side::Destination => config
                .max_concurrent_uni_streams(MAX_UNI_STREAMS.into())
                .max_concurrent_bidi_streams(MAX_SOURCE_BIDI_STREAMS.into()),
        };
        Arc::new(config)
    }

    /// An endpoint on the given socket, or on a new one of the family of `near`.
    pub(super) fn endpoint_near(&self, near: SocketAddr) -> io::Result<Endpoint> {
        match &self.socket {
            Some(socket) => self.endpoint(socket.try_clone()?),
            None if near.is_ipv4() => self.endpoint(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?),
            None => self.endpoint(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?),
        }
    }

    pub(super) fn endpoint(&self, socket: UdpSocket) -> io::Result<Endpoint> {
        if self.remedies.socket_buffer {
            enlarge(&socket);
        }
        let mut config = EndpointConfig::default();
        config.max_udp_payload_size(JUMBO).expect("within QUIC's bounds");
        Endpoint::new(config, None, socket, Arc::new(Joined))
    }
}

fn idle(timeout: Duration) -> IdleTimeout {
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    IdleTimeout::from(VarInt::from_u64(millis).unwrap_or(VarInt::MAX))
}

/// Asks for large buffers: beyond the system's limit if we may, up to it otherwise. Smaller ones
/// only cost speed, so a refusal is no error.
fn enlarge(socket: &UdpSocket) {
    if setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &SOCKET_BUFFER);
    }
    if setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER).is_err() {
        let _ = setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER);
    }
}
