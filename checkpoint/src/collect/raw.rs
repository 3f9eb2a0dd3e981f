//! raw(7) sockets: what their list tells that the socket itself does not.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use image::state::{InetSocket, SocketState};
use nix::libc;

use crate::survey::refusals::Trouble;

/// Completes what is known of a raw socket; `frozen`: the tree stands still, and what waits now is lost.
pub(super) fn read(socket: &mut InetSocket, shown: &str, frozen: bool) -> Result<(), Trouble> {
    if !InetSocket::RAW.contains(&socket.protocol) {
        let reason = format!("a raw socket of the protocol {}", socket.protocol);
        return Err(Trouble::new(shown, reason));
    }
    if socket.protocol == libc::IPPROTO_ICMPV6.cast_unsigned() && routes_multicast() {
        return Err(Trouble::new(shown, "a raw socket beside multicast routing of IPv6"));
    }
    let v6 = socket.family == libc::AF_INET6.cast_unsigned();
    let file = if v6 { "raw6" } else { "raw" };
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let rows = text.lines().filter_map(parse);
    let Some(row) = rows.into_iter().find(|row| row.inode == socket.inode) else {
        return Err(Trouble::new(shown, "in another network namespace"));
    };
    if frozen && row.waiting > 0 {
        tracing::warn!(socket = shown, bytes = row.waiting, "what waits in a raw socket is lost");
    }
    socket.state = SocketState::Closed;
    // The kernel shows the protocol in place of a port.
    socket.source.set_port(0);
    let port = socket.destination.map_or(0, |to| to.port());
    let to = (!row.to.is_unspecified()).then_some(SocketAddr::new(row.to, port));
    socket.destination = to.map(|to| socket.destination.unwrap_or(to));
    Ok(())
}

/// Does this host route multicast of IPv6? Its sockets are raw ones too, and tell nobody.
fn routes_multicast() -> bool {
    let text = fs::read_to_string("/proc/thread-self/net/ip6_mr_vif").unwrap_or_default();
    text.lines().count() > 1
}

/// A line of /proc/net/raw or raw6.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    inode: u32,
    /// Whom it is connected to, if anybody.
    to: IpAddr,
    /// Bytes.
    waiting: u64,
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …`.
fn parse(line: &str) -> Option<Row> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, _) = words.get(2)?.split_once(':')?;
    let (_, waiting) = words.get(4)?.split_once(':')?;
    Some(Row {
        inode: words.get(9)?.parse().ok()?,
        to: address_of(address)?,
        waiting: u64::from_str_radix(waiting, 16).ok()?,
    })
}

/// Words as they lie in memory.
fn address_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(8 * at..8 * at + 8)?, 16).ok();
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?.to_ne_bytes()).into()),
        32 => {
            let mut octets = [0; 16];
            for (at, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_families_are_read() {
        let line = "   1: 00000000:0001 0100007F:0000 01 00000000:00000300 00:00000000 00000000     0        0 11215 2 00000000e0 0";
        let row = parse(line).expect("a line of Linux 6.18");
        let to = Ipv4Addr::LOCALHOST.into();
        assert_eq!(row, Row { inode: 11215, to, waiting: 768 });
        assert_eq!(
            address_of("00000000000000000000000001000000"),
            Some(Ipv6Addr::LOCALHOST.into())
        );
        assert_eq!(parse("  sl  local_address rem_address   st tx_queue rx_queue tr"), None);
    }
}
