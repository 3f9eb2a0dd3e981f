//! Sockets.

use super::files::FileId;
use super::options::SocketOption;
use super::streams::TcpStream;

/// State as TCP numbers it; unix sockets use the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// 1
    Established,
    /// 4: we ended our direction, nobody has acknowledged it.
    FinWait1,
    /// 5: we ended our direction.
    FinWait2,
    /// 7
    Closed,
    /// 8: the other end ended its direction.
    CloseWait,
    /// 9: first the other end, then we; nobody has acknowledged ours.
    LastAck,
    /// 10
    Listening,
    /// 11: both at once; nobody has acknowledged ours.
    Closing,
}

impl SocketState {
    /// The other end's FIN has come.
    pub fn has_received_end(self) -> bool {
        matches!(self, Self::CloseWait | Self::LastAck | Self::Closing)
    }

    /// Our FIN is written.
    pub fn has_written_end(self) -> bool {
        matches!(self, Self::FinWait1 | Self::FinWait2 | Self::LastAck | Self::Closing)
    }

    /// There is a connection.
    pub fn is_connected(self) -> bool {
        !matches!(self, Self::Closed | Self::Listening)
    }
}

/// Options that every kind has. Buffer sizes are the kernel's (doubled) values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // socket(7) names them
pub struct SocketOptions {
    pub send_buffer: u32,
    pub receive_buffer: u32,
    /// SO_BUF_LOCK: which of the two the program fixed.
    pub buffer_lock: u32,
    /// SO_SNDTIMEO (s, µs).
    pub send_timeout: (u64, u64),
    /// SO_RCVTIMEO (s, µs).
    pub receive_timeout: (u64, u64),
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub broadcast: bool,
    pub keep_alive: bool,
    pub pass_credentials: bool,
    pub oob_inline: bool,
    pub no_route: bool,
    pub priority: u32,
    pub receive_low_water: u32,
    pub mark: u32,
    /// SO_LINGER seconds, if on.
    pub linger: Option<u32>,
    pub bound_device: Option<String>,
    /// TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL.
    pub tcp_keep: Option<[u32; 3]>,
    /// Others that are not as in a new socket.
    pub more: Vec<SocketOption>,
    /// SO_ATTACH_FILTER: instructions as a [`Filter`](super::Filter) has them; none, no filter.
    pub filter: Vec<u8>,
    /// SO_LOCK_FILTER.
    pub filter_locked: bool,
}

/// unix(7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    /// Unique within the checkpoint.
    pub inode: u32,
    /// Inode of the other end, zero if none.
    pub peer: u32,
    /// SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_SEQPACKET 5.
    pub kind: u32,
    /// State.
    pub state: SocketState,
    /// The raw sun_path: abstract names start with NUL; empty if unnamed.
    pub name: Vec<u8>,
    /// The directory a relative name is relative to.
    pub name_dir: Option<String>,
    /// The name's node was removed.
    pub deleted: bool,
    /// (mode, uid, gid) of the node.
    pub node: Option<(u32, u32, u32)>,
    /// Given to listen(2).
    pub backlog: u32,
    /// 0 none, 1 read, 2 write, 3 both.
    pub shutdown: u32,
    /// Options.
    pub options: SocketOptions,
    /// What waits to be read, packet by packet; of a stream, piece by piece, a new one where files
    /// come along.
    pub queue: Vec<Packet>,
}

/// What waits to be read from a unix or UDP socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Open files that come with its first byte (SCM_RIGHTS, unix(7)).
    pub files: Vec<FileId>,
    /// Who sent it, if it waits in a UDP socket.
    pub from: Option<std::net::SocketAddr>,
}

impl Packet {
    /// One without files.
    pub fn plain(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), files: Vec::new(), from: None }
    }
}

/// tcp(7) and udp(7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InetSocket {
    /// Unique within the checkpoint.
    pub inode: u32,
    /// AF_INET 2 or AF_INET6 10.
    pub family: u32,
    /// SOCK_STREAM 1 or SOCK_DGRAM 2.
    pub kind: u32,
    /// IPPROTO_TCP 6, IPPROTO_UDP 17.
    pub protocol: u32,
    /// State.
    pub state: SocketState,
    /// Bound address.
    pub source: std::net::SocketAddr,
    /// Connected address.
    pub destination: Option<std::net::SocketAddr>,
    /// Given to listen(2).
    pub backlog: u32,
    /// IPV6_V6ONLY.
    pub v6_only: bool,
    /// IP_FREEBIND.
    pub free_bind: bool,
    /// TCP_NODELAY.
    pub no_delay: bool,
    /// TCP_CORK.
    pub cork: bool,
    /// 0 none, 1 read, 2 write, 3 both.
    pub shutdown: u32,
    /// Options.
    pub options: SocketOptions,
    /// There exactly if it is a TCP socket with a connection.
    pub stream: Option<Box<TcpStream>>,
    /// Multicast groups it is in.
    pub groups: Vec<Group>,
    /// What waits in a UDP socket, each with who sent it.
    pub queue: Vec<Packet>,
}

/// A multicast group that a socket has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its address.
    pub group: std::net::IpAddr,
    /// On which interface.
    pub device: String,
    /// It hears `sources` alone; else everybody but them.
    pub include: bool,
    /// As in [`Self::group`], IPv4 or IPv6.
    pub sources: Vec<std::net::IpAddr>,
}

impl InetSocket {
    /// Protocols of raw sockets that are carried: ICMP, ICMPv6, OSPF, VRRP, and none in particular. Of
    /// others the kernel may keep more for a socket than it tells.
    pub const RAW: [u32; 5] = [1, 58, 89, 112, 255];

    /// True for a raw(7) socket.
    pub fn is_raw(&self) -> bool {
        self.kind == 3
    }
}

impl Group {
    /// Most sources of one group; the kernel's own limits are 10 and 64 unless an operator raised them.
    pub const MOST_SOURCES: usize = 64;
}
