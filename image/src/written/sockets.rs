//! Sockets, their options and receive queues.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::options::{from_options, to_options};
use super::{Reader, Writer, groups, raw};
use crate::error::{BadField, BadImage};
use crate::frame::FrameWriter;
use crate::kind::ImageKind;
use crate::messages::{
    FilePermsEntry, FownEntry, InetSkEntry, IpOptsEntry, ScmEntry, SkPacketEntry, TcpOptsEntry,
    UnixSkEntry,
};
use crate::state::check::absolute_path;
use crate::state::options::{self, SocketOption};
use crate::state::{FileId, FileKind, InetSocket, Packet, SocketState, UnixSocket};

const STREAM: u32 = 1;
const DATAGRAM: u32 = 2;
const SEQUENTIAL: u32 = 5;
const RAW: u32 = 3;
const INET: u32 = 2;
const INET6: u32 = 10;
const TCP: u32 = 6;
pub(super) const UDP: u32 = 17;
/// unix(7).
const SCM_RIGHTS: u32 = 1;
/// One more than SCM_MAX_FD of the kernel.
const MOST_RIGHTS: usize = 254;
/// sun_path, unix(7), with a NUL more.
const LONGEST_NAME: usize = 109;

impl SocketState {
    fn number(self) -> u32 {
        match self {
            Self::Established => 1,
            Self::FinWait1 => 4,
            Self::FinWait2 => 5,
            Self::Closed => 7,
            Self::CloseWait => 8,
            Self::LastAck => 9,
            Self::Listening => 10,
            Self::Closing => 11,
        }
    }

    fn from_number(field: &'static str, number: u32) -> Result<Self, BadField> {
        match number {
            1 => Ok(Self::Established),
            4 => Ok(Self::FinWait1),
            5 => Ok(Self::FinWait2),
            7 => Ok(Self::Closed),
            8 => Ok(Self::CloseWait),
            9 => Ok(Self::LastAck),
            10 => Ok(Self::Listening),
            11 => Ok(Self::Closing),
            2 | 3 => Err(BadField::unsupported(field, "a connection that is being made")),
            _ => Err(BadField::value(field, number, "a state, 1 to 11")),
        }
    }
}

fn shutdown(field: &'static str, number: Option<i32>) -> Result<u32, BadField> {
    match number.unwrap_or(0).cast_unsigned() {
        sides @ 0..=3 => Ok(sides),
        other => Err(BadField::value(field, other, "0 to 3")),
    }
}

pub(super) fn same_namespace(
    field: &'static str,
    id: Option<u32>,
    root: Option<u32>,
) -> Result<(), BadField> {
    match id {
        Some(_) if id != root => {
            Err(BadField::unsupported(field, "a socket of another network namespace"))
        }
        _ => Ok(()),
    }
}

pub(super) fn unix_entry(
    socket: &UnixSocket,
    id: u32,
    flags: u32,
    fown: FownEntry,
    net: u32,
) -> UnixSkEntry {
    UnixSkEntry {
        id,
        ino: socket.inode,
        r#type: socket.kind,
        state: socket.state.number(),
        flags,
        uflags: 0,
        backlog: socket.backlog,
        peer: socket.peer,
        fown,
        opts: to_options(&socket.options),
        name: socket.name.clone(),
        shutdown: (socket.shutdown != 0).then_some(socket.shutdown.cast_signed()),
        file_perms: socket.node.map(|(mode, uid, gid)| FilePermsEntry { mode, uid, gid }),
        name_dir: socket.name_dir.clone(),
        deleted: socket.deleted.then_some(true),
        ns_id: Some(net),
        mnt_id: None,
    }
}

