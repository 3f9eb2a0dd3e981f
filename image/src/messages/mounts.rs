//! `mountpoints-N.img`, `binfmt-misc.img`, `apparmor.img`.

use prost::{Enumeration, Message};
use serde::Serialize;

use super::json::hex;

/// One mount.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct MntEntry {
    #[prost(uint32, required, tag = "1")]
    pub fstype: u32,
    #[prost(uint32, required, tag = "2")]
    pub mnt_id: u32,
    #[prost(uint32, required, tag = "3")]
    pub root_dev: u32,
    #[prost(uint32, required, tag = "4")]
    pub parent_mnt_id: u32,
    #[prost(uint32, required, tag = "5")]
    pub flags: u32,
    #[prost(string, required, tag = "6")]
    pub root: String,
    #[prost(string, required, tag = "7")]
    pub mountpoint: String,
    #[prost(string, required, tag = "8")]
    pub source: String,
    #[prost(string, required, tag = "9")]
    pub options: String,
    #[prost(uint32, optional, tag = "10")]
    pub shared_id: Option<u32>,
    #[prost(uint32, optional, tag = "11")]
    pub master_id: Option<u32>,
    #[prost(bool, optional, tag = "12")]
    pub with_plugin: Option<bool>,
    #[prost(bool, optional, tag = "13")]
    pub ext_mount: Option<bool>,
    #[prost(string, optional, tag = "14")]
    pub fsname: Option<String>,
    #[prost(bool, optional, tag = "15")]
    pub internal_sharing: Option<bool>,
    #[prost(bool, optional, tag = "16")]
    pub deleted: Option<bool>,
    #[prost(uint32, optional, tag = "17")]
    pub sb_flags: Option<u32>,
    #[prost(string, optional, tag = "18")]
    pub ext_key: Option<String>,
}

/// File systems CRIU knows by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum FsType {
    Unsupported = 0,
    Proc = 1,
    Sysfs = 2,
    Devtmpfs = 3,
    BinfmtMisc = 4,
    Tmpfs = 5,
    Devpts = 6,
    Simfs = 7,
    Pstore = 8,
    Securityfs = 9,
    Fusectl = 10,
    Debugfs = 11,
    Cgroup = 12,
    Aufs = 13,
    Mqueue = 14,
    Fuse = 15,
    Auto = 16,
    Overlayfs = 17,
    Autofs = 18,
    Tracefs = 19,
    Cgroup2 = 23,
}

/// One binary format.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct BinfmtMiscEntry {
    #[prost(string, required, tag = "1")]
    pub name: String,
    #[prost(bool, required, tag = "2")]
    pub enabled: bool,
    #[prost(string, required, tag = "3")]
    pub interpreter: String,
    #[prost(string, optional, tag = "4")]
    pub flags: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub extension: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub magic: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub mask: Option<String>,
    #[prost(int32, optional, tag = "8")]
    pub offset: Option<i32>,
}

/// AppArmor policy.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ApparmorEntry {
    #[prost(message, repeated, tag = "1")]
    pub namespaces: Vec<AaNamespace>,
}

/// One AppArmor namespace.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct AaNamespace {
    #[prost(string, required, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "2")]
    pub policies: Vec<AaPolicy>,
    #[prost(message, repeated, tag = "3")]
    pub namespaces: Vec<AaNamespace>,
}

/// One AppArmor policy.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct AaPolicy {
    #[prost(string, required, tag = "1")]
    pub name: String,
    #[serde(serialize_with = "hex")]
    #[prost(bytes = "vec", required, tag = "2")]
    pub blob: Vec<u8>,
}
