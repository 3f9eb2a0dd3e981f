//! `inventory.img`, and `cpuinfo.img` with what the CPU of the dump could do.

use prost::{Enumeration, Message};
use serde::Serialize;

use super::TaskKobjIdsEntry;
use super::json::{name, optional_name};

/// What kind of set this is; written last, so a set without it is incomplete.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct InventoryEntry {
    #[prost(uint32, required, tag = "1")]
    pub img_version: u32,
    #[prost(bool, optional, tag = "2")]
    pub fdinfo_per_id: Option<bool>,
    #[prost(message, optional, tag = "3")]
    pub root_ids: Option<TaskKobjIdsEntry>,
    #[prost(bool, optional, tag = "4")]
    pub ns_per_id: Option<bool>,
    #[prost(uint32, optional, tag = "5")]
    pub root_cg_set: Option<u32>,
    #[serde(serialize_with = "optional_name::<_, LsmType>")]
    #[prost(enumeration = "LsmType", optional, tag = "6")]
    pub lsmtype: Option<i32>,
    #[prost(uint64, optional, tag = "8")]
    pub dump_uptime: Option<u64>,
    #[prost(uint32, optional, tag = "9")]
    pub pre_dump_mode: Option<u32>,
    #[prost(bool, optional, tag = "10")]
    pub tcp_close: Option<bool>,
    #[prost(uint32, optional, tag = "11")]
    pub network_lock_method: Option<u32>,
    #[prost(message, optional, tag = "12")]
    pub plugins_entry: Option<PluginsEntry>,
    #[prost(string, optional, tag = "13")]
    pub dump_criu_run_id: Option<String>,
    #[prost(bool, optional, tag = "14")]
    pub allow_uprobes: Option<bool>,
}

/// The security module whose labels the tasks carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum LsmType {
    NoLsm = 0,
    Selinux = 1,
    Apparmor = 2,
}

/// Plugins of CRIU without which the set cannot be restored.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct PluginsEntry {
    #[prost(string, repeated, tag = "12")]
    pub plugins: Vec<String>,
}

/// CPUs of the host that made the images.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct CpuinfoEntry {
    #[prost(message, repeated, tag = "1")]
    pub x86_entry: Vec<CpuinfoX86Entry>,
}

/// One x86 CPU.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct CpuinfoX86Entry {
    #[serde(serialize_with = "name::<_, CpuVendor>")]
    #[prost(enumeration = "CpuVendor", required, tag = "1")]
    pub vendor_id: i32,
    #[prost(uint32, required, tag = "2")]
    pub cpu_family: u32,
    #[prost(uint32, required, tag = "3")]
    pub model: u32,
    #[prost(uint32, required, tag = "4")]
    pub stepping: u32,
    #[prost(uint32, required, tag = "5")]
    pub capability_ver: u32,
    #[prost(uint32, repeated, packed = "false", tag = "6")]
    pub capability: Vec<u32>,
    #[prost(string, optional, tag = "7")]
    pub model_id: Option<String>,
    #[prost(uint64, optional, tag = "8")]
    pub xfeatures_mask: Option<u64>,
    #[prost(uint32, optional, tag = "9")]
    pub xsave_size: Option<u32>,
    #[prost(uint32, optional, tag = "10")]
    pub xsave_size_max: Option<u32>,
}

/// Who made a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum CpuVendor {
    Unknown = 0,
    Intel = 1,
    Amd = 2,
}
