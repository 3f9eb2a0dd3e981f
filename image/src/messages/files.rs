//! `files.img`, `fdinfo-N.img`, `fs-N.img`: descriptors and what they are open on.

use prost::{Enumeration, Message};
use serde::Serialize;

use super::json::name;
use super::{
    BpfmapFileEntry, EventfdFileEntry, EventpollFileEntry, FanotifyFileEntry, FifoEntry,
    InetSkEntry, InotifyFileEntry, NetlinkSkEntry, PacketSockEntry, PidfdEntry, PipeEntry,
    SignalfdEntry, TimerfdEntry, TtyFileEntry, TunfileEntry, UnixSkEntry,
};

/// What a file is open on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum FdType {
    Und = 0,
    Reg = 1,
    Pipe = 2,
    Fifo = 3,
    Inetsk = 4,
    Unixsk = 5,
    Eventfd = 6,
    Eventpoll = 7,
    Inotify = 8,
    Signalfd = 9,
    Packetsk = 10,
    Tty = 11,
    Fanotify = 12,
    Netlinksk = 13,
    Ns = 14,
    Tunf = 15,
    Ext = 16,
    Timerfd = 17,
    Memfd = 18,
    Bpfmap = 19,
    Pidfd = 20,
    CtlTty = 65534,
    AutofsPipe = 65535,
}

/// One open file description: the id, and one of the others.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct FileEntry {
    #[serde(serialize_with = "name::<_, FdType>")]
    #[prost(enumeration = "FdType", required, tag = "1")]
    pub r#type: i32,
    #[prost(uint32, required, tag = "2")]
    pub id: u32,
    #[prost(message, optional, boxed, tag = "3")]
    pub reg: Option<Box<RegFileEntry>>,
    #[prost(message, optional, boxed, tag = "4")]
    pub isk: Option<Box<InetSkEntry>>,
    #[prost(message, optional, boxed, tag = "5")]
    pub nsf: Option<Box<NsFileEntry>>,
    #[prost(message, optional, boxed, tag = "6")]
    pub psk: Option<Box<PacketSockEntry>>,
    #[prost(message, optional, boxed, tag = "7")]
    pub nlsk: Option<Box<NetlinkSkEntry>>,
    #[prost(message, optional, boxed, tag = "8")]
    pub efd: Option<Box<EventfdFileEntry>>,
    #[prost(message, optional, boxed, tag = "9")]
    pub epfd: Option<Box<EventpollFileEntry>>,
    #[prost(message, optional, boxed, tag = "10")]
    pub sgfd: Option<Box<SignalfdEntry>>,
    #[prost(message, optional, boxed, tag = "11")]
    pub tunf: Option<Box<TunfileEntry>>,
    #[prost(message, optional, boxed, tag = "12")]
    pub tfd: Option<Box<TimerfdEntry>>,
    #[prost(message, optional, boxed, tag = "13")]
    pub ify: Option<Box<InotifyFileEntry>>,
    #[prost(message, optional, boxed, tag = "14")]
    pub ffy: Option<Box<FanotifyFileEntry>>,
    #[prost(message, optional, boxed, tag = "15")]
    pub ext: Option<Box<ExtFileEntry>>,
    #[prost(message, optional, boxed, tag = "16")]
    pub usk: Option<Box<UnixSkEntry>>,
    #[prost(message, optional, boxed, tag = "17")]
    pub fifo: Option<Box<FifoEntry>>,
    #[prost(message, optional, boxed, tag = "18")]
    pub pipe: Option<Box<PipeEntry>>,
    #[prost(message, optional, boxed, tag = "19")]
    pub tty: Option<Box<TtyFileEntry>>,
    #[prost(message, optional, boxed, tag = "20")]
    pub memfd: Option<Box<MemfdFileEntry>>,
    #[prost(message, optional, boxed, tag = "21")]
    pub bpf: Option<Box<BpfmapFileEntry>>,
    #[prost(message, optional, boxed, tag = "22")]
    pub pidfd: Option<Box<PidfdEntry>>,
}

/// One descriptor.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct FdinfoEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[serde(serialize_with = "name::<_, FdType>")]
    #[prost(enumeration = "FdType", required, tag = "3")]
    pub r#type: i32,
    #[prost(uint32, required, tag = "4")]
    pub fd: u32,
    #[prost(string, optional, tag = "5")]
    pub xattr_security_selinux: Option<String>,
}

/// Where a process stands in the file system.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct FsEntry {
    #[prost(uint32, required, tag = "1")]
    pub cwd_id: u32,
    #[prost(uint32, required, tag = "2")]
    pub root_id: u32,
    #[prost(uint32, optional, tag = "3")]
    pub umask: Option<u32>,
}

/// Who gets signals about a descriptor.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct FownEntry {
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    #[prost(uint32, required, tag = "2")]
    pub euid: u32,
    #[prost(uint32, required, tag = "3")]
    pub signum: u32,
    #[prost(uint32, required, tag = "4")]
    pub pid_type: u32,
    #[prost(uint32, required, tag = "5")]
    pub pid: u32,
}

/// Anything with a path.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RegFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(uint64, required, tag = "3")]
    pub pos: u64,
    #[prost(message, required, tag = "5")]
    pub fown: FownEntry,
    #[prost(string, required, tag = "6")]
    pub name: String,
    #[prost(sint32, optional, default = "-1", tag = "7")]
    pub mnt_id: Option<i32>,
    #[prost(uint64, optional, tag = "8")]
    pub size: Option<u64>,
    #[prost(bool, optional, tag = "9")]
    pub ext: Option<bool>,
    #[prost(uint32, optional, tag = "10")]
    pub mode: Option<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub build_id: Vec<u32>,
    #[prost(uint32, optional, tag = "12")]
    pub checksum: Option<u32>,
    #[prost(uint32, optional, tag = "13")]
    pub checksum_config: Option<u32>,
    #[prost(uint32, optional, tag = "14")]
    pub checksum_parameter: Option<u32>,
    #[prost(uint64, optional, tag = "10000")]
    pub rdev: Option<u64>,
}

/// A file that a plugin of CRIU restores.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ExtFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(message, required, tag = "5")]
    pub fown: FownEntry,
}

/// A namespace held open.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct NsFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub ns_id: u32,
    #[prost(uint32, required, tag = "3")]
    pub ns_cflag: u32,
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
}

/// An open description of a memfd.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct MemfdFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(uint64, required, tag = "3")]
    pub pos: u64,
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
    #[prost(uint32, required, tag = "5")]
    pub inode_id: u32,
}

/// A lock of fcntl(2) or flock(2).
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct FileLockEntry {
    #[prost(uint32, required, tag = "1")]
    pub flag: u32,
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    #[prost(int32, required, tag = "3")]
    pub pid: i32,
    #[prost(int32, required, tag = "4")]
    pub fd: i32,
    #[prost(int64, required, tag = "5")]
    pub start: i64,
    #[prost(int64, required, tag = "6")]
    pub len: i64,
}
