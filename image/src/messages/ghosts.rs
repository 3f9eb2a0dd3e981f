//! Files without a name: `remap-fpath.img` and `ghost-file-N.img`.

use prost::{Enumeration, Message};
use serde::Serialize;

use super::json::optional_name;

/// Tells that a file's path is not where its content is.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RemapFilePathEntry {
    #[prost(uint32, required, tag = "1")]
    pub orig_id: u32,
    #[prost(uint32, required, tag = "2")]
    pub remap_id: u32,
    #[serde(serialize_with = "optional_name::<_, RemapType>")]
    #[prost(enumeration = "RemapType", optional, tag = "3")]
    pub remap_type: Option<i32>,
}

/// Where the content is instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum RemapType {
    Linked = 0,
    Ghost = 1,
    Procfs = 2,
}

/// A file whose name is gone; its content follows the entry.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct GhostFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    #[prost(uint32, required, tag = "2")]
    pub gid: u32,
    #[prost(uint32, required, tag = "3")]
    pub mode: u32,
    #[prost(uint32, optional, tag = "4")]
    pub dev: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    pub ino: Option<u64>,
    #[prost(uint32, optional, tag = "6")]
    pub rdev: Option<u32>,
    #[prost(message, optional, tag = "7")]
    pub atim: Option<Timeval>,
    #[prost(message, optional, tag = "8")]
    pub mtim: Option<Timeval>,
    #[prost(bool, optional, tag = "9")]
    pub chunks: Option<bool>,
    #[prost(uint64, optional, tag = "10")]
    pub size: Option<u64>,
    #[prost(string, optional, tag = "11")]
    pub symlnk_target: Option<String>,
    #[prost(bool, optional, tag = "10000")]
    pub named: Option<bool>,
    #[prost(uint32, optional, tag = "10001")]
    pub paged: Option<u32>,
    #[prost(uint32, optional, tag = "10002")]
    pub huge: Option<u32>,
}

/// A piece of a ghost's content; `len` bytes follow the entry.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct GhostChunkEntry {
    #[prost(uint64, required, tag = "1")]
    pub len: u64,
    #[prost(uint64, required, tag = "2")]
    pub off: u64,
}

/// Seconds and microseconds.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Timeval {
    #[prost(uint64, required, tag = "1")]
    pub tv_sec: u64,
    #[prost(uint64, required, tag = "2")]
    pub tv_usec: u64,
}
