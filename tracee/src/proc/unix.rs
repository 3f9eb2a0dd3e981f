//! /proc/PID/net/unix: the unix(7) sockets of a network namespace.

use super::Source;
use crate::{HostPid, Result};

const UNIX: Source = Source("/proc/PID/net/unix");

/// One socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixEntry {
    /// Users of the socket.
    pub references: u32,
    /// Bit 16 (0x10000): it listens.
    pub flags: u32,
    /// SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_SEQPACKET 5.
    pub kind: u32,
    /// SS_UNCONNECTED 1, SS_CONNECTING 2, SS_CONNECTED 3.
    pub state: u32,
    /// Inode; zero for one that was closed or not accepted yet.
    pub inode: u64,
    /// The name as sun_path has it: abstract names start with NUL (NULs inside the name show as `@`,
    /// as the kernel prints them). Empty if it has none.
    pub name: Vec<u8>,
}

impl UnixEntry {
    /// listen(2) was called.
    pub fn is_listening(&self) -> bool {
        self.flags & 0x1_0000 != 0
    }
}

/// Reads the table of the network namespace `pid` is in.
pub fn read(pid: HostPid) -> Result<Vec<UnixEntry>> {
    parse(&super::read(format!("/proc/{pid}/net/unix"))?)
}

/// Parses its text.
pub fn parse(text: &[u8]) -> Result<Vec<UnixEntry>> {
    let lines = text.split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty());
    lines.map(parse_line).collect()
}

/// `Num: RefCount Protocol Flags Type St Inode Path`; all but the inode in hexadecimal.
fn parse_line(line: &[u8]) -> Result<UnixEntry> {
    let whole = || String::from_utf8_lossy(line).into_owned();
    let mut rest = line;
    let mut word = || {
        let start = rest.iter().position(|byte| *byte != b' ').unwrap_or(rest.len());
        let end = rest[start..].iter().position(|byte| *byte == b' ');
        let end = end.map_or(rest.len(), |end| start + end);
        let word = std::str::from_utf8(&rest[start..end]).unwrap_or_default();
        rest = &rest[end..];
        word
    };
    let hex = |field, text: &str| {
        u32::try_from(UNIX.hex(field, text)?).map_err(|_| UNIX.error(field, &whole()))
    };
    word();
    let references = hex("RefCount", word())?;
    word();
    let flags = hex("Flags", word())?;
    let kind = hex("Type", word())?;
    let state = hex("St", word())?;
    let inode = UNIX.number("Inode", word())?;
    let mut name = rest.strip_prefix(b" ").unwrap_or_default().to_vec();
    if let Some(first @ b'@') = name.first_mut() {
        *first = 0;
    }
    Ok(UnixEntry { references, flags, kind, state, inode, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_kind_are_read() {
        let text = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
0000000000000000: 00000002 00000000 00010000 0001 01 28521 /run/my socket\n\
0000000000000000: 00000003 00000000 00000000 0005 03 28522\n\
0000000000000000: 00000002 00000000 00000000 0002 01    77 @abstract@name\n";
        let all = parse(text).expect("a sound text");
        assert!(all[0].is_listening());
        assert_eq!((all[0].inode, &all[0].name[..]), (28521, &b"/run/my socket"[..]));
        assert_eq!((all[1].kind, all[1].state, all[1].name.len()), (5, 3, 0));
        assert_eq!((all[2].inode, &all[2].name[..]), (77, &b"\0abstract@name"[..]));
        assert!(parse(b"head\nxx: yy\n").is_err());
    }
}
