//! Signals: actions, and queues of what is pending.

use prost::Message;
use serde::Serialize;

use super::json::hex;

/// rt_sigaction(2).
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SaEntry {
    #[prost(uint64, required, tag = "1")]
    pub sigaction: u64,
    #[prost(uint64, required, tag = "2")]
    pub flags: u64,
    #[prost(uint64, required, tag = "3")]
    pub restorer: u64,
    #[prost(uint64, required, tag = "4")]
    pub mask: u64,
    #[prost(bool, optional, tag = "5")]
    pub compat_sigaction: Option<bool>,
    #[prost(uint64, optional, tag = "6")]
    pub mask_extended: Option<u64>,
}

/// Pending signals, oldest first.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SignalQueueEntry {
    #[prost(message, repeated, tag = "1")]
    pub signals: Vec<SiginfoEntry>,
}

/// One pending signal: a raw `siginfo_t`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct SiginfoEntry {
    #[serde(serialize_with = "hex")]
    #[prost(bytes = "vec", required, tag = "1")]
    pub siginfo: Vec<u8>,
}
