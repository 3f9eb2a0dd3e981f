//! Options of raw sockets: fields of CRIU's own in `files.img`.

use crate::error::BadField;
use crate::messages::IpOptsRawEntry;
use crate::state::options::{FILTER, ICMPV6, IP, IP_HDRINCL, IP_NODEFRAG, RAW};
use crate::state::{InetSocket, SocketOption};

const INET6: u32 = 10;

/// As they are written: those that were changed.
pub(super) fn options(socket: &InetSocket) -> IpOptsRawEntry {
    let value = |level, name| {
        let mut more = socket.options.more.iter();
        let found = more.find(|option| (option.level, option.name) == (level, name))?;
        let words = found.value.chunks_exact(4);
        Some(words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])))
    };
    let on = |name| value(IP, name)?.next().map(|on| on != 0);
    let filter = value(filter_level(socket.family), FILTER);
    IpOptsRawEntry {
        hdrincl: on(IP_HDRINCL),
        nodefrag: on(IP_NODEFRAG),
        checksum: None,
        icmpv_filter: filter.map(Iterator::collect).unwrap_or_default(),
    }
}

fn filter_level(family: u32) -> u32 {
    if family == INET6 { ICMPV6 } else { RAW }
}

/// Adds those to `more` that are not there.
pub(super) fn options_from(
    entry: &IpOptsRawEntry,
    family: u32,
    more: &mut Vec<SocketOption>,
) -> Result<(), BadField> {
    if entry.checksum == Some(true) {
        return Err(BadField::unsupported("isk.ip_opts.raw.checksum", "a checksum by the kernel"));
    }
    if entry.icmpv_filter.len() > SocketOption::LONGEST / 4 {
        let count = entry.icmpv_filter.len();
        return Err(BadField::count("isk.ip_opts.raw.icmpv_filter", count, "at most 8 words"));
    }
    let number = |on: bool| u32::from(on).to_le_bytes().to_vec();
    let filter: Vec<u8> = entry.icmpv_filter.iter().flat_map(|word| word.to_le_bytes()).collect();
    for (level, name, value) in [
        (IP, IP_HDRINCL, entry.hdrincl.filter(|on| *on).map(number)),
        (IP, IP_NODEFRAG, entry.nodefrag.filter(|on| *on).map(number)),
        (filter_level(family), FILTER, Some(filter).filter(|filter| !filter.is_empty())),
    ] {
        let known = more.iter().any(|one| (one.level, one.name) == (level, name));
        if let Some(value) = value.filter(|_| !known) {
            more.push(SocketOption { level, name, value });
        }
    }
    Ok(())
}
