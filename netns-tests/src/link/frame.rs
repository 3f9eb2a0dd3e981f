//! What the kernel hands to the emulator in one read: a frame, or several of them together.
//!
//! With offload a TAP device leaves what UDP GSO or TSO made of one write in one piece, behind a
//! `virtio_net_hdr` that says how it is to be cut (linux/virtio_net.h; tun(4) IFF_VNET_HDR, UDP since
//! kernel 6.2). It is not cut here at all: the header goes to the other device as it came.

use std::sync::Arc;

use super::tally::Tally;

/// The bytes of Ethernet around an IP packet.
pub(super) const ETHERNET: usize = 14;
/// The length of the `virtio_net_hdr` in front of each frame, where there is one.
pub(super) const OFFLOAD_HEADER: usize = 10;
const UDP_HEADER: usize = 8;
/// `gso_type`: the kinds, without the bit that tells of ECN.
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const UDP: u8 = 5;
const ECN: u8 = 0x80;

/// Bytes as they are read from one device and written to the other.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(super) raw: Arc<[u8]>,
    pub(super) load: Load,
}

/// What that is on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) packets: u64,
    /// Of all IP packets together.
    pub(super) bytes: u64,
}

impl Frame {
    /// One Ethernet frame.
    pub(super) fn plain(raw: &[u8]) -> Self {
        let bytes = raw.len().saturating_sub(ETHERNET) as u64;
        Self { raw: raw.into(), load: Load { packets: 1, bytes } }
    }

    /// What stands behind a `virtio_net_hdr`; `None` if that makes no sense.
    pub(super) fn offloaded(raw: &[u8]) -> Option<Self> {
        let (header, ethernet) = raw.split_at_checked(OFFLOAD_HEADER)?;
        let word = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let (kind, size, transport) = (header[1] & !ECN, word(4), word(6));
        let headers = match kind {
            0 => return Some(Self { raw: raw.into(), ..Self::plain(ethernet) }),
            UDP => transport + UDP_HEADER,
            // The upper half of the byte is the length in words of four bytes.
            TCP_V4 | TCP_V6 => transport + usize::from(ethernet.get(transport + 12)? >> 4) * 4,
            _ => return None,
        };
        let content = ethernet.len().checked_sub(headers)?;
        let packets = content.div_ceil(size.max(1)).max(1);
        let bytes = content + packets * headers.checked_sub(ETHERNET)?;
        Some(Self { raw: raw.into(), load: Load { packets: packets as u64, bytes: bytes as u64 } })
    }
}

impl Tally {
    /// A frame comes.
    pub(super) fn offered(&mut self, load: Load) {
        self.offered += load.packets;
        self.offered_bytes += load.bytes;
    }

    /// And goes.
    pub(super) fn delivered(&mut self, load: Load) {
        self.delivered += load.packets;
        self.delivered_bytes += load.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `length` bytes of Ethernet frame behind a header.
    fn offloaded(kind: u8, size: u16, transport: u16, length: usize) -> Option<Load> {
        let mut raw = vec![0; OFFLOAD_HEADER + length];
        raw[1] = kind;
        raw[4..6].copy_from_slice(&size.to_le_bytes());
        raw[6..8].copy_from_slice(&transport.to_le_bytes());
        if let Some(length) = raw.get_mut(OFFLOAD_HEADER + usize::from(transport) + 12) {
            *length = 8 << 4; // TCP with timestamps
        }
        Frame::offloaded(&raw).map(|frame| frame.load)
    }

    #[test]
    fn what_goes_together_counts_as_the_packets_that_it_is() {
        let load = |packets, bytes| Some(Load { packets, bytes });
        // One frame, with or without a checksum that is still to be made.
        assert_eq!(offloaded(0, 0, 34, 1514), load(1, 1500));
        // Ten datagrams of 1452 bytes over IPv4, then with a shorter last one.
        assert_eq!(offloaded(UDP, 1452, 34, 42 + 14_520), load(10, 14_800));
        assert_eq!(offloaded(UDP, 1452, 34, 42 + 14_530), load(11, 14_838));
        // TCP over IPv6: 40 bytes of IP and 32 of TCP in each packet.
        assert_eq!(offloaded(TCP_V6 | ECN, 1428, 54, 86 + 2 * 1428), load(2, 3000));
        assert_eq!(offloaded(3, 1452, 34, 9000), None, "no UFO");
        assert_eq!(offloaded(TCP_V4, 1448, 9000, 1514), None, "no TCP header");
        assert!(Frame::offloaded(&[0; 9]).is_none());
    }
}
