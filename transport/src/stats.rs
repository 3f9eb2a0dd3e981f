//! What a link has carried.

use std::time::Duration;

use pages::ByteCount;

use crate::quic::Lane;

/// Counters of one link, since it was dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStats {
    /// Bytes of UDP payload that left, retransmissions and headers included.
    pub sent: ByteCount,
    /// Bytes of UDP payload that came.
    pub received: ByteCount,
    /// Of the bytes sent, those over a second connection, if there is one.
    pub second_sent: Option<ByteCount>,
    /// The present estimate of the round trip.
    pub rtt: Duration,
    /// The shortest round trip of late.
    pub min_rtt: Duration,
    /// What the path has been seen to carry in a second lately, if that is measured.
    pub rate: Option<ByteCount>,
    /// Packets sent.
    pub sent_packets: u64,
    /// Datagrams that came.
    pub received_packets: u64,
    /// Packets declared lost.
    pub lost_packets: u64,
    /// Times the congestion controller stepped back.
    pub congestion_events: u64,
    /// Bytes the congestion controller allows in flight.
    pub congestion_window: ByteCount,
    /// The largest datagram the path is known to carry.
    pub mtu: u16,
    /// What each lane has carried, in the order of [`Lane::ALL`].
    pub lanes: [LaneStats; Lane::ALL.len()],
}

/// What the streams of one lane carried, without QUIC's own; what was sent again counts once. A packet
/// holds what several lanes had to say, so it belongs to none: what is counted are frames, which are
/// messages, wishes, runs of pages, and blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneStats {
    /// Which.
    pub lane: Lane,
    /// Handed to QUIC.
    pub sent: ByteCount,
    /// Taken from QUIC.
    pub received: ByteCount,
    /// Frames handed to QUIC.
    pub sent_frames: u64,
    /// Frames taken from QUIC.
    pub received_frames: u64,
}
