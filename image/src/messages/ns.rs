//! Namespaces other than net, mnt and ipc: `utsns-N.img`, `userns-N.img`, `pidns-N.img`.

use prost::Message;
use serde::Serialize;

/// uts_namespaces(7).
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct UtsnsEntry {
    #[prost(string, required, tag = "1")]
    pub nodename: String,
    #[prost(string, required, tag = "2")]
    pub domainname: String,
}

/// user_namespaces(7).
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct UsernsEntry {
    #[prost(message, repeated, tag = "1")]
    pub uid_map: Vec<UidGidExtent>,
    #[prost(message, repeated, tag = "2")]
    pub gid_map: Vec<UidGidExtent>,
}

/// One line of uid_map or gid_map.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct UidGidExtent {
    #[prost(uint32, required, tag = "1")]
    pub first: u32,
    #[prost(uint32, required, tag = "2")]
    pub lower_first: u32,
    #[prost(uint32, required, tag = "3")]
    pub count: u32,
}

/// pid_namespaces(7), if external.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct PidnsEntry {
    #[prost(string, optional, tag = "1")]
    pub ext_key: Option<String>,
}
