//! Options that every socket has.

use crate::error::BadField;
use crate::messages::{SkOptEntry, SkOptsEntry, TcpOptsEntry};
use crate::state::check::bounded_text;
use crate::state::options::SocketOption;
use crate::state::{Filter, SocketOptions};

/// IFNAMSIZ without its NUL.
pub(super) const LONGEST_DEVICE: usize = 15;

pub(super) fn to_options(options: &SocketOptions) -> SkOptsEntry {
    SkOptsEntry {
        so_sndbuf: options.send_buffer,
        so_rcvbuf: options.receive_buffer,
        so_snd_tmo_sec: options.send_timeout.0,
        so_snd_tmo_usec: options.send_timeout.1,
        so_rcv_tmo_sec: options.receive_timeout.0,
        so_rcv_tmo_usec: options.receive_timeout.1,
        reuseaddr: Some(options.reuse_address),
        so_priority: Some(options.priority),
        so_rcvlowat: Some(options.receive_low_water),
        so_mark: (options.mark != 0).then_some(options.mark),
        so_passcred: options.pass_credentials.then_some(true),
        so_passsec: None,
        so_dontroute: Some(options.no_route),
        so_no_check: Some(false),
        so_bound_dev: options.bound_device.clone(),
        so_filter: filter_words(&options.filter),
        so_reuseport: Some(options.reuse_port),
        so_broadcast: Some(options.broadcast),
        so_keepalive: Some(options.keep_alive),
        tcp_keepcnt: None,
        tcp_keepidle: None,
        tcp_keepintvl: None,
        so_oobinline: Some(u32::from(options.oob_inline)),
        so_linger: options.linger,
        so_buf_lock: Some(options.buffer_lock),
        filter_locked: options.filter_locked.then_some(true),
        more: options
            .more
            .iter()
            .map(|SocketOption { level, name, value }| SkOptEntry {
                level: *level,
                name: *name,
                value: value.clone(),
            })
            .collect(),
    }
}

/// Options that this version does not know to be harmless are not set.
fn more_from(entries: &[SkOptEntry]) -> Result<Vec<SocketOption>, BadField> {
    let check = |entry: &SkOptEntry| {
        let SkOptEntry { level, name, value } = entry;
        if !SocketOption::is_known(*level, *name) {
            return Err(BadField::unsupported("opts.more.name", "a socket option"));
        }
        if value.len() > SocketOption::LONGEST {
            let most = "at most 16 bytes";
            return Err(BadField::count("opts.more.value", value.len(), most));
        }
        Ok(SocketOption { level: *level, name: *name, value: value.clone() })
    };
    entries.iter().map(check).collect()
}

/// Options common to all sockets; CRIU before 4 kept those of TCP's keep-alive here too.
pub(super) fn from_options(
    entry: &SkOptsEntry,
    tcp: Option<&TcpOptsEntry>,
) -> Result<SocketOptions, BadField> {
    let special = [
        (entry.so_passsec == Some(true), "opts.so_passsec", "SO_PASSSEC"),
        (entry.so_no_check == Some(true), "opts.so_no_check", "SO_NO_CHECK"),
    ];
    if let Some((_, field, what)) = special.iter().find(|(there, ..)| *there) {
        return Err(BadField::unsupported(field, what));
    }
    if entry.so_filter.len() > Filter::LONGEST / Filter::INSTRUCTION {
        let count = entry.so_filter.len();
        return Err(BadField::count("opts.so_filter", count, "at most 4096 instructions"));
    }
    if let Some(device) = &entry.so_bound_dev {
        bounded_text("opts.so_bound_dev", device, LONGEST_DEVICE)?;
    }
    let micros = |field, micros| match micros {
        0..1_000_000 => Ok(micros),
        _ => Err(BadField::value(field, micros, "less than a second of microseconds")),
    };
    let yes = |flag: Option<bool>| flag.unwrap_or(false);
    let keep = tcp.map_or((None, None, None), |tcp| (tcp.keepcnt, tcp.keepidle, tcp.keepintvl));
    let old = (entry.tcp_keepcnt, entry.tcp_keepidle, entry.tcp_keepintvl);
    let tcp_keep = match (keep, old) {
        ((Some(count), Some(idle), Some(interval)), _) => Some([count, idle, interval]),
        (_, (Some(count), Some(idle), Some(interval))) => Some([count, idle, interval]),
        _ => None,
    };
    Ok(SocketOptions {
        send_buffer: entry.so_sndbuf,
        receive_buffer: entry.so_rcvbuf,
        buffer_lock: entry.so_buf_lock.unwrap_or(0),
        send_timeout: (
            entry.so_snd_tmo_sec,
            micros("opts.so_snd_tmo_usec", entry.so_snd_tmo_usec)?,
        ),
        receive_timeout: (
            entry.so_rcv_tmo_sec,
            micros("opts.so_rcv_tmo_usec", entry.so_rcv_tmo_usec)?,
        ),
        reuse_address: yes(entry.reuseaddr),
        reuse_port: yes(entry.so_reuseport),
        broadcast: yes(entry.so_broadcast),
        keep_alive: yes(entry.so_keepalive),
        pass_credentials: yes(entry.so_passcred),
        oob_inline: entry.so_oobinline.unwrap_or(0) != 0,
        no_route: yes(entry.so_dontroute),
        priority: entry.so_priority.unwrap_or(0),
        receive_low_water: entry.so_rcvlowat.unwrap_or(1),
        mark: entry.so_mark.unwrap_or(0),
        linger: entry.so_linger,
        bound_device: entry.so_bound_dev.clone(),
        tcp_keep,
        filter: entry.so_filter.iter().copied().flat_map(instruction).collect(),
        filter_locked: yes(entry.filter_locked),
        more: more_from(&entry.more)?,
    })
}

/// `struct sock_filter` (code, jt, jf, k) as CRIU writes it: the same fields, code highest.
fn filter_words(program: &[u8]) -> Vec<u64> {
    let word = |one: &[u8]| {
        let code = u16::from_le_bytes([one[0], one[1]]);
        let k = u32::from_le_bytes([one[4], one[5], one[6], one[7]]);
        u64::from(code) << 48 | u64::from(one[2]) << 40 | u64::from(one[3]) << 32 | u64::from(k)
    };
    program.chunks_exact(Filter::INSTRUCTION).map(word).collect()
}

fn instruction(word: u64) -> [u8; Filter::INSTRUCTION] {
    let [code_high, code_low, jt, jf, k @ ..] = word.to_be_bytes();
    let [a, b, c, d] = k;
    [code_low, code_high, jt, jf, d, c, b, a]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_written_as_criu_writes_them() {
        // ldh [12]; jeq #0x806, 0, 5
        let program = [0x28, 0, 0, 0, 12, 0, 0, 0, 0x15, 0, 0, 5, 6, 8, 0, 0];
        let words = filter_words(&program);
        assert_eq!(words, [0x0028_0000_0000_000c, 0x0015_0005_0000_0806]);
        assert_eq!(words.into_iter().flat_map(instruction).collect::<Vec<_>>(), program);
    }
}
