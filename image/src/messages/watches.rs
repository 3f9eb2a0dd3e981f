//! Descriptors that watch the file system: inotify(7), fanotify(7), autofs.

use prost::{Enumeration, Message};
use serde::Serialize;

use super::FownEntry;
use super::json::name;

/// inotify(7).
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct InotifyFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
    #[prost(message, repeated, tag = "5")]
    pub wd: Vec<InotifyWdEntry>,
}

/// One watch of an inotify instance.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct InotifyWdEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint64, required, tag = "2")]
    pub i_ino: u64,
    #[prost(uint32, required, tag = "3")]
    pub mask: u32,
    #[prost(uint32, required, tag = "4")]
    pub ignored_mask: u32,
    #[prost(uint32, required, tag = "5")]
    pub s_dev: u32,
    #[prost(uint32, required, tag = "6")]
    pub wd: u32,
    #[prost(message, required, tag = "7")]
    pub f_handle: FhEntry,
}

/// fanotify(7).
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct FanotifyFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(message, required, tag = "3")]
    pub fown: FownEntry,
    #[prost(uint32, required, tag = "4")]
    pub faflags: u32,
    #[prost(uint32, required, tag = "5")]
    pub evflags: u32,
    #[prost(message, repeated, tag = "6")]
    pub mark: Vec<FanotifyMarkEntry>,
}

/// One mark of a fanotify group.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct FanotifyMarkEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[serde(serialize_with = "name::<_, MarkType>")]
    #[prost(enumeration = "MarkType", required, tag = "2")]
    pub r#type: i32,
    #[prost(uint32, required, tag = "3")]
    pub mflags: u32,
    #[prost(uint32, required, tag = "4")]
    pub mask: u32,
    #[prost(uint32, required, tag = "5")]
    pub ignored_mask: u32,
    #[prost(uint32, required, tag = "6")]
    pub s_dev: u32,
    #[prost(message, optional, tag = "7")]
    pub ie: Option<FanotifyInodeMarkEntry>,
    #[prost(message, optional, tag = "8")]
    pub me: Option<FanotifyMountMarkEntry>,
}

/// What a fanotify mark is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum MarkType {
    Inode = 1,
    Mount = 2,
    /// qmig's own; CRIU knows no such marks.
    FileSystem = 3,
}

/// A mark on an inode.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct FanotifyInodeMarkEntry {
    #[prost(uint64, required, tag = "1")]
    pub i_ino: u64,
    #[prost(message, required, tag = "2")]
    pub f_handle: FhEntry,
}

/// A mark on a mount.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct FanotifyMountMarkEntry {
    #[prost(uint32, required, tag = "1")]
    pub mnt_id: u32,
    #[prost(string, optional, tag = "2")]
    pub path: Option<String>,
}

/// A file handle, name_to_handle_at(2).
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct FhEntry {
    #[prost(uint32, required, tag = "1")]
    pub bytes: u32,
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    #[prost(uint64, repeated, packed = "false", tag = "3")]
    pub handle: Vec<u64>,
    #[prost(string, optional, tag = "4")]
    pub path: Option<String>,
    #[prost(uint32, optional, tag = "5")]
    pub mnt_id: Option<u32>,
}

/// A path found for an inode during a pre-dump.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct IrmapCacheEntry {
    #[prost(uint32, required, tag = "1")]
    pub dev: u32,
    #[prost(uint64, required, tag = "2")]
    pub inode: u64,
    #[prost(string, required, tag = "3")]
    pub path: String,
}

/// An autofs mount.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct AutofsEntry {
    #[prost(int32, required, tag = "1")]
    pub fd: i32,
    #[prost(int32, required, tag = "2")]
    pub pgrp: i32,
    #[prost(int32, required, tag = "3")]
    pub timeout: i32,
    #[prost(int32, required, tag = "4")]
    pub minproto: i32,
    #[prost(int32, required, tag = "5")]
    pub maxproto: i32,
    #[prost(int32, required, tag = "6")]
    pub mode: i32,
    #[prost(int32, optional, tag = "7")]
    pub uid: Option<i32>,
    #[prost(int32, optional, tag = "8")]
    pub gid: Option<i32>,
    #[prost(int32, optional, tag = "9")]
    pub read_fd: Option<i32>,
}
