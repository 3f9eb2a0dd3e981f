//! `cgroup.img`.

use prost::Message;
use serde::Serialize;

/// Every cgroup the tree is in.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct CgroupEntry {
    #[prost(message, repeated, tag = "1")]
    pub sets: Vec<CgSetEntry>,
    #[prost(message, repeated, tag = "2")]
    pub controllers: Vec<CgControllerEntry>,
}

/// The cgroups of one task, one for each hierarchy.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct CgSetEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(message, repeated, tag = "2")]
    pub ctls: Vec<CgMemberEntry>,
}

/// One cgroup of a set.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct CgMemberEntry {
    #[prost(string, required, tag = "1")]
    pub name: String,
    #[prost(string, required, tag = "2")]
    pub path: String,
    #[prost(uint32, optional, tag = "3")]
    pub cgns_prefix: Option<u32>,
}

/// One hierarchy.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct CgControllerEntry {
    #[prost(string, repeated, tag = "1")]
    pub cnames: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub dirs: Vec<CgroupDirEntry>,
    #[prost(bool, optional, tag = "3")]
    pub is_threaded: Option<bool>,
}

/// One cgroup as a directory.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct CgroupDirEntry {
    #[prost(string, required, tag = "1")]
    pub dir_name: String,
    #[prost(message, repeated, tag = "2")]
    pub children: Vec<CgroupDirEntry>,
    #[prost(message, repeated, tag = "3")]
    pub properties: Vec<CgroupPropEntry>,
    #[prost(message, optional, tag = "4")]
    pub dir_perms: Option<CgroupPerms>,
}

/// One file in a cgroup.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct CgroupPropEntry {
    #[prost(string, required, tag = "1")]
    pub name: String,
    #[prost(string, required, tag = "2")]
    pub value: String,
    #[prost(message, optional, tag = "3")]
    pub perms: Option<CgroupPerms>,
}

/// Owner and mode in a cgroup.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct CgroupPerms {
    #[prost(uint32, required, tag = "1")]
    pub mode: u32,
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
}