pub(super) fn unix_from(entry: &UnixSkEntry, net: Option<u32>) -> Result<UnixSocket, BadField> {
    same_namespace("usk.ns_id", entry.ns_id, net)?;
    if entry.uflags != 0 {
        return Err(BadField::unsupported("usk.uflags", "a unix socket whose peer is outside"));
    }
    if !matches!(entry.r#type, STREAM | DATAGRAM | SEQUENTIAL) {
        return Err(BadField::value("usk.type", entry.r#type, "1, 2 or 5"));
    }
    if entry.name.len() > LONGEST_NAME {
        return Err(BadField::count("usk.name", entry.name.len(), "at most 109 bytes"));
    }
    if !matches!(entry.state, 1 | 7 | 10) {
        return Err(BadField::value("usk.state", entry.state, "1, 7 or 10"));
    }
    if let Some(directory) = &entry.name_dir {
        absolute_path("usk.name_dir", directory)?;
    }
    Ok(UnixSocket {
        inode: entry.ino,
        peer: entry.peer,
        kind: entry.r#type,
        state: SocketState::from_number("usk.state", entry.state)?,
        name: entry.name.clone(),
        name_dir: entry.name_dir.clone(),
        deleted: entry.deleted.unwrap_or(false),
        node: entry.file_perms.as_ref().map(|node| (node.mode, node.uid, node.gid)),
        backlog: entry.backlog,
        shutdown: shutdown("usk.shutdown", entry.shutdown)?,
        options: from_options(&entry.opts, None)?,
        queue: Vec::new(),
    })
}

pub(super) fn inet_entry(
    socket: &InetSocket,
    id: u32,
    flags: u32,
    fown: FownEntry,
    net: u32,
) -> InetSkEntry {
    let is_v6 = socket.family == INET6;
    let keep = socket.options.tcp_keep;
    let tcp_opts = TcpOptsEntry {
        cork: socket.cork.then_some(true),
        nodelay: socket.no_delay.then_some(true),
        keepcnt: keep.map(|[count, ..]| count),
        keepidle: keep.map(|[_, idle, _]| idle),
        keepintvl: keep.map(|[.., interval]| interval),
    };
    let to = socket.destination;
    let nowhere = |from: SocketAddr| match from {
        SocketAddr::V4(_) => vec![0; 1],
        SocketAddr::V6(_) => vec![0; 4],
    };
    InetSkEntry {
        id,
        ino: socket.inode,
        family: socket.family,
        r#type: socket.kind,
        proto: socket.protocol,
        state: socket.state.number(),
        src_port: u32::from(socket.source.port()),
        dst_port: to.map_or(0, |to| u32::from(to.port())),
        flags,
        backlog: socket.backlog,
        src_addr: address_words(socket.source.ip()),
        dst_addr: to.map_or_else(|| nowhere(socket.source), |to| address_words(to.ip())),
        fown,
        opts: to_options(&socket.options),
        v6only: is_v6.then_some(socket.v6_only),
        ip_opts: Some(IpOptsEntry {
            freebind: socket.free_bind.then_some(true),
            pktinfo: ip_option(socket, options::IP_PKTINFO).map(|on| on != 0),
            tos: ip_option(socket, options::IP_TOS),
            ttl: ip_option(socket, options::IP_TTL),
            raw: socket.is_raw().then(|| raw::options(socket)),
        }),
        ifname: None,
        ns_id: Some(net),
        shutdown: (socket.shutdown != 0).then_some(socket.shutdown.cast_signed()),
        tcp_opts: (socket.protocol == TCP).then_some(tcp_opts),
        src_scope: scope(socket.source),
        dst_scope: to.and_then(scope),
        groups: groups::entries(&socket.groups),
    }
}

/// Three options have fields of CRIU's own.
fn ip_option(socket: &InetSocket, name: u32) -> Option<u32> {
    let mut more = socket.options.more.iter();
    let option = more.find(|option| (option.level, option.name) == (options::IP, name))?;
    option.value.first_chunk().copied().map(u32::from_le_bytes)
}

fn scope(address: SocketAddr) -> Option<u32> {
    match address {
        SocketAddr::V6(address) => Some(address.scope_id()).filter(|scope| *scope != 0),
        SocketAddr::V4(_) => None,
    }
}

/// The network-order bytes of an address as CRIU's words: taken from memory as they lie.
fn address_words(address: IpAddr) -> Vec<u32> {
    let word = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    match address {
        IpAddr::V4(address) => address.octets().chunks_exact(4).map(word).collect(),
        IpAddr::V6(address) => address.octets().chunks_exact(4).map(word).collect(),
    }
}

fn address_from(
    field: &'static str,
    family: u32,
    words: &[u32],
    port: u32,
    scope: Option<u32>,
) -> Result<SocketAddr, BadField> {
    let port =
        u16::try_from(port).map_err(|_| BadField::value(field, port, "an address with a port"))?;
    match (family, words) {
        (INET, [word, ..]) => Ok(SocketAddr::new(IpAddr::from(word.to_le_bytes()), port)),
        (INET6, [a, b, c, d]) => {
            let mut octets = [0; 16];
            for (four, word) in octets.chunks_exact_mut(4).zip([a, b, c, d]) {
                four.copy_from_slice(&word.to_le_bytes());
            }
            let address = Ipv6Addr::from(octets);
            Ok(SocketAddrV6::new(address, port, 0, scope.unwrap_or(0)).into())
        }
        _ => Err(BadField::count(field, words.len(), "one word for IPv4, four for IPv6")),
    }
}

pub(super) fn inet_from(entry: &InetSkEntry, net: Option<u32>) -> Result<InetSocket, BadField> {
    same_namespace("isk.ns_id", entry.ns_id, net)?;
    let family = entry.family;
    if !matches!(family, INET | INET6) {
        return Err(BadField::value("isk.family", family, "2 or 10"));
    }
    let raw = entry.r#type == RAW && InetSocket::RAW.contains(&entry.proto);
    if !raw && !matches!((entry.r#type, entry.proto), (STREAM, TCP) | (DATAGRAM, UDP)) {
        let what = "a socket of neither TCP nor UDP, nor of a raw protocol that is carried";
        return Err(BadField::unsupported("isk.proto", what));
    }
    let state = SocketState::from_number("isk.state", entry.state)?;
    if entry.proto == TCP && state.is_connected() && entry.dst_port == 0 {
        return Err(BadField::missing("isk.dst_port"));
    }
    let ip = entry.ip_opts.clone().unwrap_or_default();
    if ip.raw.is_some() && !raw || entry.ifname.is_some() {
        let what = "options of a raw socket, or an address of one interface";
        return Err(BadField::unsupported("isk.ip_opts", what));
    }
    let mut all = from_options(&entry.opts, entry.tcp_opts.as_ref())?;
    if let Some(written) = &ip.raw {
        raw::options_from(written, family, &mut all.more)?;
    }
    // CRIU writes these three whether they were changed or not.
    let pktinfo = ip.pktinfo.filter(|on| *on).map(u32::from);
    let fields =
        [(options::IP_PKTINFO, pktinfo), (options::IP_TOS, ip.tos), (options::IP_TTL, ip.ttl)];
    for (name, value) in fields {
        let level = options::IP;
        let known = all.more.iter().any(|one| (one.level, one.name) == (level, name));
        if let Some(value) = value.filter(|_| !known) {
            let value = value.to_le_bytes().to_vec();
            all.more.push(SocketOption { level, name, value });
        }
    }
    let source = (&entry.src_addr, entry.src_port, entry.src_scope);
    let tcp = entry.tcp_opts.as_ref();
    let destination = match entry.dst_port {
        0 if !raw || entry.dst_addr.iter().all(|word| *word == 0) => None,
        port => Some(address_from("isk.dst_addr", family, &entry.dst_addr, port, entry.dst_scope)?),
    };
    Ok(InetSocket {
        inode: entry.ino,
        family,
        kind: entry.r#type,
        protocol: entry.proto,
        state,
        source: address_from("isk.src_addr", family, source.0, source.1, source.2)?,
        destination,
        backlog: entry.backlog,
        v6_only: family == INET6 && entry.v6only.unwrap_or(false),
        free_bind: ip.freebind.unwrap_or(false),
        no_delay: tcp.and_then(|tcp| tcp.nodelay).unwrap_or(false),
        cork: tcp.and_then(|tcp| tcp.cork).unwrap_or(false),
        shutdown: shutdown("isk.shutdown", entry.shutdown)?,
        options: all,
        stream: None,
        groups: groups::groups(&entry.groups)?,
        queue: Vec::new(),
    })
}

pub(super) fn write_queues(writer: &mut Writer<'_>) {
    let mut image = FrameWriter::new(ImageKind::SocketQueues);
    let mut any = false;
    for file in &writer.checkpoint.files {
        let queue = match &file.kind {
            FileKind::Unix(socket) => &socket.queue,
            FileKind::Inet(socket) => &socket.queue,
            _ => continue,
        };
        for packet in queue {
            let length = u32::try_from(packet.bytes.len()).expect("a packet is below 4 GiB");
            let rights: Vec<u32> = packet.files.iter().map(|file| file.0).collect();
            let scm = if rights.is_empty() {
                Vec::new()
            } else {
                vec![ScmEntry { r#type: SCM_RIGHTS, rights }]
            };
            let entry = SkPacketEntry {
                id_for: file.id.0,
                length,
                scm,
                from_address: packet.from.map(|from| groups::octets(from.ip())),
                from_port: packet.from.map(|from| from.port().into()),
            };
            image.entry(&entry).raw(&packet.bytes);
            any = true;
        }
    }
    if any {
        writer.images.push((ImageKind::SocketQueues.name(0), image.finish()));
    }
}

pub(super) fn read_queues(reader: &Reader<'_>) -> Result<HashMap<FileId, Vec<Packet>>, BadImage> {
    let mut queues: HashMap<FileId, Vec<Packet>> = HashMap::new();
    let Some(mut frame) = reader.open(ImageKind::SocketQueues, 0)? else { return Ok(queues) };
    while let Some(entry) = frame.message()? {
        let SkPacketEntry { id_for, length, scm, from_address, from_port } = entry;
        let mut files = Vec::new();
        for ScmEntry { r#type, rights } in scm {
            let lie = match rights.len() {
                _ if r#type != SCM_RIGHTS => {
                    BadField::unsupported("scm.type", "something other than files in flight")
                }
                many @ MOST_RIGHTS.. => BadField::count("scm.rights", many, "at most 253"),
                _ => {
                    files.extend(rights.into_iter().map(FileId));
                    continue;
                }
            };
            return Err(lie.at(frame.image(), frame.entry_number()));
        }
        let from = sender(from_address.as_deref(), from_port)
            .map_err(|lie| lie.at(frame.image(), frame.entry_number()))?;
        let bytes = frame.raw(u64::from(length))?;
        queues.entry(FileId(id_for)).or_default().push(Packet { bytes, files, from });
    }
    Ok(queues)
}

fn sender(address: Option<&[u8]>, port: Option<u32>) -> Result<Option<SocketAddr>, BadField> {
    let (Some(address), Some(port)) = (address, port) else { return Ok(None) };
    let address = groups::address("from_address", address)?;
    let port = u16::try_from(port).map_err(|_| BadField::value("from_port", port, "a port"))?;
    Ok(Some(SocketAddr::new(address, port)))
}
